package recipe

import (
	"bytes"
	"fmt"
	"regexp"
	"sync"
	"syscall"
	"time"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/proc"
)

// ToolFailure is a run of an installer that did not succeed. Its output is in the build's log.
type ToolFailure struct {
	Tool   string
	Code   int            // exit code; 0 when it was ended by a signal
	Signal syscall.Signal // 0 unless a signal ended it
	class  envcache.Class
}

// Error names the tool and how it ended.
func (e *ToolFailure) Error() string {
	if e.Signal != 0 {
		return fmt.Sprintf("%s was ended by signal %d", e.Tool, e.Signal)
	}
	return fmt.Sprintf("%s exited with %d", e.Tool, e.Code)
}

// Class is Permanent unless the output says that the network, the machine or a signal was at fault.
func (e *ToolFailure) Class() envcache.Class { return e.class }

// TimeoutError is a build that took too long.
type TimeoutError struct{ After time.Duration }

// Error names the limit and how to raise it.
func (e *TimeoutError) Error() string {
	return fmt.Sprintf("the build took longer than %s (build_timeout in the configuration, or ATTUNE_BUILD_TIMEOUT, gives it more)", e.After)
}

// Class is Transient: a build that hangs mostly waits for somebody else.
func (e *TimeoutError) Class() envcache.Class { return envcache.Transient }

// Installers do not tell by their exit codes what went wrong, so their last words are read. What is not recognized is
// permanent: the same manifest fails the same way.
var (
	machineTrouble = regexp.MustCompile(`(?i)no space left on device|ENOSPC|disk quota exceeded|EDQUOT|cannot allocate memory|ENOMEM|MemoryError|` +
		`JavaScript heap out of memory|java\.lang\.OutOfMemoryError|std::bad_alloc|signal: killed|too many open files|EMFILE|read-only file system|EROFS`)
	networkTrouble = regexp.MustCompile(`(?i)name resolution|could not resolve|name or service not known|nodename nor servname|no such host|unknownhost|dns error|EAI_AGAIN|ENOTFOUND|` +
		`timed? ?out|ETIMEDOUT|ESOCKETTIMEDOUT|connection (?:refused|reset|aborted|error|broken)|ECONNREFUSED|ECONNRESET|EPIPE|socket hang up|unexpected EOF|` +
		`network is unreachable|ENETUNREACH|EHOSTUNREACH|no route to host|tls handshake|remote end closed|IncompleteRead|` +
		`newconnectionerror|max retries exceeded|failed to (?:fetch|download)|error sending request|` +
		`\b(?:401|403|407|408|425|429|500|502|503|504)\b[ :]*(?:client error|server error|unauthorized|forbidden|proxy auth|too many|internal|bad gateway|service|gateway)|` +
		`HTTP (?:status )?(?:error )?(?:code )?:?(?:\w+ )*\(?(?:401|403|407|408|425|429|5\d\d)|ERR_PNPM_FETCH_(?:401|403|407|408|425|429|5\d\d)|E(?:401|403|407|429|5\d\d)\b`)
)

// toolFailure gives a run that was not ended by attune its class; tail is the end of its output.
func toolFailure(tool string, exit proc.Exit, tail []byte) error {
	if exit.Signal != 0 {
		return &ToolFailure{Tool: tool, Signal: exit.Signal, class: envcache.Passing}
	}
	failure := &ToolFailure{Tool: tool, Code: exit.Code, class: envcache.Permanent}
	switch {
	case exit.Code > 128 && exit.Code < 160, machineTrouble.Match(tail): // a shell's word for a signal
		failure.class = envcache.Passing
	case networkTrouble.Match(tail):
		failure.class = envcache.Transient
	}
	return failure
}

// tailMax bytes of an installer's output are read for why it failed.
const tailMax = 16 << 10

// tail keeps the end of what is written to it.
type tail struct {
	mu     sync.Mutex // stdout and stderr write at once
	buffer bytes.Buffer
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buffer.Write(p[max(0, len(p)-tailMax):])
	if over := t.buffer.Len() - 2*tailMax; over > 0 {
		t.buffer.Next(over + tailMax)
	}
	return len(p), nil
}
