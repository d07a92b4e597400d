package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
	"github.com/attune-run/attune/queue/natsq"
	"github.com/attune-run/attune/worker"
)

// The protocol's intervals, short so that much happens in a minute.
const (
	ackWait   = 2 * time.Second
	heartbeat = 300 * time.Millisecond
	fence     = 1500 * time.Millisecond
)

// binaries are what is tested, built once.
type binaries struct{ worker, nats, packs string }

var built = sync.OnceValues(func() (binaries, error) {
	dir, err := os.MkdirTemp("", "attune-chaos-bin")
	if err != nil {
		return binaries{}, err
	}
	packs, err := filepath.Abs("testdata/packs")
	if err != nil {
		return binaries{}, err
	}
	core, err := filepath.Abs("../../packs")
	if err != nil {
		return binaries{}, err
	}
	b := binaries{filepath.Join(dir, "attune-worker"), filepath.Join(dir, "nats-server"), packs + ":" + core}
	for path, pkg := range map[string]string{b.worker: "github.com/attune-run/attune/cmd/attune-worker", b.nats: "github.com/nats-io/nats-server/v2"} {
		if out, err := exec.Command("go", "build", "-o", path, pkg).CombinedOutput(); err != nil {
			return b, fmt.Errorf("build %s: %w: %s", pkg, err, out)
		}
	}
	return b, nil
})

// TestMain removes what was built.
func TestMain(m *testing.M) {
	code := m.Run()
	if b, err := built(); err == nil {
		_ = os.RemoveAll(filepath.Dir(b.worker))
	}
	os.Exit(code)
}

// pool is a broker with what runs on it.
type pool struct {
	t      *testing.T
	bin    binaries
	dir    string
	ledger string // where chaos.work writes that it started

	brokers []*process // none where a worker has it in its process; three are a cluster
	ports   []int      // of clients
	routes  []int      // of the other brokers; empty for a single one
	url     string

	ttl time.Duration // of workers' entries; zero means the default

	mu      sync.Mutex
	workers int

	client *worker.Client
	direct queue.Broker
}

// newPool starts a broker, and a client of it.
func newPool(t *testing.T) *pool { return newPoolOf(t, 1, 0) }

func newPoolOf(t *testing.T, brokers int, ttl time.Duration) *pool {
	t.Helper()
	p := newDir(t)
	p.ttl = ttl
	var urls []string
	for i := range brokers {
		p.ports = append(p.ports, freePort(t))
		if brokers > 1 {
			p.routes = append(p.routes, freePort(t))
		}
		urls = append(urls, fmt.Sprintf("nats://127.0.0.1:%d", p.ports[i]))
	}
	p.brokers, p.url = make([]*process, brokers), strings.Join(urls, ",")
	for i := range brokers {
		p.startBroker(i)
	}
	for i := range brokers {
		p.awaitBroker(i)
	}
	p.connect(natsq.Options{URL: p.url})
	return p
}

func newDir(t *testing.T) *pool {
	t.Helper()
	bin, err := built()
	require.NoError(t, err)
	dir := t.TempDir()
	return &pool{t: t, bin: bin, dir: dir, ledger: filepath.Join(dir, "ledger")}
}

func (p *pool) connect(options natsq.Options) {
	p.t.Helper()
	options.AckWait, options.WorkerTTL = ackWait, p.ttl
	ctx, cancel := context.WithTimeout(p.t.Context(), 30*time.Second)
	defer cancel()
	broker, err := natsq.Open(ctx, options)
	require.NoError(p.t, err)
	p.t.Cleanup(func() { _ = broker.Close() })
	service, err := executor.New(executor.Config{CacheDir: filepath.Join(p.dir, "cache"), Packs: strings.Split(p.bin.packs, ":")})
	require.NoError(p.t, err)
	p.direct, p.client = broker, worker.NewClient(worker.ClientConfig{Broker: broker, Service: service, Who: "chaos"})
}

