package executor

import (
	"context"
	stdruntime "runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/attune-run/attune/detect"
	"github.com/attune-run/attune/runtime"
)

// Prepared is what worker mode found out about one action at Start.
type Prepared struct {
	Action      string
	Runtime     string
	Interpreter runtime.Interpreter
	Key         string // empty when the action needs no environment
	State       string // "hit", "built", "waited", "none"; "failed" when Err is set; "skipped" when disabled
	Err         error
	Elapsed     time.Duration
}

// prepareAll verifies the interpreter and builds the environment of every action of every pack, with
// a bound. What fails is noted and goes on to be tried on first use.
func (s *Service) prepareAll(ctx context.Context) error {
	if _, err := s.detector.All(ctx, s.Runtimes()); err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if _, unknown := detect.Restrict(s.Known(), s.cfg.Runtimes); len(unknown) > 0 {
		s.cfg.Log.Warn("the list of runtimes names what is no runtime", "names", unknown)
	}
	packs, problems := s.finder.List()
	for _, problem := range problems {
		s.cfg.Log.Error("pack cannot be loaded", "error", problem)
		s.prepared = append(s.prepared, Prepared{State: "failed", Err: problem})
	}
	var refs []string
	for _, p := range packs {
		actions, broken := p.Actions()
		for _, err := range broken {
			s.cfg.Log.Error("action cannot be loaded", "pack", p.Ref, "error", err)
			s.prepared = append(s.prepared, Prepared{Action: p.Ref, State: "failed", Err: err})
		}
		for _, action := range actions {
			if !action.Enabled {
				s.prepared = append(s.prepared, Prepared{Action: action.Ref, Runtime: action.Runtime, State: "skipped"})
				continue
			}
			refs = append(refs, action.Ref)
		}
	}
	s.prepareActions(ctx, refs)
	return context.Cause(ctx)
}

func (s *Service) prepareActions(ctx context.Context, refs []string) {
	limit := s.cfg.Concurrency
	if limit == 0 {
		limit = stdruntime.NumCPU()
	}
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(limit)
	for _, ref := range refs {
		group.Go(func() error {
			row := s.prepare(ctx, ref)
			if row.Err != nil {
				s.cfg.Log.Error("action is not ready", "action", ref, "error", row.Err)
			}
			mu.Lock()
			defer mu.Unlock()
			s.prepared = append(s.prepared, row)
			return nil
		})
	}
	_ = group.Wait() // rows hold the errors
}

// prepare takes one action through the stages that come before run.
func (s *Service) prepare(ctx context.Context, ref string) Prepared {
	begun := time.Now()
	x := s.newExecution(Request{Action: ref}, Observer{})
	defer x.release()
	row := Prepared{Action: ref, State: "failed"}
	for _, stage := range []func(context.Context) error{x.load, x.detect, x.environment} {
		if row.Err = stage(ctx); row.Err != nil {
			break
		}
	}
	if x.job.spec != nil {
		row.Runtime = x.job.spec.Name
	}
	row.Interpreter, row.Elapsed = x.interpreter, time.Since(begun)
	if row.Err == nil {
		row.Key, row.State = x.res.Environment.Key, x.res.Environment.State
	}
	return row
}

// Runtimes are the runtimes this service may use, in name order.
func (s *Service) Runtimes() []*runtime.Spec {
	var kept []*runtime.Spec
	for _, spec := range s.catalog.All() {
		if s.allowed(spec) {
			kept = append(kept, spec)
		}
	}
	return kept
}

// Detect finds the interpreters of all runtimes this service may use.
func (s *Service) Detect(ctx context.Context) ([]runtime.Interpreter, error) {
	return s.detector.All(ctx, s.Runtimes())
}

// RuntimeNames are the names of all runtimes attune knows.
func (s *Service) RuntimeNames() []string { return s.catalog.Names() }

// Known are all runtimes, also those that this service may not use.
func (s *Service) Known() []*runtime.Spec { return s.catalog.All() }
