// Package runtime says what a runtime is: its specification, its versions,
// version constraints and the template variables of its commands. It knows
// nothing about the machine it runs on; detect finds interpreters, recipe
// builds environments.
//
// Never import it beside the standard library's runtime in one file.
package runtime

import "regexp"

// Spec describes one runtime. The zero value runs nothing.
type Spec struct {
	Name    string   // canonical, lower case: "python"; a pack's own: "<pack>.<name>"
	Aliases []string // other names, matched without case
	Origin  string   // "built-in", or the file the spec was read from
	// Overrides are the origins of the specs this one lies over, and inherits from, the nearest first.
	Overrides []string

	Verification Verification
	Interpreter  Launch
	Environment  *Environment // nil: the runtime never needs one
	Dependencies *Dependencies
	EnvVars      []EnvVar // in name order
	Inline       Inline
	Versions     []Version
}

// Verification says how to find the runtime's interpreter and read its version.
type Verification struct {
	// AlwaysAvailable runtimes need no interpreter (native).
	AlwaysAvailable bool
	Probes          []Probe  // in ascending priority
	Locations       []string // absolute globs beside PATH; "~/" is the home directory
}

// Probe is one way to verify an interpreter: run Binary with Args, expect
// ExitCode, and match Pattern against stdout followed by stderr. The pattern's
// group "version" (else group 1) is the version, its group "abi" the ABI tag.
//
// Binary is a name that is looked up in PATH, or a path: absolute, below "~/", or "./" for one beside the spec. A path other
// than the interpreter's own is a command that answers for it.
type Probe struct {
	Binary   string
	Args     []string
	ExitCode int
	Pattern  *regexp.Regexp
	Priority int
}

// Launch is how an interpreter runs a file.
//
// Binary as a path (as Probe's) is the one interpreter there is. As a name that no probe has it is looked up in PATH. A runtime without
// probes takes it as it is, without a version.
type Launch struct {
	Binary         string
	Args           []string // templates, placed between interpreter and file
	FileExtensions []string // with the dot: ".py"
}

// Environment says how dependencies are isolated.
type Environment struct {
	Type            string     // names a recipe: virtualenv, node_modules, gomod, …, commands; empty ("none" in a file): no environments
	CreateCommands  [][]string // argv templates, for type "commands"
	InterpreterPath string     // template; empty means the base interpreter
	Place           string     // "line:column" of the type in the spec's file
}

// Dependencies names what decides an environment's content.
type Dependencies struct {
	ManifestFiles   []string // first that exists is the manifest
	LockFiles       []string
	InstallCommands [][]string // argv templates, for type "commands"
}

// Operation says how an EnvVar meets the value that is already there.
type Operation string

const (
	Set     Operation = "set"
	Prepend Operation = "prepend"
	Append  Operation = "append"
)

// EnvVar is one environment variable of a runtime or environment. Prepend and
// Append join with the child's effective value and drop the separator when
// either side is empty. An empty Separator means the path-list separator.
type EnvVar struct {
	Name      string
	Value     string // a template
	Operation Operation
	Separator string
}

// Inline says how code without a file is run.
type Inline struct {
	Strategy           string   // "direct" (-c) or "temp_file"
	Args               []string // for direct: what precedes the code, e.g. ["-c"]
	Extension          string   // for temp_file, with the dot
	InjectShellHelpers bool
}

// Version is a version-specific overlay of its Spec, which inherits what it leaves out as Spec.Over has it. One
// with a Verification or an Interpreter path of its own says where its interpreters are: none found elsewhere counts.
type Version struct {
	Version      string // a constraint: "3.12" means 3.12.x
	Default      bool
	Verification *Verification
	Interpreter  *Launch
	Environment  *Environment
	Dependencies *Dependencies
	EnvVars      []EnvVar
	Inline       *Inline
}

// Interpreter is one verified interpreter of some machine. Path is the real
// binary, never a shim. A runtime that needs none has an empty Path.
type Interpreter struct {
	Runtime string `json:"runtime"`
	Path    string `json:"path"`
	Version string `json:"version"`
	ABI     string `json:"abi,omitempty"`
	// OnPath is true for the interpreter that PATH names first.
	OnPath bool `json:"on_path,omitempty"`
}

// Vars are the values of the template variables {pack_dir} {env_dir}
// {interpreter} {action_file} {manifest_path}.
type Vars struct {
	PackDir, EnvDir, Interpreter, ActionFile, ManifestPath string
}
