//go:build !attune_portable

package proc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Isolates tells whether attune knows how to isolate on this system at all (see Diagnose for what this machine offers), and how to find what
// has left its session: elsewhere that outlives its Run.
const Isolates = true

const (
	byThread     mechanism = "thread"     // the thread that forks restricts itself
	byNamespaces mechanism = "namespaces" // a stub in namespaces of its own
	byLandlock   mechanism = "landlock"   // the thread, with a Landlock domain over the files
)

// offered is what this machine can give at a level, found by canaries that attempt what is forbidden, once in a process.
func offered(level Level) (mechanism, map[string]Guarantee) {
	harden() // what is probed is attune as it will be
	if level.Least(Strict) {
		offers.strictOnce.Do(func() { offers.strict = probeStrict() })
		return offers.strict.how, offers.strict.had
	}
	offers.basicOnce.Do(func() { offers.basic = probeBasic() })
	return offers.basic.how, offers.basic.had
}

type offer struct {
	how mechanism
	had map[string]Guarantee
}

var offers struct {
	basicOnce, strictOnce sync.Once
	basic, strict         offer
}

// probeBasic costs every first execution its time, so the canary is a thread, which forks once to be another process to attune.
func probeBasic() offer {
	o := offer{how: byThread, had: map[string]Guarantee{}}
	l := &launch{spec: &Spec{Isolation: Isolation{Level: Basic, Network: "none", force: byThread}}, how: byThread}
	l.restrict(Applied{})
	s := song{Attune: itself()}
	heard := make(chan map[string]string, 1)
	onThread(func() {
		c := l.confine.protecting()
		c.Warden = func(listener int) { go guard(listener, os.Getpid()) }
		if err := c.apply(); err != nil {
			heard <- nil
			return
		}
		all := map[string]string{NoNewPrivs: s.privileges(), NoCapabilities: s.capabilities(), Syscalls: s.syscalls(), Net: s.network()}
		all[ParentMemory], all[ParentSignal] = s.asAnother()
		heard <- all
	})
	all := <-heard
	if all == nil { // find out which part it is
		return probe(Basic, byThread)
	}
	names := mechanisms(byThread)
	for guarantee, why := range all {
		if o.had[guarantee] = (Guarantee{Why: why}); why == "" {
			o.had[guarantee] = Guarantee{By: names[guarantee]}
		}
	}
	return o
}

// probeStrict prefers namespaces.
func probeStrict() offer {
	o := probe(Strict, byNamespaces)
	if o.had[FSWrite].By != "" && o.had[KillAll].By != "" {
		return o
	}
	l := probe(Strict, byLandlock)
	if l.had[FSWrite].By == "" { // what basic gives can be had all the same
		_, basic := offered(Basic)
		why := l.had[FSWrite].Why
		l = offer{how: byThread, had: maps.Clone(basic)}
		l.had[FSWrite], l.had[FSRead], l.had[KillAll] = Guarantee{Why: "Landlock: " + why}, Guarantee{Why: "Landlock: " + why}, Guarantee{Why: "it cannot be kept in a control group"}
	}
	for _, guarantee := range []string{FSWrite, FSRead, KillAll} {
		if had := l.had[guarantee]; had.By == "" {
			l.had[guarantee] = Guarantee{Why: "namespaces: " + o.had[guarantee].Why + "; without them: " + had.Why}
		}
	}
	return l
}

var (
	// lockSignals tells whether Landlock keeps signals from attune; the filter does it less well.
	lockSignals = sync.OnceValue(func() bool {
		result := make(chan error, 1)
		onThread(func() {
			_ = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
			result <- (&landlock{Signals: true}).restrict()
		})
		return <-result == nil
	})
)

// mechanisms are the names of what stands behind each guarantee.
func mechanisms(how mechanism) map[string]string {
	names := map[string]string{
		NoNewPrivs: "prctl", NoCapabilities: "capset", ParentMemory: "not dumpable", ParentSignal: "seccomp", Syscalls: "seccomp", Net: "seccomp",
	}
	switch {
	case lockSignals():
		names[ParentSignal] = "landlock"
	case canAsk():
		names[ParentSignal] = "seccomp with a warden"
	}
	switch how {
	case byNamespaces:
		names[ParentSignal], names[KillAll] = "pid namespace", "pid namespace"
		names[FSWrite], names[FSRead], names[Net] = "mount namespace", "mount namespace", "network namespace"
	case byLandlock:
		names[FSWrite], names[FSRead] = "landlock", "landlock"
	}
	return names
}

