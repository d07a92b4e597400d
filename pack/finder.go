// Package pack finds, loads, digests and checks packs and their actions, and validates parameters. It knows no
// process and no interpreter.
package pack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/attune-run/attune/internal/nearest"
	"github.com/attune-run/attune/runtime"
)

// Finder looks for packs in directories; the first that holds a pack wins.
type Finder struct{ Dirs []string }

// DefaultDirs is the order packs are looked for in: the directories named on the command line, those of ATTUNE_PACKS (a
// path list), ./packs and /opt/attune/packs.
func DefaultDirs(named []string, getenv func(string) string, cwd string) []string {
	dirs := slices.Clone(named)
	dirs = append(dirs, filepath.SplitList(getenv("ATTUNE_PACKS"))...)
	dirs = append(dirs, filepath.Join(cwd, "packs"), "/opt/attune/packs")
	for i, dir := range dirs {
		if !filepath.IsAbs(dir) {
			dirs[i] = filepath.Join(cwd, dir)
		}
	}
	return slices.DeleteFunc(dirs, func(dir string) bool { return dir == "" })
}

// NotFoundError says that there is no such pack or action, and where it was looked for.
type NotFoundError struct {
	Kind     string // "pack" or "action"
	Name     string
	Nearest  string // a name that is there and much like it; may be empty
	Searched []string
	Versions []string // versions of the pack that are there and do not satisfy
}

// Error names the nearest name, the versions there are, or the places.
func (e *NotFoundError) Error() string {
	text := fmt.Sprintf("there is no %s %s", e.Kind, e.Name)
	switch {
	case e.Nearest != "":
		return text + "; did you mean " + e.Nearest + "?"
	case len(e.Versions) > 0:
		return text + "; there are versions " + strings.Join(e.Versions, ", ")
	}
	return text + " in " + strings.Join(e.Searched, ", ")
}

// DisabledError says that an action is switched off.
type DisabledError struct{ Ref, File string }

// Error names the file that says so.
func (e *DisabledError) Error() string {
	return fmt.Sprintf("action %s is disabled (enabled: false in %s)", e.Ref, e.File)
}

// Pack finds a pack by its ref and, where several versions lie side by side, a version constraint.
func (f Finder) Pack(ref, constraint string) (*Pack, error) {
	if !validRef(ref) {
		return nil, &NotFoundError{Kind: "pack", Name: ref, Searched: f.Dirs}
	}
	c, err := runtime.ParseConstraint(constraint)
	if err != nil {
		return nil, fmt.Errorf("pack %s: %w", ref, err)
	}
	var versions []string
	for _, dir := range f.Dirs {
		p, others, err := findIn(dir, ref, c)
		if p != nil || err != nil {
			return p, err
		}
		versions = append(versions, others...)
	}
	missing := &NotFoundError{Kind: "pack", Name: ref, Searched: f.Dirs, Versions: versions}
	if !c.Any() {
		missing.Name += "@" + constraint
	}
	if len(versions) == 0 {
		missing.Nearest = nearest.Name(ref, f.refs())
	}
	return nil, missing
}

// findIn looks in one directory. others are the versions that do not satisfy.
func findIn(dir, ref string, c runtime.Constraint) (best *Pack, others []string, err error) {
	plain := filepath.Join(dir, ref)
	if c.Any() && exists(filepath.Join(plain, "pack.yaml")) {
		best, err = Load(plain)
		return best, nil, err
	}
	candidates, _ := filepath.Glob(filepath.Join(escapeGlob(dir), ref+"@*", "pack.yaml"))
	if exists(filepath.Join(plain, "pack.yaml")) {
		candidates = append(candidates, filepath.Join(plain, "pack.yaml"))
	}
	for _, file := range candidates {
		p, err := Load(filepath.Dir(file))
		if err != nil {
			return nil, nil, err
		}
		if !c.Match(p.Version) {
			others = append(others, p.Version)
		} else if best == nil || runtime.CompareVersions(p.Version, best.Version) > 0 {
			best = p
		}
	}
	return best, others, nil
}

func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// Action finds "pack.action" or "pack.action@constraint" and loads it.
func (f Finder) Action(name string) (*Action, error) {
	full, constraint, _ := strings.Cut(name, "@")
	ref, action, ok := strings.Cut(full, ".")
	if !ok || action == "" {
		return nil, &NotFoundError{Kind: "action", Name: name, Searched: []string{"any pack: an action is named pack.action"}}
	}
	p, err := f.Pack(ref, constraint)
	if err != nil {
		return nil, err
	}
	return p.Action(action)
}

// List loads every pack that is found. What cannot be loaded is among the problems.
func (f Finder) List() (packs []*Pack, problems []error) {
	return f.list(func(string) bool { return true })
}

// list loads the packs whose directories are wanted.
func (f Finder) list(wanted func(dir string) bool) (packs []*Pack, problems []error) {
	seen := map[string]string{} // ref@version or ref → directory of packs that won
	for i, dir := range f.Dirs {
		if slices.Contains(f.Dirs[:i], dir) {
			continue
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				problems = append(problems, err)
			}
			continue
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			ref, _, _ := strings.Cut(e.Name(), "@")
			if winner, ok := seen[ref]; ok && winner != dir || !exists(filepath.Join(path, "pack.yaml")) {
				continue
			}
			seen[ref] = dir
			if !wanted(path) {
				continue
			}
			p, err := Load(path)
			if err != nil {
				problems = append(problems, err)
				continue
			}
			packs = append(packs, p)
		}
	}
	slices.SortStableFunc(packs, func(a, b *Pack) int { return strings.Compare(a.Ref, b.Ref) })
	return packs, problems
}

func (f Finder) refs() []string {
	var refs []string
	for _, dir := range f.Dirs {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			ref, _, _ := strings.Cut(e.Name(), "@")
			refs = append(refs, ref)
		}
	}
	return refs
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// validRef allows what is a plain directory name and holds no dot: the first dot ends the pack's name.
func validRef(ref string) bool {
	return ref != "" && strings.Trim(ref, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == "" && ref[0] != '-'
}
