// Package recipe makes environments: for each language the inputs that decide
// what gets built, the builder, and the command that runs a script in the
// result. One file per language.
package recipe

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/runtime"
)

// Input is what a recipe works from. Paths are absolute.
type Input struct {
	Spec           *runtime.Spec // already narrowed to the interpreter's version
	Interpreter    runtime.Interpreter
	PackDir        string        // where manifests and lib/ are; the script's directory for an ad hoc script
	Script         string        // the file to run; empty while only preparing a pack
	AdHoc          bool          // Script is a bare script, not a pack's action
	HostEnv        []string      // the host's environment; recipes pass on only what an installer needs
	Downloads      string        // shared download caches, one directory per tool
	Locked         bool          // refuse a manifest without lock file or hashes
	Network        Network       // whether installers may reach it; zero means Online
	InstallScripts bool          // let packages run their own install scripts
	Timeout        time.Duration // of a whole build; zero means 15 min

	// Probe asks a binary for its version, as the spec says, and may remember the answer. Installers
	// are probed with small specs of their own.
	Probe func(ctx context.Context, spec *runtime.Spec, path string) (runtime.Interpreter, error)
}

// Network says whether installers may reach the network. The zero value is Online.
type Network string

const (
	Online        Network = "online"         // as the installer does by itself
	PreferOffline Network = "prefer-offline" // what was downloaded before wins; the rest is fetched
	Offline       Network = "offline"        // nothing is fetched
)

// Command is how to run Input.Script.
type Command struct {
	Argv []string // Argv[0] is absolute; the script's own arguments are appended by the caller
	Env  []runtime.EnvVar
}

// Recipe makes one kind of environment.
type Recipe interface {
	// Inputs are the key's inputs, or none when no environment is needed.
	Inputs(ctx context.Context, in Input) ([]envcache.KeyInput, error)
	// Build fills site.Dir.
	Build(ctx context.Context, in Input, site envcache.Site) (envcache.Built, error)
	// Check is the smoke check of a finished build.
	Check(ctx context.Context, in Input, dir string) error
	// Command runs in.Script; env is nil when Inputs returned none.
	Command(in Input, env *envcache.Env) (Command, error)
}

// version of all recipes: a change of what they build makes all keys new.
const version = "1"

// For is the recipe of a runtime, by its environment's type. A runtime without one runs its scripts
// with the plain interpreter.
func For(spec *runtime.Spec) (Recipe, error) {
	if spec.Environment == nil {
		return plain{}, nil
	}
	switch spec.Environment.Type {
	case "":
		return plain{}, nil
	case "virtualenv":
		return python{}, nil
	case "node_modules":
		return node{}, nil
	case "bun":
		return bun{}, nil
	case "deno":
		return deno{}, nil
	case "gomod":
		return golang{}, nil
	case "maven":
		return java{}, nil
	case "local_lib":
		return perl{}, nil
	case "gem_home":
		return ruby{}, nil
	case "renv":
		return renv{}, nil
	case "commands":
		return commands{}, nil
	}
	return nil, fmt.Errorf("runtime %s (%s): there is no environment type %q", spec.Name, spec.Origin, spec.Environment.Type)
}

// pathBound are the environments whose files carry their own path.
var pathBound = []string{"virtualenv", "gem_home", "local_lib", "renv", "commands"}

// settingPrefix begins the names of inputs that say where and how an installer finds what it installs.
const settingPrefix = "setting:"

// asSettings marks inputs as such.
func asSettings(inputs ...envcache.KeyInput) []envcache.KeyInput {
	for i, input := range inputs {
		inputs[i].Name = settingPrefix + input.Name
	}
	return inputs
}

// Key is the key of the environment that r makes of in; needed is false when it needs none.
func Key(ctx context.Context, r Recipe, in Input) (key envcache.Key, needed bool, err error) {
	own, err := r.Inputs(ctx, in)
	if err != nil || len(own) == 0 {
		return envcache.Key{}, false, err
	}
	inputs := slices.Concat(own, platform(in.Interpreter.Path), []envcache.KeyInput{
		{Name: envcache.RecipeInput, Value: in.Spec.Environment.Type + "/" + version},
		{Name: "interpreter", Value: in.Interpreter.Path},
		{Name: "interpreter-version", Value: in.Interpreter.Version},
		{Name: "interpreter-abi", Value: in.Interpreter.ABI},
		{Name: "install-scripts", Value: fmt.Sprint(in.InstallScripts)},
	})
	for i, input := range inputs {
		inputs[i].How = input.Name == "installer" || strings.HasPrefix(input.Name, settingPrefix)
	}
	return envcache.NewKey(inputs, slices.Contains(pathBound, in.Spec.Environment.Type)), true, nil
}

// Builder is what the store calls to make the environment.
func Builder(r Recipe, in Input) envcache.Builder { return builder{r, in} }

type builder struct {
	recipe Recipe
	in     Input
}

func (b builder) Interpreter() envcache.Interpreter { return identity(b.in.Interpreter) }

func (b builder) Probe(ctx context.Context, path string) (envcache.Interpreter, error) {
	found, err := b.in.Probe(ctx, b.in.Spec, path)
	return identity(found), err
}

func (b builder) Build(ctx context.Context, site envcache.Site) (envcache.Built, error) {
	timeout := cmp.Or(b.in.Timeout, buildTimeout)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, &TimeoutError{After: timeout})
	defer cancel()
	return b.recipe.Build(ctx, b.in, site)
}

func (b builder) Check(ctx context.Context, dir string) error {
	if err := b.recipe.Check(ctx, b.in, dir); err != nil {
		return fmt.Errorf("the finished environment does not work: %w", err)
	}
	return nil
}

func identity(i runtime.Interpreter) envcache.Interpreter {
	return envcache.Interpreter{Path: i.Path, Version: i.Version, ABI: i.ABI}
}
