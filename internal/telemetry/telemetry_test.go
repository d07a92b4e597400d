package telemetry

import (
	"compress/gzip"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
)

var quiet = slog.New(slog.DiscardHandler)

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	response, err := http.Get(url) //nolint:noctx // a test's
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(body)
}

func TestOperatorsSeeWhatHappened(t *testing.T) {
	m := NewMetrics("v1.2.3")
	var notReady error
	address, stop, err := Serve("127.0.0.1:0", m.Registry, func(context.Context) error { return notReady }, quiet)
	require.NoError(t, err)
	defer stop()

	r := &queue.Record{ID: "1", Action: "core.echo", Epoch: 1}
	m.Slots(3, 8)
	m.Claimed(r, 20*time.Millisecond, true)
	m.Committed(r, &executor.Result{Status: executor.Succeeded, DurationMS: 12, Runtime: executor.RuntimeInfo{Name: "bash"},
		Environment: executor.EnvironmentInfo{State: "built"}, Usage: executor.UsageInfo{MaxRSSBytes: 5 << 20}})
	m.Committed(&queue.Record{Action: "script:any.sh"}, &executor.Result{Status: executor.Failed, Environment: executor.EnvironmentInfo{State: "none"}})
	m.Fenced("1")

	code, body := get(t, "http://"+address+"/metrics")
	assert.Equal(t, http.StatusOK, code)
	for _, line := range []string{
		`attune_executions_total{action="core.echo",runtime="bash",status="succeeded"} 1`,
		`attune_executions_total{action="script",runtime="none",status="failed"} 1`,
		`attune_execution_duration_seconds_count{runtime="bash"} 1`,
		`attune_environments_total{state="built"} 1`,
		`attune_queue_wait_seconds_bucket{le="0.025"} 1`,
		`attune_redeliveries_total 1`, `attune_fenced_total 1`, `attune_slots 8`, `attune_slots_busy 3`,
		`attune_build_info{version="v1.2.3"} 1`, `process_resident_memory_bytes`, `go_goroutines`,
	} {
		assert.Contains(t, body, line)
	}
	assert.NotContains(t, body, `attune_environments_total{state="none"}`)

	code, body = get(t, "http://"+address+"/readyz")
	assert.Equal(t, http.StatusOK, code, body)
	notReady = errors.New("draining")
	code, body = get(t, "http://"+address+"/readyz")
	assert.Equal(t, http.StatusServiceUnavailable, code)
	assert.Equal(t, "draining\n", body)
	code, _ = get(t, "http://"+address+"/healthz")
	assert.Equal(t, http.StatusOK, code)
}

// Names come from submitters: they must not be able to fill the memory of whoever collects.
func TestNamesOfSubmittersAreBounded(t *testing.T) {
	m := NewMetrics("")
	for i := range 10 * labelsMax {
		m.Committed(&queue.Record{Action: fmt.Sprintf("pack.action%d", i)}, &executor.Result{Status: executor.Succeeded,
			Runtime: executor.RuntimeInfo{Name: fmt.Sprintf("runtime%d", i)}})
	}
	families, err := m.Registry.Gather()
	require.NoError(t, err)
	for _, family := range families {
		assert.LessOrEqual(t, len(family.GetMetric()), labelsMax+1, family.GetName())
		if family.GetName() == "attune_executions_total" {
			assert.Len(t, family.GetMetric(), labelsMax+1)
		}
	}
}

func TestAnAddressInUseIsAnError(t *testing.T) {
	m := NewMetrics("")
	ready := func(context.Context) error { return nil }
	address, stop, err := Serve("127.0.0.1:0", m.Registry, ready, quiet)
	require.NoError(t, err)
	defer stop()
	_, _, err = Serve(address, m.Registry, ready, quiet)
	assert.ErrorContains(t, err, "address already in use")
}

// collect is an OTLP collector; spans gives what arrived.
func collect(t *testing.T) (url string, spans func() map[string]*tracepb.Span) {
	var mu sync.Mutex
	arrived := map[string]*tracepb.Span{}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body := io.Reader(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			zipped, err := gzip.NewReader(r.Body)
			if !assert.NoError(t, err) {
				return
			}
			body = zipped
		}
		data, err := io.ReadAll(body)
		assert.NoError(t, err)
		var request collector.ExportTraceServiceRequest
		assert.NoError(t, proto.Unmarshal(data, &request))
		mu.Lock()
		defer mu.Unlock()
		for _, rs := range request.GetResourceSpans() {
			for _, ss := range rs.GetScopeSpans() {
				for _, span := range ss.GetSpans() {
					arrived[span.GetName()] = span
				}
			}
		}
	}))
	t.Cleanup(server.Close)
	return server.URL, func() map[string]*tracepb.Span {
		mu.Lock()
		defer mu.Unlock()
		return arrived
	}
}

