package ci

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/attune-run/attune/internal/report"
)

// azure speaks Azure Pipelines' logging commands (learn.microsoft.com, logging commands). They cannot be stopped, so those that an
// action prints are broken.
type azure struct {
	Options
	log *log
}

// azureValueMax bounds a variable that later steps get through the environment, where Linux ends at 128 KiB.
const azureValueMax = 32 << 10

func (a *azure) Begin(name string, _ bool) {
	a.log.line("##[group]%s", oneLine(name))
}

// Mask is silent where no agent reads the log: it would print what is to be hidden.
func (a *azure) Mask(values []string) {
	if !isDir(a.Getenv("AGENT_TEMPDIRECTORY")) {
		return
	}
	for _, line := range secretLines(values) {
		a.log.line("##vso[task.setsecret]%s", azureData(line))
	}
}

func (a *azure) Output() io.Writer { return newBreaker(a.log, " ", "##vso[", "##[") }

func (a *azure) End(e *report.Execution) {
	a.log.line("##[endgroup]")
	for _, warning := range e.Warnings {
		a.issue("warning", e.Name+": "+warning)
	}
	if outcome := e.Outcome(); outcome == report.OutcomeFailed || outcome == report.OutcomeError {
		a.issue("error", fmt.Sprintf("%s: %s: %s", e.Name, e.Status(), e.Message()))
	}
}

func (a *azure) issue(kind, message string) {
	a.log.line("##vso[task.logissue type=%s]%s", kind, azureData(message))
}

func (a *azure) Finish(run *report.Run) {
	for _, o := range outputs(run, azureValueMax, a.Warn) {
		a.log.line("##vso[task.setvariable variable=attune_%s;isOutput=true]%s", o.name, azureData(o.value))
	}
	dir := a.Getenv("AGENT_TEMPDIRECTORY")
	if dir == "" {
		return
	}
	path := filepath.Join(dir, "attune-"+a.Token()+".md")
	if err := writeFile(path, []byte(Markdown(run, githubSummaryMax))); err != nil {
		a.Warn(fmt.Sprintf("summary: %v", err))
		return
	}
	a.log.line("##vso[task.uploadsummary]%s", path)
}

// azureData escapes a command's message; the agent takes %AZP25 for a percent sign.
func azureData(text string) string {
	return strings.NewReplacer("%", "%AZP25", "\r", "%0D", "\n", "%0A").Replace(text)
}
