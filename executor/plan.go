package executor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/attune-run/attune/detect"
	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/recipe"
	"github.com/attune-run/attune/runtime"
)

// allowed is false for a runtime that ATTUNE_WORKER_RUNTIMES leaves out.
func (s *Service) allowed(spec *runtime.Spec) bool {
	if s.cfg.Runtimes == "" {
		return true
	}
	kept, _ := detect.Restrict([]*runtime.Spec{spec}, s.cfg.Runtimes)
	return len(kept) > 0
}

// find chooses the interpreter of a job: the one its script names, one that was detected before Start,
// or one of this machine.
func (s *Service) find(ctx context.Context, j *job) (runtime.Interpreter, error) {
	if j.interpreter != "" {
		return s.detector.Verify(ctx, j.spec, j.interpreter)
	}
	var known []runtime.Interpreter
	var versions []string
	for _, i := range s.cfg.Mode.detected {
		// One that vanished since is looked for anew.
		if i.Runtime == j.spec.Name && (i.Path == "" || isThere(i.Path)) {
			known, versions = append(known, i), append(versions, i.Version)
		}
	}
	if best, err := j.spec.Rank(versions, j.constraint); err == nil && len(versions) > 0 {
		return known[slices.Index(versions, best)], nil
	}
	if j.preferPath && j.constraint == "" {
		return s.detector.First(ctx, j.spec)
	}
	return s.detector.Find(ctx, j.spec, j.constraint)
}

// spec is the job's runtime as it is for the version of the interpreter that was found.
func (x *execution) spec() *runtime.Spec { return x.job.spec.For(x.interpreter.Version) }

// plan is what a recipe makes of a job on this machine.
type plan struct {
	recipe recipe.Recipe
	input  recipe.Input
	key    envcache.Key
	needed bool // an environment is needed
}

// plan asks the recipe of the job's runtime what has to be built; it builds nothing.
func (s *Service) plan(ctx context.Context, j *job, interpreter runtime.Interpreter, local Local) (plan, error) {
	spec := j.spec.For(interpreter.Version)
	rcp, err := recipe.For(spec)
	if err != nil {
		return plan{}, err
	}
	p := plan{recipe: rcp, input: recipe.Input{
		Spec: spec, Interpreter: interpreter, PackDir: j.dir, Script: j.script, AdHoc: j.pack == nil,
		HostEnv: s.cfg.Environ, Locked: local.Locked || s.cfg.Locked, Network: cmp.Or(local.Network, s.cfg.Network),
		InstallScripts: s.cfg.InstallScripts, Timeout: s.cfg.BuildTimeout, Probe: s.detector.Verify,
	}}
	if spec.Environment != nil {
		if store, err := s.Store(); err == nil { // one that cannot be opened matters once it is needed, in acquire
			p.input.Downloads = store.Downloads()
		}
	}
	p.key, p.needed, err = recipe.Key(ctx, rcp, p.input)
	return p, err
}

// acquire makes the planned environment ready and holds it.
func (s *Service) acquire(ctx context.Context, p plan, local Local, progress func(envcache.Progress)) (*envcache.Env, error) {
	store, err := s.Store()
	if err != nil {
		return nil, err
	}
	env, err := store.Acquire(ctx, p.key, recipe.Builder(p.recipe, p.input), envcache.AcquireOptions{Progress: progress, RetryFailed: local.RetryFailed})
	var build *envcache.BuildError
	if errors.As(err, &build) && p.input.Network == recipe.Offline {
		return nil, fmt.Errorf("%w\n(offline: nothing may be downloaded for environment %s)", err, build.ID)
	}
	return env, err
}

// inlineFile gives inline code a file where its runtime cannot take it as an argument.
func (x *execution) inlineFile() error {
	if x.job.inline == "" || x.inlineDirect() {
		return nil
	}
	if err := x.makePrivateDir(); err != nil {
		return err
	}
	path := x.privatePath("inline" + x.spec().Inline.Extension)
	if err := os.WriteFile(path, []byte(x.job.inline), 0o600); err != nil {
		return &failure{kind: kindSpawn, err: err}
	}
	x.job.script = path
	return nil
}

// directMax is the size in bytes of code that fits in one argument (MAX_ARG_STRLEN of execve(2), 128 KiB with the zero behind it).
const directMax = 128<<10 - 1

// inlineDirect tells whether inline code is an argument of the interpreter. Code with arguments of its own is not: interpreters take some
// of these for theirs, and a shell the first for its name.
func (x *execution) inlineDirect() bool {
	return x.spec().Inline.Strategy == "direct" && len(x.req.Args) == 0 && len(x.job.inline) <= directMax
}
