package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/batch"
	"github.com/attune-run/attune/internal/ci"
	"github.com/attune-run/attune/internal/config"
	"github.com/attune-run/attune/internal/report"
	"github.com/attune-run/attune/internal/requestflags"
	"github.com/attune-run/attune/internal/show"
	"github.com/attune-run/attune/pack"
)

// batchFlags are how a batch is run; `pack test` takes them too.
type batchFlags struct {
	Concurrency int  `short:"j" placeholder:"N" help:"Executions at once; the plan's, else the number of processors without it."`
	Quiet       bool `short:"q" help:"Only what fails, and the summary."`
	ciFlags     `embed:""`
	LogDir      string            `placeholder:"DIR" type:"path" help:"Keep stdout, stderr and the result of each execution below here."`
	Grace       executor.Duration `placeholder:"D" help:"From SIGTERM to SIGKILL: 10s, in GitHub Actions 5s."`
}

type batchCmd struct {
	Plan string `arg:"" name:"plan" predictor:"file" help:"YAML, or lines of JSON (.jsonl); - is stdin."`

	batchFlags `embed:""`
	KeepGoing  bool   `short:"k" help:"After a failure, still run what does not need it; the plan's keep_going without it."`
	FailFast   bool   `help:"After a failure, cancel what runs and start nothing else, whatever the plan says."`
	Output     string `enum:"stream,json" default:"stream" help:"stream: the actions' output, each line behind its entry's name; json: a document of all results on stdout."`
	Artifacts  string `placeholder:"DIR" type:"path" help:"Keep the artifacts of each entry below here."`

	AgeIdentity string `placeholder:"FILE" type:"path" help:"Age identities for age: and sops: references. [$ATTUNE_AGE_KEY_FILE, $SOPS_AGE_KEY_FILE]"`
	signedFlag  `embed:""`
}

// Help shows a plan under `batch --help`.
func (batchCmd) Help() string {
	return `Examples:
  attune-run batch plan.yaml
  attune-run batch -j 4 --keep-going --junit results.xml plan.jsonl

A plan:
  concurrency: 4
  entries:
    - name: build
      action: mine.build
    - name: test
      action: mine.test
      needs: [build]
      parameters: {version: "${{ build.result.version }}", files: "${{ build.artifacts }}"}
      matrix: {parameters: {region: [eu, us]}, runtime_version: ["3.11", "3.13"]}

Exit codes: 0 all succeeded, 1 something failed or was skipped, 125 the plan cannot be run, 130 and 143 canceled.`
}

// Run runs a plan.
func (c *batchCmd) Run(a *app) error {
	plan, err := c.read(a)
	if err != nil {
		return err
	}
	b, err := c.prepare(a, c.Plan, c.Output == "json")
	if err != nil {
		return err
	}
	defer b.close()
	if err := checkActions(pack.Finder{Dirs: b.cfg.Packs}, plan); err != nil {
		return err
	}
	b.artifacts = c.Artifacts
	b.local = executor.Local{AgeIdentity: c.AgeIdentity, RequireSignature: c.RequireSignature}
	run, err := b.run(plan, c.KeepGoing || plan.KeepGoing && !c.FailFast)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		if err := batchDocument(a.std.out, run); err != nil {
			return err
		}
	}
	return exit(run)
}

func (c *batchCmd) read(a *app) (*batch.Plan, error) {
	if c.KeepGoing && c.FailFast {
		return nil, errors.New("--keep-going and --fail-fast exclude each other")
	}
	data, err := requestflags.ReadInput(c.Plan, a.std.in)
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	dir, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	name := c.Plan
	if name != "-" {
		dir = filepath.Join(dir, filepath.Dir(name))
		if filepath.IsAbs(name) {
			dir = filepath.Dir(name)
		}
	}
	plan, err := batch.Parse(name, data, dir)
	if err == nil && len(plan.Entries) == 0 {
		err = fmt.Errorf("%s: there are no entries", name)
	}
	return plan, err
}

// checkActions finds names of actions and packs that are not there, before anything runs.
func checkActions(finder pack.Finder, plan *batch.Plan) error {
	var problems []error
	seen := map[string]bool{}
	for i := range plan.Entries {
		e := &plan.Entries[i]
		if seen[e.Group] {
			continue
		}
		seen[e.Group] = true
		var err error
		if e.Request.Script != nil {
			_, err = os.Stat(e.Request.Script.Path)
		} else {
			_, err = finder.Action(e.Request.Action)
		}
		if err != nil {
			problems = append(problems, e.Problem(err))
		}
	}
	return errors.Join(problems...)
}

