package runtime

import (
	"embed"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/attune-run/attune/internal/nearest"
)

//go:embed specs/*.yaml
var specFiles embed.FS

// index names the built-in specs with all their aliases and file extensions, so that one runtime can be
// looked up without parsing the others: parsing all takes longer than everything else a start does.
// A test holds it against the files.
var index = map[string][]string{
	"bun":    nil,
	"deno":   nil,
	"go":     {"golang", ".go"},
	"java":   {"jdk", "openjdk", ".java"},
	"native": {"builtin", "standalone"},
	"node":   {"nodejs", "node.js", "javascript", "js", ".js", ".mjs", ".cjs"},
	"perl":   {"perl5", ".pl", ".pm"},
	"python": {"python3", "py", ".py"},
	"r":      {"rscript", ".r"},
	"ruby":   {"rb", ".rb"},
	"shell":  {"bash", "sh", ".sh", ".bash"},
}

// Catalog is a set of runtimes. Copies share what was parsed.
type Catalog struct {
	own     []*Spec // overlaid, the last wins
	builtin *builtin
}

type builtin struct {
	mu     sync.Mutex
	parsed map[string]*Spec
}

// Builtin is the catalog of the runtimes attune brings. Each is parsed when it is first looked up.
func Builtin() (Catalog, error) {
	return Catalog{builtin: &builtin{parsed: map[string]*Spec{}}}, nil
}

func (b *builtin) get(name string) (*Spec, bool) {
	if _, ok := index[name]; !ok || b == nil {
		return nil, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if spec, ok := b.parsed[name]; ok {
		return spec, true
	}
	data, err := specFiles.ReadFile("specs/" + name + ".yaml")
	if err == nil {
		var spec *Spec
		if spec, err = Parse("specs/"+name+".yaml", data); err == nil {
			spec.Origin = "built-in"
			b.parsed[name] = spec
			return spec, true
		}
	}
	panic(fmt.Sprintf("built-in runtime %s: %v", name, err)) // the files are part of the program, and tested
}

// Overlay is the catalog with specs over what it holds; the later of two with one name wins.
func (c Catalog) Overlay(specs ...*Spec) Catalog {
	c.own = append(slices.Clone(c.own), specs...)
	return c
}

// Lookup finds a runtime by name or alias, in any case.
func (c Catalog) Lookup(nameOrAlias string) (*Spec, bool) {
	wanted := strings.ToLower(nameOrAlias)
	for _, spec := range slices.Backward(c.own) {
		if spec.Is(wanted) {
			return spec, true
		}
	}
	if spec, ok := c.builtin.get(wanted); ok {
		return spec, true
	}
	if strings.HasPrefix(wanted, ".") {
		return nil, false
	}
	return c.indexed(wanted)
}

// ByExtension finds the runtime of a file extension (".py").
func (c Catalog) ByExtension(ext string) (*Spec, bool) {
	ext = strings.ToLower(ext)
	for _, spec := range slices.Backward(c.own) {
		if slices.Contains(spec.Interpreter.FileExtensions, ext) {
			return spec, true
		}
	}
	if !strings.HasPrefix(ext, ".") {
		return nil, false
	}
	return c.indexed(ext)
}

func (c Catalog) indexed(key string) (*Spec, bool) {
	for name, keys := range index {
		if slices.Contains(keys, key) {
			return c.builtin.get(name)
		}
	}
	return nil, false
}

// Is tells whether name is the spec's name or one of its aliases, in any case.
func (s *Spec) Is(name string) bool {
	return strings.EqualFold(s.Name, name) || slices.ContainsFunc(s.Aliases, func(a string) bool { return strings.EqualFold(a, name) })
}

// Names are the names of all runtimes, sorted.
func (c Catalog) Names() []string {
	names := map[string]bool{}
	if c.builtin != nil {
		for name := range index {
			names[name] = true
		}
	}
	for _, spec := range c.own {
		names[spec.Name] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// All are all runtimes in name order.
func (c Catalog) All() []*Spec {
	var all []*Spec
	for _, name := range c.Names() {
		if spec, ok := c.Lookup(name); ok {
			all = append(all, spec)
		}
	}
	return all
}

// Nearest is the name or alias closest to a name that is not known; "" when none is.
func (c Catalog) Nearest(name string) string {
	names := c.Names()
	for _, keys := range index {
		for _, key := range keys {
			if !strings.HasPrefix(key, ".") {
				names = append(names, key)
			}
		}
	}
	slices.Sort(names)
	return nearest.Name(name, names)
}

// For is the spec as it is for one version: the first entry of Versions that matches, over the spec's own.
func (s *Spec) For(version string) *Spec {
	for _, v := range s.Versions {
		c, err := ParseConstraint(v.Version)
		if err != nil || version == "" || !c.Match(version) {
			continue
		}
		merged := *s
		if v.Verification != nil {
			merged.Verification = *v.Verification
		}
		if v.Interpreter != nil {
			merged.Interpreter = *v.Interpreter
		}
		if v.Inline != nil {
			merged.Inline = *v.Inline
		}
		if v.Environment != nil {
			merged.Environment = v.Environment
		}
		if v.Dependencies != nil {
			merged.Dependencies = v.Dependencies
		}
		merged.EnvVars = mergeEnvVars(s.EnvVars, v.EnvVars)
		return &merged
	}
	return s
}

func mergeEnvVars(base, over []EnvVar) []EnvVar {
	merged := slices.Clone(base)
	for _, v := range over {
		if i := slices.IndexFunc(merged, func(b EnvVar) bool { return b.Name == v.Name }); i >= 0 {
			merged[i] = v
		} else {
			merged = append(merged, v)
		}
	}
	return merged
}
