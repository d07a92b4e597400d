package proc

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultGrace lies between SIGTERM and SIGKILL when a Spec names no other.
const DefaultGrace = 10 * time.Second

// Run starts the child, supervises it, and returns when nothing is left of it: no process (of its session, where Isolates is false), no
// goroutine, no pipe. A non-zero exit is an Exit; an error, a *StartError, means that there was no child.
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

// reap takes the leader's status and gives the terminal back.
func (c *child) reap(exit *Exit) {
	status, usage := c.status()
	if c.tty != nil {
		c.tty.takeBack()
	}
	exit.Code = status.ExitStatus()
	if status.Signaled() {
		exit.Signal = status.Signal()
		exit.Code = 128 + int(exit.Signal)
	}
	exit.Usage = Usage{
		MaxRSS: usage.Maxrss * rssUnit,
		User:   time.Duration(usage.Utime.Nano()), System: time.Duration(usage.Stime.Nano()),
	}
}

// leader is what a child, the first process of an execution, consists of on every system.
type leader struct {
	pid     int
	tty     *terminal
	streams streams
	applied Applied
	limiter *limiter // nil without limits
}
