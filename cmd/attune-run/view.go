package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/report"
	"github.com/attune-run/attune/internal/show"
)

// view shows a batch while it runs.
type view interface {
	begin(name string) lane    // called from several goroutines
	unrun(e *report.Execution) // of one that began no lane
	summary(run *report.Run)
}

// lane is one execution of a view.
type lane interface {
	observer() executor.Observer
	end(e *report.Execution)
}

func newView(a *app, r *reports, documents, quiet bool, temp string) view {
	if r.reporter != nil {
		return &foldedView{a: a, reports: r, temp: temp}
	}
	v := &lineView{out: a.std.out, err: a.std.err, quiet: quiet}
	if documents {
		v.out = a.std.err
	}
	if width, tty := show.Terminal(a.std.err); tty && os.Getenv("TERM") != "dumb" {
		v.color = os.Getenv("NO_COLOR") == ""
		v.footer = &footer{w: a.std.err, width: width}
		v.ended = make(chan struct{})
		go v.tick()
	}
	return v
}

// lineView prints each line behind the name of its entry. On a terminal, what is running stands below them.
type lineView struct {
	out, err io.Writer
	quiet    bool
	color    bool

	mu     sync.Mutex
	footer *footer       // nil off a terminal
	ended  chan struct{} // closed by summary; nil off a terminal
}

// tick keeps the clocks of the footer going.
func (v *lineView) tick() {
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for {
		select {
		case <-v.ended:
			return
		case <-second.C:
			v.print(v.err, "")
		}
	}
}

func (v *lineView) begin(name string) lane {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.footer != nil {
		v.footer.add(name)
	}
	l := &lineLane{view: v, name: name}
	l.stdout, l.stderr = &lineWriter{lane: l, out: v.out}, &lineWriter{lane: l, out: v.err}
	return l
}

// print prints whole lines above what is running.
func (v *lineView) print(w io.Writer, text string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.footer.erase()
	_, _ = io.WriteString(w, text)
	v.footer.draw()
}

// paint colors a line by how an execution ended.
func (v *lineView) paint(outcome report.Outcome, text string) string {
	colors := map[report.Outcome]string{
		report.OutcomeOK: "\x1b[32m", report.OutcomeFailed: "\x1b[31m", report.OutcomeError: "\x1b[35m", report.OutcomeSkipped: "\x1b[33m",
	}
	if !v.color {
		return text
	}
	return colors[outcome] + text + "\x1b[0m"
}

func (v *lineView) unrun(e *report.Execution) {
	v.print(v.err, v.paint(e.Outcome(), fmt.Sprintf("%s: %s: %s", e.Name, e.Status(), e.Message()))+"\n")
}

func (v *lineView) summary(run *report.Run) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.footer.erase()
	if v.footer != nil {
		close(v.ended)
		v.footer = nil
	}
	summaryTable(v.err, run, true, v.paint)
}

// lineLane is one entry of a lineView.
type lineLane struct {
	view           *lineView
	name           string
	stdout, stderr *lineWriter
	phase          string // the last that was printed
}

func (l *lineLane) observer() executor.Observer {
	if l.view.quiet {
		return executor.Observer{}
	}
	return executor.Observer{Stdout: l.stdout, Stderr: l.stderr, Event: l.event}
}

func (l *lineLane) event(e executor.Event) {
	switch e.Kind {
	case executor.EnvironmentProgress:
		if phase := e.Progress.Phase; phase != l.phase {
			l.phase = phase
			l.say("environment: " + phase)
		}
	case executor.Warning:
		l.say("warning: " + e.Message)
	}
}

func (l *lineLane) say(text string) {
	l.view.print(l.view.err, fmt.Sprintf("%s: %s\n", l.name, show.Printable(text)))
}

func (l *lineLane) end(e *report.Execution) {
	l.stdout.flush()
	l.stderr.flush()
	v := l.view
	if v.footer != nil {
		v.mu.Lock()
		v.footer.erase()
		v.footer.remove(l.name)
		v.mu.Unlock()
	}
	outcome := e.Outcome()
	if v.quiet && outcome == report.OutcomeOK {
		return
	}
	text := fmt.Sprintf("%s: %s in %s", e.Name, e.Status(), e.Duration().Round(time.Millisecond))
	if message := e.Message(); message != "" {
		text += ": " + strings.ReplaceAll(message, "\n", "\n  ")
	}
	if outcome != report.OutcomeOK && e.Result.Error != nil && e.Result.Error.Hint != "" {
		text += "\n  hint: " + e.Result.Error.Hint
	}
	v.print(v.err, v.paint(outcome, text)+"\n")
}

