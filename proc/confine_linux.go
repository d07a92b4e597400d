//go:build !attune_portable

package proc

import (
	"fmt"
	"os"
	stdruntime "runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// confinement is what a thread does to itself before it becomes, or forks, the child. Nothing of it reaches another thread
// of attune: all are system calls that bind the caller alone. It is read by a stub as JSON.
type confinement struct {
	Self       bool        `json:",omitempty"` // the caller becomes the child, else it forks it
	Umask      *int        `json:",omitempty"`
	Mark       bool        `json:",omitempty"` // a UTS namespace of its own: the inode tells whose descendant a process is
	Tasks      []string    `json:",omitempty"` // cgroup v1: the files a thread joins by
	Rlimits    []rlimit    `json:",omitempty"` // bind the whole process: only for a stub
	NoNewPrivs bool        `json:",omitempty"`
	NoCaps     bool        `json:",omitempty"`
	Lock       landlock    `json:",omitzero"`
	Filter     *filterSpec `json:",omitempty"`

	Warden func(listener int) `json:"-"` // takes over what a filter that asks is decided by
}

// A confineError says which guarantee a thread could not take on, and why.
type confineError struct {
	guarantee string
	err       error
}

func (e *confineError) Error() string { return e.guarantee + ": " + e.err.Error() }
func (e *confineError) Unwrap() error { return e.err }

// apply binds the calling thread, which must be locked and never be used for anything else.
func (c *confinement) apply() error {
	if c.Umask != nil {
		if !isStub {
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return fmt.Errorf("a thread with a umask of its own: %w", err)
			}
		}
		unix.Umask(*c.Umask)
	}
	if err := c.join(); err != nil {
		return err
	}
	if c.Mark {
		if err := unix.Unshare(unix.CLONE_NEWUTS); err != nil {
			return fmt.Errorf("mark the descendants: %w", err)
		}
	}
	if err := c.restrict(); err != nil {
		return err
	}
	for _, l := range c.Rlimits { // last: they bind attune's own code as well
		if err := setRlimit(l); err != nil {
			return err
		}
	}
	return nil
}

// join moves the calling thread into its control groups, once.
func (c *confinement) join() error {
	for _, path := range c.Tasks {
		if err := os.WriteFile(path, []byte("0"), 0); err != nil {
			return fmt.Errorf("join the control group: %w", err)
		}
	}
	c.Tasks = nil
	return nil
}

// protecting is c with a filter that knows attune.
func (c confinement) protecting() confinement {
	if c.Filter != nil && c.Filter.Protect == nil {
		filter := *c.Filter
		filter.Protect = itself()
		c.Filter = &filter
	}
	return c
}

// restrict takes rights away, in the order in which that is still allowed.
func (c *confinement) restrict() error {
	if c.NoNewPrivs {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return &confineError{NoNewPrivs, err}
		}
	}
	if c.Lock.Files || c.Lock.Signals {
		if err := c.Lock.restrict(); err != nil {
			return &confineError{FSWrite, err}
		}
	}
	if c.NoCaps {
		if err := dropCapabilities(); err != nil {
			return &confineError{NoCapabilities, err}
		}
	}
	if c.Filter != nil {
		own := *c.Filter
		if !c.Self {
			own.Protect = append(slices.Clone(own.Protect), unix.Gettid())
		}
		listener, err := own.assemble().install(own.Ask)
		if err != nil {
			return &confineError{Syscalls, err}
		}
		if listener >= 0 {
			c.Warden(listener)
		}
	}
	return nil
}

// dropCapabilities empties all five sets. Without CAP_SETPCAP the bounding set stays, which no_new_privs makes harmless.
func dropCapabilities() error {
	for capability := uintptr(0); capability <= 63; capability++ {
		held, err := prctlRead(unix.PR_CAPBSET_READ, capability)
		if err != nil {
			break // beyond the last one this kernel knows
		}
		if held == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil {
			break
		}
	}
	_ = unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return unix.Capset(&header, &none[0])
}

func prctlRead(option int, argument uintptr) (int, error) {
	value, _, errno := unix.RawSyscall(unix.SYS_PRCTL, uintptr(option), argument, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(value), nil
}

// onThread runs f on a thread that has done nothing else and ends with it. The main thread never ends, and is what /proc shows
// as the process: it is passed over.
func onThread(f func()) {
	go func() {
		stdruntime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f() // not unlocked: the thread ends here
			return
		}
		done := make(chan struct{})
		onThread(func() { defer close(done); f() })
		<-done
		stdruntime.UnlockOSThread()
	}()
}

// capabilities are the effective ones of the calling thread.
func capabilities() uint64 {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if _, _, errno := unix.RawSyscall(unix.SYS_CAPGET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data)), 0); errno != 0 {
		return 0
	}
	return uint64(data[1].Effective)<<32 | uint64(data[0].Effective)
}

func capable(capability uint) bool { return capabilities()&(1<<capability) != 0 }