// startBroker starts a server on its port and its store, which may have been used before.
func (p *pool) startBroker(i int) {
	config := filepath.Join(p.dir, fmt.Sprintf("nats-%d.conf", i))
	text := fmt.Sprintf("server_name: broker-%d\nlisten: \"127.0.0.1:%d\"\njetstream { store_dir: %q, sync_interval: always }\n",
		i, p.ports[i], filepath.Join(p.dir, fmt.Sprintf("jetstream-%d", i)))
	if len(p.routes) > 0 {
		var routes []string
		for _, port := range p.routes {
			routes = append(routes, fmt.Sprintf("\"nats://127.0.0.1:%d\"", port))
		}
		text += fmt.Sprintf("cluster { name: chaos, listen: \"127.0.0.1:%d\", routes: [%s] }\n", p.routes[i], strings.Join(routes, ", "))
	}
	require.NoError(p.t, os.WriteFile(config, []byte(text), 0o600))
	p.brokers[i] = p.start(fmt.Sprintf("broker-%d", i), p.bin.nats, nil, "--config", config)
}

func (p *pool) awaitBroker(i int) {
	require.Eventually(p.t, func() bool {
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", p.ports[i]), time.Second)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}, 30*time.Second, 20*time.Millisecond)
}

// server is one attune-worker serve.
type server struct {
	*process
	name string
	http string // its address for metrics
}

// serve starts a worker with a name of its own on the pool's broker.
func (p *pool) serve(flags ...string) *server { return p.serveAt(p.url, flags...) }

func (p *pool) serveAt(url string, flags ...string) *server {
	return p.serveWith(append([]string{"--nats", url}, flags...)...)
}

func (p *pool) serveWith(flags ...string) *server {
	return p.serveUnder(nil, flags...)
}

// serveUnder starts a worker by a program that becomes it in the end.
func (p *pool) serveUnder(launcher []string, flags ...string) *server {
	p.mu.Lock()
	p.workers++
	s := &server{name: fmt.Sprintf("w%d", p.workers), http: fmt.Sprintf("127.0.0.1:%d", freePort(p.t))}
	p.mu.Unlock()
	args := append([]string{"serve", "--name", s.name, "--mode", "agent", "--concurrency", "4", "--http", s.http, "--log-level", "debug"}, flags...)
	command := append(append(slices.Clone(launcher), p.bin.worker), args...)
	s.process = p.start(s.name, command[0], []string{
		"ATTUNE_PACKS=" + p.bin.packs, "ATTUNE_CACHE=" + filepath.Join(p.dir, "cache"), "HOME=" + p.dir, "ATTUNE_NATS_URL=", "ATTUNE_CONFIG=/dev/null",
		"ATTUNE_ACK_WAIT=" + ackWait.String(), "ATTUNE_WORKER_HEARTBEAT=" + heartbeat.String(), "ATTUNE_WORKER_FENCE=" + fence.String(),
	}, command[1:]...)
	return s
}

// awaitReady returns once the worker takes work.
func (s *server) awaitReady(t *testing.T) *server {
	t.Helper()
	require.Eventually(t, func() bool {
		response, err := http.Get("http://" + s.http + "/readyz") //nolint:noctx // a test's
		if err != nil {
			return false
		}
		_ = response.Body.Close()
		return response.StatusCode == http.StatusOK
	}, 60*time.Second, 20*time.Millisecond, "%s: %s", s.name, s.log())
	return s
}

// metrics is what the worker's page says now.
func (s *server) metrics(t *testing.T) string { return s.page(t, "/metrics") }

// health is whether it is ready, and otherwise why not.
func (s *server) health(t *testing.T) string { return s.page(t, "/readyz") }

func (s *server) page(t *testing.T, path string) string {
	t.Helper()
	response, err := http.Get("http://" + s.http + path) //nolint:noctx // a test's
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return string(text)
}

// process is one that this test started.
type process struct {
	cmd  *exec.Cmd
	path string // of what it printed
	done chan struct{}
}

func (p *pool) start(name, path string, env []string, args ...string) *process {
	file := filepath.Join(p.dir, name+".log")
	out, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	require.NoError(p.t, err)
	defer func() { _ = out.Close() }()
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = out, out, p.dir
	require.NoError(p.t, cmd.Start())
	s := &process{cmd: cmd, path: file, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		_ = cmd.Wait()
	}()
	p.t.Cleanup(s.kill)
	return s
}

func (s *process) signal(sig syscall.Signal) { _ = s.cmd.Process.Signal(sig) }

// kill ends it without a chance to say goodbye.
func (s *process) kill() {
	s.signal(syscall.SIGKILL)
	<-s.done
}

// exit waits for its own end and gives the code.
func (s *process) exit(t *testing.T) int {
	t.Helper()
	select {
	case <-s.done:
	case <-time.After(60 * time.Second):
		require.Fail(t, "it does not end", s.log())
	}
	return s.cmd.ProcessState.ExitCode()
}

func (s *process) log() string {
	text, _ := os.ReadFile(s.path)
	return string(text)
}

// work is a request of chaos.work.
func (p *pool) work(seconds string, change ...func(*executor.Request)) worker.Order {
	req := executor.Request{Schema: executor.RequestSchema, Action: "chaos.work", OnLost: queue.OnLostRetry,
		Parameters: map[string]any{"ledger": p.ledger, "seconds": number(seconds)}}
	for _, c := range change {
		c(&req)
	}
	return worker.Order{Request: req}
}

func (p *pool) submit(o worker.Order) string {
	p.t.Helper()
	accepted, err := p.client.Submit(p.t.Context(), o)
	require.NoError(p.t, err)
	return accepted.ID
}

// wait returns the record when it is done.
func (p *pool) wait(id string) *queue.Record {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 60*time.Second)
	defer cancel()
	r, err := p.client.Wait(ctx, id)
	if err != nil {
		state, _ := p.client.Record(p.t.Context(), id)
		require.NoError(p.t, err, "%+v", state)
	}
	return r
}

// starts are the nonces of the children that started, by execution.
func (p *pool) starts() map[string][]string {
	text, err := os.ReadFile(p.ledger)
	if !errors.Is(err, os.ErrNotExist) {
		require.NoError(p.t, err)
	}
	all := map[string][]string{}
	for line := range strings.Lines(string(text)) {
		id, nonce, _ := strings.Cut(strings.TrimSpace(line), " ")
		all[id] = append(all[id], nonce)
	}
	return all
}

func (p *pool) awaitStart(id string) {
	p.t.Helper()
	require.Eventually(p.t, func() bool { return len(p.starts()[id]) > 0 }, 60*time.Second, 10*time.Millisecond)
}

func freePort(t *testing.T) int {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	address, _ := listener.Addr().(*net.TCPAddr)
	return address.Port
}

// link is a connection that can be cut: while it is, nothing passes and nothing is closed, as in a partition.
type link struct {
	url string

	mu  sync.Mutex
	cut bool
	cnd *sync.Cond
}

func (p *pool) link() *link {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(p.t, err)
	l := &link{url: "nats://" + listener.Addr().String()}
	var turn atomic.Int64 // each connection goes to another server
	l.cnd = sync.NewCond(&l.mu)
	p.t.Cleanup(func() { _ = listener.Close(); l.set(false) })
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			go l.join(near, fmt.Sprintf("127.0.0.1:%d", p.ports[int(turn.Add(1))%len(p.ports)]))
		}
	}()
	return l
}

func (l *link) join(near net.Conn, address string) {
	defer func() { _ = near.Close() }()
	l.pass()
	far, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer func() { _ = far.Close() }()
	done := make(chan struct{}, 2)
	for _, pair := range [][2]net.Conn{{near, far}, {far, near}} {
		go func() {
			defer func() { done <- struct{}{} }()
			buffer := make([]byte, 64<<10)
			for {
				n, err := pair[0].Read(buffer)
				if err != nil {
					return
				}
				l.pass()
				if _, err := pair[1].Write(buffer[:n]); err != nil {
					return
				}
			}
		}()
	}
	<-done
}

// pass waits while the link is cut.
func (l *link) pass() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.cut {
		l.cnd.Wait()
	}
}

func (l *link) set(cut bool) {
	l.mu.Lock()
	l.cut = cut
	l.mu.Unlock()
	l.cnd.Broadcast()
}
