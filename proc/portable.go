//go:build !linux || attune_portable

package proc

import (
	"errors"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// This file, portable_stub.go and portable_limit.go are what any Unix gives: a session or a process group, signals to it, and
// limits of single processes. The tag attune_portable builds them on Linux, for tests.

// Isolates tells whether attune knows how to isolate on this system at all (see Diagnose for what this machine offers), and how to find what
// has left its session: elsewhere that outlives its Run.
const Isolates = false

// needs are what stands behind each guarantee where it can be had.
var needs = map[string]string{
	NoNewPrivs: "no_new_privs", NoCapabilities: "capabilities", ParentMemory: "processes that are not dumpable", ParentSignal: "Landlock or seccomp",
	Syscalls: "seccomp", FSWrite: "mount namespaces or Landlock", FSRead: "mount namespaces or Landlock", KillAll: "pid namespaces or control groups",
	Net: "network namespaces or seccomp",
}

// offered is nothing at any level.
func offered(level Level) (mechanism, map[string]Guarantee) {
	had := map[string]Guarantee{}
	for _, guarantee := range guaranteesOf(level, "none") {
		had[guarantee] = Guarantee{Why: "only Linux has " + needs[guarantee]}
	}
	return "", had
}

var hardenOnce sync.Once

// harden prepares attune itself, once, before its first child: nobody dumps core, and descriptors attune was started with stay
// with it.
func harden() {
	hardenOnce.Do(func() {
		forbidCores()
		closeOnExecOneByOne("/dev/fd")
	})
}

// child is one started process. Its session and process group are all that its descendants are known by.
type child struct{ leader }

// launch is how one child comes into being.
type launch struct {
	spec    *Spec
	child   *child
	rlimits []rlimit
}

// plan chooses what keeps the limits that were asked for, and refuses what cannot be kept.
func plan(spec *Spec, c *child) (l *launch, err error) {
	l = &launch{spec: spec, child: c}
	if _, c.applied, err = spec.Isolation.resolve(); err != nil {
		return nil, err
	}
	disk := spec.Isolation.Disk
	if disk == nil {
		disk = spec.Isolation.Writable
	}
	if c.limiter, err = newLimiter(spec.Limits, disk, false); err != nil {
		return nil, err
	}
	if c.limiter != nil {
		l.rlimits = c.limiter.rlimits
	}
	if spec.Foreground && coreKnown { // the host profile has the limits that attune was started with
		l.rlimits = append(l.rlimits, rlimit{Resource: unix.RLIMIT_CORE, Soft: coreLimit.Cur, Hard: coreLimit.Max})
	}
	return l, nil
}

// bring starts the program, by way of a stub where something is to be changed that would change for attune as well.
func (l *launch) bring(attr *syscall.ProcAttr) (err error) {
	path := first(l.spec.Argv)
	if l.spec.path != "" {
		path = l.spec.path
	}
	if l.spec.Umask != nil || len(l.rlimits) > 0 {
		return l.throughStub(path, attr)
	}
	l.child.pid, err = execRetrying(path, l.spec.Argv, attr)
	return err
}

// await blocks until the leader has ended, without reaping it: as long as it is a zombie its pid, and with it its process group
// and session, cannot become another process's. A leader that is stopped in the terminal's foreground stops attune as well.
func (c *child) await() {
	for awaitEnd(c.pid, c.tty != nil) {
		c.tty.stopWith(c.pid)
	}
}

// status reaps the leader.
func (c *child) status() (status unix.WaitStatus, usage unix.Rusage) {
	for {
		if _, err := unix.Wait4(c.pid, &status, 0, &usage); !errors.Is(err, unix.EINTR) {
			return status, usage
		}
	}
}

// signal reaches the leader's process group and, as far as they can be seen, descendants in other groups.
func (c *child) signal(sig syscall.Signal) {
	_ = unix.Kill(-c.pid, sig)
	signalStrays(c.pid, sig)
}

// dismiss is for children that somebody else supervises: there are none.
func (c *child) dismiss() (left int, ok bool) { return 0, false }

// killRest ends what is left of the child after its leader, again and again until nothing is: one look races with forks. It
// returns how many processes it had to end. What left the session is not known any more, and goes on.
func (c *child) killRest() int {
	killed := map[int]bool{}
	pause := time.Millisecond
	for begun := time.Now(); time.Since(begun) < restMax; time.Sleep(pause) {
		rest := c.rest()
		if len(rest) == 0 {
			break
		}
		_ = unix.Kill(-c.pid, unix.SIGKILL)
		for _, p := range rest {
			killed[p.pid] = true
			_ = unix.Kill(p.pid, unix.SIGKILL)
		}
		pause = min(2*pause, 50*time.Millisecond)
	}
	return len(killed)
}

// rest are the processes of the child's group and session that still run, and those below them.
func (c *child) rest() []process {
	all := processes()
	known := map[int]bool{}
	var rest []process
	for more := true; more; {
		more = false
		for _, p := range all {
			if !known[p.pid] && p.pid != c.pid && (p.group == c.pid || p.session == c.pid || known[p.parent]) {
				known[p.pid], more = true, true
				if !p.zombie {
					rest = append(rest, p)
				}
			}
		}
	}
	return rest
}

// letGo lets go of what the child needed as long as it lived.
func (c *child) letGo() { c.limiter.close() }
