package batch

import (
	"context"
	"fmt"
	"time"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/report"
)

// Options are how a plan is run.
type Options struct {
	Concurrency int // executions at once; at least 1
	KeepGoing   bool
	// Execute runs one entry; it is called from several goroutines. The request is the entry's own, its references replaced.
	Execute func(ctx context.Context, e *Entry, req executor.Request) report.Execution
	// Unrun is told of each entry that Execute is not called for: it was skipped, or its references have no value. It is called from
	// Run's goroutine.
	Unrun func(*report.Execution)
	// Artifacts is the directory that holds the artifacts of an entry.
	Artifacts func(name string) string
}

// errStopped is why running entries are canceled after another one failed.
var errStopped = fmt.Errorf("another entry failed: %w", context.Canceled)

// Run runs a plan to its end and gives its executions in the plan's order. An entry starts when all it needs have succeeded. After a
// failure nothing else starts and what runs is canceled, unless KeepGoing is set: then only what needs the failed entry is skipped.
// A context that ends cancels what runs and skips the rest.
func Run(ctx context.Context, plan *Plan, o Options) []report.Execution {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	s := newSchedule(plan, o)
	for {
		for len(s.ready) > 0 && s.running < max(1, o.Concurrency) && ctx.Err() == nil {
			s.start(ctx)
		}
		if s.running == 0 {
			break
		}
		f := <-s.results
		s.running--
		if !f.ran {
			o.Unrun(&f.execution)
		}
		s.end(f.index, &f.execution)
		if f.execution.Outcome() != report.OutcomeOK && !o.KeepGoing && ctx.Err() == nil {
			s.why = fmt.Sprintf("not started: %s %s", f.execution.Name, f.execution.Status())
			stop(errStopped)
		}
	}
	s.skipRest(context.Cause(ctx))
	all := make([]report.Execution, len(s.done))
	for i, execution := range s.done {
		all[i] = *execution
	}
	return all
}

// schedule is the state of one Run; only Run's goroutine touches it. Entries are indexes into the plan.
type schedule struct {
	plan       *Plan
	o          Options
	members    map[string][]int // group → entries
	dependents map[string][]int // group → entries that need it
	left       map[string]int   // group → entries that have not ended
	waits      []int            // entry → needed groups that have not ended
	ready      []int            // entries that wait for nothing, in the order they came to that
	done       []*report.Execution
	running    int
	why        string        // why the rest is not started
	results    chan finished // from the goroutines that execute; each sends once and is awaited
}

type finished struct {
	index     int
	ran       bool
	execution report.Execution
}

func newSchedule(plan *Plan, o Options) *schedule {
	n := len(plan.Entries)
	s := &schedule{
		plan: plan, o: o, members: map[string][]int{}, dependents: map[string][]int{}, left: map[string]int{},
		waits: make([]int, n), done: make([]*report.Execution, n), results: make(chan finished),
	}
	for i := range plan.Entries {
		e := &plan.Entries[i]
		s.members[e.Group] = append(s.members[e.Group], i)
		s.left[e.Group]++
		s.waits[i] = len(e.Needs)
		for _, need := range e.Needs {
			s.dependents[need] = append(s.dependents[need], i)
		}
		if len(e.Needs) == 0 {
			s.ready = append(s.ready, i)
		}
	}
	return s
}

// start starts the first that is ready.
func (s *schedule) start(ctx context.Context) {
	i := s.ready[0]
	s.ready = s.ready[1:]
	s.running++
	e := &s.plan.Entries[i]
	req, err := fill(e, s.group, s.o.Artifacts)
	go func() {
		if err != nil {
			s.results <- finished{i, false, unfilled(e, err)}
			return
		}
		s.results <- finished{i, true, s.o.Execute(ctx, e, req)}
	}()
}

// group is what the entries of a group gave, in the plan's order.
func (s *schedule) group(name string) []*report.Execution {
	var all []*report.Execution
	for _, i := range s.members[name] {
		all = append(all, s.done[i])
	}
	return all
}

// end notes an entry's end, makes ready what waited for it alone, and skips what needed it in vain.
func (s *schedule) end(i int, execution *report.Execution) {
	e := &s.plan.Entries[i]
	s.done[i] = execution
	s.left[e.Group]--
	for _, d := range s.dependents[e.Group] {
		switch {
		case s.done[d] != nil:
		case execution.Outcome() != report.OutcomeOK:
			s.skip(d, fmt.Sprintf("needs %s, which %s", execution.Name, ended(execution)))
		case s.left[e.Group] == 0:
			if s.waits[d]--; s.waits[d] == 0 {
				s.ready = append(s.ready, d)
			}
		}
	}
}

func ended(e *report.Execution) string {
	if e.Skipped != "" {
		return "was skipped"
	}
	return "ended as " + e.Status()
}

func (s *schedule) skip(i int, why string) {
	e := &s.plan.Entries[i]
	execution := &report.Execution{Name: e.Name, Group: e.Group, Needs: e.Needs, Skipped: why}
	s.o.Unrun(execution)
	s.end(i, execution)
}

func (s *schedule) skipRest(cause error) {
	why := s.why
	if why == "" && cause != nil {
		why = "not started: " + cause.Error()
	}
	for i := range s.done {
		if s.done[i] == nil {
			s.skip(i, why)
		}
	}
}

// unfilled is the end of an entry whose references have no value.
func unfilled(e *Entry, err error) report.Execution {
	now := time.Now()
	name := e.Request.Action
	if name == "" {
		name = e.Name
	}
	return report.Execution{Name: e.Name, Group: e.Group, Needs: e.Needs, Started: now, Result: executor.Result{
		Schema: executor.ResultSchema, Action: name, Status: executor.Errored, ExitCode: executor.ExitAttune,
		Error:     &executor.Error{Kind: "parameters", Stage: "validate", Message: err.Error()},
		StartedAt: now.UTC(), FinishedAt: now.UTC(), Environment: executor.EnvironmentInfo{State: "none"},
	}}
}