func TestOneTraceFromSubmitToChild(t *testing.T) {
	url, spans := collect(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
	traces, err := NewTraces(t.Context(), "attune-worker", "v1", quiet)
	require.NoError(t, err)
	dir := t.TempDir()
	service, err := executor.New(executor.Config{CacheDir: filepath.Join(dir, "cache"), TempDir: filepath.Join(dir, "tmp")})
	require.NoError(t, err)

	callers := "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	traceparent, end := traces.Submit(t.Context(), callers, "script")
	end("id-1", nil)
	now := time.Now()
	traces.Claimed(&queue.Record{ID: "id-1", Action: "script", Traceparent: traceparent, ClaimedAt: now}, time.Second)
	req := executor.Request{Schema: executor.RequestSchema, Script: &executor.Script{Inline: "echo $TRACEPARENT", Runtime: "bash"}}
	req.Context.Traceparent = traceparent
	var events []string
	result := traces.Around(service.Execute)(t.Context(), req, executor.Observer{Event: func(e executor.Event) { events = append(events, string(e.Kind)) }})
	require.Equal(t, executor.Succeeded, result.Status, "%+v", result.Error)
	require.NoError(t, traces.Close(t.Context()))

	got := spans()
	for _, name := range []string{"submit script", "queue script", "execute script", "load", "environment", "run"} {
		require.Contains(t, got, name)
		assert.Equal(t, "0af7651916cd43dd8448eb211c80319c", hex.EncodeToString(got[name].GetTraceId()), name)
	}
	parent := func(name string) string { return hex.EncodeToString(got[name].GetParentSpanId()) }
	id := func(name string) string { return hex.EncodeToString(got[name].GetSpanId()) }
	assert.Equal(t, "b7ad6b7169203331", parent("submit script"))
	assert.Equal(t, id("submit script"), parent("queue script"))
	assert.Equal(t, id("submit script"), parent("execute script"))
	assert.Equal(t, id("execute script"), parent("environment"))
	assert.Equal(t, uint64(time.Second), got["queue script"].GetEndTimeUnixNano()-got["queue script"].GetStartTimeUnixNano())
	assert.Equal(t, "00-0af7651916cd43dd8448eb211c80319c-"+id("execute script")+"-01", strings.TrimSpace(result.Stdout), "what the child saw")
	assert.Contains(t, events, string(executor.ProcessStarted), "whoever watched before still does")
}

func TestWithoutAnEndpointNothingIsTraced(t *testing.T) {
	for _, name := range []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"} {
		t.Setenv(name, "")
	}
	traces, err := NewTraces(t.Context(), "attune-worker", "v1", quiet)
	require.NoError(t, err)
	within, end := traces.Submit(t.Context(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "core.echo")
	end("id", nil)
	assert.Equal(t, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", within, "a caller's trace goes on")
	within, _ = traces.Submit(t.Context(), "", "core.echo")
	assert.Empty(t, within)
	require.NoError(t, traces.Close(t.Context()))
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
	_, err = NewTraces(t.Context(), "attune-worker", "v1", quiet)
	assert.ErrorContains(t, err, "http/protobuf")
}

// A collector that is away costs nothing but its spans.
func TestACollectorThatIsAwayStopsNothing(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
	t.Setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "100")
	traces, err := NewTraces(t.Context(), "attune-worker", "v1", quiet)
	require.NoError(t, err)
	begun := time.Now()
	result := traces.Around(func(context.Context, executor.Request, executor.Observer) executor.Result {
		return executor.Result{Status: executor.Succeeded}
	})(t.Context(), executor.Request{Action: "core.echo"}, executor.Observer{})
	assert.Equal(t, executor.Succeeded, result.Status)
	assert.Less(t, time.Since(begun), time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_ = traces.Close(ctx)
}

func TestTheServiceManagerIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	defer func() { _ = socket.Close() }()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "60000")
	t.Setenv("WATCHDOG_PID", "")
	next := func() string {
		buffer := make([]byte, 1024)
		require.NoError(t, socket.SetReadDeadline(time.Now().Add(10*time.Second)))
		n, err := socket.Read(buffer)
		require.NoError(t, err)
		return string(buffer[:n])
	}
	s := Systemd{Log: quiet}
	s.Ready("taking work")
	assert.Equal(t, "READY=1\nSTATUS=taking work", next())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Watch(ctx, func() bool { return true }) }()
	assert.Equal(t, "WATCHDOG=1", next())
	assert.Equal(t, "WATCHDOG=1", next())
	cancel()
	<-done
	s.Stopping("draining")
	for got := next(); got != "STOPPING=1\nSTATUS=draining"; got = next() {
		assert.Equal(t, "WATCHDOG=1", got)
	}
}
