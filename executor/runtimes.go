package executor

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/attune-run/attune/detect"
	"github.com/attune-run/attune/pack"
	"github.com/attune-run/attune/recipe"
	"github.com/attune-run/attune/runtime"
)

// catalog is the built-in runtimes with what a host's files say over them.
func catalog(files []string) (runtime.Catalog, error) {
	builtin, err := runtime.Builtin()
	if err != nil {
		return runtime.Catalog{}, err
	}
	host, err := detect.HostSpecs(files)
	for _, spec := range host {
		for _, problem := range CheckEnvironment(spec) {
			err = errors.Join(err, problem)
		}
	}
	if err != nil {
		return runtime.Catalog{}, &failure{kind: kindRuntime, exit: ExitNoRuntime, err: err}
	}
	return builtin.Overlay(host...), nil
}

// Catalog is the built-in runtimes with the host's over them. An error is a host's runtime file that cannot be used.
func (s *Service) Catalog() (runtime.Catalog, error) { return s.catalog() }

// CheckEnvironment finds the environment types of a spec and its versions that attune cannot make.
func CheckEnvironment(spec *runtime.Spec) []pack.Problem {
	specs := []*runtime.Spec{spec}
	for _, v := range spec.Versions {
		if v.Environment != nil {
			specs = append(specs, spec.With(v))
		}
	}
	var problems []pack.Problem
	for _, s := range specs {
		if _, err := recipe.For(s); err != nil {
			problems = append(problems, pack.Problem{File: spec.Origin + ":" + s.Environment.Place, Message: err.Error()})
		}
	}
	return problems
}

// Runtimes are the runtimes this service may use, in name order: attune's own and the host's, then those that packs bring, as
// "<pack>.<name>". What packs bring and cannot be read is among the problems; a host's file that cannot be used is the only problem.
func (s *Service) Runtimes() (specs []*runtime.Spec, problems []error) {
	all, problems := s.Known()
	return slices.DeleteFunc(all, func(spec *runtime.Spec) bool { return !s.allowed(spec) }), problems
}

// Known are all runtimes, also those that this service may not use, and otherwise as Runtimes.
func (s *Service) Known() (specs []*runtime.Spec, problems []error) {
	catalog, err := s.catalog()
	if err != nil {
		return nil, []error{err}
	}
	brought, problems := s.finder.Runtimes(catalog)
	for _, spec := range catalog.All() {
		if err := spec.Check(); err != nil {
			problems = append(problems, err)
			continue
		}
		specs = append(specs, spec)
	}
	return append(specs, brought...), problems
}

// Detect finds the interpreters of all runtimes this service may use. Problems are those of Runtimes; the error is an ended
// context's, or a host's runtime file that cannot be used.
func (s *Service) Detect(ctx context.Context) (found []runtime.Interpreter, problems []error, err error) {
	if _, err := s.catalog(); err != nil {
		return nil, nil, err
	}
	specs, problems := s.Runtimes()
	found, err = s.detector.All(ctx, specs)
	return found, problems, err
}

// unknownRuntimes are the names in ATTUNE_WORKER_RUNTIMES that no runtime has.
func (s *Service) unknownRuntimes() []string {
	specs, _ := s.Known()
	_, unknown := detect.Restrict(specs, s.cfg.Runtimes)
	return unknown
}

// RuntimeState is one runtime on this machine.
type RuntimeState struct {
	Name        string   `json:"name"`
	Aliases     []string `json:"aliases"`
	Extensions  []string `json:"extensions"`
	Environment string   `json:"environment"` // its type; empty: none
	Origin      string   `json:"origin"`      // whose spec it is: "built-in", or a file
	Overrides   []string `json:"overrides"`   // origins of the specs that lie below and that it inherits from, the nearest first

	// Interpreters are those that were found, the best first. Nil where nobody looked: only ExplainRuntimes does.
	Interpreters []InterpreterState `json:"interpreters,omitzero"`
}

// InterpreterState is an interpreter, and the environment type of its version.
type InterpreterState struct {
	runtime.Interpreter
	Environment string `json:"environment"`
}

// State is a spec in words.
func State(spec *runtime.Spec) RuntimeState {
	state := RuntimeState{
		Name: spec.Name, Aliases: orEmpty(spec.Aliases), Extensions: orEmpty(spec.Interpreter.FileExtensions),
		Origin: spec.Origin, Overrides: orEmpty(spec.Overrides),
	}
	if spec.Environment != nil {
		state.Environment = spec.Environment.Type
	}
	return state
}

func orEmpty(list []string) []string { return append([]string{}, list...) }

// ExplainRuntimes says of each runtime whose spec won, over which, and what of it this machine has.
func (s *Service) ExplainRuntimes(ctx context.Context) (states []RuntimeState, problems []error, err error) {
	found, problems, err := s.Detect(ctx)
	if err != nil {
		return nil, problems, err
	}
	specs, _ := s.Runtimes()
	for _, spec := range specs {
		state := State(spec)
		state.Interpreters = []InterpreterState{}
		for _, i := range found {
			if i.Runtime == spec.Name {
				state.Interpreters = append(state.Interpreters, InterpreterState{i, State(spec.For(i.Version)).Environment})
			}
		}
		states = append(states, state)
	}
	return states, problems, nil
}

// RuntimeNames are the names and aliases a user may mean.
func (s *Service) RuntimeNames() []string {
	specs, _ := s.Known()
	var all []string
	for _, spec := range specs {
		all = append(append(all, spec.Name), spec.Aliases...)
	}
	slices.SortFunc(all, strings.Compare)
	return slices.Compact(all)
}
