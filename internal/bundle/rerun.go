package bundle

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"github.com/attune-run/attune/internal/inplace"
)

// Rerun runs this program once more, with extra behind its arguments, in a place where the bundle's cache has the path that it will have at the
// target; nothing of the machine is touched by that. ok is false where this machine does not allow it.
func Rerun(ctx context.Context, t Target, layer bool, extra ...string) (code int, ok bool, err error) {
	stage, err := os.MkdirTemp("", "attune-cache-*")
	if err != nil {
		return 0, false, err
	}
	defer func() { _ = os.RemoveAll(stage) }()
	places := []inplace.Place{{Dir: stage, At: t.layout(layer).cache()}}
	if inplace.Check(ctx, places) != nil {
		return 0, false, nil
	}
	self, err := os.Executable()
	if err != nil {
		return 0, false, err
	}
	dir, err := os.Getwd()
	if err != nil {
		return 0, false, err
	}
	cmd := inplace.Command(ctx, places, dir, self, append(slices.Clone(os.Args), extra...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	err = cmd.Run()
	var exit *exec.ExitError
	if err == nil || errors.As(err, &exit) && exit.ExitCode() >= 0 {
		return cmd.ProcessState.ExitCode(), true, nil
	}
	return 0, true, err
}
