// Package report holds what is known of executions after they ended: what CI systems, JUnit files and pages for people are
// written from. A single run is a Run of one Execution. Everything in it is redacted.
package report

import (
	"strings"
	"time"

	"github.com/attune-run/attune/executor"
)

// Run is what one command executed.
type Run struct {
	Title      string // the action's name, or the plan's file
	Started    time.Time
	Finished   time.Time
	Executions []Execution // in the order of the plan
}

// Execution is one execution, as it was asked for and as it ended.
type Execution struct {
	Name    string   // unique in its Run: an entry's name with its matrix values, else the action's
	Group   string   // what it belongs to: an entry's name without matrix values, a pack's name
	Needs   []string // names of the executions it waited for
	Started time.Time

	Skipped string          // why it was not run; empty when it was
	Result  executor.Result // the zero value when it was skipped
	// Expected says that it is what a test expects: it counts as OK whatever its result is. Problems are where it is not.
	Expected bool
	Problems []string

	Spans    []Span
	Warnings []string
	Log      []Line
	LogCut   int64 // bytes that Log leaves out
}

// Span is one stage of an execution: a key of executor.Timings.
type Span struct {
	Stage    string
	Offset   time.Duration // from the execution's start
	Duration time.Duration
}

// Line is a piece of output as it arrived, at most a line, without its line end. It may hold any bytes but those of secrets.
type Line struct {
	At     time.Duration // from the execution's start
	Stderr bool
	Text   string
}

// Outcome is how an execution counts.
type Outcome string

// The outcomes. OutcomeError is attune's own failure, a cancellation, or a lost worker.
const (
	OutcomeOK      Outcome = "ok"
	OutcomeFailed  Outcome = "failed"
	OutcomeError   Outcome = "error"
	OutcomeSkipped Outcome = "skipped"
)

// Outcome tells the action's failures from attune's.
func (e *Execution) Outcome() Outcome {
	switch {
	case e.Skipped != "":
		return OutcomeSkipped
	case len(e.Problems) > 0:
		return OutcomeFailed
	case e.Expected:
		return OutcomeOK
	}
	switch e.Result.Status {
	case executor.Succeeded:
		return OutcomeOK
	case executor.Failed, executor.TimedOut:
		return OutcomeFailed
	default:
		return OutcomeError
	}
}

// Status is one word for people: the result's status, "skipped", or of a test "passed" or "failed".
func (e *Execution) Status() string {
	switch {
	case e.Skipped != "":
		return string(OutcomeSkipped)
	case len(e.Problems) > 0:
		return string(OutcomeFailed)
	case e.Expected:
		return "passed"
	}
	return string(e.Result.Status)
}

// Message says why it did not succeed, in one or more lines; empty when it did.
func (e *Execution) Message() string {
	switch {
	case e.Skipped != "":
		return e.Skipped
	case len(e.Problems) > 0:
		return strings.Join(e.Problems, "\n")
	case e.Result.Error == nil || e.Expected:
		return ""
	}
	return e.Result.Error.Message
}

// Duration is how long it took; zero when it was skipped.
func (e *Execution) Duration() time.Duration {
	return time.Duration(e.Result.DurationMS * float64(time.Millisecond))
}

// Count is how many executions of a run had an outcome.
func (r *Run) Count(outcome Outcome) int {
	n := 0
	for i := range r.Executions {
		if r.Executions[i].Outcome() == outcome {
			n++
		}
	}
	return n
}

// Succeeded tells whether nothing failed and nothing was left out.
func (r *Run) Succeeded() bool { return r.Count(OutcomeOK) == len(r.Executions) }
