// Package proc starts, supervises and ends every process attune runs. When Run
// returns, nothing of the child is left: no process, no goroutine, no pipe.
package proc

import (
	"io"
	"os"
	"syscall"
	"time"

	"github.com/attune-run/attune/internal/redact"
)

// Spec is one child process.
type Spec struct {
	Argv []string // Argv[0] is an absolute path
	Env  []string // the whole environment; nil means empty, never attune's own
	Dir  string   // working directory; empty means attune's

	// Stdin is copied to the child, then closed. An *os.File is handed over as
	// it is. Nil means /dev/null.
	Stdin io.Reader
	// Stdout and Stderr take the child's output after redaction. An *os.File is
	// handed over as it is when Direct is set; else, and for all others, there
	// is a pipe and 32 KiB reads. Nil means /dev/null.
	Stdout, Stderr io.Writer
	Direct         bool
	// Raw takes stdout before redaction, for what is parsed and redacted afterwards. It neither blocks nor fails. Nil means nothing
	// does.
	Raw io.Writer

	Hold []*os.File // stay open in the child (as inherited descriptors)

	// Foreground gives the child a process group of its own in attune's session, in the
	// foreground when attune owns a terminal (job control included). Without it
	// the child gets a session of its own.
	Foreground bool
	Umask      *int // nil means attune's

	Isolation Isolation
	Limits    Limits

	Grace   time.Duration   // between SIGTERM and SIGKILL; zero means 10 s, negative none
	Force   <-chan struct{} // closed: SIGKILL at once; may be nil
	Secrets *redact.Set     // may be nil

	// Started, if not nil, is called once when the child exists.
	Started func(pid int)

	path string // the program, where it is not Argv[0]
}

// Exit is how a child ended.
type Exit struct {
	Code   int            // exit status; 128+n when it died of signal n
	Signal syscall.Signal // 0 unless it died of a signal
	Cause  error          // context.Cause when the context ended it, a *LimitError when a limit did, else nil
	// Leftovers counts descendants that were still there after the leader had exited
	// and were killed.
	Leftovers int
	Usage     Usage
	Isolation Applied
	Limits    []LimitUse // those that were set, in the order of LimitNames
	// OOMKilled is the control group's own count, never a guess from the exit status.
	OOMKilled bool
	Spawn     time.Duration // from Run's start until the child existed
	Run       time.Duration // from then until nothing was left of it
}

// Usage is what the child and its awaited children used.
type Usage struct {
	MaxRSS       int64 // bytes
	User, System time.Duration
}
