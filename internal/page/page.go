// Package page writes a report for people: one HTML file that needs no server, no network and no JavaScript. What an action
// printed is shown, never interpreted: everything is escaped, and the page's policy loads and runs nothing.
package page

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/google/renameio/v2"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/report"
)

//go:embed page.html
var pageHTML string

//go:embed page.css
var pageCSS string

// Write writes the page of a run to path, whole or not at all.
func Write(path string, run *report.Run) error {
	content, err := render(run)
	if err != nil {
		return err
	}
	return renameio.WriteFile(path, content, 0o644)
}

func render(run *report.Run) ([]byte, error) {
	parsed, err := template.New("page").Parse(pageHTML)
	if err != nil {
		return nil, err
	}
	css := pageCSS + colours()
	sum := sha256.Sum256([]byte(css))
	p := page{
		Run: run, CSS: template.CSS(css),
		// The style is the only thing the page may use, and it is known by its digest (W3C, Content Security Policy Level 3).
		Policy:  "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; form-action 'none'",
		Elapsed: seconds(run.Finished.Sub(run.Started)),
	}
	for i := range run.Executions {
		p.Executions = append(p.Executions, newExecution(i, run))
	}
	var b bytes.Buffer
	err = parsed.Execute(&b, p)
	return b.Bytes(), err
}

// page is what the template shows.
type page struct {
	Run        *report.Run
	CSS        template.CSS
	Policy     string
	Elapsed    string
	Executions []execution
}

// Counts is "2 succeeded, 1 failed".
func (p page) Counts() string {
	var parts []string
	for _, c := range []struct {
		outcome report.Outcome
		word    string
	}{{report.OutcomeOK, "succeeded"}, {report.OutcomeFailed, "failed"}, {report.OutcomeError, "could not be run"}, {report.OutcomeSkipped, "skipped"}} {
		if n := p.Run.Count(c.outcome); n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, c.word))
		}
	}
	return strings.Join(parts, ", ")
}

type execution struct {
	*report.Execution
	Number int
	Open   bool // shown without being asked: the only one, or one that went wrong
	Took   string
	Bar    bar // among the other executions
	Stages []stage
	Log    []line
	Result string
	Facts  []table
}

// bar is a part of a time line, in percent of its width.
type bar struct{ From, Width float64 }

type stage struct {
	Name, Took string
	Bar        bar
}

type line struct {
	At     string
	Stderr bool
	HTML   template.HTML
}

// table is a caption with rows of a name and a value.
type table struct {
	Caption string
	Rows    [][2]string
}

func newExecution(i int, run *report.Run) execution {
	e := &run.Executions[i]
	x := execution{
		Execution: e, Number: i + 1, Took: seconds(e.Duration()),
		Open: len(run.Executions) == 1 || e.Outcome() == report.OutcomeFailed || e.Outcome() == report.OutcomeError,
		Bar:  within(e.Started.Sub(run.Started), e.Duration(), run.Finished.Sub(run.Started)),
	}
	if e.Skipped != "" {
		x.Took = ""
		return x
	}
	for _, s := range spans(e) {
		x.Stages = append(x.Stages, stage{Name: s.Stage, Took: seconds(s.Duration), Bar: within(s.Offset, s.Duration, e.Duration())})
	}
	for _, l := range e.Log {
		x.Log = append(x.Log, line{At: fmt.Sprintf("%.3f", l.At.Seconds()), Stderr: l.Stderr, HTML: ansi(l.Text)})
	}
	if e.Result.Result != nil {
		if text, err := json.MarshalIndent(e.Result.Result, "", "  "); err == nil {
			x.Result = string(text)
		}
	}
	x.Facts = facts(&e.Result)
	return x
}

// spans are an execution's, with the start of its process, which is a part of "run", on its own.
func spans(e *report.Execution) []report.Span {
	spawn := time.Duration(e.Result.Timings.Spawn * float64(time.Millisecond))
	var all []report.Span
	for _, s := range e.Spans {
		if s.Stage == "run" && spawn > 0 && spawn < s.Duration {
			all = append(all, report.Span{Stage: "spawn", Offset: s.Offset, Duration: spawn})
			s.Offset, s.Duration = s.Offset+spawn, s.Duration-spawn
		}
		all = append(all, s)
	}
	return all
}

