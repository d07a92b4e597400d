package runtime

import (
	"errors"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/attune-run/attune/internal/yamldoc"
)

// Parse reads one spec. file is what errors name: each is "file:line:column: message", and all of them
// are reported, unknown keys included.
func Parse(file string, data []byte) (*Spec, error) {
	doc, err := yamldoc.Parse(file, data)
	if err != nil {
		return nil, err
	}
	return parser{doc}.spec()
}

// ParseAll reads a file of any number of specs, as YAML documents. Errors are as Parse's.
func ParseAll(file string, data []byte) ([]*Spec, error) {
	docs, err := yamldoc.ParseAll(file, data)
	if err != nil {
		return nil, err
	}
	var specs []*Spec
	var problems []error
	for _, doc := range docs {
		spec, err := parser{doc}.spec()
		specs, problems = append(specs, spec), append(problems, err)
	}
	return specs, errors.Join(problems...)
}

func (p parser) spec() (*Spec, error) {
	root := p.doc.Root()
	spec := &Spec{Name: strings.ToLower(root.Text("name")), Aliases: root.List("aliases"), Origin: p.doc.File}
	switch {
	case spec.Name == "":
		root.Fail("name", "name is missing")
	case strings.Trim(spec.Name, "abcdefghijklmnopqrstuvwxyz0123456789._+-") != "" || strings.HasPrefix(spec.Name, "."):
		root.Fail("name", "name %q may hold letters, digits, _, + and -, and a pack's ref with a dot in front", spec.Name)
	}
	_, _ = root.Text("label"), root.Text("description")
	spec.lay(p.overlay(root))
	for _, m := range root.Maps("versions") {
		spec.Versions = append(spec.Versions, p.version(m))
	}
	root.Close()
	if err := errors.Join(p.doc.Err(), joinProblems(p.doc.Unknown)); err != nil {
		return nil, err
	}
	return spec, nil
}

func joinProblems(problems []yamldoc.Problem) error {
	var all []error
	for _, p := range problems {
		all = append(all, p)
	}
	return errors.Join(all...)
}

// parser reads the parts of one document.
type parser struct{ doc *yamldoc.Doc }

// overlay is what a spec and each of its versions have in common.
func (p parser) overlay(m *yamldoc.Map) Version {
	var all Version
	distributions := m.Map("distributions")
	if distributions.Node != nil {
		all.Verification = p.verification(distributions)
	}
	distributions.Close()
	execution := m.Map("execution_config")
	if execution.Has("interpreter") {
		all.Interpreter = p.launch(execution.Map("interpreter"))
	}
	if execution.Has("environment") {
		all.Environment = p.environment(execution.Map("environment"))
	}
	if execution.Has("dependencies") {
		all.Dependencies = p.dependencies(execution.Map("dependencies"))
	}
	if execution.Has("inline_execution") {
		all.Inline = p.inline(execution.Map("inline_execution"))
	}
	all.EnvVars = p.envVars(execution.Map("env_vars"))
	execution.Close()
	return all
}

func (p parser) version(m *yamldoc.Map) Version {
	v := p.overlay(m)
	v.Version, v.Default = m.Text("version"), m.Bool("is_default", false)
	if _, err := ParseConstraint(v.Version); err != nil || v.Version == "" {
		m.Fail("version", "version %q is no version", v.Version)
	}
	m.Close()
	return v
}

func (p parser) verification(distributions *yamldoc.Map) *Verification {
	m := distributions.Map("verification")
	v := &Verification{AlwaysAvailable: m.Bool("always_available", false), Locations: distributions.List("locations")}
	for _, command := range m.Maps("commands") {
		probe := Probe{
			Binary: command.Text("binary"), Args: command.List("args"),
			ExitCode: command.Int("exit_code"), Priority: command.Int("priority"),
		}
		if probe.Binary == "" {
			command.Fail("binary", "binary is missing")
		}
		p.binary(command, probe.Binary)
		var err error
		if probe.Pattern, err = regexp.Compile(command.Text("pattern")); err != nil {
			command.Fail("pattern", "pattern: %v", err)
		}
		command.Close()
		v.Probes = append(v.Probes, probe)
	}
	slices.SortStableFunc(v.Probes, func(a, b Probe) int { return a.Priority - b.Priority })
	for _, glob := range v.Locations {
		if _, err := filepath.Match(glob, ""); err != nil {
			distributions.Fail("locations", "location %s: %v", glob, err)
		}
		if !strings.HasPrefix(glob, "/") && !strings.HasPrefix(glob, "~/") {
			distributions.Fail("locations", "location %s must be absolute, or start with ~/", glob)
		}
	}
	m.Close()
	return v
}

