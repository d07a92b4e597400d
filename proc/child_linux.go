//go:build !attune_portable

package proc

import (
	"encoding/json"
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// child is one started process, and how its descendants are known from other executions'.
type child struct {
	leader
	execID string // value of ATTUNE_EXEC_ID in its environment; may be empty

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

// await blocks until the leader has ended, without reaping it: as long as it is a zombie its pid, and with it
// its process group and session, cannot become another process's. A leader that is stopped in the
// terminal's foreground stops attune as well.
func (c *child) await() {
	if c.control != nil {
		c.awaitAnswer()
	}
	for c.exited == nil && awaitEnd(c.pid, c.tty != nil) {
		c.tty.stopWith(c.pid)
	}
}

// status reaps the leader.
func (c *child) status() (status unix.WaitStatus, usage unix.Rusage) {
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
	return status, usage
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
	signalStrays(c.pid, sig)
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
	children.forget(c)
	if c.spawner != nil {
		c.spawner.reusable = c.spawner.reusable && !c.spoilt
		c.spawner.release()
		c.spawner = nil
	}
	c.limiter.close()
}
