package proc

import (
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// terminal is attune's controlling terminal while a child holds its foreground.
type terminal struct {
	fd  int
	own int // attune's process group
}

// controllingTerminal is the terminal on stdin if attune is in its foreground, else nil.
func controllingTerminal() *terminal {
	group, err := unix.IoctlGetInt(0, unix.TIOCGPGRP)
	if err != nil || group != unix.Getpgrp() {
		return nil
	}
	return &terminal{fd: 0, own: group}
}

// give puts a process group into the foreground. Whoever does that from the background is stopped by SIGTTOU unless
// it ignores it.
func (t *terminal) give(group int) {
	signal.Ignore(syscall.SIGTTOU)
	_ = unix.IoctlSetPointerInt(t.fd, unix.TIOCSPGRP, group)
	signal.Reset(syscall.SIGTTOU)
}

func (t *terminal) takeBack() { t.give(t.own) }

// stopWith follows a child that was stopped (^Z): attune takes the terminal and stops too, so that the shell gets
// its prompt. Continued by the shell, it hands the terminal back and lets the child go on.
func (t *terminal) stopWith(group int) {
	t.takeBack()
	stopSelf()
	if current, err := unix.IoctlGetInt(t.fd, unix.TIOCGPGRP); err == nil && current == t.own {
		t.give(group) // fg; after bg the child goes on without the terminal
	}
	_ = unix.Kill(-group, unix.SIGCONT)
}
