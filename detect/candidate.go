package detect

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/attune-run/attune/runtime"
)

// candidate is a binary that may be an interpreter.
type candidate struct {
	path    string // as it was found
	target  string // the real binary
	command string // what is asked: target, or a command of the spec's that answers for it
	probe   runtime.Probe
	onPath  bool // PATH names it before any other of the runtime
	// entry is the index of the spec's version the candidate was found for, and must be of; -1 for none.
	entry int
}

// unprobed takes an interpreter as it is.
func (c candidate) unprobed() bool { return c.probe.Pattern == nil }

// candidates are the binaries a spec and its versions name, PATH's first, in order and each real binary once for each priority.
func (d *Detector) candidates(spec *runtime.Spec) []candidate {
	list := &candidateList{}
	for i, v := range spec.Versions {
		if ownsInterpreters(v) {
			list.entry = i
			d.gather(list, spec.With(v))
		}
	}
	list.entry = -1
	d.gather(list, spec)
	return list.all
}

// ownsInterpreters tells whether a version says itself where its interpreters are.
func ownsInterpreters(v runtime.Version) bool {
	return v.Verification != nil || v.Interpreter != nil && v.Interpreter.Binary != ""
}

// candidateList holds each question about a binary once.
type candidateList struct {
	all   []candidate
	entry int
}

func (l *candidateList) add(c candidate) {
	c.entry = l.entry
	if !slices.ContainsFunc(l.all, func(b candidate) bool {
		return b.target == c.target && b.probe.Priority == c.probe.Priority && b.entry == c.entry && (!runtime.IsPath(c.probe.Binary) || b.command == c.command)
	}) {
		l.all = append(l.all, c)
	}
}

// gather adds the binaries of one spec, its versions aside.
func (d *Detector) gather(list *candidateList, spec *runtime.Spec) {
	if binary, ok := soleBinary(spec); ok {
		d.gatherSole(list, spec, binary)
		return
	}
	for _, probe := range spec.Verification.Probes {
		first := !slices.ContainsFunc(list.all, func(c candidate) bool {
			return c.onPath && c.probe.Priority == probe.Priority && c.entry == list.entry
		})
		for _, path := range d.lookUp(probe.Binary) {
			if target, ok := d.resolve(spec, path); ok {
				list.add(candidate{path: path, target: target, command: target, probe: probe, onPath: first && !runtime.IsPath(probe.Binary)})
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
			list.add(candidate{path: path, target: target, command: target, probe: probe})
		}
	}
}

// soleBinary is the interpreter that a spec names as the only one: by a path, by a name that its probes do not have, or because it
// has no probes.
func soleBinary(spec *runtime.Spec) (string, bool) {
	binary := spec.Interpreter.Binary
	known := slices.ContainsFunc(spec.Verification.Probes, func(p runtime.Probe) bool { return p.Binary == binary })
	return binary, binary != "" && (runtime.IsPath(binary) || !known)
}

func (d *Detector) gatherSole(list *candidateList, spec *runtime.Spec, binary string) {
	paths := d.lookUp(binary)
	if len(paths) == 0 {
		return
	}
	path := paths[0]
	target, ok := d.resolve(spec, path)
	if !ok {
		return
	}
	onPath := !runtime.IsPath(binary)
	if len(spec.Verification.Probes) == 0 {
		list.add(candidate{path: path, target: target, command: target, onPath: onPath})
	}
	for _, probe := range spec.Verification.Probes {
		if command, ok := d.spokesman(spec, probe, target); ok {
			list.add(candidate{path: path, target: target, command: command, probe: probe, onPath: onPath})
		}
	}
}

// spokesman is what a probe runs to ask about the binary at target: the binary, or the command that answers for the spec's
// only interpreter. ok is false when that command answers for another.
func (d *Detector) spokesman(spec *runtime.Spec, probe runtime.Probe, target string) (command string, ok bool) {
	sole := spec.Interpreter.Binary
	if !runtime.IsPath(probe.Binary) || !runtime.IsPath(sole) || probe.Binary == sole {
		return target, true
	}
	own, ok := d.resolve(spec, d.expandHome(sole))
	return d.expandHome(probe.Binary), ok && own == target
}

// lookUp are the executable files of a name in PATH, in PATH's order, or the one of a path.
func (d *Detector) lookUp(binary string) []string {
	if runtime.IsPath(binary) {
		if path := d.expandHome(binary); isExecutable(path) {
			return []string{path}
		}
		return nil
	}
	var paths []string
	for _, dir := range filepath.SplitList(d.opt.Path) {
		if !filepath.IsAbs(dir) {
			continue // never what happens to lie in the working directory
		}
		if path := filepath.Join(dir, binary); isExecutable(path) {
			paths = append(paths, path)
		}
	}
	return paths
}

// expandHome makes "~/" the home directory; without one the path is empty.
func (d *Detector) expandHome(path string) string {
	rest, ok := strings.CutPrefix(path, "~/")
	switch {
	case !ok:
		return path
	case d.opt.Home == "":
		return ""
	}
	return filepath.Join(d.opt.Home, rest)
}

// located are the files the spec's locations name.
func (d *Detector) located(spec *runtime.Spec) []string {
	var all []string
	for _, glob := range spec.Verification.Locations {
		glob = d.expandHome(glob)
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
