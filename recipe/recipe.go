// Package recipe makes environments: for each language the inputs that decide
// what gets built, the builder, and the command that runs a script in the
// result. One file per language.
package recipe

import (
	"context"
	"io"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/runtime"
)

// Input is what a recipe works from. Paths are absolute.
type Input struct {
	Spec           *runtime.Spec // already narrowed to the interpreter's version
	Interpreter    runtime.Interpreter
	PackDir        string   // where manifests and lib/ are; the script's directory for an ad hoc script
	Script         string   // the file to run; empty while only preparing a pack
	AdHoc          bool     // Script is a bare script, not a pack's action
	HostEnv        []string // the host's environment; recipes pass on only what an installer needs
	StoreRoot      string   // root of the environment store
	Downloads      string   // shared download caches, one directory per tool
	Locked         bool     // refuse a manifest without lock file or hashes
	Offline        bool     // never reach the network
	InstallScripts bool     // let packages run their own install scripts
}

// Command is how to run Input.Script.
type Command struct {
	Argv []string // Argv[0] is absolute; the script's own arguments are appended by the caller
	Env  []runtime.EnvVar
}

// Recipe makes one kind of environment.
type Recipe interface {
	// Inputs are the key's inputs, or none when no environment is needed.
	Inputs(ctx context.Context, in Input) ([]envcache.KeyInput, error)
	Build(ctx context.Context, in Input, dir string, log io.Writer, phase func(string)) (envcache.Built, error)
	Check(ctx context.Context, in Input, dir string) error
	// Command runs in.Script; env is nil when Inputs returned none.
	Command(in Input, env *envcache.Env) (Command, error)
}
