package worker

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
	"github.com/attune-run/attune/queue/natsq"
)

// memberVariable makes this binary a worker of a pool; its value is a member in JSON.
const memberVariable = "ATTUNE_TEST_MEMBER"

func TestMain(m *testing.M) {
	if text := os.Getenv(memberVariable); text != "" {
		os.Exit(serveMember(text))
	}
	// nats.go lets go of the channel this waits on before it waits, when a connection is closed right after its first log.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/nats-io/nats.go/jetstream.(*jetStream).resetPendingAcksOnReconnect"))
}

// member is a worker that a test starts, in its own process or in another.
type member struct {
	Name    string
	Broker  natsq.Options // of another process
	Packs   []string
	PackDir string
	Dir     string // for its cache and private files
	Slots   int
	Grace   time.Duration
	Timing  Timing
	Labels  map[string]string
	Taints  []executor.Taint
	Allow   []string
	Scripts bool
	Keys    []Key
	Mode    string
	Newer   bool   // writes what a later version would
	Log     string // a file for what another process says; empty means this process's stderr
}

func (m member) config(broker queue.Broker) (Config, error) {
	mode := executor.Agent(nil)
	if m.Mode == "worker" {
		mode = executor.Worker()
	}
	service, err := executor.New(executor.Config{
		Mode: mode, Packs: m.Packs, CacheDir: filepath.Join(m.Dir, "cache"), TempDir: filepath.Join(m.Dir, "private"), Worker: m.Name,
		Log: testLog(),
	})
	return Config{
		Broker: broker, Service: service, Name: m.Name, Version: "test", Slots: m.Slots, Labels: m.Labels, Taints: m.Taints, TrustedKeys: m.Keys,
		AllowActions: m.Allow, AllowScripts: m.Scripts, PackDir: m.PackDir, Grace: m.Grace, Timing: m.Timing, Log: testLog(),
	}, err
}

func testLog() *slog.Logger {
	if os.Getenv("ATTUNE_TEST_LOG") == "" {
		return nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil))
}

// serveMember is a worker process: the first SIGTERM drains, the second ends what runs.
func serveMember(text string) int {
	var m member
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		panic(err)
	}
	_ = os.Unsetenv(memberVariable)
	broker, err := natsq.Open(context.Background(), m.Broker)
	if err != nil {
		panic(err)
	}
	if m.Newer {
		broker = later{broker}
	}
	cfg, err := m.config(broker)
	if err != nil {
		panic(err)
	}
	w, err := New(cfg)
	if err != nil {
		panic(err)
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM)
	take, drain := context.WithCancel(context.Background())
	work, end := context.WithCancel(context.Background())
	go func() {
		<-signals
		drain()
		<-signals
		end()
		<-signals
		os.Exit(3)
	}()
	go func() {
		for w.Ready() != nil {
			time.Sleep(5 * time.Millisecond)
		}
		_, _ = os.Stdout.WriteString("serving\n")
	}()
	if err := w.Run(take, work); err != nil {
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
		return 1
	}
	if broker.Close() != nil {
		return 2
	}
	return 0
}

// testPool is a broker of the test's own, with what tests need of it.
type testPool struct {
	t       *testing.T
	store   string
	broker  queue.Broker
	client  *Client
	packs   string // a directory of packs
	ackWait time.Duration
}

// quick are timings for tests: an ack wait of two seconds goes with them.
var quick = Timing{Heartbeat: 200 * time.Millisecond, Fence: time.Second, Scheduler: 50 * time.Millisecond, Reconcile: 500 * time.Millisecond, Lease: time.Second}

const quickAck = 2 * time.Second

func newTestPool(t *testing.T, files map[string]string) *testPool {
	t.Helper()
	return newTestPoolOf(t, files, natsq.Options{AckWait: quickAck, WorkerTTL: 3 * time.Second})
}

func newTestPoolOf(t *testing.T, files map[string]string, options natsq.Options) *testPool {
	t.Helper()
	p := &testPool{t: t, store: t.TempDir(), packs: t.TempDir(), ackWait: options.AckWait}
	options.Store = p.store
	var err error
	p.broker, err = natsq.Open(t.Context(), options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.broker.Close()) })
	p.client = NewClient(ClientConfig{Broker: p.broker})
	for name, text := range files {
		path := filepath.Join(p.packs, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o755))
	}
	return p
}

func (p *testPool) member(change func(*member)) member {
	p.t.Helper()
	core, err := filepath.Abs("../packs")
	require.NoError(p.t, err)
	m := member{Name: "one", Packs: []string{p.packs, core}, Dir: p.t.TempDir(), Slots: 4, Grace: 5 * time.Second, Timing: quick}
	if change != nil {
		change(&m)
	}
	return m
}

