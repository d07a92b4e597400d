package ci

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/attune-run/attune/internal/report"
)

// Bounds of GitHub Actions: a step's summary is dropped beyond 1 MiB, its outputs beyond 1 MB for the job, its annotations beyond 10 of
// a kind (docs.github.com, workflow commands and limits).
const (
	githubSummaryMax     = 1 << 20
	githubOutputMax      = 1_000_000
	githubAnnotationsMax = 10
)

// github speaks workflow commands. What an action prints stands between ::stop-commands:: and a token that it cannot know.
type github struct {
	Options
	log      *log
	stop     string // the token that ends the present stop; empty while commands are obeyed
	errors   int
	warnings int
}

func (g *github) Begin(name string, _ bool) {
	g.log.line("::group::%s", githubData(oneLine(name)))
}

// Mask is silent where no runner reads the log: it would print what is to be hidden.
func (g *github) Mask(values []string) {
	if !isFile(g.Getenv("GITHUB_STEP_SUMMARY")) && !isFile(g.Getenv("GITHUB_OUTPUT")) {
		return
	}
	stopped := g.stop != "" // something was printed already
	g.resume()
	for _, line := range secretLines(values) {
		g.log.line("::add-mask::%s", githubData(line))
	}
	if stopped {
		g.halt()
	}
}

func (g *github) halt() {
	g.stop = g.Token()
	g.log.line("::stop-commands::%s", g.stop)
}

func (g *github) resume() {
	if g.stop != "" {
		g.log.line("::%s::", g.stop)
		g.stop = ""
	}
}

func (g *github) Output() io.Writer {
	if g.stop == "" {
		g.halt()
	}
	return newBreaker(g.log, " ", "##[") // the log's viewer obeys these, stopped or not
}

func (g *github) End(e *report.Execution) {
	g.resume()
	g.log.line("::endgroup::")
	for _, warning := range e.Warnings {
		g.annotate("warning", &g.warnings, e.Name, warning)
	}
	if outcome := e.Outcome(); outcome == report.OutcomeFailed || outcome == report.OutcomeError {
		g.annotate("error", &g.errors, e.Name+": "+e.Status(), e.Message())
	}
}

func (g *github) annotate(kind string, count *int, title, message string) {
	if *count++; *count <= githubAnnotationsMax {
		g.log.line("::%s title=%s::%s", kind, githubProperty(oneLine(title)), githubData(message))
	}
}

func (g *github) Finish(run *report.Run) {
	if path := g.Getenv("GITHUB_STEP_SUMMARY"); path != "" {
		used := 0
		if info, err := os.Stat(path); err == nil {
			used = int(min(info.Size(), githubSummaryMax))
		}
		if err := appendFile(path, Markdown(run, githubSummaryMax-used)); err != nil {
			g.Warn(fmt.Sprintf("GITHUB_STEP_SUMMARY: %v", err))
		}
	}
	if path := g.Getenv("GITHUB_OUTPUT"); path != "" {
		var b strings.Builder
		for _, o := range outputs(run, githubOutputMax, g.Warn) {
			mark := "attune_" + g.Token()
			fmt.Fprintf(&b, "%s<<%s\n%s\n%s\n", o.name, mark, o.value, mark)
		}
		if err := appendFile(path, b.String()); err != nil {
			g.Warn(fmt.Sprintf("GITHUB_OUTPUT: %v", err))
		}
	}
}

// githubData escapes a command's message as the runner's toolkit does; % comes first.
func githubData(text string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(text)
}

// githubProperty escapes the value of a command's property.
func githubProperty(text string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C").Replace(text)
}
