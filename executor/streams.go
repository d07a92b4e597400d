package executor

import (
	"io"
	"os"
	"slices"

	"github.com/attune-run/attune/proc"
)

// streams is where the child's output goes: to the live observer, to a bounded capture of each stream, and, when the action
// declares structured output, to a spool of its own. The spool alone gets it unmasked: masks would break what is parsed.
type streams struct {
	stdout, stderr         *proc.Capture // nil when the observer's files were handed over
	spool                  *proc.Spool   // nil for text
	stdoutSink, stderrSink io.Writer
	direct                 bool
}

func (x *execution) newStreams() streams {
	structured := x.job.outputFormat != "text" || x.job.outputSchema != nil
	if x.local.Direct && !structured && x.redact.Empty() && isFile(x.obs.Stdout) && isFile(x.obs.Stderr) {
		return streams{stdoutSink: x.obs.Stdout, stderrSink: x.obs.Stderr, direct: true}
	}
	s := streams{stdout: proc.NewCapture(x.svc.cfg.CaptureMax), stderr: proc.NewCapture(x.svc.cfg.CaptureMax)}
	s.stderrSink = tee{s.stderr, &live{w: x.obs.Stderr}}
	s.stdoutSink = tee{s.stdout, &live{w: x.obs.Stdout}}
	if structured {
		s.spool = proc.NewSpool(x.svc.cfg.ResultMax)
	}
	return s
}

func isFile(w io.Writer) bool {
	_, ok := w.(*os.File)
	return ok
}

// fill copies what was captured into the result.
func (s *streams) fill(res *Result) {
	if s.stdout == nil {
		return
	}
	res.Stdout, res.Stderr = s.stdout.Text(), s.stderr.Text()
	res.StdoutTruncated, res.StdoutBytesTruncated = s.stdout.Truncated(), s.stdout.Dropped()
	res.StderrTruncated, res.StderrBytesTruncated = s.stderr.Truncated(), s.stderr.Dropped()
	res.EncodingReplaced = slices.Contains([]bool{s.stdout.Replaced(), s.stderr.Replaced()}, true)
}

// tee writes to all of its writers, the live one last: it may block.
type tee []io.Writer

func (t tee) Write(p []byte) (int, error) {
	for _, w := range t {
		_, _ = w.Write(p) // captures cannot fail, and live forgets a writer that did
	}
	return len(p), nil
}

// live passes on to a writer until it fails: a closed pipe does not end the child.
type live struct{ w io.Writer }

func (l *live) Write(p []byte) (int, error) {
	if l.w != nil {
		if _, err := l.w.Write(p); err != nil {
			l.w = nil
		}
	}
	return len(p), nil
}
