package runtime

import (
	"cmp"
	"embed"
	"fmt"
	"maps"
	"path/filepath"
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

// Catalog is a set of runtimes: the host's over those of one pack over the built-in ones. Where several have one name, the upper
// inherits from the lower what it leaves out (Spec.Over). Copies share what was parsed.
type Catalog struct {
	builtin *builtin
	pack    string  // the ref of the pack whose runtimes it holds; empty: none
	brought []*Spec // by that pack
	host    []*Spec // the last wins
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

// Overlay is the catalog with the host's specs over what it holds; the later of two with one name wins. One that is
// named "<pack>.<name>" lies over that pack's runtime alone.
func (c Catalog) Overlay(specs ...*Spec) Catalog {
	c.host = append(slices.Clone(c.host), canonical(specs)...)
	return c
}

// canonical gives a spec that is named by a built-in one's alias the name that means: bash is shell, for whoever overrides it too.
func canonical(specs []*Spec) []*Spec {
	all := slices.Clone(specs)
	for i, spec := range all {
		prefix, bare := strings.TrimSuffix(spec.Name, spec.Bare()), spec.Bare()
		for name, keys := range index {
			if slices.Contains(keys, bare) {
				renamed := *spec
				renamed.Name, renamed.Aliases = prefix+name, append(slices.Clone(spec.Aliases), name, bare)
				all[i] = &renamed
			}
		}
	}
	return all
}

// Within is the catalog as the actions of a pack see it: with the runtimes it brings, named "<pack>.<name>", over
// the built-in ones and below the host's. Their bare names mean them.
func (c Catalog) Within(pack string, brought ...*Spec) Catalog {
	c.pack, c.brought = pack, canonical(brought)
	return c
}

// Brought are the pack's own runtimes, each with what it inherits and what the host lays over it, in their order.
func (c Catalog) Brought() []*Spec {
	var all []*Spec
	for _, spec := range c.brought {
		if one, _ := c.effective(spec.Bare()); !slices.ContainsFunc(all, func(other *Spec) bool { return other.Name == one.Name }) {
			all = append(all, one)
		}
	}
	return all
}

// Lookup finds a runtime by name or alias, in any case; inside a pack also by its full name.
func (c Catalog) Lookup(nameOrAlias string) (*Spec, bool) {
	wanted := strings.ToLower(nameOrAlias)
	if bare, ok := strings.CutPrefix(wanted, strings.ToLower(c.pack)+"."); ok && c.pack != "" {
		if spec := c.find(c.brought, bare); spec != nil {
			return c.effective(spec.Bare())
		}
	}
	for _, layer := range [][]*Spec{c.host, c.brought} {
		if spec := c.find(layer, wanted); spec != nil {
			return c.effective(spec.Bare())
		}
	}
	if _, ok := index[wanted]; ok {
		return c.effective(wanted)
	}
	if strings.HasPrefix(wanted, ".") {
		return nil, false
	}
	return c.indexed(wanted)
}

// find is the last spec of a layer with the name or alias.
func (c Catalog) find(layer []*Spec, name string) *Spec {
	for _, spec := range slices.Backward(layer) {
		if c.sees(spec) && (spec.Is(name) || spec.Bare() == name) {
			return spec
		}
	}
	return nil
}

// sees is false for what the host says of a pack's runtime that is not here: another pack's, or one that the pack does not bring.
func (c Catalog) sees(spec *Spec) bool {
	return !strings.Contains(spec.Name, ".") || slices.ContainsFunc(c.brought, func(b *Spec) bool { return strings.EqualFold(b.Name, spec.Name) })
}

// effective lays all specs of one bare name over each other.
func (c Catalog) effective(bare string) (*Spec, bool) {
	spec, found := c.builtin.get(bare)
	for _, over := range c.layers(bare) {
		if !found {
			spec, found = over, true
			continue
		}
		spec = over.Over(spec)
	}
	return spec, found
}

// layers are the specs over the built-in one, the lowest first: the pack's, the host's for all of that name, and the host's for
// this pack's alone.
func (c Catalog) layers(bare string) []*Spec {
	var general, special, all []*Spec
	for _, spec := range c.brought {
		if spec.Bare() == bare {
			all = append(all, spec)
		}
	}
	for _, spec := range c.host {
		switch {
		case spec.Name == bare:
			general = append(general, spec)
		case spec.Bare() == bare && c.sees(spec):
			special = append(special, spec)
		}
	}
	return slices.Concat(all, general, special)
}

// ByExtension finds the runtime of a file extension (".py").
func (c Catalog) ByExtension(ext string) (*Spec, bool) {
	ext = strings.ToLower(ext)
	if !strings.HasPrefix(ext, ".") {
		return nil, false
	}
	for _, layer := range [][]*Spec{c.host, c.brought} {
		for _, spec := range slices.Backward(layer) {
			if c.sees(spec) && slices.Contains(spec.Interpreter.FileExtensions, ext) {
				return c.effective(spec.Bare())
			}
		}
	}
	spec, ok := c.indexed(ext)
	return spec, ok && slices.Contains(spec.Interpreter.FileExtensions, ext)
}

func (c Catalog) indexed(key string) (*Spec, bool) {
	for name, keys := range index {
		if slices.Contains(keys, key) {
			return c.effective(name)
		}
	}
	return nil, false
}

// Is tells whether name is the spec's name or one of its aliases, in any case.
func (s *Spec) Is(name string) bool {
	return strings.EqualFold(s.Name, name) || slices.ContainsFunc(s.Aliases, func(a string) bool { return strings.EqualFold(a, name) })
}

// Bare is the name without the pack that brings the runtime: "python" of "mine.python".
func (s *Spec) Bare() string {
	if _, bare, ok := strings.Cut(s.Name, "."); ok {
		return bare
	}
	return s.Name
}

// Names are the bare names of all runtimes, sorted.
func (c Catalog) Names() []string {
	names := map[string]bool{}
	if c.builtin != nil {
		for name := range index {
			names[name] = true
		}
	}
	for _, spec := range slices.Concat(c.brought, c.host) {
		if c.sees(spec) {
			names[spec.Bare()] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// All are all runtimes in name order.
func (c Catalog) All() []*Spec {
	var all []*Spec
	for _, name := range c.Names() {
		if spec, ok := c.effective(name); ok {
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
	if i := s.Entry(version); i >= 0 {
		return s.With(s.Versions[i])
	}
	return s
}

// Entry is the index of the first of Versions that a version matches; -1 when none does.
func (s *Spec) Entry(version string) int {
	return slices.IndexFunc(s.Versions, func(v Version) bool {
		c, err := ParseConstraint(v.Version)
		return err == nil && version != "" && c.Match(version)
	})
}

// With is the spec with one of its Versions over its own.
func (s *Spec) With(v Version) *Spec {
	merged := *s
	merged.lay(v)
	return &merged
}

// Over is the spec laid over another of its name, from which it inherits what it leaves out: each field of distributions, of the
// interpreter and of the dependencies, each variable; environment, inline execution and the list of versions as wholes. Commands
// of verification also end an inherited always_available, and an interpreter ends what inherited versions say of theirs. Aliases of both
// are known. Commands that ask about another binary than the inherited interpreter make it the interpreter. A pack's runtime keeps its
// full name.
func (s *Spec) Over(base *Spec) *Spec {
	merged := *base
	merged.Origin, merged.Overrides = s.Origin, append([]string{base.Origin}, base.Overrides...)
	if strings.Contains(s.Name, ".") {
		merged.Name = s.Name
	}
	merged.Aliases = slices.Clone(base.Aliases)
	for _, alias := range s.Aliases {
		if !merged.Is(alias) {
			merged.Aliases = append(merged.Aliases, alias)
		}
	}
	over := Version{Verification: &s.Verification, Interpreter: &s.Interpreter, Environment: s.Environment, Dependencies: s.Dependencies, EnvVars: s.EnvVars}
	if s.Inline.Strategy != "" {
		over.Inline = &s.Inline
	}
	merged.lay(over)
	switch {
	case s.Versions != nil:
		merged.Versions = s.Versions
	case s.Interpreter.Binary != "":
		merged.Versions = anywhere(base.Versions)
	}
	return &merged
}

// anywhere are versions without what they say of where their interpreters are.
func anywhere(versions []Version) []Version {
	versions = slices.Clone(versions)
	for i := range versions {
		v := &versions[i]
		v.Verification = nil
		if v.Interpreter != nil {
			launch := *v.Interpreter
			launch.Binary = ""
			v.Interpreter = &launch
		}
	}
	return versions
}

// lay puts what v says over the spec's own.
func (s *Spec) lay(v Version) {
	if over := v.Verification; over != nil {
		own := &s.Verification
		own.AlwaysAvailable = over.AlwaysAvailable || own.AlwaysAvailable && over.Probes == nil
		own.Probes, own.Locations = either(over.Probes, own.Probes), either(over.Locations, own.Locations)
		if s.Interpreter.Binary != "" && len(over.Probes) > 0 && !slices.ContainsFunc(over.Probes, s.speaksOfInterpreter) {
			s.Interpreter.Binary = over.Probes[0].Binary
		}
	}
	if over := v.Interpreter; over != nil {
		own := &s.Interpreter
		if over.Binary != "" && (v.Verification == nil || v.Verification.Probes == nil) {
			s.Verification.Probes = probesFor(s.Verification.Probes, own.Binary, over.Binary)
		}
		own.Binary = cmp.Or(over.Binary, own.Binary)
		own.Args, own.FileExtensions = either(over.Args, own.Args), either(over.FileExtensions, own.FileExtensions)
	}
	if over := v.Dependencies; over != nil {
		own := Dependencies{}
		if s.Dependencies != nil {
			own = *s.Dependencies
		}
		s.Dependencies = &Dependencies{ManifestFiles: either(over.ManifestFiles, own.ManifestFiles),
			LockFiles: either(over.LockFiles, own.LockFiles), InstallCommands: either(over.InstallCommands, own.InstallCommands)}
	}
	if v.Environment != nil {
		s.Environment = v.Environment
	}
	if v.Inline != nil {
		s.Inline = *v.Inline
	}
	s.EnvVars = mergeEnvVars(s.EnvVars, v.EnvVars)
}

// speaksOfInterpreter tells whether a probe asks about the interpreter at hand: by its name, its path, or with a command of its own.
func (s *Spec) speaksOfInterpreter(p Probe) bool {
	binary := s.Interpreter.Binary
	return p.Binary == binary || IsPath(binary) && (IsPath(p.Binary) || p.Binary == filepath.Base(binary))
}

// probesFor are the probes of one interpreter for another: a path that was the one's is the other's, and a command that answers for the
// one says nothing of the other.
func probesFor(probes []Probe, one, other string) []Probe {
	var all []Probe
	for _, p := range probes {
		if IsPath(p.Binary) && p.Binary != one {
			continue
		}
		if IsPath(p.Binary) {
			p.Binary = other
		}
		all = append(all, p)
	}
	return all
}

// IsPath tells a path from a name that is looked up in PATH.
func IsPath(binary string) bool { return strings.Contains(binary, "/") }

// either is over, unless it was left out; an empty list was not.
func either[T any](over, own []T) []T {
	if over != nil {
		return over
	}
	return own
}

// Beside makes the spec's paths that start with "./" absolute: they are beside dir.
func (s *Spec) Beside(dir string) {
	beside := func(launch *Launch, v *Verification) {
		if launch != nil && strings.HasPrefix(launch.Binary, "./") {
			launch.Binary = filepath.Join(dir, launch.Binary)
		}
		for i := range v.Probes {
			if p := &v.Probes[i]; strings.HasPrefix(p.Binary, "./") {
				p.Binary = filepath.Join(dir, p.Binary)
			}
		}
	}
	beside(&s.Interpreter, &s.Verification)
	for i := range s.Versions {
		v := &s.Versions[i]
		beside(v.Interpreter, cmp.Or(v.Verification, &Verification{}))
	}
}

// Check tells whether the spec can run anything once it has inherited all it can: *UnusableError when not.
func (s *Spec) Check() error {
	if s.Verification.AlwaysAvailable || len(s.Verification.Probes) > 0 || s.Interpreter.Binary != "" {
		return nil
	}
	return &UnusableError{Name: s.Name, File: s.Origin}
}

// UnusableError is a runtime that says neither what its interpreter is nor how one is verified.
type UnusableError struct{ Name, File string }

// Error names the keys that are missing.
func (e *UnusableError) Error() string {
	return fmt.Sprintf("runtime %s (%s) has neither execution_config.interpreter.binary nor distributions.verification.commands, and overrides none that has", e.Name, e.File)
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
