package detect

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/attune-run/attune/runtime"
)

// candidate is a binary that may be an interpreter.
type candidate struct {
	path   string // as it was found
	target string // the real binary
	probe  runtime.Probe
	onPath bool // PATH names it before any other of the runtime
}

// candidates are the binaries a spec's probes name, PATH's first, in order and each real binary once.
func (d *Detector) candidates(spec *runtime.Spec) []candidate {
	var all []candidate
	add := func(c candidate) {
		if !slices.ContainsFunc(all, func(b candidate) bool { return b.target == c.target && b.probe.Priority == c.probe.Priority }) {
			all = append(all, c)
		}
	}
	for _, probe := range spec.Verification.Probes {
		first := !slices.ContainsFunc(all, func(c candidate) bool { return c.onPath && c.probe.Priority == probe.Priority })
		for _, dir := range filepath.SplitList(d.opt.Path) {
			if !filepath.IsAbs(dir) {
				continue // never what happens to lie in the working directory
			}
			path := filepath.Join(dir, probe.Binary)
			if !isExecutable(path) {
				continue
			}
			if target, ok := d.resolve(spec, path); ok {
				add(candidate{path: path, target: target, probe: probe, onPath: first})
				first = false
			}
		}
	}
	for _, path := range d.located(spec) {
		probe, ok := probeFor(spec, filepath.Base(path))
		if !ok || !isExecutable(path) {
			continue
		}
		if target, ok := d.resolve(spec, path); ok {
			add(candidate{path: path, target: target, probe: probe})
		}
	}
	return all
}

// located are the files the spec's locations name.
func (d *Detector) located(spec *runtime.Spec) []string {
	var all []string
	for _, glob := range spec.Verification.Locations {
		if rest, ok := strings.CutPrefix(glob, "~/"); ok {
			if d.opt.Home == "" {
				continue
			}
			glob = filepath.Join(d.opt.Home, rest)
		}
		found, err := filepath.Glob(glob)
		if err != nil {
			continue // specs are checked when they are loaded
		}
		all = append(all, found...)
	}
	return all
}

// probeFor is the probe whose binary a file's name is, or starts with: python3.12 is a python3.
func probeFor(spec *runtime.Spec, name string) (runtime.Probe, bool) {
	best, found := runtime.Probe{}, false
	for _, probe := range spec.Verification.Probes {
		if name == probe.Binary {
			return probe, true
		}
		if strings.HasPrefix(name, probe.Binary) && (!found || len(probe.Binary) > len(best.Binary)) {
			best, found = probe, true
		}
	}
	return best, found
}