// running is a batch while it runs.
type running struct {
	a         *app
	flags     batchFlags
	title     string
	cfg       config.Config
	service   *executor.Service
	reports   *reports
	view      view
	temp      string // removed at the end; empty until it is needed
	artifacts string // base of what entries leave; empty: in temp
	dirs      map[string]string
	local     executor.Local
	// judge completes what is known of an execution; nil changes nothing.
	judge func(e *batch.Entry, execution *report.Execution)
}

// prepare makes a batch ready. documents says that stdout is for a document.
func (f batchFlags) prepare(a *app, title string, documents bool) (*running, error) {
	if f.Concurrency < 0 {
		return nil, errors.New("--concurrency must be positive")
	}
	r, err := f.reports(a, documents)
	if err != nil {
		return nil, err
	}
	service, cfg, err := a.service()
	if err != nil {
		return nil, err
	}
	temp, err := os.MkdirTemp("", "attune-batch-")
	if err != nil {
		return nil, err
	}
	b := &running{a: a, flags: f, title: title, cfg: cfg, service: service, reports: r, temp: temp}
	b.view = newView(a, r, documents, f.Quiet, temp)
	return b, nil
}

func (b *running) close() {
	if err := os.RemoveAll(b.temp); err != nil {
		b.reports.warn(err.Error())
	}
}

// run runs the plan and reports everywhere but on stdout.
func (b *running) run(plan *batch.Plan, keepGoing bool) (*report.Run, error) {
	if b.artifacts == "" {
		b.artifacts = filepath.Join(b.temp, "artifacts")
	}
	b.dirs = directories(plan)
	for flag, dir := range map[string]string{"--artifacts": b.artifacts, "--log-dir": b.flags.LogDir} {
		if dir == "" {
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("%s: %w", flag, err)
		}
	}
	ctx, force := signals(b.a.ctx)
	b.local.Force, b.local.Grace = force, cmp.Or(time.Duration(b.flags.Grace), grace())
	run := &report.Run{Title: b.title, Started: time.Now()}
	run.Executions = batch.Run(ctx, plan, batch.Options{
		Concurrency: cmp.Or(b.flags.Concurrency, plan.Concurrency, runtime.NumCPU()), KeepGoing: keepGoing,
		Execute: b.execute, Artifacts: b.artifactsOf, Unrun: b.view.unrun,
	})
	run.Finished = time.Now()
	b.view.summary(run)
	b.reports.finish(run)
	var canceled *executor.Cancellation
	if errors.As(context.Cause(ctx), &canceled) {
		return run, exitCode(128 + int(canceled.Signal))
	}
	return run, nil
}

// exit is how a command ends that executed a run.
func exit(run *report.Run) error {
	if !run.Succeeded() {
		return exitCode(1)
	}
	return nil
}

// execute runs one entry; it is called from several goroutines.
func (b *running) execute(ctx context.Context, e *batch.Entry, req executor.Request) report.Execution {
	local := b.local
	local.Artifacts = b.artifactsOf(e.Name)
	req.Local = &local
	lane := b.view.begin(e.Name)
	recorder := report.NewRecorder(e.Name)
	logs, err := b.openLogs(e.Name)
	observer := logs.observer(lane.observer())
	if err == nil {
		err = os.MkdirAll(local.Artifacts, 0o755) // is there for those that need it, also when nothing is left in it
	}
	result := b.service.Execute(ctx, req, recorder.Observer(observer))
	execution := recorder.Finish(result)
	execution.Group, execution.Needs = e.Group, e.Needs
	if b.judge != nil {
		b.judge(e, &execution)
	}
	if err := errors.Join(err, logs.close(&result)); err != nil {
		execution.Warnings = append(execution.Warnings, err.Error())
		b.reports.warn(fmt.Sprintf("%s: %v", e.Name, err))
	}
	lane.end(&execution)
	return execution
}

// entryLogs are what --log-dir keeps of one execution. The zero value keeps nothing.
type entryLogs struct {
	dir            string
	stdout, stderr *os.File
}

