package envcache

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// TestMain also is the process that the tests start, kill and stop.
func TestMain(m *testing.M) {
	if text := os.Getenv("ENVCACHE_CHILD"); text != "" {
		os.Exit(child(text))
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(binaryDir)
		os.Exit(code)
	}))
}

// order is what a test asks of a child process: to acquire a key, or to do something else.
type order struct {
	Root    string
	Options Options
	Umask   int    // 0: as it is
	Flock   string // "ENOLCK", "EBADF": what the kernel answers to every flock; "lies": every flock succeeds
	Network bool   // the store seems to lie on a network file system

	Do      string // "acquire" when empty; "prune", "hits", "stress"
	Key     string
	Bound   bool   // the key is path-bound
	Count   string // file that gets a line per build
	StopAt  string // a point of the protocol or of the builder that the process never passes
	Fail    Class  // of the failure that the build ends with
	Fill    int    // bytes of the environment
	Handing bool   // a build goes on when stdin has a byte
	Policy  Policy
	Hits    int
	Seed    uint64
}

// child carries out an order: it prints the state and the directory of the environment, and holds it until its stdin ends.
func child(text string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var o order
	err := json.Unmarshal([]byte(text), &o)
	if err == nil {
		err = o.carryOut(ctx)
	}
	if err != nil {
		fmt.Printf("error %T %q\n", err, err.Error())
		return 1
	}
	return 0
}

func (o order) carryOut(ctx context.Context) error {
	if o.Umask != 0 {
		syscall.Umask(o.Umask)
	}
	if errno := map[string]syscall.Errno{"ENOLCK": syscall.ENOLCK, "EBADF": syscall.EBADF}[o.Flock]; errno != 0 {
		if err := denyFlock(errno); err != nil {
			return err
		}
	}
	store, err := Open(o.Root, o.Options)
	if err != nil {
		return err
	}
	if o.Flock == "lies" {
		store.sys.flock = func(int, int) error { return nil }
	}
	store.sys.network = func(string) bool { return o.Network }
	store.sys.reached = func(point string) {
		if point == o.StopAt {
			fmt.Println("progress", point)
			time.Sleep(time.Hour)
		}
	}
	switch o.Do {
	case "prune":
		report, err := store.Prune(ctx, o.Policy)
		data, _ := json.Marshal(report)
		fmt.Println("report", string(data))
		return err
	case "hits":
		fmt.Println("ready")
		_, _ = os.Stdin.Read(make([]byte, 1))
		err := hits(store, o.Hits)
		fmt.Println("done")
		return err
	case "stress":
		return stressWorker(ctx, store, o)
	default:
		return o.acquire(ctx, store)
	}
}

func (o order) acquire(ctx context.Context, store *Store) error {
	b := &testBuilder{count: o.Count, stopAt: o.StopAt, fill: o.Fill}
	if o.Fail != "" {
		b.fail = classError(o.Fail)
	}
	if o.Handing {
		b.wait = make(chan struct{})
		go func() {
			_, _ = os.Stdin.Read(make([]byte, 1))
			close(b.wait)
		}()
	}
	env, err := store.Acquire(ctx, NewKey([]KeyInput{{Name: "manifest", Value: o.Key}}, o.Bound), b, AcquireOptions{Progress: func(p Progress) {
		switch {
		case p.Phase == "waiting" || p.Phase == "building" && p.Line == "" || p.Phase == o.StopAt || p.Phase == "building without a lock":
			fmt.Println("progress", p.Phase, p.Holder)
		case p.Line != "" && !strings.HasPrefix(p.Line, "line "):
			fmt.Println("progress", p.Phase, p.Line)
		}
	}})
	if err != nil {
		return err
	}
	defer func() { _ = env.Close() }()
	if _, err := os.ReadFile(filepath.Join(env.Dir, "whole")); err != nil {
		return err
	}
	fmt.Println("state", env.State, env.Dir)
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

// process is a child that carries out an order.
type process struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
	stdin io.WriteCloser
}

func start(t testing.TB, o order) *process { return startAs(t, 0, nil, o) }

// startAs starts a child as another user; uid 0 is the one at hand.
func startAs(t testing.TB, uid uint32, groups []uint32, o order) *process {
	t.Helper()
	text, err := json.Marshal(o)
	require.NoError(t, err)
	cmd := exec.Command(os.Args[0])
	if uid != 0 {
		cmd.Path, cmd.Dir = readableBinary(t), "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid, Groups: groups}}
	}
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", "ENVCACHE_CHILD="+string(text))
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return &process{cmd: cmd, lines: bufio.NewScanner(stdout), stdin: stdin}
}

// next is the process's next line that begins with some words.
func (p *process) next(t testing.TB, word string) string {
	t.Helper()
	for p.lines.Scan() {
		if strings.HasPrefix(p.lines.Text()+" ", word+" ") {
			return p.lines.Text()
		}
		require.False(t, strings.HasPrefix(p.lines.Text(), "error"), p.lines.Text())
	}
	t.Fatalf("the process ended without a line %q", word)
	return ""
}

