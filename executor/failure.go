package executor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/pack"
	"github.com/attune-run/attune/proc"
	"github.com/attune-run/attune/recipe"
	"github.com/attune-run/attune/runtime"
)

// The kinds of errors in a result.
const (
	kindRequest     = "request"
	kindPack        = "pack"
	kindParameters  = "parameters"
	kindRuntime     = "runtime"
	kindEnvironment = "environment"
	kindIsolation   = "isolation"
	kindSpawn       = "spawn"
	kindSecret      = "secret"
	kindInternal    = "internal"
	kindOutput      = "output"
	kindExit        = "exit"
	kindSignal      = "signal"
	kindTimeout     = "timeout"
	kindLimit       = "limit"
)

// failure is an error that knows how it is reported.
type failure struct {
	kind   string
	hint   string
	exit   int    // zero means ExitAttune
	status Status // empty means Errored
	err    error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// Hint says what to do next; it may be empty.
func (f *failure) Hint() string { return f.hint }

// ExitCode is what a command exits with that ends here.
func (f *failure) ExitCode() int { return cmp.Or(f.exit, ExitAttune) }

func badRequest(hint, format string, args ...any) error {
	return &failure{kind: kindRequest, hint: hint, err: fmt.Errorf(format, args...)}
}

// packFailure reports what pack could not load.
func packFailure(err error) error {
	f := &failure{kind: kindPack, err: err, hint: "`attune-run pack validate` shows every problem of a pack with its place"}
	var missing *pack.NotFoundError
	if errors.As(err, &missing) {
		f.exit = ExitNotFound
		f.hint = "`attune-run pack list` shows what there is; --packs names a further directory"
	}
	return f
}

func noRuntime(err error) error {
	if errors.As(err, new(*failure)) {
		return err
	}
	var constraint *runtime.ConstraintError
	if errors.As(err, &constraint) {
		return &failure{kind: kindRequest, err: err}
	}
	return &failure{kind: kindRuntime, exit: ExitNoRuntime, err: err,
		hint: "`attune-run detect` shows what this machine has"}
}

func environmentFailure(err error) error {
	f := &failure{kind: kindEnvironment, err: err}
	var file *recipe.NotExecutableError
	if errors.As(err, &file) {
		return &failure{kind: kindSpawn, exit: ExitNoRuntime, err: err}
	}
	var build *envcache.BuildError
	if errors.As(err, &build) {
		f.hint = "the whole output of the build is in " + build.Log
		if build.Remembered() {
			f.hint += "; --retry-failed tries again at once"
		}
	}
	var gone *envcache.InterpreterError
	if errors.As(err, &gone) {
		return noRuntime(err)
	}
	var store *envcache.StoreError
	if errors.As(err, &store) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.ENOSPC) {
		f.hint = "name a cache directory that can be written with --cache or ATTUNE_CACHE"
	}
	return f
}

// vanished says so when what failed is explained by an interpreter that was found and is not there any more.
func vanished(interpreter runtime.Interpreter, err error) error {
	if interpreter.Path == "" || isThere(interpreter.Path) {
		return err
	}
	return &failure{kind: kindRuntime, exit: ExitNoRuntime, hint: "run it again: interpreters are looked for anew each time",
		err: fmt.Errorf("the %s at %s vanished after it was found: %w", interpreter.Runtime, interpreter.Path, err)}
}

func spawnFailure(err error) error {
	var known *failure
	if errors.As(err, &known) || errors.Is(err, context.Canceled) {
		return err
	}
	var isolation *proc.IsolationError
	if errors.As(err, &isolation) {
		return isolationFailure(isolation)
	}
	f := &failure{kind: kindSpawn, err: err}
	var start *proc.StartError
	if errors.As(err, &start) && errors.Is(err, fs.ErrPermission) {
		f.exit, f.hint = ExitNoRuntime, "make it executable: chmod +x "+start.Path
	}
	return f
}

func signalName(s syscall.Signal) string {
	if name := unix.SignalName(s); name != "" {
		return name
	}
	return fmt.Sprintf("signal %d", int(s))
}
