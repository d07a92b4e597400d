//go:build !linux

package inplace

import (
	"context"
	"errors"
	"os/exec"
	"syscall"
)

var errLinux = errors.New("only Linux has mount namespaces")

// Command is a command that fails to start: see Check.
func Command(ctx context.Context, _ []Place, _, path string, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path, argv...)
	cmd.Err = errLinux
	cmd.SysProcAttr = Dying()
	return cmd
}

// Dying are the attributes of a child; here it outlives a process that is killed.
func Dying() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }

// Check tells why directories cannot be placed on this machine.
func Check(context.Context, []Place) error { return errLinux }
