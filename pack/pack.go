package pack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/semver"

	"github.com/attune-run/attune/internal/nearest"
	"github.com/attune-run/attune/internal/yamldoc"
	"github.com/attune-run/attune/runtime"
)

// Problem is something wrong at a place of a file.
type Problem = yamldoc.Problem

// Pack is a directory of actions with what they share.
type Pack struct {
	Ref, Label, Description, Version string
	Dir                              string // absolute
	Tags                             []string
	Warnings                         []Problem // unknown keys

	confSchema *Schema // nil: any configuration
	config     map[string]any
}

// Load reads the pack in dir.
func Load(dir string) (*Pack, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "pack.yaml")
	doc, err := readDoc(file)
	if err != nil {
		return nil, err
	}
	root := doc.Root()
	p := &Pack{
		Dir: dir, Ref: root.Text("ref"), Label: root.Text("label"), Description: root.Text("description"),
		Version: root.Text("version"), Tags: root.List("tags"),
	}
	for _, informative := range []string{"author", "email", "keywords", "license", "homepage", "repository", "meta"} {
		_ = root.Get(informative)
	}
	p.check(root)
	if root.Has("conf_schema") {
		p.confSchema = readSchema(doc, root, "conf_schema")
	}
	if root.Has("config") {
		p.config, _ = root.Value("config").(map[string]any)
		if p.config == nil {
			root.Fail("config", "config must be a mapping (key: value)")
		}
	}
	root.Close()
	p.Warnings = doc.Unknown
	return p, doc.Err()
}

func (p *Pack) check(root *yamldoc.Map) {
	dirRef, dirVersion, versioned := strings.Cut(filepath.Base(p.Dir), "@")
	switch {
	case p.Ref == "":
		root.Fail("ref", "ref is missing")
	case !validRef(p.Ref):
		root.Fail("ref", "ref %q may hold letters, digits, _ and - only", p.Ref)
	case p.Ref != dirRef:
		root.Fail("ref", "ref %q is not the directory's name %q", p.Ref, dirRef)
	}
	if p.Version == "" {
		root.Fail("version", "version is missing")
	} else if core := semver.Canonical("v" + p.Version); core == "" || core+semver.Build("v"+p.Version) != "v"+p.Version {
		root.Fail("version", "version %q is no semantic version (1.2.3)", p.Version)
	}
	if versioned && dirVersion != p.Version {
		root.Fail("version", "version %q is not the directory's %q", p.Version, dirVersion)
	}
}

// readDoc reads a YAML file whose errors name it.
func readDoc(file string) (*yamldoc.Doc, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := yamldoc.Read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return yamldoc.Parse(file, data)
}

// Action loads one action, and reads only that action's file. A disabled one is a *DisabledError.
func (p *Pack) Action(name string) (*Action, error) {
	action, err := p.load(name)
	if err == nil && !action.Enabled {
		return nil, &DisabledError{Ref: action.Ref, File: action.File}
	}
	return action, err
}

func (p *Pack) load(name string) (*Action, error) {
	for _, ext := range []string{".yaml", ".yml"} {
		file := filepath.Join(p.Dir, "actions", name+ext)
		if !filepath.IsLocal(name) {
			break
		}
		doc, err := readDoc(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return p.readAction(doc, name)
	}
	var names []string
	for _, other := range p.actionNames() {
		names = append(names, p.Ref+"."+other)
	}
	full := p.Ref + "." + name
	return nil, &NotFoundError{Kind: "action", Name: full, Nearest: nearest.Name(full, names), Searched: []string{filepath.Join(p.Dir, "actions")}}
}

func (p *Pack) actionNames() []string {
	entries, _ := os.ReadDir(filepath.Join(p.Dir, "actions"))
	var names []string
	for _, e := range entries {
		if name, ok := cutYAML(e.Name()); ok && !e.IsDir() {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func cutYAML(file string) (string, bool) {
	if name, ok := strings.CutSuffix(file, ".yaml"); ok {
		return name, true
	}
	return strings.CutSuffix(file, ".yml")
}

// Actions loads all actions in name order, disabled ones too, and says what could not be loaded.
func (p *Pack) Actions() (actions []*Action, problems []error) {
	for _, name := range p.actionNames() {
		action, err := p.load(name)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		actions = append(actions, action)
	}
	return actions, problems
}

// Config is the pack's configuration: its own defaults, those of conf_schema, and the operator's values over both,
// validated.
func (p *Pack) Config(operator map[string]any) (map[string]any, error) {
	config := map[string]any{}
	for _, layer := range []map[string]any{p.config, operator} {
		for key, value := range layer {
			config[key] = value
		}
	}
	if p.confSchema == nil {
		return config, nil
	}
	return p.confSchema.Bind(config)
}

// RuntimeSpecs are the runtimes the pack brings. Each is known as "<pack>.<name>"; inside the pack its bare name is
// an alias.
func (p *Pack) RuntimeSpecs() ([]*runtime.Spec, error) {
	entries, err := os.ReadDir(filepath.Join(p.Dir, "runtimes"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var specs []*runtime.Spec
	for _, e := range entries {
		if _, ok := cutYAML(e.Name()); !ok {
			continue
		}
		file := filepath.Join(p.Dir, "runtimes", e.Name())
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		spec, err := runtime.Parse(file, data)
		if err != nil {
			return nil, err
		}
		spec.Aliases = append(spec.Aliases, spec.Name)
		spec.Name = p.Ref + "." + spec.Name
		specs = append(specs, spec)
	}
	return specs, nil
}

// Validate finds everything wrong with a pack: unknown keys, actions that cannot be loaded, runtimes nobody
// knows, configuration that does not fit its schema.
func Validate(p *Pack) []Problem {
	problems := slices.Clone(p.Warnings)
	actions, broken := p.Actions()
	for _, err := range broken {
		problems = append(problems, asProblems(p.Dir, err)...)
	}
	own, err := p.RuntimeSpecs()
	if err != nil {
		problems = append(problems, asProblems(p.Dir, err)...)
	}
	builtin, err := runtime.Builtin()
	if err != nil {
		problems = append(problems, asProblems(p.Dir, err)...)
	}
	catalog := builtin.Overlay(own...)
	for _, action := range actions {
		problems = append(problems, action.Warnings...)
		if _, ok := catalog.Lookup(action.Runtime); !ok {
			problems = append(problems, Problem{File: action.File, Message: unknownRuntime(action.Runtime, catalog)})
		}
	}
	if _, err := p.Config(nil); err != nil {
		var violations *ViolationsError
		if !errors.As(err, &violations) || len(p.config) > 0 {
			problems = append(problems, Problem{File: filepath.Join(p.Dir, "pack.yaml"), Message: "config: " + err.Error()})
		}
	}
	return problems
}

func unknownRuntime(name string, catalog runtime.Catalog) string {
	message := fmt.Sprintf("runner_type %q is no runtime", name)
	if near := catalog.Nearest(name); near != "" {
		message += fmt.Sprintf("; did you mean %q?", near)
	}
	return message
}

// asProblems takes joined errors apart.
func asProblems(file string, err error) []Problem {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []Problem
		for _, one := range joined.Unwrap() {
			all = append(all, asProblems(file, one)...)
		}
		return all
	}
	var problem Problem
	if errors.As(err, &problem) {
		return []Problem{problem}
	}
	return []Problem{{File: file, Message: err.Error()}}
}
