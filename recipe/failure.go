package recipe

import (
	"bytes"
	"cmp"
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
	output []byte // its last words
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
// permanent: the same manifest fails the same way. The expressions are compiled by the first failure: a start pays for none.
// cpanm says the same of a module that is not there and of a mirror that is not, and bundler calls it bad credentials when
// nobody answers at an address with 401 or 403 among its digits.
var (
	machineTrouble = lazily(`(?i)no space left on device|disk quota exceeded|cannot allocate memory|MemoryError|` +
		`\b(?:ENOSPC|EDQUOT|ENOMEM|EMFILE|EROFS)\b|` +
		`JavaScript heap out of memory|java\.lang\.OutOfMemoryError|insufficient memory for the Java|std::bad_alloc|signal: killed|too many open files|read-only file system`)
	networkTrouble = lazily(`(?i)name resolution|could not resolve (?:host|proxy)|name or service not known|nodename nor servname|no such host|unknown ?host|dns error|` +
		`\b(?:EAI_AGAIN|ENOTFOUND|ETIMEDOUT|ESOCKETTIMEDOUT|ECONNREFUSED|ECONNRESET|EPIPE|ENETUNREACH|EHOSTUNREACH)\b|` +
		`timed? ?out|connection (?:refused|reset|aborted|error|broken)|socket hang up|unexpected EOF|authentication failed|authorization failed|bad username or password|authentication is required|` +
		`network is unreachable|no route to host|tls handshake|remote end closed|IncompleteRead|` +
		`could not reach host|could(?:n't| not) connect|timeout was reached|Finding .* on (?:cpanmetadb|mirror https?://\S+) failed|opening compressed index|` +
		`newconnectionerror|max retries exceeded|failed to fetch|error sending request|` +
		`\b(?:401|403|407|408|425|429|500|502|503|504)\b[ :]*(?:client error|server error|unauthorized|forbidden|proxy auth|too many|internal|bad gateway|service|gateway)|` +
		`status(?: code)?: (?:401|403|407|408|425|429|5\d\d)|HTTP (?:status )?(?:error )?(?:code )?:?(?:\w+ )*\(?(?:401|403|407|408|425|429|5\d\d)|ERR_PNPM_FETCH_(?:401|403|407|408|425|429|5\d\d)|E(?:401|403|407|429|5\d\d)\b`)
)

// missingOffline is how pip and uv say that something is not among what was downloaded.
var missingOffline = lazily(`(?i)no matching distribution|could not find a version|(?:not|wasn't) found in the cache|network (?:was|connectivity is) disabled`)

func lazily(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}

// toolFailure gives a run that was not ended by attune its class; tail is the end of its output.
func toolFailure(tool string, exit proc.Exit, tail []byte) error {
	if exit.Signal != 0 {
		return &ToolFailure{Tool: tool, Signal: exit.Signal, class: envcache.Passing, output: tail}
	}
	failure := &ToolFailure{Tool: tool, Code: exit.Code, class: envcache.Permanent, output: tail}
	switch {
	case exit.Code > 128 && exit.Code < 160, machineTrouble().Match(tail): // a shell's word for a signal
		failure.class = envcache.Passing
	case networkTrouble().Match(tail):
		failure.class = envcache.Transient
	}
	return failure
}

// tailMax bytes of an installer's output are read for why it failed.
const tailMax = 16 << 10

// tail keeps the end of what is written to it.
type tail struct {
	max    int        // bytes to keep at least; zero means tailMax
	mu     sync.Mutex // stdout and stderr write at once
	buffer bytes.Buffer
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	limit := cmp.Or(t.max, tailMax)
	t.buffer.Write(p[max(0, len(p)-limit):])
	if over := t.buffer.Len() - 2*limit; over > 0 {
		t.buffer.Next(over + limit)
	}
	return len(p), nil
}
