package proc

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultGrace lies between SIGTERM and SIGKILL when a Spec names no other.
const DefaultGrace = 10 * time.Second

// Run starts the child, supervises it, and returns when nothing is left of it: no process, no goroutine, no
// pipe. A non-zero exit is an Exit; an error, a *StartError, means that there was no child.
//
// When ctx ends, the child's process group gets SIGTERM and, after the grace, SIGKILL; Exit.Cause is then the
// context's cause. A writer that blocks applies back-pressure; one that still blocks when the
// context has ended and the child is gone is abandoned: no further Write is made.
func Run(ctx context.Context, spec Spec) (Exit, error) {
	begun := time.Now()
	harden()
	child, err := start(&spec)
	if err != nil {
		return Exit{}, err
	}
	exit := Exit{Spawn: time.Since(begun), Isolation: child.applied}
	defer child.letGo()
	defer children.forget(child)
	child.streams.start(&spec)
	if spec.Started != nil {
		spec.Started(child.pid)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		child.await()
	}()
	exit.Cause = child.supervise(ctx, &spec, ended)
	child.streams.drain(ctx)
	if left, ok := child.dismiss(); ok {
		exit.Leftovers = left
	} else {
		exit.Leftovers = child.killRest()
	}
	child.reap(&exit)
	exit.Limits = child.limiter.report(&exit)
	exit.OOMKilled = slices.ContainsFunc(exit.Limits, func(u LimitUse) bool { return u.Name == "memory" && u.Hit })
	exit.Run = time.Since(begun) - exit.Spawn
	return exit, nil
}

// supervise waits until the leader has ended, and sees to it that it does. It returns why it had to.
func (c *child) supervise(ctx context.Context, spec *Spec, ended <-chan struct{}) (cause error) {
	exceeded, stop := c.limiter.watch()
	defer stop()
	select {
	case <-ended:
		return nil
	case cause = <-exceeded:
		c.signal(unix.SIGKILL)
		<-ended
		return cause
	case <-ctx.Done():
		select {
		case <-ended: // by itself, at the same time
			return nil
		default:
		}
		cause = context.Cause(ctx)
		c.signal(unix.SIGTERM)
		c.signal(unix.SIGCONT) // a stopped process takes its SIGTERM when it goes on
	case <-spec.Force:
		cause = context.Cause(ctx)
		if cause == nil {
			cause = context.Canceled
		}
		c.signal(unix.SIGKILL)
	}
	grace := spec.Grace
	if grace == 0 {
		grace = DefaultGrace
	}
	timer := time.NewTimer(max(grace, 0))
	defer timer.Stop()
	select {
	case <-ended:
		return cause
	case <-timer.C:
	case <-spec.Force:
	}
	c.signal(unix.SIGKILL)
	<-ended
	return cause
}

// await blocks until the leader has ended, without reaping it: as long as it is a zombie its pid, and with it
// its process group and session, cannot become another process's. A leader that is stopped in the
// terminal's foreground stops attune as well.
func (c *child) await() {
	if c.control != nil {
		c.awaitAnswer()
	}
	for c.exited == nil {
		var info unix.Siginfo
		options := unix.WEXITED | unix.WNOWAIT
		if c.tty != nil {
			options |= unix.WSTOPPED
		}
		err := unix.Waitid(unix.P_PID, c.pid, &info, options, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return
		case info.Code == cldStopped:
			// Take the notice, else the next wait returns at once.
			_ = unix.Waitid(unix.P_PID, c.pid, &unix.Siginfo{}, unix.WSTOPPED|unix.WNOHANG, nil)
			c.tty.stopWith(c.pid)
		default:
			return
		}
	}
}

// cldStopped is si_code of a child that was stopped (sigaction(2)).
const cldStopped = 5

// reap takes the leader's status and gives the terminal back.
func (c *child) reap(exit *Exit) {
	var status unix.WaitStatus
	var usage unix.Rusage
	for errors.Is(unix.Waitid(unix.P_PID, c.pid, nil, unix.WEXITED|unix.WNOWAIT, nil), unix.EINTR) {
	}
	for {
		if _, err := reapEnded(c.pid, &status, &usage); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if c.exited != nil { // the leader was a stub, and only its child counts
		status, usage = c.exited.Status, *c.exited.Usage
	}
	if c.tty != nil {
		c.tty.takeBack()
	}
	exit.Code = status.ExitStatus()
	if status.Signaled() {
		exit.Signal = status.Signal()
		exit.Code = 128 + int(exit.Signal)
	}
	exit.Usage = Usage{
		MaxRSS: usage.Maxrss * 1024, // in KiB on Linux (getrusage(2))
		User:   time.Duration(usage.Utime.Nano()), System: time.Duration(usage.Stime.Nano()),
	}
}

// child is one started process.
type child struct {
	pid        int
	execID     string // value of ATTUNE_EXEC_ID in its environment; may be empty
	foreground bool   // its process group lies in attune's own session
	tty        *terminal
	streams    streams
	applied    Applied
	limiter    *limiter // nil without limits

	plain     bool     // counted by the registry: its orphans carry no mark and come to attune
	spawner   *spawner // the thread that started it; nil without one
	spoilt    bool     // something may be left that bears the spawner's mark
	marked    bool     // it has a UTS namespace of its own: mark
	mark      string
	contained bool          // pid is a stub's, to which orphans come: they never come to attune
	control   *os.File      // to that stub, nil without one
	answers   *json.Decoder // from it
	exited    *stubAnswer   // how its child ended
}

// signal reaches the leader's process group and, as far as they can be seen, descendants in other groups.
func (c *child) signal(sig syscall.Signal) {
	if c.control != nil {
		c.command(stubCommand{Signal: sig})
		if sig != unix.SIGKILL || !c.inNamespace() {
			return
		}
	}
	_ = unix.Kill(-c.pid, sig)
	if sig == unix.SIGKILL && c.limiter != nil {
		c.limiter.group.kill()
	}
	for _, p := range descendants(c.pid) {
		if p.group != c.pid {
			_ = unix.Kill(p.pid, sig)
		}
	}
}

func (c *child) inNamespace() bool {
	return c.applied.Guarantees[KillAll] == mechanisms(byNamespaces)[KillAll]
}

func (c *child) command(command stubCommand) {
	_ = c.control.SetWriteDeadline(time.Now().Add(time.Second))
	_ = json.NewEncoder(c.control).Encode(command) // a stub that is gone has left nothing to tell
}

// awaitAnswer blocks until a stub has said how its child ended, or has ended itself.
func (c *child) awaitAnswer() {
	var a stubAnswer
	if err := c.answers.Decode(&a); err == nil && a.Exited && a.Usage != nil {
		c.exited = &a
	}
}

// dismiss has a stub end what its child left, and says how many that were. It is false where no stub answers for that.
func (c *child) dismiss() (left int, ok bool) {
	if c.control == nil {
		return 0, false
	}
	defer func() { _ = c.control.Close() }()
	if c.exited == nil {
		return 0, false
	}
	c.command(stubCommand{Stop: true})
	_ = c.control.SetReadDeadline(time.Now().Add(restMax))
	var a stubAnswer
	if err := c.answers.Decode(&a); err != nil || a.Left == nil {
		_ = unix.Kill(c.pid, unix.SIGKILL)
		return 0, false
	}
	return *a.Left, true
}

// letGo lets go of what the child needed as long as it lived.
func (c *child) letGo() {
	if c.spawner != nil {
		c.spawner.reusable = c.spawner.reusable && !c.spoilt
		c.spawner.release()
		c.spawner = nil
	}
	c.limiter.close()
}