// song is what a canary is told to attempt.
type song struct {
	Attune  []int // pid and thread ids
	PidNS   string
	Write   []string // directories that must not be writable
	Private string   // one that must be
	Hidden  string   // a file that must not be readable
	Files   bool
}

const probeTimeout = 10 * time.Second

// probe sends a canary through a mechanism.
func probe(level Level, how mechanism) offer {
	o := offer{how: how, had: map[string]Guarantee{}}
	wanted := guaranteesOf(level, "none")
	failed := func(err error) offer {
		for _, guarantee := range wanted {
			o.had[guarantee] = Guarantee{Why: reason(err)}
		}
		return o
	}
	dir, err := os.MkdirTemp("", "attune-canary-")
	if err != nil {
		return failed(err)
	}
	defer func() { _ = removeTree(dir) }()
	s := song{Attune: itself(), Write: []string{filepath.Join(dir, "pack"), "/"}, Private: filepath.Join(dir, "private"),
		Hidden: filepath.Join(dir, "hidden", "secret"), Files: level.Least(Strict)}
	s.PidNS, _ = os.Readlink("/proc/self/ns/pid")
	for _, name := range []string{"pack", "private", "hidden"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			return failed(err)
		}
	}
	if err := os.WriteFile(s.Hidden, []byte("secret"), 0o600); err != nil {
		return failed(err)
	}
	heard, err := s.send(level, how)
	if err != nil {
		return failed(err)
	}
	names := mechanisms(how)
	for _, guarantee := range wanted {
		switch why, attempted := heard[guarantee]; {
		case !attempted:
			o.had[guarantee] = Guarantee{Why: "not attempted"}
		case why == "":
			o.had[guarantee] = Guarantee{By: names[guarantee]}
		default:
			o.had[guarantee] = Guarantee{Why: why}
		}
	}
	if how == byLandlock {
		o.had[KillAll] = killByGroup()
	}
	return o
}

// send runs the canary and gives what came of each attempt: an empty text where it was refused.
func (s song) send(level Level, how mechanism) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	text, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	var out, errs bytes.Buffer
	dir := filepath.Dir(s.Private)
	spec := Spec{
		Argv: []string{canaryName}, path: "/proc/self/exe", Dir: "/", Stdin: bytes.NewReader(text), Stdout: &out, Stderr: &errs,
		Isolation: Isolation{Level: level, Network: "none", ReadOnly: s.Write[:1], Writable: []string{s.Private}, Hidden: []string{filepath.Join(dir, "hidden")}, force: how},
	}
	exit, err := Run(ctx, spec)
	if err != nil {
		return nil, err
	}
	heard := map[string]string{}
	if err := json.Unmarshal(out.Bytes(), &heard); err != nil {
		return nil, fmt.Errorf("the canary ended with %d: %s", exit.Code, strings.TrimSpace(errs.String()))
	}
	return heard, nil
}

func reason(err error) string {
	var start *StartError
	var isolation *IsolationError
	switch {
	case errors.As(err, &isolation):
		return strings.Join(slices.Sorted(maps.Values(isolation.Missing)), ", ")
	case errors.As(err, &start):
		return start.Err.Error()
	}
	return err.Error()
}

// killByGroup tells whether a control group can end all that is in it.
func killByGroup() Guarantee {
	g, err := newGroup(Limits{Pids: manyTasks})
	if err != nil {
		return Guarantee{Why: err.Error()}
	}
	defer g.remove()
	if !g.enforces["pids"] {
		return Guarantee{Why: "no control group can be made"}
	}
	return Guarantee{By: g.version}
}

// sing is the canary: it attempts everything that should be forbidden and says what was possible.
func sing(in io.Reader, out io.Writer) int {
	var s song
	if err := json.NewDecoder(in).Decode(&s); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 125
	}
	heard := map[string]string{
		NoNewPrivs: s.privileges(), NoCapabilities: s.capabilities(), ParentMemory: s.memory(), ParentSignal: s.signal(), Syscalls: s.syscalls(),
		FSWrite: s.write(), FSRead: s.read(), KillAll: s.outlive(), Net: s.network(),
	}
	if err := json.NewEncoder(out).Encode(heard); err != nil {
		return 125
	}
	return 0
}

