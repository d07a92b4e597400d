package recipe

import (
	"context"
	"path/filepath"
	"slices"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/runtime"
)

// bun finds packages only above the file that imports them (NODE_PATH ignores their exports, and its plugins do not see
// plain names), so the environment holds the pack's own files as well, beside node_modules, and the script runs there.
// The key therefore has a digest of the pack's files, as compiled languages' keys do; a new environment costs some
// 50 ms once bun has downloaded the packages.
type bun struct{}

// find is nil when nothing has to be installed; a bare script whose own node_modules are there uses them.
func (bun) find(in Input) (*packages, error) {
	if in.AdHoc && exists(in.PackDir, "node_modules") {
		return nil, nil
	}
	p, err := findPackages(in, "bun")
	if p != nil {
		p.local = append(p.local, ".")
	}
	return p, err
}

func (b bun) Inputs(ctx context.Context, in Input) ([]envcache.KeyInput, error) {
	p, err := b.find(in)
	if err != nil || p == nil {
		return nil, err
	}
	return p.inputs(ctx)
}

func (b bun) Build(ctx context.Context, in Input, site envcache.Site) (envcache.Built, error) {
	p, err := b.find(in)
	if err != nil || p == nil {
		return envcache.Built{}, err
	}
	return p.build(ctx, site)
}

func (bun) Check(_ context.Context, _ Input, dir string) error { return checkPackages(dir) }

func (bun) Command(in Input, env *envcache.Env) (Command, error) {
	if env == nil {
		return interpreted(in, in.Interpreter.Path, runtime.Vars{})
	}
	if relative, err := filepath.Rel(in.PackDir, in.Script); err == nil && filepath.IsLocal(relative) {
		in.Script = filepath.Join(env.Dir, relative)
	}
	command, err := interpreted(in, in.Interpreter.Path, runtime.Vars{})
	if err != nil {
		return command, err
	}
	// Without it bun would fetch what package.json does not name, at every run.
	command.Argv = slices.Insert(command.Argv, 1+len(in.Spec.Interpreter.Args), "--no-install")
	command.Env = append([]runtime.EnvVar{{Name: "NODE_PATH", Value: "{env_dir}/lib", Operation: runtime.Prepend}}, packageVars...)
	return command, nil
}
