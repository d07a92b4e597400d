//go:build !attune_portable

package proc

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A stub is attune's own binary, started again under one of these names. It does to itself what a thread of attune cannot do
// for its child, and becomes the child, or its parent. What it is to do comes through an inherited descriptor,
// never in an argument, for arguments can be seen by everybody.
const (
	stubName   = "attune:stub"
	canaryName = "attune:canary"
)

var isStub = len(os.Args) > 0 && (os.Args[0] == stubName || os.Args[0] == canaryName)

// A stub is born often: it runs before the rest of the program is set up.
func init() {
	if !isStub {
		return
	}
	if os.Args[0] == canaryName {
		syscall.Exit(sing(os.Stdin, os.Stdout))
	}
	syscall.Exit(stubMain()) // at once: there is nothing to run at exit, and a race detector would wait a second
}

// stubConfig is what a stub is told.
type stubConfig struct {
	Init    bool // stay as the child's parent; else become the child
	View    *view
	Confine confinement
	Path    raw
	Argv    []raw
	Env     []raw
	Dir     raw
	Hold    int // descriptors from 3 on that the child gets; the control socket comes after them, then the configuration
}

// raw is text that need not be UTF-8; it keeps its bytes in JSON.
type raw string

// MarshalJSON writes base64.
func (r raw) MarshalJSON() ([]byte, error) { return json.Marshal([]byte(r)) }

// UnmarshalJSON reads it.
func (r *raw) UnmarshalJSON(data []byte) error {
	var b []byte
	err := json.Unmarshal(data, &b)
	*r = raw(b)
	return err
}

func raws(texts []string) []raw {
	all := make([]raw, len(texts))
	for i, text := range texts {
		all[i] = raw(text)
	}
	return all
}

func texts(raws []raw) []string {
	all := make([]string, len(raws))
	for i, r := range raws {
		all[i] = string(r)
	}
	return all
}

// A stub answers in lines of JSON; without Init a socket that closes says that the child runs.
type stubAnswer struct {
	Running   bool            `json:",omitempty"` // Init: the child was started
	Error     string          `json:",omitempty"`
	Errno     int             `json:",omitempty"`
	Guarantee string          `json:",omitempty"`
	Exited    bool            `json:",omitempty"` // Init: the child has ended, with Status and Usage
	Status    unix.WaitStatus `json:",omitempty"`
	Usage     *unix.Rusage    `json:",omitempty"`
	Left      *int            `json:",omitempty"` // Init: everything else was ended; so many were left
}

// stubCommand is what attune tells an init afterwards. A socket that closes means Stop.
type stubCommand struct {
	Signal syscall.Signal `json:",omitempty"` // for everything below
	Stop   bool           `json:",omitempty"`
}

type stub struct {
	stubConfig
	control *os.File
	answers *json.Encoder
}

// stubMain has the number of the control socket as its argument; behind it lies the configuration. Without root a further
// argument has the namespaces that it is to start another stub in, which takes its place.
func stubMain() int {
	if len(os.Args) < 2 {
		return 125
	}
	n, err := strconv.Atoi(os.Args[1])
	if err != nil {
		return 125
	}
	unix.CloseOnExec(n)
	unix.CloseOnExec(n + 1)
	s := &stub{control: os.NewFile(uintptr(n), "control")}
	s.answers = json.NewEncoder(s.control)
	if len(os.Args) == 3 && os.Getpid() != 1 {
		err = s.outer(n, os.Args)
	} else {
		err = s.run(n + 1)
	}
	if err != nil {
		s.fail(err)
		return 125
	}
	return 0
}

func (s *stub) fail(err error) {
	answer := stubAnswer{Error: err.Error()}
	var confine *confineError
	var errno syscall.Errno
	if errors.As(err, &confine) {
		answer.Guarantee, answer.Error = confine.guarantee, confine.err.Error()
	}
	if errors.As(err, &errno) {
		answer.Errno = int(errno)
	}
	_ = s.answers.Encode(answer)
}

func (s *stub) run(config int) error {
	if _, err := s.control.Read(make([]byte, 1)); err != nil { // attune has written it
		return fmt.Errorf("wait for the stub's configuration: %w", err)
	}
	// Attune has left the descriptor's position at the end.
	if err := json.NewDecoder(io.NewSectionReader(os.NewFile(uintptr(config), "configuration"), 0, 1<<40)).Decode(&s.stubConfig); err != nil {
		return fmt.Errorf("read the stub's configuration: %w", err)
	}
	if s.Init {
		return s.init()
	}
	s.Confine.Self = true
	s.Confine.Warden = func(listener int) { // attune is the warden
		_ = unix.Sendmsg(int(s.control.Fd()), []byte{'\n'}, unix.UnixRights(listener), nil, 0)
		_ = unix.Close(listener)
	}
	if err := s.Confine.apply(); err != nil {
		return err
	}
	if err := os.Chdir(string(s.Dir)); err != nil {
		return err
	}
	argv, env := texts(s.Argv), texts(s.Env)
	err := syscall.Exec(string(s.Path), argv, env)
	for wait := time.Millisecond; errors.Is(err, syscall.ETXTBSY) && wait < 100*time.Millisecond; wait *= 2 {
		time.Sleep(wait)
		err = syscall.Exec(string(s.Path), argv, env)
	}
	return err
}

