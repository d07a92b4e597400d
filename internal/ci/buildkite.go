package ci

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"github.com/attune-run/attune/internal/report"
)

// buildkite groups the job's log by headings, and speaks to the build's page through the agent (buildkite.com/docs, managing log output
// and buildkite-agent annotate: a body of at most 1 MiB).
type buildkite struct {
	Options
	log *log
}

const (
	buildkiteAnnotationMax = 1 << 20
	buildkiteAgentTimeout  = 20 * time.Second
)

func (b *buildkite) Begin(name string, open bool) {
	heading := "---"
	if open {
		heading = "+++"
	}
	b.log.line("%s %s", heading, oneLine(name))
}

// Mask hands values to the agent's redactor, on stdin.
func (b *buildkite) Mask(values []string) {
	if b.Getenv("BUILDKITE_AGENT_JOB_API_SOCKET") == "" {
		return // an agent that has no such thing
	}
	for _, line := range secretLines(values) {
		b.agent(line, "redactor", "add")
	}
}

// Output keeps lines from being headings: a space of no width stands before the one that would make them.
func (b *buildkite) Output() io.Writer {
	return newBreaker(b.log, "\u200b", "\n--- ", "\n+++ ", "\n~~~ ", "\n^^^ +++")
}

func (b *buildkite) End(e *report.Execution) {
	if outcome := e.Outcome(); outcome == report.OutcomeFailed || outcome == report.OutcomeError {
		b.log.line("^^^ +++") // unfolds the group it stands in
		b.log.line("\x1b[31m%s: %s: %s\x1b[0m", oneLine(e.Name), e.Status(), oneLine(e.Message()))
	}
}

// Finish annotates the build where something failed, and where there is more than one execution to tell of.
func (b *buildkite) Finish(run *report.Run) {
	style := "success"
	switch {
	case !run.Succeeded():
		style = "error"
	case len(run.Executions) < 2:
		return
	}
	b.agent(Markdown(run, buildkiteAnnotationMax), "annotate", "--style", style, "--context", "attune-"+b.Getenv("BUILDKITE_JOB_ID"), "--append")
}

func (b *buildkite) agent(stdin string, args ...string) {
	ctx, cancel := context.WithTimeout(context.Background(), buildkiteAgentTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "buildkite-agent", args...)
	cmd.Stdin = strings.NewReader(stdin)
	if err := cmd.Run(); err != nil {
		b.Warn(fmt.Sprintf("buildkite-agent %s: %v", args[0], err))
	}
}
