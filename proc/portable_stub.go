//go:build !linux || attune_portable

package proc

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// A stub is attune's own binary, started again under this name. It takes on a umask and limits, which all threads of a process
// share, and becomes the child. What it is to do comes through an inherited descriptor, never in an argument, for arguments
// can be seen by everybody.
const stubName = "attune:stub"

// A stub is born often: it runs before the rest of the program is set up.
func init() {
	if len(os.Args) == 2 && os.Args[0] == stubName {
		syscall.Exit(stubMain(os.Args[1]))
	}
}

// stubConfig is what a stub is told. Texts need not be UTF-8; as bytes they stay what they are.
type stubConfig struct {
	Path      []byte
	Argv, Env [][]byte
	Umask     *int
	Rlimits   []rlimit
}

// stubFailure is what a stub answers that could not become the child. One that could closes its descriptor by that.
type stubFailure struct {
	Error string
	Errno syscall.Errno // 0 when it was not the system's
}

// throughStub starts a stub and hears what became of it.
func (l *launch) throughStub(path string, attr *syscall.ProcAttr) (err error) {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("start a stub: %w", err)
	}
	theirs, config, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _, _ = theirs.Close(), config.Close() }()
	answer, word, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _, _ = answer.Close(), word.Close() }()
	born := *attr
	born.Files = append(attr.Files[:len(attr.Files):len(attr.Files)], theirs.Fd(), word.Fd())
	born.Env = []string{"GOMAXPROCS=1"}
	l.child.pid, err = syscall.ForkExec(self, []string{stubName, strconv.Itoa(len(attr.Files))}, &born)
	if err != nil {
		return fmt.Errorf("start a stub: %w", err)
	}
	_, _ = theirs.Close(), word.Close()
	if err = l.tell(config, path, attr); err == nil {
		err = hear(answer)
	}
	if err != nil {
		_ = unix.Kill(l.child.pid, unix.SIGKILL)
		_, _ = l.child.status()
	}
	return err
}

func (l *launch) tell(config *os.File, path string, attr *syscall.ProcAttr) error {
	err := json.NewEncoder(config).Encode(stubConfig{
		Path: []byte(path), Argv: asBytes(l.spec.Argv), Env: asBytes(attr.Env), Umask: l.spec.Umask, Rlimits: l.rlimits,
	})
	return errors.Join(err, config.Close())
}

// hear waits until the stub has become the child.
func hear(answer *os.File) error {
	var failure stubFailure
	err := json.NewDecoder(answer).Decode(&failure)
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return fmt.Errorf("hear of a stub: %w", err)
	case failure.Errno != 0:
		return failure.Errno
	}
	return errors.New(failure.Error)
}

func asBytes(texts []string) [][]byte {
	all := make([][]byte, len(texts))
	for i, text := range texts {
		all[i] = []byte(text)
	}
	return all
}

func asTexts(all [][]byte) []string {
	texts := make([]string, len(all))
	for i, text := range all {
		texts[i] = string(text)
	}
	return texts
}

// stubMain is a stub's whole life. Its argument is the descriptor of its configuration; behind it lies the one for an answer.
func stubMain(arg string) int {
	n, err := strconv.Atoi(arg)
	if err != nil {
		return 125
	}
	unix.CloseOnExec(n)
	unix.CloseOnExec(n + 1)
	err = become(os.NewFile(uintptr(n), "configuration"))
	failure := stubFailure{Error: err.Error()}
	_ = errors.As(err, &failure.Errno)
	_ = json.NewEncoder(os.NewFile(uintptr(n+1), "answer")).Encode(failure)
	return 125
}

// become makes this process the child. It returns only when it could not.
func become(config io.Reader) error {
	var c stubConfig
	if err := json.NewDecoder(config).Decode(&c); err != nil {
		return fmt.Errorf("read a stub's configuration: %w", err)
	}
	if c.Umask != nil {
		unix.Umask(*c.Umask)
	}
	for _, l := range c.Rlimits {
		if err := setRlimit(l); err != nil {
			return fmt.Errorf("set limit %d: %w", l.Resource, err)
		}
	}
	path, argv, env := string(c.Path), asTexts(c.Argv), asTexts(c.Env)
	return retryBusy(func() error { return syscall.Exec(path, argv, env) })
}