// state is how the process came to its environment, and where that is.
func (p *process) state(t testing.TB) (State, string) {
	t.Helper()
	words := strings.SplitN(p.next(t, "state"), " ", 3)
	return State(words[1]), words[2]
}

// end lets the process let go and end well.
func (p *process) end(t testing.TB) {
	t.Helper()
	require.NoError(t, p.stdin.Close())
	require.NoError(t, p.cmd.Wait())
}

func (p *process) kill(t testing.TB) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Kill())
	_ = p.cmd.Wait()
}

// readableBinary is this test's binary where every user can run it.
var readableBinary = func() func(testing.TB) string {
	var once sync.Once
	var path string
	return func(t testing.TB) string {
		once.Do(func() {
			dir, err := os.MkdirTemp("", "envcache-test")
			require.NoError(t, err)
			require.NoError(t, os.Chmod(dir, 0o755))
			path = filepath.Join(dir, "test")
			data, err := os.ReadFile(os.Args[0])
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(path, data, 0o755))
			binaryDir = dir
		})
		return path
	}
}()

// binaryDir is removed at the end.
var binaryDir string

func testKey(name string) Key { return NewKey([]KeyInput{{Name: "manifest", Value: name}}, false) }

// classError is a builder's failure of a class.
type classError Class

func (e classError) Error() string { return "a " + string(e) + " failure" }
func (e classError) Class() Class  { return Class(e) }

// testBuilder writes two files; its interpreter is a file that it reads.
type testBuilder struct {
	interpreter string
	count       string // file that gets a line per build
	stopAt      string // phase in which the build never ends: build, check
	fail        error
	wait        chan struct{} // the build goes on when it is closed
	started     chan struct{} // closed by the build
	fill        int           // bytes to write
	files       int           // empty files to make
	during      func(site Site) error
	probes      atomic.Int32
}

func (b *testBuilder) Interpreter() Interpreter {
	if b.interpreter == "" {
		return Interpreter{}
	}
	i, _ := b.identity(b.interpreter)
	return i
}

func (b *testBuilder) identity(path string) (Interpreter, error) {
	text, err := os.ReadFile(path)
	version, abi, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	return Interpreter{Path: path, Version: version, ABI: abi}, err
}

func (b *testBuilder) Probe(_ context.Context, path string) (Interpreter, error) {
	b.probes.Add(1)
	return b.identity(path)
}

func (b *testBuilder) Build(ctx context.Context, site Site) (Built, error) {
	if b.count != "" {
		f, err := os.OpenFile(b.count, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return Built{}, err
		}
		_, _ = fmt.Fprintln(f, os.Getpid())
		_ = f.Close()
	}
	if b.started != nil {
		close(b.started)
	}
	if b.wait != nil {
		select {
		case <-b.wait:
		case <-ctx.Done():
			return Built{}, ctx.Err()
		}
	}
	for i := range 30 {
		_, _ = fmt.Fprintf(site.Log, "line %d\n", i)
	}
	if err := b.write(site); err != nil {
		return Built{}, err
	}
	if b.stopAt == "build" {
		return b.block(ctx, site.Phase)
	}
	if b.fail != nil {
		return Built{}, b.fail
	}
	if err := os.WriteFile(filepath.Join(site.Dir, "whole"), []byte("done"), 0o600); err != nil {
		return Built{}, err
	}
	return Built{Resolved: []string{"one==1"}, Locked: true, Sentinels: []string{"whole"}, Complete: []string{"packages"}}, nil
}

func (b *testBuilder) write(site Site) error {
	if err := os.WriteFile(filepath.Join(site.Dir, "half"), make([]byte, b.fill), 0o600); err != nil {
		return err
	}
	for _, name := range []string{"one", "two"} {
		if err := os.MkdirAll(filepath.Join(site.Dir, "packages", name), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(site.Dir, "packages", name, "module"), nil, 0o600); err != nil {
			return err
		}
	}
	for i := range b.files {
		if err := os.WriteFile(filepath.Join(site.Dir, fmt.Sprint("file", i)), nil, 0o600); err != nil {
			return err
		}
	}
	if b.during != nil {
		return b.during(site)
	}
	return nil
}

func (b *testBuilder) block(ctx context.Context, phase func(string)) (Built, error) {
	phase("build")
	<-ctx.Done()
	return Built{}, ctx.Err()
}

func (b *testBuilder) Check(ctx context.Context, dir string) error {
	if b.stopAt == "check" {
		fmt.Println("progress check")
		<-ctx.Done()
		return ctx.Err()
	}
	if _, err := os.Stat(filepath.Join(dir, "whole")); err != nil {
		return errors.New("it does not work")
	}
	return nil
}

// publicDir is a temporary directory that every user can reach.
func publicDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "envcache")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	return dir
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounts and other users take root")
	}
}

// smallDisk is a tmpfs with some options, "size=1m".
func smallDisk(t testing.TB, options string) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	mountMemory(t, dir, "mode=700,"+options)
	return dir
}

// readOnly makes a directory read-only, for root as well, until the test ends.
func readOnly(t testing.TB, dir string) {
	t.Helper()
	needRoot(t)
	bindReadOnly(t, dir)
}
