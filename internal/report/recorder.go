package report

import (
	"bytes"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/attune-run/attune/executor"
)

const (
	logMax  = 1 << 20 // bytes of output kept of one execution: as much as the result holds of each stream
	lineMax = 8 << 10 // bytes after which a line is cut in two
)

// Recorder follows one execution. It is an observer that passes everything on to another.
type Recorder struct {
	mu   sync.Mutex
	exec Execution
	size int
	open [2]bytes.Buffer // stdout's and stderr's unfinished lines
}

// NewRecorder starts the clock of an execution's spans.
func NewRecorder(name string) *Recorder {
	return &Recorder{exec: Execution{Name: name, Started: time.Now()}}
}

// Observer records, and tells next as well.
func (r *Recorder) Observer(next executor.Observer) executor.Observer {
	both := next
	both.Stdout, both.Stderr = recorded{r, false, next.Stdout}, recorded{r, true, next.Stderr}
	both.Event = func(e executor.Event) {
		r.event(e)
		if next.Event != nil {
			next.Event(e)
		}
	}
	return both
}

func (r *Recorder) event(e executor.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch e.Kind {
	case executor.StageFinished:
		r.exec.Spans = append(r.exec.Spans, Span{Stage: e.Stage, Offset: time.Since(r.exec.Started) - e.Elapsed, Duration: e.Elapsed})
	case executor.Warning:
		r.exec.Warnings = append(r.exec.Warnings, e.Message)
	}
}

// Finish gives the whole execution; the recorder is not used afterwards.
func (r *Recorder) Finish(result executor.Result) Execution {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.open {
		if r.open[i].Len() > 0 {
			r.line(i == 1, r.open[i].String())
		}
	}
	r.exec.Result = result
	return r.exec
}

// recorded is one stream on its way to the next writer.
type recorded struct {
	r      *Recorder
	stderr bool
	next   io.Writer
}

func (w recorded) Write(p []byte) (int, error) {
	w.r.write(w.stderr, p)
	if w.next == nil {
		return len(p), nil
	}
	return w.next.Write(p)
}

func (r *Recorder) write(stderr bool, p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	open := &r.open[0]
	if stderr {
		open = &r.open[1]
	}
	for len(p) > 0 {
		if r.size >= logMax {
			r.exec.LogCut += int64(len(p))
			return
		}
		end := bytes.IndexByte(p, '\n') + 1
		whole := end > 0
		if !whole {
			end = len(p)
		}
		if room := lineMax - open.Len(); end > room {
			end, whole = room, true
		}
		open.Write(p[:end])
		p = p[end:]
		if whole {
			r.line(stderr, open.String())
			open.Reset()
		}
	}
}

func (r *Recorder) line(stderr bool, text string) {
	r.size += len(text)
	text = strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r")
	r.exec.Log = append(r.exec.Log, Line{At: time.Since(r.exec.Started), Stderr: stderr, Text: text})
}
