package ci

import (
	"fmt"
	"io"
	"strings"

	"github.com/attune-run/attune/internal/report"
)

// gitlab folds the job's log into sections (docs.gitlab.com, "Create custom collapsible sections"). GitLab takes outputs from a dotenv
// report and failures from a JUnit report, which WriteDotenv and WriteJUnit make.
type gitlab struct {
	Options
	log      *log
	sections int
	section  string
}

const eraseLine = "\x1b[0K"

func (g *gitlab) Begin(name string, open bool) {
	g.sections++
	g.section = fmt.Sprintf("attune_%d", g.sections)
	folded := "[collapsed=true]"
	if open {
		folded = ""
	}
	g.log.line("%ssection_start:%d:%s%s\r%s%s", eraseLine, g.Now().Unix(), g.section, folded, eraseLine, oneLine(name))
}

// Mask does nothing: GitLab masks only what its own settings name.
func (g *gitlab) Mask([]string) {}

func (g *gitlab) Output() io.Writer {
	return newBreaker(g.log, " ", "section_start:", "section_end:")
}

func (g *gitlab) End(e *report.Execution) {
	g.log.line("%ssection_end:%d:%s\r%s", eraseLine, g.Now().Unix(), g.section, eraseLine)
	if outcome := e.Outcome(); outcome == report.OutcomeFailed || outcome == report.OutcomeError {
		g.log.line("\x1b[31;1m%s: %s: %s\x1b[0;m", oneLine(e.Name), e.Status(), oneLine(e.Message()))
	}
}

func (g *gitlab) Finish(*report.Run) {}

// Bounds of GitLab's dotenv reports (docs.gitlab.com, artifacts:reports:dotenv).
const dotenvMax = 5 << 10

// WriteDotenv writes what a run gave as GitLab's dotenv report: NAME=value lines, values as they are. ATTUNE_ stands before every name.
// What does not fit is left out with a warning.
func WriteDotenv(path string, run *report.Run, warn func(string)) error {
	var b strings.Builder
	for _, o := range outputs(run, dotenvMax-512, warn) {
		fmt.Fprintf(&b, "ATTUNE_%s=%s\n", strings.ToUpper(o.name), o.value)
	}
	return writeFile(path, []byte(b.String()))
}