// outer makes the namespaces for a user who is not root. Attune cannot: not being dumpable, it may not map its
// child's users, and a stub is dumpable.
func (s *stub) outer(control int, args []string) error {
	flags, err := strconv.ParseUint(args[2], 10, 32)
	if err != nil {
		return err
	}
	attr := &syscall.ProcAttr{Env: []string{}, Sys: &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | uintptr(flags), Pdeathsig: syscall.SIGKILL,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}},
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP, unix.CAP_NET_ADMIN}, // else the exec takes them away: the user stays who it is
	}}
	for fd := range control + 2 {
		attr.Files = append(attr.Files, uintptr(fd))
	}
	pid, err := syscall.ForkExec("/proc/self/exe", args, attr)
	if err != nil {
		return &confineError{KillAll, fmt.Errorf("make namespaces: %w", err)}
	}
	for fd := range control + 2 { // a pipe must end when the child has closed it
		_ = unix.Close(fd)
	}
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); !errors.Is(err, unix.EINTR) {
			return nil
		}
	}
}

// init is the parent of the child and of every orphan below it. In a pid namespace nothing outlives it.
func (s *stub) init() error {
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	ignored := make(chan os.Signal, 1) // caught, not ignored: the child must find the default
	signal.Notify(ignored, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	pid, err := s.startChild()
	if err != nil {
		return err
	}
	_ = s.answers.Encode(stubAnswer{Running: true})
	ended := make(chan struct{})
	go s.obey(ended)
	s.reapUntil(pid)
	<-ended
	killed := endAll()
	return s.answers.Encode(stubAnswer{Left: &killed})
}

func (s *stub) startChild() (pid int, err error) {
	attr := &syscall.ProcAttr{Dir: string(s.Dir), Env: texts(s.Env), Sys: &syscall.SysProcAttr{Setsid: true}}
	for fd := range 3 + s.Hold {
		attr.Files = append(attr.Files, uintptr(fd))
	}
	start := func() {
		if err = s.prepare(); err == nil {
			pid, err = execRetrying(string(s.Path), texts(s.Argv), attr)
		}
	}
	s.Confine.Warden = func(listener int) { go guard(listener, os.Getppid(), os.Getpid()) }
	if len(s.Confine.Tasks) > 0 || s.Confine.Filter != nil && s.Confine.Filter.Ask { // the main thread is the stub itself, which must not be confined so
		done := make(chan struct{})
		onThread(func() { defer close(done); start() })
		<-done
	} else {
		start()
	}
	if err != nil {
		return 0, err
	}
	for fd := range 3 + s.Hold { // a pipe must end when the child has closed it
		_ = unix.Close(fd)
	}
	return pid, nil
}

// prepare makes the calling thread one whose children are confined. It joins the control groups while they can still be
// written.
func (s *stub) prepare() error {
	if err := s.Confine.join(); err != nil {
		return err
	}
	if s.View != nil {
		if err := s.View.apply(); err != nil {
			return &confineError{FSWrite, err}
		}
	}
	return s.Confine.apply()
}

// obey passes signals on until it is told to stop, or attune is gone.
func (s *stub) obey(ended chan<- struct{}) {
	defer close(ended)
	commands := json.NewDecoder(s.control)
	for {
		var c stubCommand
		switch err := commands.Decode(&c); {
		case err != nil: // attune is gone
			endAll()
			os.Exit(125)
		case c.Stop:
			return
		}
		signalAll(c.Signal)
	}
}

// reapUntil reaps what ends, and reports the child's end. It goes on until nothing is left or attune says stop.
func (s *stub) reapUntil(child int) {
	for {
		var status unix.WaitStatus
		var usage unix.Rusage
		pid, err := unix.Wait4(-1, &status, 0, &usage)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return
		}
		if pid == child {
			_ = s.answers.Encode(stubAnswer{Exited: true, Status: status, Usage: &usage})
			return
		}
	}
}

// signalAll reaches everything below an init: in a pid namespace that is everything there is.
func signalAll(sig syscall.Signal) {
	if os.Getpid() == 1 {
		_ = unix.Kill(-1, sig)
		return
	}
	for _, p := range descendants(os.Getpid()) {
		_ = unix.Kill(p.pid, sig)
	}
}

// endAll kills and reaps until nothing is left, and counts what had to be killed.
func endAll() int {
	killed := 0
	for begun := time.Now(); time.Since(begun) < restMax; {
		signalAll(unix.SIGKILL)
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.ECHILD):
			return killed
		case pid > 0 && status.Signaled():
			killed++
		case pid == 0:
			time.Sleep(100 * time.Microsecond)
		}
	}
	return killed
}