// serve runs a worker in this process until stop, or the test's end.
func (p *testPool) serve(change func(*member)) (w *Worker, stop func()) {
	p.t.Helper()
	cfg, err := p.member(change).config(p.broker)
	require.NoError(p.t, err)
	w, err = New(cfg)
	require.NoError(p.t, err)
	take, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(take, context.Background()) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			require.NoError(p.t, <-done)
		}
	}
	p.t.Cleanup(stop)
	require.Eventually(p.t, func() bool { return w.Ready() == nil }, 20*time.Second, 2*time.Millisecond)
	return w, stop
}

// process is a worker in a process of its own.
type process struct {
	*exec.Cmd
	t *testing.T
}

func (p *testPool) spawn(change func(*member)) *process {
	p.t.Helper()
	m := p.member(change)
	options, err := natsq.Discover(p.store)
	require.NoError(p.t, err)
	options.AckWait = p.ackWait // of routes that this process opens
	m.Broker = options
	text, err := json.Marshal(m)
	require.NoError(p.t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), memberVariable+"="+string(text))
	cmd.Stderr = os.Stderr
	if m.Log != "" {
		said, err := os.Create(m.Log)
		require.NoError(p.t, err)
		defer func() { _ = said.Close() }()
		cmd.Stderr, cmd.Env = said, append(cmd.Env, "ATTUNE_TEST_LOG=1")
	}
	stdout, err := cmd.StdoutPipe()
	require.NoError(p.t, err)
	require.NoError(p.t, cmd.Start())
	q := &process{Cmd: cmd, t: p.t}
	p.t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(p.t, err)
	require.Equal(p.t, "serving\n", line)
	return q
}

// drain asks it to end, and waits until it has.
func (q *process) drain() {
	q.t.Helper()
	q.signal(syscall.SIGTERM)
	require.NoError(q.t, q.Wait())
}

func (q *process) signal(s syscall.Signal) {
	q.t.Helper()
	require.NoError(q.t, q.Process.Signal(s))
}

func (p *testPool) submit(req executor.Request) string {
	p.t.Helper()
	accepted, err := p.client.Submit(p.t.Context(), Order{Request: req})
	require.NoError(p.t, err)
	return accepted.ID
}

// result waits for an execution's end.
func (p *testPool) result(id string) (*queue.Record, executor.Result) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 40*time.Second)
	defer cancel()
	r, err := p.client.Wait(ctx, id)
	if err != nil {
		last, _ := p.client.Record(context.Background(), id)
		require.NoError(p.t, err, "%+v", last)
	}
	text, err := p.client.Result(ctx, r)
	require.NoError(p.t, err)
	var result executor.Result
	require.NoError(p.t, json.Unmarshal(text, &result))
	return r, result
}

func (p *testPool) run(req executor.Request) (*queue.Record, executor.Result) {
	p.t.Helper()
	return p.result(p.submit(req))
}

// record waits until a record is as it should be.
func (p *testPool) record(id string, is func(*queue.Record) bool) *queue.Record {
	p.t.Helper()
	var r *queue.Record
	require.Eventually(p.t, func() bool {
		var err error
		r, err = p.client.Record(p.t.Context(), id)
		return err == nil && is(r)
	}, 20*time.Second, 5*time.Millisecond, "%+v", r)
	return r
}

// idle waits until no message is left.
func (p *testPool) idle() {
	p.t.Helper()
	require.Eventually(p.t, func() bool {
		all, err := p.broker.Work().Backlog(p.t.Context())
		for _, b := range all {
			if b.Waiting+b.Taken > 0 {
				return false
			}
		}
		return err == nil
	}, 20*time.Second, 10*time.Millisecond)
}

// audit is what was written down about an execution.
func (p *testPool) audit(id string) (lines []string) {
	p.t.Helper()
	for line, err := range p.client.Audit(p.t.Context(), time.Time{}, false) {
		require.NoError(p.t, err)
		if line.ID == id {
			lines = append(lines, line.What)
		}
	}
	return lines
}

func (p *testPool) object(name string) string {
	p.t.Helper()
	r, err := p.broker.Objects().Get(p.t.Context(), name)
	require.NoError(p.t, err)
	text, err := io.ReadAll(r)
	require.NoError(p.t, err)
	require.NoError(p.t, r.Close())
	return string(text)
}

// waitFile waits for a file that an action writes.
func (p *testPool) waitFile(path string) string {
	p.t.Helper()
	var text []byte
	require.Eventually(p.t, func() bool {
		var err error
		text, err = os.ReadFile(path)
		return err == nil && strings.HasSuffix(string(text), "\n")
	}, 20*time.Second, 5*time.Millisecond, path)
	return strings.TrimSpace(string(text))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