func (b *running) openLogs(name string) (l entryLogs, err error) {
	if b.flags.LogDir == "" {
		return l, nil
	}
	dir := filepath.Join(b.flags.LogDir, b.dirs[name])
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return l, fmt.Errorf("--log-dir: %w", err)
	}
	if l.stdout, err = os.Create(filepath.Join(dir, "stdout.log")); err != nil {
		return entryLogs{}, fmt.Errorf("--log-dir: %w", err)
	}
	if l.stderr, err = os.Create(filepath.Join(dir, "stderr.log")); err != nil {
		return entryLogs{}, errors.Join(fmt.Errorf("--log-dir: %w", err), l.stdout.Close())
	}
	l.dir = dir
	return l, nil
}

func (l entryLogs) observer(next executor.Observer) executor.Observer {
	if l.dir == "" {
		return next
	}
	next.Stdout, next.Stderr = both{l.stdout, cmp.Or(next.Stdout, io.Discard)}, both{l.stderr, cmp.Or(next.Stderr, io.Discard)}
	return next
}

func (l entryLogs) close(result *executor.Result) error {
	if l.dir == "" {
		return nil
	}
	document, err := result.JSON()
	return errors.Join(l.stdout.Close(), l.stderr.Close(), err, os.WriteFile(filepath.Join(l.dir, "result.json"), document, 0o644))
}

func (b *running) artifactsOf(name string) string { return filepath.Join(b.artifacts, b.dirs[name]) }

// directories gives each entry a directory's name of its own: the entry's, with what file systems and shells dislike replaced.
func directories(plan *batch.Plan) map[string]string {
	names, taken := map[string]string{}, map[string]bool{}
	for i := range plan.Entries {
		name := plan.Entries[i].Name
		dir := strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._=,-", r) {
				return r
			}
			return '_'
		}, name)
		if dir = dir[:min(len(dir), 100)]; taken[dir] {
			dir = fmt.Sprintf("%s-%d", dir, i)
		}
		taken[dir] = true
		names[name] = dir
	}
	return names
}

// batchSchema versions the document of a batch.
const batchSchema = "attune.batch/v1"

// batchDocument prints all results as one document.
func batchDocument(w io.Writer, run *report.Run) error {
	type entry struct {
		Name     string           `json:"name"`
		Group    string           `json:"group"`
		Status   string           `json:"status"`
		Skipped  string           `json:"skipped,omitempty"`
		Problems []string         `json:"problems,omitempty"`
		Result   *executor.Result `json:"result"` // null when it was skipped
	}
	entries := make([]entry, len(run.Executions))
	for i := range run.Executions {
		e := &run.Executions[i]
		entries[i] = entry{Name: e.Name, Group: e.Group, Status: e.Status(), Skipped: e.Skipped, Problems: e.Problems}
		if e.Skipped == "" {
			entries[i].Result = &e.Result
		}
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	err := enc.Encode(map[string]any{"schema": batchSchema, "succeeded": run.Succeeded(), "entries": entries})
	if errors.Is(err, syscall.EPIPE) {
		return nil
	}
	return err
}

// plainWidth is the length of a line where nobody knows the width.
const plainWidth = 160

// summaryTable prints one line for each execution, cut to the terminal's width, and the totals. Messages may hold what actions printed.
func summaryTable(w io.Writer, run *report.Run, messages bool, paint func(report.Outcome, string) string) {
	width, is := show.Terminal(w)
	if !is {
		width = plainWidth
	}
	longest := 0
	for i := range run.Executions {
		longest = max(longest, len([]rune(run.Executions[i].Name)))
	}
	for i := range run.Executions {
		e := &run.Executions[i]
		line := fmt.Sprintf("%-*s  %-9s  %8s", longest, show.Printable(e.Name), e.Status(), e.Duration().Round(time.Millisecond))
		if state := e.Result.Environment.State; e.Skipped == "" && state != "none" {
			line += "  environment " + state
		}
		if message := e.Message(); message != "" && (messages || e.Skipped != "") {
			first, _, _ := strings.Cut(message, "\n")
			line += "  " + show.Printable(first)
		}
		_, _ = fmt.Fprintln(w, paint(e.Outcome(), show.Cut(line, width)))
	}
	_, _ = fmt.Fprintln(w, ci.Totals(run))
}
