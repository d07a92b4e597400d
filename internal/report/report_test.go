package report

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/attune-run/attune/executor"
)

func TestRecorderKeepsLinesAndPassesEverythingOn(t *testing.T) {
	r := NewRecorder("a")
	var out bytes.Buffer
	warned := 0
	o := r.Observer(executor.Observer{Stdout: &out, Event: func(executor.Event) { warned++ }})
	o.Event(executor.Event{Kind: executor.StageFinished, Stage: "load", Elapsed: time.Millisecond})
	o.Event(executor.Event{Kind: executor.Warning, Message: "careful"})
	_, _ = fmt.Fprint(o.Stdout, "one\r\ntw")
	_, _ = fmt.Fprint(o.Stderr, "other\n")
	_, _ = fmt.Fprint(o.Stdout, "o\nopen")
	e := r.Finish(executor.Result{Status: executor.Succeeded})
	assert.Equal(t, "one\r\ntwo\nopen", out.String())
	assert.Equal(t, 2, warned)
	assert.Equal(t, []string{"careful"}, e.Warnings)
	assert.Equal(t, "load", e.Spans[0].Stage)
	texts := []string{}
	for _, line := range e.Log {
		texts = append(texts, fmt.Sprintf("%t %s", line.Stderr, line.Text))
	}
	assert.Equal(t, []string{"false one", "true other", "false two", "false open"}, texts)
	assert.Zero(t, e.LogCut)
}

func TestRecorderIsBounded(t *testing.T) {
	r := NewRecorder("a")
	o := r.Observer(executor.Observer{})
	chunk := []byte(strings.Repeat("x", 100_000))
	for range 30 {
		_, _ = o.Stdout.Write(chunk)
	}
	e := r.Finish(executor.Result{})
	kept := 0
	for _, line := range e.Log {
		assert.LessOrEqual(t, len(line.Text), lineMax)
		kept += len(line.Text)
	}
	assert.LessOrEqual(t, kept, logMax+lineMax)
	assert.Equal(t, int64(3_000_000), e.LogCut+int64(kept))
}

func TestOutcomesTellTheActionsFailuresFromAttunes(t *testing.T) {
	for _, c := range []struct {
		e       Execution
		outcome Outcome
		status  string
	}{
		{Execution{Result: executor.Result{Status: executor.Succeeded}}, OutcomeOK, "succeeded"},
		{Execution{Result: executor.Result{Status: executor.TimedOut}}, OutcomeFailed, "timed_out"},
		{Execution{Result: executor.Result{Status: executor.Canceled}}, OutcomeError, "canceled"},
		{Execution{Result: executor.Result{Status: executor.Errored}, Expected: true}, OutcomeOK, "passed"},
		{Execution{Result: executor.Result{Status: executor.Succeeded}, Problems: []string{"x"}}, OutcomeFailed, "failed"},
		{Execution{Skipped: "why"}, OutcomeSkipped, "skipped"},
	} {
		assert.Equal(t, c.outcome, c.e.Outcome())
		assert.Equal(t, c.status, c.e.Status())
	}
}
