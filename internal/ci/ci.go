// Package ci tells CI systems about executions, each in its own words: groups in the job's log, masks, annotations, summaries and
// outputs. Everything it is given is redacted already; what an action printed can neither end its group nor give a system orders.
package ci

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/attune-run/attune/internal/redact"
	"github.com/attune-run/attune/internal/report"
)

// Reporter speaks one system's language. Its calls come from one goroutine at a time: for each execution Begin, Mask, writes to
// Output, End; at last Finish. Nothing it fails at changes how an execution ended: it is told to Options.Warn.
type Reporter interface {
	// Begin opens the group of an execution, folded unless open is set.
	Begin(name string, open bool)
	// Mask makes the system hide values, too, from now on.
	Mask(values []string)
	// Output is the job's log, for what an action prints.
	Output() io.Writer
	// End closes the group and points to what went wrong.
	End(e *report.Execution)
	// Finish writes the summary and the outputs.
	Finish(run *report.Run)
}

// Options are a Reporter's surroundings.
type Options struct {
	Log    io.Writer           // the job's log, as the system reads it
	Getenv func(string) string // the job's environment
	Warn   func(message string)

	Now   func() time.Time // nil means time.Now
	Token func() string    // nil means 128 random bits
}

// The systems that have a Reporter, as New takes them.
const (
	GitHub    = "github"
	GitLab    = "gitlab"
	Buildkite = "buildkite"
	Azure     = "azure"
)

// New makes the reporter of a system; nil when it has none of its own.
func New(system string, o Options) Reporter {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Token == nil {
		o.Token = rand.Text
	}
	log := &log{w: o.Log, fresh: true}
	switch system {
	case GitHub:
		return &github{Options: o, log: log}
	case GitLab:
		return &gitlab{Options: o, log: log}
	case Buildkite:
		return &buildkite{Options: o, log: log}
	case Azure:
		return &azure{Options: o, log: log}
	}
	return nil
}

// Detect is the system that this process runs in, or "". A variable that claims a system which is not there is no proof: masks would
// show secrets to whoever reads the log. The doubt says what was claimed in vain.
func Detect(getenv func(string) string) (system, doubt string) {
	for _, s := range []struct {
		name, variable, proof string
		proven                bool
	}{
		{GitHub, "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY names no file", isFile(getenv("GITHUB_STEP_SUMMARY")) || isFile(getenv("GITHUB_OUTPUT"))},
		{GitLab, "GITLAB_CI", "CI_PROJECT_DIR names no directory", getenv("CI_JOB_ID") != "" && isDir(getenv("CI_PROJECT_DIR"))},
		{Buildkite, "BUILDKITE", "BUILDKITE_JOB_ID is empty", getenv("BUILDKITE_JOB_ID") != ""},
		{Azure, "TF_BUILD", "AGENT_TEMPDIRECTORY names no directory", isDir(getenv("AGENT_TEMPDIRECTORY"))},
	} {
		if !strings.EqualFold(getenv(s.variable), "true") {
			continue
		}
		if s.proven {
			return s.name, ""
		}
		doubt = fmt.Sprintf("%s is set, but %s: no reports for %s; --ci=%s writes them all the same", s.variable, s.proof, s.name, s.name)
	}
	return "", doubt
}

func isFile(path string) bool {
	if path == "" {
		return false // most often: every start comes here
	}
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func isDir(path string) bool {
	if path == "" {
		return false
	}
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// log is the job's log. It knows whether a line is open, so that what a system must find at a line's beginning gets there.
type log struct {
	w     io.Writer
	fresh bool // at the beginning of a line
}

func (l *log) Write(p []byte) (int, error) {
	if len(p) > 0 {
		l.fresh = p[len(p)-1] == '\n'
	}
	return l.w.Write(p)
}

// line prints one line of its own. A log that is gone is nobody's loss but the reader's.
func (l *log) line(format string, args ...any) {
	if !l.fresh {
		_, _ = io.WriteString(l, "\n")
	}
	_, _ = fmt.Fprintf(l, format+"\n", args...)
}

// oneLine makes text that may hold anything into what stays within its line.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
}

// breaker takes the meaning from words that a system would obey: it puts a wedge before their last byte. It holds nothing back.
type breaker struct {
	w     io.Writer
	words []string // in lower case
	wedge string
	tail  []byte // the last bytes, in lower case: enough to know all words but their last byte
	out   bytes.Buffer
}

func newBreaker(w io.Writer, wedge string, words ...string) *breaker {
	return &breaker{w: w, words: words, wedge: wedge, tail: []byte{'\n'}}
}

func (b *breaker) Write(p []byte) (int, error) {
	b.out.Reset()
	for _, c := range p {
		if 'A' <= c && c <= 'Z' {
			b.push(c, c+'a'-'A')
		} else {
			b.push(c, c)
		}
	}
	if _, err := b.w.Write(b.out.Bytes()); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (b *breaker) push(c, lower byte) {
	for _, word := range b.words {
		if last := len(word) - 1; lower == word[last] && bytes.HasSuffix(b.tail, []byte(word[:last])) {
			b.out.WriteString(b.wedge)
			break
		}
	}
	b.out.WriteByte(c)
	if b.tail = append(b.tail, lower); len(b.tail) > 256 {
		b.tail = append(b.tail[:0], b.tail[len(b.tail)-32:]...)
	}
}

// appendFile adds to a file that the system made for it.
func appendFile(path, text string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(text); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

// secretLines are the lines of secrets: systems mask one at a time. Short ones are left alone, as attune itself does: they would tear
// holes into ordinary text.
func secretLines(values []string) []string {
	var all []string
	for _, value := range values {
		for line := range strings.Lines(value) {
			if line = strings.TrimSpace(line); len(line) >= redact.MinLength {
				all = append(all, line)
			}
		}
	}
	return all
}
