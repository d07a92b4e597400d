package natsq_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/attune-run/attune/queue"
	"github.com/attune-run/attune/queue/natsq"
)

// serverVariable makes the test binary a NATS server of its own, which ends with its standard input.
const serverVariable = "NATSQ_TEST_SERVER"

func TestMain(m *testing.M) {
	if config := os.Getenv(serverVariable); config != "" {
		serve(config)
		return
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*Server).startGoRoutine"))
}

// serverConfig is one server; its ports are fixed so that it can be started again.
type serverConfig struct {
	Name, Store        string
	Port, ClusterPort  int
	Routes             []string
	User, Pass, Token  string
	MaxStore           int64
	CA, Cert, Key      string
	NoSync, NoJetStore bool
}

func serve(text string) {
	var c serverConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		panic(err)
	}
	options := &server.Options{
		ServerName: c.Name, Host: "127.0.0.1", Port: c.Port, JetStream: true, StoreDir: c.Store, SyncAlways: !c.NoSync, NoSigs: true,
		Username: c.User, Password: c.Pass, Authorization: c.Token, JetStreamMaxStore: c.MaxStore, JetStreamMaxMemory: 64 << 20,
	}
	if c.ClusterPort != 0 {
		options.Cluster = server.ClusterOpts{Name: "pool", Host: "127.0.0.1", Port: c.ClusterPort}
		for _, route := range c.Routes {
			u, err := url.Parse(route)
			if err != nil {
				panic(err)
			}
			options.Routes = append(options.Routes, u)
		}
	}
	s, err := server.NewServer(options)
	if err != nil {
		panic(err)
	}
	if file := os.Getenv("NATSQ_TEST_LOG"); file != "" {
		options.LogFile = file + c.Name
		options.Logtime = true
		s.ConfigureLogger()
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	s.Start()
	s.WaitForShutdown()
}

// process is a server in a process of its own.
type process struct {
	config serverConfig
	cmd    *exec.Cmd
	stdin  io.Closer
}

// portsTaken are the ports that were given out; a server that is killed must find its own free again.
var portsTaken sync.Map

// freePort is below those that the kernel gives to connections.
func freePort(t *testing.T) int {
	t.Helper()
	for {
		port := 12_000 + rand.IntN(20_000)
		if _, taken := portsTaken.LoadOrStore(port, true); taken {
			continue
		}
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			require.NoError(t, l.Close())
			return port
		}
	}
}

func startServer(t *testing.T, config serverConfig) *process {
	t.Helper()
	if config.Port == 0 {
		config.Port = freePort(t)
	}
	if config.Store == "" {
		config.Store = t.TempDir()
	}
	p := &process{config: config}
	p.start(t)
	t.Cleanup(p.kill)
	return p
}

func (p *process) start(t *testing.T) {
	t.Helper()
	text, err := json.Marshal(p.config)
	require.NoError(t, err)
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), serverVariable+"="+string(text))
	p.cmd.Stderr = os.Stderr
	p.stdin, err = p.cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
}

func (p *process) url() string { return fmt.Sprintf("nats://127.0.0.1:%d", p.config.Port) }

func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// freeze is done when all of the server stands still, which is a moment after the signal.
func (p *process) freeze(t *testing.T) {
	t.Helper()
	p.signal(syscall.SIGSTOP)
	for {
		var status syscall.WaitStatus
		_, err := syscall.Wait4(p.cmd.Process.Pid, &status, syscall.WUNTRACED, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		require.NoError(t, err)
		require.True(t, status.Stopped())
		return
	}
}

func (p *process) kill() {
	if p.cmd.ProcessState != nil {
		return
	}
	p.signal(syscall.SIGKILL)
	_ = p.cmd.Wait()
	_ = p.stdin.Close()
}

// cluster is three servers.
type cluster []*process

func startCluster(t *testing.T) cluster {
	t.Helper()
	var configs []serverConfig
	var routes []string
	for i := range 3 {
		c := serverConfig{Name: fmt.Sprintf("n%d", i), Store: t.TempDir(), Port: freePort(t), ClusterPort: freePort(t)}
		configs = append(configs, c)
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", c.ClusterPort))
	}
	var c cluster
	for _, config := range configs {
		config.Routes = routes
		c = append(c, startServer(t, config))
	}
	return c
}

func (c cluster) url() string {
	var urls []string
	for _, p := range c {
		urls = append(urls, p.url())
	}
	return strings.Join(urls, ",")
}

// leader is the server that leads a stream.
func (c cluster) leader(t *testing.T, stream string) *process {
	t.Helper()
	nc, err := nats.Connect(c.url())
	require.NoError(t, err)
	defer nc.Close()
	var found *process
	require.Eventually(t, func() bool {
		js, err := nc.JetStream()
		require.NoError(t, err)
		info, err := js.StreamInfo(stream)
		if err != nil || info.Cluster == nil {
			return false
		}
		for _, p := range c {
			if p.config.Name == info.Cluster.Leader {
				found = p
			}
		}
		return found != nil
	}, 30*time.Second, 100*time.Millisecond)
	return found
}

const (
	ackWait   = 2 * time.Second
	workerTTL = 2 * time.Second
)

func open(t *testing.T, options natsq.Options) queue.Broker {
	t.Helper()
	options.AckWait, options.WorkerTTL = ackWait, workerTTL
	options.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	b, err := natsq.Open(ctx, options)
	require.NoError(t, err)
	return b
}
