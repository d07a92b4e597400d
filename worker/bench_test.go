package worker

import (
	"bytes"
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
	"github.com/attune-run/attune/queue/natsq"
)

// benchPool is a pool with one worker of the default timings.
func benchPool(b *testing.B, slots int, execute func(context.Context, executor.Request, executor.Observer) executor.Result) (*Client, *executor.Service) {
	b.Helper()
	broker, err := natsq.Open(b.Context(), natsq.Options{Store: b.TempDir()})
	require.NoError(b, err)
	b.Cleanup(func() { _ = broker.Close() })
	core, err := filepath.Abs("../packs")
	require.NoError(b, err)
	dir := b.TempDir()
	service, err := executor.New(executor.Config{Packs: []string{core}, CacheDir: filepath.Join(dir, "cache"), TempDir: filepath.Join(dir, "private")})
	require.NoError(b, err)
	w, err := New(Config{Broker: broker, Service: service, Name: "bench", Slots: slots, Execute: execute})
	require.NoError(b, err)
	take, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(take, context.Background()) }()
	b.Cleanup(func() { stop(); require.NoError(b, <-done) })
	require.Eventually(b, func() bool { return w.Ready() == nil }, 20*time.Second, time.Millisecond)
	return NewClient(ClientConfig{Broker: broker}), service
}

var noop = executor.Request{Action: "core.noop"}

// BenchmarkLatency is one execution at a time, from submit to result, and the same in process.
func BenchmarkLatency(b *testing.B) {
	client, service := benchPool(b, 4, nil)
	b.Run("pool", func(b *testing.B) {
		for b.Loop() {
			accepted, err := client.Submit(b.Context(), Order{Request: noop})
			require.NoError(b, err)
			r, err := client.Wait(b.Context(), accepted.ID)
			require.NoError(b, err)
			require.Equal(b, "succeeded", r.Outcome)
		}
	})
	b.Run("in process", func(b *testing.B) {
		for b.Loop() {
			result := service.Execute(b.Context(), noop, executor.Observer{})
			require.Equal(b, executor.Succeeded, result.Status)
		}
	})
}

// BenchmarkThroughput is many at a time; without a child it is the protocol alone.
func BenchmarkThroughput(b *testing.B) {
	nothing := func(_ context.Context, req executor.Request, _ executor.Observer) executor.Result {
		return *unstarted(&queue.Record{ID: req.ID}, time.Now())
	}
	for name, execute := range map[string]func(context.Context, executor.Request, executor.Observer) executor.Result{"noop": nil, "protocol": nothing} {
		b.Run(name, func(b *testing.B) {
			client, _ := benchPool(b, 32, execute)
			b.ResetTimer()
			saturate(b, 32, func() {
				accepted, err := client.Submit(b.Context(), Order{Request: noop})
				require.NoError(b, err)
				_, err = client.Wait(b.Context(), accepted.ID)
				require.NoError(b, err)
			})
		})
	}
	b.Run("in process", func(b *testing.B) {
		_, service := benchPool(b, 1, nil)
		b.ResetTimer()
		saturate(b, 4, func() {
			result := service.Execute(b.Context(), noop, executor.Observer{})
			require.Equal(b, executor.Succeeded, result.Status)
		})
	})
}

// BenchmarkBare is the same script without attune: fork, exec, pipes.
func BenchmarkBare(b *testing.B) {
	script, err := filepath.Abs("../packs/core/actions/noop.sh")
	require.NoError(b, err)
	saturate(b, 4, func() {
		cmd := exec.Command("bash", script)
		cmd.Stdin = strings.NewReader("{}\n")
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		require.NoError(b, cmd.Run())
	})
}

// saturate does b.N things, so many at once.
func saturate(b *testing.B, width int, do func()) {
	var next atomic.Int64
	var group sync.WaitGroup
	for range width {
		group.Go(func() {
			for next.Add(1) <= int64(b.N) {
				do()
			}
		})
	}
	group.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "exec/s")
}
