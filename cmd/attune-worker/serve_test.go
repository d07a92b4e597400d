package main

import (
	"compress/gzip"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// spans are the names of the spans of one trace, as a collector gets them.
type spans struct {
	mu   sync.Mutex
	seen map[string][]string // trace id, hex → names
}

func (s *spans) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		body, _ = gzip.NewReader(r.Body)
	}
	data, _ := io.ReadAll(body)
	var request collector.ExportTraceServiceRequest
	_ = proto.Unmarshal(data, &request)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, resource := range request.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				id := hex.EncodeToString(span.GetTraceId())
				s.seen[id] = append(s.seen[id], span.GetName())
			}
		}
	}
}

// An operator's view of one execution: the service manager is told, one trace leads from submit through the stages to the child, and the
// metrics count it.
func TestOperatorsFollowAnExecution(t *testing.T) {
	notified, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "notify"), Net: "unixgram"})
	require.NoError(t, err)
	defer func() { _ = notified.Close() }()
	states := make(chan string, 100)
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, err := notified.Read(buffer)
			if err != nil {
				return
			}
			states <- string(buffer[:n])
		}
	}()
	await := func(want string) {
		t.Helper()
		for {
			select {
			case state := <-states:
				if strings.Contains(state, want) {
					return
				}
			case <-time.After(60 * time.Second):
				require.Fail(t, "the service manager is not told "+want)
			}
		}
	}
	seen := &spans{seen: map[string][]string{}}
	otlp := httptest.NewServer(seen)
	defer otlp.Close()
	env := append(docsEnv(t), "OTEL_EXPORTER_OTLP_ENDPOINT="+otlp.URL, "TRACEPARENT=")
	port := freePort(t)

	server := exec.Command("attune-worker", "serve", "--http", port, "--mode", "agent", "--allow-scripts")
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	require.NoError(t, err)
	defer func() { _ = log.Close() }()
	server.Env = append(env, "NOTIFY_SOCKET="+notified.LocalAddr().String(), "WATCHDOG_USEC=300000")
	server.Stderr = log
	require.NoError(t, server.Start())
	defer func() { _ = server.Process.Kill() }()
	await("READY=1")
	await("WATCHDOG=1")

	script := filepath.Join(t.TempDir(), "trace.sh")
	require.NoError(t, os.WriteFile(script, []byte("echo $TRACEPARENT\n"), 0o600))
	submit := exec.Command("attune-worker", "submit", script, "--wait", "-q")
	submit.Env = env
	out, err := submit.Output()
	require.NoError(t, err, "%s", out)
	parts := strings.Split(strings.TrimSpace(string(out)), "-")
	require.Len(t, parts, 4, "what the child saw: %q", out)

	response, err := http.Get("http://127.0.0.1:" + port + "/metrics") //nolint:noctx // a test's
	require.NoError(t, err)
	page, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	_ = response.Body.Close()
	assert.Contains(t, string(page), `attune_executions_total{action="script",runtime="shell",status="succeeded"} 1`)
	assert.Contains(t, string(page), "attune_queue_wait_seconds_count 1")

	require.NoError(t, server.Process.Signal(syscall.SIGTERM))
	await("STOPPING=1")
	text, _ := os.ReadFile(log.Name())
	require.NoError(t, server.Wait(), "%s", text)
	assert.NotContains(t, string(text), "Plaintext passwords", "the embedded server keeps a hash")
	seen.mu.Lock()
	defer seen.mu.Unlock()
	names := seen.seen[parts[1]]
	for _, name := range []string{"submit script", "execute script", "load", "environment", "run"} {
		assert.Contains(t, names, name, "trace %s", parts[1])
	}
	assert.True(t, strings.Contains(strings.Join(names, "\n"), "queue script"), "%v", names)
}

func TestServeSaysWhatIsWrong(t *testing.T) {
	env := docsEnv(t)
	for want, args := range map[string][]string{
		"write worker or agent":        {"--mode", "both"},
		"write json or text":           {"--log-format", "xml"},
		"write debug, info":            {"--log-level", "loud"},
		"trusted submitter":            {"--trusted-keys", "ops=nothing.pub"},
		"http/protobuf only":           {},
		"no pattern of action names":   {"--allow-actions", "[a"},
		"write it like \"30s\"":        {"--grace", "soon"},
		"letters, digits, _, = and -,": {"--name", "two words"},
	} {
		serve := exec.Command("attune-worker", append([]string{"serve"}, args...)...)
		serve.Env = env
		if len(args) == 0 {
			serve.Env = append(serve.Env, "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL=grpc")
		}
		out, err := serve.CombinedOutput()
		assert.Error(t, err, args)
		assert.Contains(t, string(out), want)
	}
}
