package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/term"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/ci"
	"github.com/attune-run/attune/internal/page"
	"github.com/attune-run/attune/internal/report"
)

// ciFlags are where a command reports to, beside the terminal.
type ciFlags struct {
	CI     string `name:"ci" enum:"auto,none,github,gitlab,buildkite,azure,junit" default:"auto" placeholder:"SYSTEM" help:"Speak to a CI system: github, gitlab, buildkite, azure; junit writes attune-junit.xml; none; auto asks the environment."`
	JUnit  string `name:"junit" placeholder:"FILE" type:"path" help:"Write JUnit XML here."`
	Dotenv string `name:"dotenv" placeholder:"FILE" type:"path" help:"Write status, exit code and result here as GitLab's dotenv report."`
	Report string `name:"report" placeholder:"FILE" type:"path" help:"Write a page for people here: one HTML file with timeline, output and details."`
}

// reports are what a command reports to. Without a CI system and files it is silent.
type reports struct {
	flags    ciFlags
	reporter ci.Reporter // nil: no CI system
	log      *os.File    // the job's log
	captured bool        // stdout leads elsewhere, and gets the action's stdout alone
	warn     func(string)
}

// reports finds out whom to report to. documents says that stdout is for a document.
func (f ciFlags) reports(a *app, documents bool) (*reports, error) {
	r := &reports{flags: f, log: a.std.out, warn: func(message string) {
		_, _ = fmt.Fprintf(a.std.err, "%s: warning: %s\n", a.name, message)
	}}
	if f.CI == "junit" && f.JUnit == "" {
		r.flags.JUnit = "attune-junit.xml"
	}
	for _, path := range []string{r.flags.JUnit, r.flags.Dotenv, r.flags.Report} {
		if path == "" {
			continue
		}
		if info, err := os.Stat(filepath.Dir(path)); err != nil || !info.IsDir() {
			return nil, fmt.Errorf("%s: there is no directory %s", path, filepath.Dir(path))
		}
	}
	system := f.CI
	if system == "auto" {
		doubt := ""
		if system, doubt = ci.Detect(os.Getenv); doubt != "" {
			r.warn(doubt)
		}
		if term.IsTerminal(int(a.std.out.Fd())) {
			system = "" // somebody looks at it
		}
	}
	if documents {
		r.log = a.std.err
	} else if r.captured = system != "" && ci.Captured(); r.captured {
		r.log = a.std.err
	}
	r.reporter = ci.New(system, ci.Options{Log: r.log, Getenv: os.Getenv, Warn: r.warn})
	return r, nil
}

// wanted tells whether anybody keeps what is executed.
func (r *reports) wanted() bool {
	return r.reporter != nil || r.flags.JUnit != "" || r.flags.Dotenv != "" || r.flags.Report != ""
}

// finish tells everybody how it ended. What cannot be written is a warning: the executions are over.
func (r *reports) finish(run *report.Run) {
	if r.reporter != nil {
		r.reporter.Finish(run)
	}
	if r.flags.JUnit != "" {
		if err := ci.WriteJUnit(r.flags.JUnit, run); err != nil {
			r.warn(fmt.Sprintf("--junit: %v", err))
		}
	}
	if r.flags.Dotenv != "" {
		if err := ci.WriteDotenv(r.flags.Dotenv, run, r.warn); err != nil {
			r.warn(fmt.Sprintf("--dotenv: %v", err))
		}
	}
	if r.flags.Report != "" {
		if err := page.Write(r.flags.Report, run); err != nil {
			r.warn(fmt.Sprintf("--report: %v", err))
		}
	}
}

// group is one execution's part of a CI system's log, while it runs. It is safe for concurrent use.
type group struct {
	mu       sync.Mutex
	reporter ci.Reporter
	out      io.Writer // nil until something is printed
}

func (r *reports) begin(name string, open bool) *group {
	r.reporter.Begin(name, open)
	return &group{reporter: r.reporter}
}

func (g *group) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.out == nil {
		g.out = g.reporter.Output()
	}
	return g.out.Write(p)
}

func (g *group) mask(values []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reporter.Mask(values)
}

// end closes the group; nothing is written to it any more.
func (g *group) end(e *report.Execution) { g.reporter.End(e) }

// follow makes a run's observer one that reports, and gives what completes the report.
func (r *reports) follow(name string, observer executor.Observer, g *group) (executor.Observer, func(executor.Result)) {
	recorder := report.NewRecorder(name)
	if g != nil {
		observer.Secrets = g.mask
	}
	return recorder.Observer(observer), func(result executor.Result) {
		execution := recorder.Finish(result)
		execution.Group = groupName(&result)
		if g != nil {
			g.end(&execution)
		}
		r.finish(&report.Run{Title: name, Started: execution.Started, Finished: result.FinishedAt, Executions: []report.Execution{execution}})
	}
}

// groupName is the pack of a result, or what all scripts are.
func groupName(result *executor.Result) string {
	if result.Pack.Ref != "" {
		return result.Pack.Ref
	}
	return "script"
}