// within places a span on a whole; even the shortest stays visible.
func within(from, length, whole time.Duration) bar {
	if whole <= 0 {
		return bar{0, 100}
	}
	percent := func(d time.Duration) float64 { return min(100, max(0, 100*float64(d)/float64(whole))) }
	b := bar{percent(from), max(0.4, percent(length))}
	b.From = min(b.From, 100-b.Width)
	return b
}

func seconds(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.2f s", d.Seconds())
	default:
		return d.Round(time.Second).String()
	}
}

// facts are the tables behind the log; rows and tables without content are left out.
func facts(r *executor.Result) []table {
	environment := table{"Environment", [][2]string{
		{"state", r.Environment.State}, {"key", r.Environment.Key}, {"path", r.Environment.Path}, {"installed", r.Environment.Resolved},
	}}
	if r.Environment.Key != "" {
		environment.Rows = append(environment.Rows, [2]string{"locked", fmt.Sprint(r.Environment.Locked)})
	}
	all := []table{
		{"Execution", [][2]string{
			{"id", r.ID}, {"action", r.Action}, {"exit code", fmt.Sprint(r.ExitCode)}, {"signal", r.Signal},
			{"pack", strings.TrimSpace(r.Pack.Ref + " " + r.Pack.Version)}, {"pack digest", r.Pack.Digest}, {"signed by", r.Pack.SignedBy},
			{"worker", r.Worker}, {"started", r.StartedAt.Format(time.RFC3339Nano)}, {"finished", r.FinishedAt.Format(time.RFC3339Nano)},
		}},
		{"Runtime", [][2]string{{"name", r.Runtime.Name}, {"version", r.Runtime.Version}, {"path", r.Runtime.Path}}},
		environment, isolation(&r.Isolation), limits(r), artifacts(r.Artifacts),
	}
	var kept []table
	for _, t := range all {
		var rows [][2]string
		for _, row := range t.Rows {
			if row[1] != "" {
				rows = append(rows, row)
			}
		}
		if len(rows) > 0 {
			kept = append(kept, table{t.Caption, rows})
		}
	}
	return kept
}

func isolation(i *executor.IsolationInfo) table {
	t := table{"Isolation", [][2]string{{"requested", i.Requested}, {"applied", i.Applied}, {"mode", i.Mode}, {"missing", strings.Join(i.Missing, ", ")}}}
	var names []string
	for name := range i.Guarantees {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		t.Rows = append(t.Rows, [2]string{name, i.Guarantees[name]})
	}
	return t
}

func limits(r *executor.Result) table {
	t := table{Caption: "Limits and usage"}
	for _, l := range r.Limits {
		text := fmt.Sprintf("%s, by %s", quantity(l.Name, l.Limit), l.EnforcedBy)
		if l.Used != nil {
			text = fmt.Sprintf("%s of %s", quantity(l.Name, l.Used), text)
		}
		if l.Hit {
			text += ": hit"
		}
		t.Rows = append(t.Rows, [2]string{l.Name, text})
	}
	if r.OOMKilled {
		t.Rows = append(t.Rows, [2]string{"out of memory", "a process was ended by the kernel"})
	}
	if r.Usage.MaxRSSBytes > 0 {
		t.Rows = append(t.Rows,
			[2]string{"peak memory", fmt.Sprintf("%.1f MiB", float64(r.Usage.MaxRSSBytes)/(1<<20))},
			[2]string{"processor time", fmt.Sprintf("%.0f ms user, %.0f ms system", r.Usage.UserMS, r.Usage.SystemMS)})
	}
	if r.LeftoverProcesses > 0 {
		t.Rows = append(t.Rows, [2]string{"outlived the action", fmt.Sprintf("%d processes, ended", r.LeftoverProcesses)})
	}
	return t
}

// quantity writes a limit's value with its unit, where that is bytes.
func quantity(limit string, value any) string {
	text := fmt.Sprint(value)
	bytes, err := strconv.ParseFloat(text, 64)
	if err != nil || !slices.Contains([]string{"memory", "file_size", "disk"}, limit) {
		return text
	}
	return units.BytesSize(bytes)
}

func artifacts(all []executor.Artifact) table {
	t := table{Caption: "Artifacts"}
	for _, a := range all {
		t.Rows = append(t.Rows, [2]string{a.Path, units.BytesSize(float64(a.Size)) + ", " + a.Digest})
	}
	return t
}
