//go:build !attune_portable

package proc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// launch is how one child comes into being: by a plain exec, by one from a thread that has restricted itself, or by a stub.
type launch struct {
	spec    *Spec
	child   *child
	how     mechanism
	confine confinement
	stub    bool // a stub becomes the child
	init    bool // a stub is the child's parent
}

// plan chooses what keeps the guarantees and the limits that were asked for.
func plan(spec *Spec, c *child) (*launch, error) {
	how, applied, err := spec.Isolation.resolve()
	if err != nil {
		return nil, err
	}
	c.applied, c.execID = applied, lookup(spec.Env, "ATTUNE_EXEC_ID")
	if spec.Isolation.Level == Strict { // what a child starts in, it sees
		dir := spec.Dir
		if dir == "" {
			if dir, err = os.Getwd(); err != nil {
				return nil, err
			}
		}
		spec.Isolation.ReadOnly = append(slices.Clone(spec.Isolation.ReadOnly), dir)
	}
	disk := spec.Isolation.Disk
	if disk == nil {
		disk = spec.Isolation.Writable
	}
	if c.limiter, err = newLimiter(spec.Limits, disk, how == byLandlock && applied.Guarantees[KillAll] != ""); err != nil {
		return nil, err
	}
	l := &launch{spec: spec, child: c, how: how, init: how == byNamespaces}
	l.confine = confinement{Umask: spec.Umask}
	if spec.Isolation.Level.Least(Basic) {
		l.restrict(applied)
	}
	if spec.Foreground && l.init {
		spec.Foreground = false // an init has no job control
	}
	if c.limiter != nil {
		l.confine.Tasks, l.confine.Rlimits = c.limiter.group.tasks(), c.limiter.rlimits
	}
	inGroup := c.limiter != nil && c.limiter.group != nil && c.limiter.group.fd != nil
	l.stub = len(l.confine.Rlimits) > 0 || spec.Umask != nil && !ownUmask() || inGroup && l.confine.Filter != nil // the filter refuses the clone3 that gets into a group
	l.confine.Mark = l.confine.Filter != nil && !l.init && canMark()
	c.marked = l.confine.Mark
	return l, nil
}

// restrict fills in what keeps the guarantees. A probe tries all of them.
func (l *launch) restrict(applied Applied) {
	i := &l.spec.Isolation
	had := func(guarantee string) bool { return i.force != "" || applied.Guarantees[guarantee] != "" }
	c := &l.confine
	c.NoNewPrivs, c.NoCaps = had(NoNewPrivs), had(NoCapabilities)
	if had(Syscalls) {
		spec := filterSpec{Signals: !lockSignals()}
		spec.Ask = spec.Signals && canAsk()
		if l.how == byNamespaces { // attune has no process id there, and the stub is process 1
			spec.Protect, spec.Signals, spec.Ask = []int{1}, false, false
		}
		spec.NoNetwork = i.Network == "none" && l.how != byNamespaces
		c.Filter = &spec
	}
	c.Lock.Signals = had(ParentSignal) && l.how != byNamespaces && lockSignals()
	if l.how == byLandlock && had(FSWrite) {
		c.Lock.Files = true
		c.Lock.Read = append(allBut(existing(i.hidden())), i.ReadOnly...)
		c.Lock.Write = append(slices.Clone(i.Writable), "/dev/null", "/dev/zero", "/dev/full", "/dev/tty", "/dev/ptmx", "/dev/pts")
	}
}

// contain makes a stub the child's parent where its orphans could be taken for another execution's.
func (l *launch) contain(crowded bool) {
	if crowded && l.ambiguous() && l.confine.Filter != nil {
		l.init = true
	}
	l.child.contained = l.init
}

// ambiguous tells whether orphans of this child come to attune, and nothing on them says whose they are.
func (l *launch) ambiguous() bool { return !l.init && !l.confine.Mark }

// bring has the registry know the child before it exists, so that its orphans are never another's.
func (l *launch) bring(attr *syscall.ProcAttr) error {
	l.contain(children.begin(l))
	if err := l.spawn(attr); err != nil {
		children.abort(l)
		return err
	}
	children.add(l.child)
	if l.spec.Foreground {
		restoreCoreLimit(l.child.pid)
	}
	return nil
}