// lineWriter passes whole lines on, each behind its entry's name; a very long one in pieces.
type lineWriter struct {
	lane *lineLane
	out  io.Writer
	open bytes.Buffer
}

const lineWriterMax = 64 << 10

func (w *lineWriter) Write(p []byte) (int, error) {
	n := len(p)
	var text strings.Builder
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n') + 1
		if end == 0 {
			w.open.Write(p)
			if w.open.Len() < lineWriterMax {
				break
			}
			end, p = 0, nil
			w.open.WriteByte('\n')
		}
		w.open.Write(p[:end])
		p = p[end:]
		text.WriteString(w.lane.name + " | ")
		text.Write(w.open.Bytes())
		w.open.Reset()
	}
	if text.Len() > 0 {
		w.lane.view.print(w.out, text.String())
	}
	return n, nil
}

func (w *lineWriter) flush() {
	if w.open.Len() > 0 {
		_, _ = w.Write([]byte("\n"))
	}
}

// foldedView prints an execution when it has ended, as a group of a CI system's log: groups cannot stand side by side.
type foldedView struct {
	a       *app
	reports *reports
	temp    string
	mu      sync.Mutex // one execution is printed at a time
}

func (v *foldedView) begin(name string) lane {
	l := &foldedLane{view: v, name: name}
	if l.spool, l.err = os.CreateTemp(v.temp, "log-"); l.err != nil {
		v.reports.warn(fmt.Sprintf("%s: its output is not shown: %v", name, l.err))
	}
	return l
}

// unrun gives what failed its group; the summary shows what was skipped.
func (v *foldedView) unrun(e *report.Execution) {
	if e.Skipped != "" {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.reports.begin(e.Name, true).end(e)
}

func (v *foldedView) summary(run *report.Run) {
	summaryTable(v.reports.log, run, false, func(_ report.Outcome, text string) string { return text })
}

// foldedLane keeps an execution's output on disk until it is printed.
type foldedLane struct {
	view    *foldedView
	name    string
	mu      sync.Mutex // stdout and stderr come from two goroutines
	spool   *os.File
	err     error
	secrets []string
}

func (l *foldedLane) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return len(p), nil
	}
	return l.spool.Write(p)
}

func (l *foldedLane) observer() executor.Observer {
	progress := newProgress(l, l.view.a.name, false)
	return executor.Observer{Stdout: l, Stderr: l, Event: progress.event, Secrets: func(values []string) { l.secrets = values }}
}

func (l *foldedLane) end(e *report.Execution) {
	l.view.mu.Lock()
	defer l.view.mu.Unlock()
	g := l.view.reports.begin(l.name, e.Outcome() != report.OutcomeOK)
	if len(l.secrets) > 0 {
		g.mask(l.secrets)
	}
	if l.err == nil {
		if _, err := l.spool.Seek(0, io.SeekStart); err == nil {
			_, _ = io.Copy(g, struct{ io.Reader }{l.spool})
		}
		_ = l.spool.Close()
		_ = os.Remove(l.spool.Name())
	}
	g.end(e)
}

// footer is the part of a terminal that shows what is running. Its owner holds a lock around all of it. A nil footer shows nothing.
type footer struct {
	w     io.Writer
	width int
	names []string
	since map[string]time.Time
	lines int // that stand on the terminal now
}

// footerMax bounds the lines of a footer.
const footerMax = 8

func (f *footer) add(name string) {
	if f.since == nil {
		f.since = map[string]time.Time{}
	}
	f.erase()
	f.names = append(f.names, name)
	f.since[name] = time.Now()
	f.draw()
}

func (f *footer) remove(name string) {
	for i, n := range f.names {
		if n == name {
			f.names = append(f.names[:i], f.names[i+1:]...)
			break
		}
	}
}

func (f *footer) erase() {
	if f != nil && f.lines > 0 {
		_, _ = fmt.Fprintf(f.w, "\x1b[%dA\r\x1b[J", f.lines)
		f.lines = 0
	}
}

func (f *footer) draw() {
	if f == nil {
		return
	}
	for i, name := range f.names {
		if i == footerMax {
			_, _ = fmt.Fprintf(f.w, "… and %d more\n", len(f.names)-i)
			f.lines++
			break
		}
		_, _ = fmt.Fprintln(f.w, show.Cut(fmt.Sprintf("▸ %s  %s", name, time.Since(f.since[name]).Truncate(time.Second)), f.width-1))
		f.lines++
	}
}
