package proc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	stdruntime "runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// StartError says why there is no child.
type StartError struct {
	Path string // Argv[0]
	Dir  string
	Err  error
}

// Error names the program and what is wrong with it.
func (e *StartError) Error() string {
	var info string
	switch {
	case errors.Is(e.Err, unix.E2BIG):
		info = " (" + argumentBounds + "; pass large values on stdin or in a file)"
	case errors.Is(e.Err, unix.ENOEXEC):
		info = " (it is neither a binary of this machine nor a script with a #! line)"
	case errors.Is(e.Err, fs.ErrNotExist) && exists(e.Path):
		info = " (the file is there: what its #! line or its header names is not)"
	}
	return fmt.Sprintf("start %s: %v%s", e.Path, e.Err, info)
}

// Unwrap is the system's error.
func (e *StartError) Unwrap() error { return e.Err }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// start makes the pipes and the process. On an error everything is closed again.
func start(spec *Spec) (*child, error) {
	c := &child{}
	fail := func(err error) (*child, error) {
		c.limiter.close()
		var isolation *IsolationError
		if errors.As(err, &isolation) {
			return nil, err
		}
		return nil, &StartError{Path: first(spec.Argv), Dir: spec.Dir, Err: err}
	}
	if err := check(spec); err != nil {
		return fail(err)
	}
	l, err := plan(spec, c)
	if err != nil {
		return fail(err)
	}
	fds, err := c.streams.open(spec)
	defer c.streams.closeChildEnds()
	if err != nil {
		c.streams.closeOwnEnds()
		return fail(err)
	}
	for _, f := range spec.Hold {
		fds = append(fds, f.Fd())
	}
	defer stdruntime.KeepAlive(spec) // with the files that it names
	attr := &syscall.ProcAttr{Dir: spec.Dir, Env: dedupe(spec.Env), Files: fds, Sys: &syscall.SysProcAttr{}}
	if spec.Foreground {
		attr.Sys.Setpgid = true
		if c.tty = controllingTerminal(); c.tty != nil {
			attr.Sys.Foreground, attr.Sys.Ctty = true, c.tty.fd
		}
	} else {
		attr.Sys.Setsid = true
	}
	if err := l.bring(attr); err != nil {
		if c.tty != nil {
			c.tty.takeBack()
		}
		c.streams.closeOwnEnds()
		c.letGo()
		return fail(err)
	}
	return c, nil
}

// check refuses what the kernel would cut short or misread.
func check(spec *Spec) error {
	if len(spec.Argv) == 0 {
		return errors.New("there is no program to start")
	}
	for i, arg := range spec.Argv {
		if strings.IndexByte(arg, 0) >= 0 {
			return fmt.Errorf("argument %d holds a NUL byte", i)
		}
	}
	for _, entry := range spec.Env {
		if strings.IndexByte(entry, 0) >= 0 {
			name, _, _ := strings.Cut(entry, "=")
			return fmt.Errorf("the variable %s holds a NUL byte", name)
		}
	}
	if spec.Dir == "" {
		return nil
	}
	if info, err := os.Stat(spec.Dir); err != nil {
		return fmt.Errorf("working directory: %w", err)
	} else if !info.IsDir() {
		return fmt.Errorf("working directory %s is no directory", spec.Dir)
	}
	return nil
}

// execRetrying starts the program at path. There is no os.Process: attune waits by pid, and making one first tries out pidfds with a child of
// its own.
func execRetrying(path string, argv []string, attr *syscall.ProcAttr) (pid int, err error) {
	err = retryBusy(func() error {
		pid, err = syscall.ForkExec(path, argv, attr)
		return err
	})
	return pid, err
}

// retryBusy executes a program. One that somebody has open for writing cannot be (ETXTBSY). That mostly passes: it was
// just written, and a child that another thread is forking holds a copy of the descriptor until it execs. So it is tried for a second.
func retryBusy(execute func() error) error {
	for pause := time.Millisecond; ; pause *= 2 {
		err := execute()
		if !errors.Is(err, unix.ETXTBSY) || pause > 512*time.Millisecond {
			return err
		}
		time.Sleep(pause)
	}
}

// dedupe keeps the last value of each variable; nil becomes an empty environment, which is
// not what os.StartProcess makes of it.
func dedupe(env []string) []string {
	seen := make(map[string]int, len(env))
	unique := make([]string, 0, len(env))
	for _, entry := range env {
		name, _, _ := strings.Cut(entry, "=")
		if i, ok := seen[name]; ok {
			unique[i] = entry
			continue
		}
		seen[name] = len(unique)
		unique = append(unique, entry)
	}
	return unique
}

func first(argv []string) string {
	if len(argv) == 0 {
		return "nothing"
	}
	return argv[0]
}
