package envcache

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

const (
	tailLines   = 20
	lineMax     = 500 // bytes of a line in the tail and in progress
	logsPerKey  = 5
	reportEvery = 100 * time.Millisecond
)

// buildLog takes an installer's output: into a file, and the last lines into memory for errors and progress. A
// disk that is full loses the file, not the lines.
type buildLog struct {
	path   string
	file   *os.File // nil when it could not be made
	report func(Progress)

	mu      sync.Mutex
	phase   string
	partial []byte
	lines   []string
	told    time.Time
}

// newLog makes the log of one build and removes the oldest ones of the same key.
func (s *Store) newLog(id string, report func(Progress)) *buildLog {
	old, err := filepath.Glob(filepath.Join(globQuote(s.LogDir()), id+"-*.log"))
	if err == nil && len(old) >= logsPerKey {
		slices.Sort(old)
		for _, path := range old[:len(old)-logsPerKey+1] {
			_ = os.Remove(path)
		}
	}
	name := fmt.Sprintf("%s-%s-%d.log", id, s.now().UTC().Format("20060102T150405.000"), os.Getpid())
	log := &buildLog{path: filepath.Join(s.LogDir(), name), report: report}
	if log.file, err = s.create(log.path, os.O_TRUNC); err != nil {
		log.file = nil
	}
	return log
}

// globQuote keeps the brackets of a path from being read as a pattern.
func globQuote(path string) string {
	var b bytes.Buffer
	for _, c := range []byte(path) {
		if bytes.IndexByte([]byte(`*?[\`), c) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
	return b.String()
}

// Write takes any part of the output; it never fails, so that a full disk does not end an installer before it can say so.
func (l *buildLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		_, _ = l.file.Write(p)
	}
	l.partial = append(l.partial, p...)
	for {
		at := bytes.IndexAny(l.partial, "\n\r")
		if at < 0 {
			break
		}
		l.line(l.partial[:at])
		l.partial = l.partial[at+1:]
	}
	if len(l.partial) > lineMax {
		l.partial = l.partial[:lineMax]
	}
	return len(p), nil
}

func (l *buildLog) line(text []byte) {
	text = bytes.TrimSpace(text[:min(len(text), lineMax)])
	if len(text) == 0 {
		return
	}
	if l.lines = append(l.lines, string(text)); len(l.lines) > tailLines {
		l.lines = l.lines[1:]
	}
	if time.Since(l.told) >= reportEvery {
		l.tell()
	}
}

func (l *buildLog) tell() {
	l.told = time.Now()
	p := Progress{Phase: l.phase, Log: l.path}
	if n := len(l.lines); n > 0 {
		p.Line = l.lines[n-1]
	}
	l.report(p)
}

func (l *buildLog) setPhase(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.phase = name
	if l.file != nil {
		_, _ = fmt.Fprintf(l.file, "== %s\n", name)
	}
	l.tell()
}

// tail is the last lines of the output.
func (l *buildLog) tail() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.partial) > 0 {
		l.line(l.partial)
		l.partial = nil
	}
	return slices.Clone(l.lines)
}

func (l *buildLog) close() {
	if l.file != nil {
		_ = l.file.Close()
	}
}