// spawn brings the child into being. It is the one place that knows how.
func (l *launch) spawn(attr *syscall.ProcAttr) error {
	path := first(l.spec.Argv)
	if l.spec.path != "" {
		path = l.spec.path
	}
	if l.stub || l.init {
		return l.throughStub(path, attr)
	}
	if l.inGroup() {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(l.child.limiter.group.fd.Fd())
	}
	c := l.confine
	if c.Umask == nil && c.Filter == nil && !c.NoNewPrivs && len(c.Tasks) == 0 && !c.Mark {
		pid, err := execRetrying(path, l.spec.Argv, attr)
		l.child.pid = pid
		if l.inGroup() {
			l.child.limiter.group.settle(l.spec.Limits, false)
		}
		return err
	}
	c.Warden = func(listener int) { go guard(listener, os.Getpid()) }
	back, err := waysBack(c.Tasks)
	if err != nil {
		return err
	}
	defer closeAll(back)
	err = l.fromThread(c, attr, func() (int, error) {
		defer leave(back) // only the child counts
		return execRetrying(path, l.spec.Argv, attr)
	})
	if l.child.limiter != nil {
		l.child.limiter.group.settle(l.spec.Limits, false)
	}
	return err
}

// waysBack are the files by which a thread leaves control groups. A confined thread could not open them.
func waysBack(tasks []string) (back []*os.File, err error) {
	for _, file := range tasks {
		f, err := os.OpenFile(filepath.Join(filepath.Dir(filepath.Dir(file)), "tasks"), os.O_WRONLY, 0)
		if err != nil {
			closeAll(back)
			return nil, err
		}
		back = append(back, f)
	}
	return back, nil
}

// leave takes the calling thread back to where it came from.
func leave(back []*os.File) {
	for _, f := range back {
		_, _ = f.WriteString("0")
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

func (l *launch) inGroup() bool {
	m := l.child.limiter
	return m != nil && m.group != nil && m.group.fd != nil
}

// fromThread starts a child from a thread that is confined as the child is to be.
func (l *launch) fromThread(c confinement, attr *syscall.ProcAttr, fork func() (int, error)) error {
	s, err := spawnerFor(c)
	if err != nil {
		return l.isolationError(err)
	}
	if l.child.pid, err = s.start(attr, fork); err == nil {
		l.child.spawner, l.child.mark = s, s.mark
	}
	return err
}

// throughStub starts attune's own binary, tells it what to do, and hears that the child runs. The stub is started
// first and told afterwards, so that both take their time at once.
func (l *launch) throughStub(path string, attr *syscall.ProcAttr) error {
	own, theirs, err := socketPair()
	if err != nil {
		return err
	}
	document, err := memFile()
	if err != nil {
		_, _ = own.Close(), theirs.Close()
		return err
	}
	defer func() { _, _ = theirs.Close(), document.Close() }()
	born := *attr
	born.Files = append(attr.Files, theirs.Fd(), document.Fd())
	born.Env, born.Dir = []string{"GOMAXPROCS=1"}, ""
	if l.inGroup() {
		born.Sys.UseCgroupFD, born.Sys.CgroupFD = true, int(l.child.limiter.group.fd.Fd())
	}
	argv := []string{stubName, strconv.Itoa(len(attr.Files))}
	switch flags := l.namespaces(); {
	case flags == 0:
	case capable(unix.CAP_SYS_ADMIN):
		born.Sys.Cloneflags |= flags
	default:
		argv = append(argv, strconv.FormatUint(uint64(flags), 10))
	}
	if err := l.fromThread(confinement{}, &born, func() (int, error) { return syscall.ForkExec("/proc/self/exe", argv, &born) }); err != nil {
		_ = own.Close()
		return l.stubError(err)
	}
	_ = theirs.Close()
	if l.child.limiter != nil {
		defer l.child.limiter.group.settle(l.spec.Limits, l.init)
	}
	if err := l.tell(own, document, path, attr); err != nil {
		_ = own.Close()
		_ = unix.Kill(l.child.pid, unix.SIGKILL)
		_, _ = unix.Wait4(l.child.pid, nil, 0, nil)
		return err
	}
	return l.hear(own)
}

// tell writes the configuration and says that it is there.
func (l *launch) tell(control, document *os.File, path string, attr *syscall.ProcAttr) error {
	config, err := l.stubConfig(path, attr)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(document).Encode(config); err != nil {
		return err
	}
	_, _ = control.WriteString("\n") // a stub that is gone is noticed by what it does not answer
	return nil
}

func (l *launch) stubConfig(path string, attr *syscall.ProcAttr) (stubConfig, error) {
	config := stubConfig{
		Init: l.init, Confine: l.confine.protecting(), Path: raw(path), Argv: raws(l.spec.Argv), Env: raws(attr.Env), Dir: raw(l.spec.Dir), Hold: len(l.spec.Hold),
	}
	if config.Dir == "" {
		dir, err := os.Getwd()
		if err != nil {
			return config, err
		}
		config.Dir = raw(dir)
	}
	if l.how == byNamespaces {
		v := newView(&l.spec.Isolation, l.spec.Limits.Disk, l.spec.Isolation.Network == "none")
		config.View = &v
	}
	return config, nil
}

func (l *launch) namespaces() uintptr {
	if l.how != byNamespaces {
		return 0
	}
	flags := uintptr(unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS)
	if l.spec.Isolation.Network == "none" {
		flags |= unix.CLONE_NEWNET
	}
	return flags
}

// hear waits for the stub's word that the child runs.
func (l *launch) hear(control *os.File) error {
	first := l.receiveListener(control)
	answers := json.NewDecoder(io.MultiReader(bytes.NewReader(first), control))
	var a stubAnswer
	err := answers.Decode(&a)
	switch {
	case err == nil && a.Running:
		l.child.control, l.child.answers = control, answers
		return nil
	case errors.Is(err, io.EOF) && !l.init:
		_ = control.Close() // by the exec
		return nil
	}
	_ = control.Close()
	_, _ = unix.Wait4(l.child.pid, nil, 0, nil)
	switch {
	case a.Guarantee != "":
		return l.isolationError(&confineError{a.Guarantee, errors.New(a.Error)})
	case a.Errno != 0:
		return syscall.Errno(a.Errno)
	case a.Error != "":
		return errors.New(a.Error)
	}
	return l.stubError(fmt.Errorf("the stub ended without a word (%v)", err))
}

// receiveListener takes what a filter that asks is decided by from a stub that becomes the child. It returns what else was
// in the same message.
func (l *launch) receiveListener(control *os.File) (rest []byte) {
	if l.init || l.confine.Filter == nil || !l.confine.Filter.Ask {
		return nil
	}
	conn, err := control.SyscallConn()
	if err != nil {
		return nil
	}
	buffer, rights := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4))
	_ = conn.Read(func(fd uintptr) bool {
		n, m, _, _, err := unix.Recvmsg(int(fd), buffer, rights, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			return false
		}
		if err == nil && m > 0 {
			if messages, err := unix.ParseSocketControlMessage(rights[:m]); err == nil && len(messages) == 1 {
				if fds, err := unix.ParseUnixRights(&messages[0]); err == nil && len(fds) == 1 {
					go guard(fds[0], os.Getpid())
					return true
				}
			}
		}
		rest = buffer[:max(n, 0)]
		return true
	})
	return rest
}