func (p parser) launch(m *yamldoc.Map) *Launch {
	l := &Launch{Binary: m.Text("binary"), Args: p.templates(m, "args"), FileExtensions: m.List("file_extension")}
	p.binary(m, l.Binary)
	for i, ext := range l.FileExtensions {
		l.FileExtensions[i] = strings.ToLower(ext)
		if !strings.HasPrefix(ext, ".") {
			m.Fail("file_extension", "file_extension %q must start with a dot", ext)
		}
	}
	m.Close()
	return l
}

// binary refuses what would depend on the working directory.
func (p parser) binary(m *yamldoc.Map, binary string) {
	beside, isBeside := strings.CutPrefix(binary, "./")
	switch {
	case !strings.Contains(binary, "/") || strings.HasPrefix(binary, "/") || strings.HasPrefix(binary, "~/"):
	case !isBeside || !filepath.IsLocal(beside):
		m.Fail("binary", "binary %q must be a name, an absolute path, or one that starts with ~/ or ./ and does not leave the directory", binary)
	}
}

func (p parser) environment(m *yamldoc.Map) *Environment {
	e := &Environment{Type: m.Text("env_type"), CreateCommands: m.Lists("create_command"), InterpreterPath: p.template(m, "interpreter_path"),
		Place: m.Place("env_type")}
	switch e.Type {
	case "":
		m.Fail("env_type", "env_type is missing; none means that there are no environments")
	case "none":
		e.Type = ""
	}
	p.commands(m, "create_command", e.CreateCommands)
	m.Close()
	return e
}

func (p parser) dependencies(m *yamldoc.Map) *Dependencies {
	d := &Dependencies{ManifestFiles: m.List("manifest_file"), LockFiles: m.List("lock_files"), InstallCommands: m.Lists("install_command")}
	p.commands(m, "install_command", d.InstallCommands)
	m.Close()
	return d
}

func (p parser) envVars(m *yamldoc.Map) []EnvVar {
	var all []EnvVar
	for _, name := range slices.Sorted(slices.Values(m.Keys())) {
		v := EnvVar{Name: name, Operation: Set}
		if node := m.Get(name); node != nil && len(node.Content) == 0 {
			v.Value = p.template(m, name)
		} else {
			detail := m.Map(name)
			v.Value, v.Separator = p.template(detail, "value"), detail.Text("separator")
			if operation := detail.Text("operation"); operation != "" {
				v.Operation = Operation(operation)
			}
			if !slices.Contains([]Operation{Set, Prepend, Append}, v.Operation) {
				detail.Fail("operation", "operation %q must be set, prepend or append", v.Operation)
			}
			detail.Close()
		}
		all = append(all, v)
	}
	return all
}

func (p parser) inline(m *yamldoc.Map) *Inline {
	i := &Inline{Strategy: m.Text("strategy"), Args: m.List("args"), Extension: m.Text("extension"),
		InjectShellHelpers: m.Bool("inject_shell_helpers", false)}
	if i.Strategy != "direct" && i.Strategy != "temp_file" {
		m.Fail("strategy", "strategy %q must be direct or temp_file", i.Strategy)
	}
	m.Close()
	return i
}

func (p parser) template(m *yamldoc.Map, key string) string {
	text := m.Text(key)
	p.check(m, key, text)
	return text
}

func (p parser) templates(m *yamldoc.Map, key string) []string {
	texts := m.List(key)
	for _, text := range texts {
		p.check(m, key, text)
	}
	return texts
}

func (p parser) commands(m *yamldoc.Map, key string, commands [][]string) {
	for _, argv := range commands {
		if len(argv) == 0 {
			m.Fail(key, "%s holds an empty command", key)
		}
		for _, text := range argv {
			p.check(m, key, text)
		}
	}
}

func (p parser) check(m *yamldoc.Map, key, text string) {
	if _, err := Expand(text, Vars{}); err != nil {
		m.Fail(key, "%s: %v", key, err)
	}
}
