package pack

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/attune-run/attune/internal/nearest"
	"github.com/attune-run/attune/runtime"
)

// UnknownRuntimeError is a name that no runtime has.
type UnknownRuntimeError struct {
	Name    string
	Nearest string   // a name that is there and much like it; may be empty
	Known   []string // bare names
}

// Error names the nearest name, or all.
func (e *UnknownRuntimeError) Error() string {
	if e.Nearest != "" {
		return fmt.Sprintf("there is no runtime %q; did you mean %q?", e.Name, e.Nearest)
	}
	return fmt.Sprintf("there is no runtime %q; known are %s", e.Name, strings.Join(e.Known, ", "))
}

// Runtime finds a runtime by the name that an action of p uses, or with p nil a bare script: one of base, with what p brings under its
// bare name, or "<pack>.<name>" of any pack that is found. The error is an *UnknownRuntimeError, a *runtime.UnusableError, or a pack's.
func (f Finder) Runtime(base runtime.Catalog, p *Pack, name string) (*runtime.Spec, error) {
	own := base
	if p != nil {
		var err error
		if own, err = p.Catalog(base); err != nil {
			return nil, err
		}
	}
	if spec, ok := own.Lookup(name); ok {
		return spec, spec.Check()
	}
	ref, bare, qualified := strings.Cut(name, ".")
	if !qualified || p != nil && strings.EqualFold(ref, p.Ref) {
		return nil, unknownRuntime(own, name)
	}
	other, err := f.Pack(ref, "")
	var missing *NotFoundError
	switch {
	case errors.As(err, &missing):
		return nil, unknownRuntime(own, name)
	case err != nil:
		return nil, err
	}
	theirs, err := other.Catalog(base)
	if err != nil {
		return nil, err
	}
	if spec, ok := theirs.Lookup(ref + "." + bare); ok {
		return spec, spec.Check()
	}
	return nil, &UnknownRuntimeError{Name: name, Nearest: nearest.Name(name, names(theirs.Brought())), Known: names(theirs.Brought())}
}

func unknownRuntime(catalog runtime.Catalog, name string) error {
	return &UnknownRuntimeError{Name: name, Nearest: catalog.Nearest(name), Known: catalog.Names()}
}

func names(specs []*runtime.Spec) []string {
	all := make([]string, len(specs))
	for i, spec := range specs {
		all[i] = spec.Name
	}
	return all
}

// Runtimes are the runtimes that packs bring, in name order, with what they inherit of base and what the host lays over them. Of a
// pack that is there in several versions it is the highest's. What cannot be read is among the problems.
func (f Finder) Runtimes(base runtime.Catalog) (specs []*runtime.Spec, problems []error) {
	packs, problems := f.list(func(dir string) bool { return exists(filepath.Join(dir, "runtimes")) })
	highest := map[string]*Pack{}
	for _, p := range packs {
		if best := highest[p.Ref]; best == nil || runtime.CompareVersions(p.Version, best.Version) > 0 {
			highest[p.Ref] = p
		}
	}
	for _, p := range highest {
		catalog, err := p.Catalog(base)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		for _, spec := range catalog.Brought() {
			if err := spec.Check(); err != nil {
				problems = append(problems, err)
				continue
			}
			specs = append(specs, spec)
		}
	}
	slices.SortFunc(specs, func(a, b *runtime.Spec) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(problems, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return specs, problems
}