// isolationError names the guarantee that a restriction of the child failed to give.
func (l *launch) isolationError(err error) error {
	var confine *confineError
	if !errors.As(err, &confine) {
		return err
	}
	return &IsolationError{Level: l.spec.Isolation.Level, Missing: map[string]string{confine.guarantee: confine.err.Error()}}
}

func (l *launch) stubError(err error) error {
	if l.how == byNamespaces {
		return &IsolationError{Level: l.spec.Isolation.Level, Missing: map[string]string{KillAll: "make namespaces: " + err.Error()}}
	}
	return fmt.Errorf("start a stub: %w", err)
}

func socketPair() (own, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	_ = unix.SetNonblock(fds[0], true)
	return os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "stub"), nil
}

// memFile is a file in memory.
func memFile() (*os.File, error) {
	fd, err := unix.MemfdCreate("attune-stub", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), "configuration"), nil
}

var (
	// ownUmask tells whether a thread may stop sharing its umask; some sandboxes refuse unshare altogether.
	ownUmask = sync.OnceValue(func() bool { return onScratchThread(func() error { return unix.Unshare(unix.CLONE_FS) }) })
	// canMark tells whether a thread may have a UTS namespace of its own.
	canMark = sync.OnceValue(func() bool { return onScratchThread(func() error { return unix.Unshare(unix.CLONE_NEWUTS) }) })
)

func onScratchThread(f func() error) bool {
	result := make(chan error, 1)
	onThread(func() { result <- f() })
	return <-result == nil
}

func lookup(env []string, name string) string {
	value := ""
	for _, entry := range env {
		if v, ok := strings.CutPrefix(entry, name+"="); ok {
			value = v
		}
	}
	return value
}