func (s song) privileges() string {
	if set, err := prctlRead(unix.PR_GET_NO_NEW_PRIVS, 0); err != nil || set != 1 {
		return "no_new_privs is not set"
	}
	return ""
}

func (s song) capabilities() string {
	if held := capabilities(); held != 0 {
		return fmt.Sprintf("capabilities %x are held", held)
	}
	if unix.Setpriority(unix.PRIO_PROCESS, 0, -1) == nil {
		return "priority could be raised"
	}
	return ""
}

func (s song) memory() string {
	if s.elsewhere() {
		return ""
	}
	for _, file := range []string{"environ", "mem"} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/%s", s.Attune[0], file))
		if err != nil {
			continue
		}
		_, err = f.Read(make([]byte, 1))
		_ = f.Close()
		if err == nil || file == "mem" {
			return file + " of attune could be read"
		}
	}
	return ""
}

// elsewhere tells whether attune's process ids mean nothing here.
func (s song) elsewhere() bool {
	here, err := os.Readlink("/proc/self/ns/pid")
	return err == nil && here != s.PidNS && os.Getppid() == 1
}

func (s song) signal() string {
	if s.elsewhere() {
		return ""
	}
	for _, id := range s.threads() {
		if unix.Kill(id, 0) == nil {
			return "attune could be signalled"
		}
		if id > 0 && unix.Tgkill(s.Attune[0], id, 0) == nil {
			return "a thread of attune could be signalled"
		}
	}
	return ""
}

// threads are attune's, with those that were born since.
func (s song) threads() []int {
	threads := s.Attune
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", s.Attune[0]))
	for _, e := range entries {
		if id, err := strconv.Atoi(e.Name()); err == nil {
			threads = append(threads, id)
		}
	}
	return threads
}

// syscalls makes calls whose arguments are wrong, so that one that is not refused does nothing either.
func (s song) syscalls() string {
	for name, call := range map[string][4]uintptr{
		"ptrace": {unix.SYS_PTRACE, 0xffff}, "process_vm_readv": {unix.SYS_PROCESS_VM_READV, uintptr(os.Getpid())}, "mount": {unix.SYS_MOUNT},
		"unshare": {unix.SYS_UNSHARE, unix.CLONE_NEWUSER}, "setns": {unix.SYS_SETNS, ^uintptr(0)}, "bpf": {unix.SYS_BPF, 0xffff},
		"clone with CLONE_NEWUSER": {unix.SYS_CLONE, unix.CLONE_NEWUSER | unix.CLONE_FS}, "keyctl": {unix.SYS_KEYCTL, 0xffff},
		"userfaultfd": {unix.SYS_USERFAULTFD, 0xffff}, "io_uring_setup": {unix.SYS_IO_URING_SETUP},
	} {
		if _, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[3]); errno != unix.EPERM && errno != unix.ENOSYS {
			return name + " was not refused"
		}
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0); errno != unix.ENOSYS {
		return "clone3 was not refused"
	}
	return ""
}

func (s song) write() string {
	if !s.Files {
		return "not restricted"
	}
	for _, dir := range append(s.Write, ".") {
		path := filepath.Join(dir, "attune-canary")
		if os.WriteFile(path, nil, 0o600) == nil {
			_ = os.Remove(path)
			return "a file could be made in " + dir
		}
	}
	if err := os.WriteFile(filepath.Join(s.Private, "f"), nil, 0o600); err != nil {
		return "the private directory cannot be written: " + err.Error()
	}
	return ""
}

func (s song) read() string {
	if _, err := os.ReadFile(s.Hidden); err == nil {
		return "a hidden file could be read"
	}
	return ""
}

func (s song) outlive() string {
	if s.elsewhere() {
		return ""
	}
	return "a daemon would outlive attune"
}

// network connects a datagram socket to an address of documentation (RFC 5737), which sends nothing.
func (s song) network() string {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return ""
	}
	if unix.Connect(fd, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{192, 0, 2, 1}}) == nil {
		return "the network could be reached"
	}
	return ""
}
