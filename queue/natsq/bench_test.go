package natsq_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/queue"
	"github.com/attune-run/attune/queue/natsq"
)

// BenchmarkCycle is what the queue does for one execution: create and publish, take and claim, commit and acknowledge.
func BenchmarkCycle(b *testing.B) {
	for _, sync := range []string{natsq.SyncAlways, natsq.SyncRelaxed} {
		broker, err := natsq.Open(b.Context(), natsq.Options{Store: b.TempDir(), Sync: sync})
		require.NoError(b, err)
		require.NoError(b, broker.Work().Open(b.Context(), "bench"))
		for _, concurrency := range []int{1, 16, 64} {
			b.Run(fmt.Sprintf("%s/%d", sync, concurrency), func(b *testing.B) { benchmarkCycle(b, broker, concurrency) })
		}
		require.NoError(b, broker.Close())
	}
}

func benchmarkCycle(b *testing.B, broker queue.Broker, concurrency int) {
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	record := []byte(`{"submission":"` + strings.Repeat("x", 1500) + `"}`)
	var left atomic.Int64
	left.Store(int64(b.N))
	start := time.Now()
	var clients, workers sync.WaitGroup
	for range concurrency {
		clients.Go(func() {
			for left.Add(-1) >= 0 {
				id := uuid.NewString()
				_, err := broker.Table(queue.Runs).Create(ctx, id, record)
				require.NoError(b, err)
				require.NoError(b, broker.Work().Publish(ctx, queue.Message{Route: "bench", ID: id}))
			}
		})
	}
	taken, done := int64(0), make(chan struct{}, concurrency)
	taker := broker.Work().Taker()
	defer taker.Close()
	for free := concurrency; taken < int64(b.N); {
		for free == 0 || len(done) > 0 {
			<-done
			free++
		}
		got, err := taker.Take(ctx, []string{"bench"}, free)
		require.NoError(b, err)
		taken += int64(len(got))
		free -= len(got)
		for _, d := range got {
			workers.Go(func() {
				work(b, ctx, broker, d, record)
				done <- struct{}{}
			})
		}
	}
	clients.Wait()
	workers.Wait()
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "cycles/s")
}

func work(b *testing.B, ctx context.Context, broker queue.Broker, d queue.Delivery, record []byte) {
	runs, id := broker.Table(queue.Runs), d.Message().ID
	entry, err := runs.Get(ctx, id)
	require.NoError(b, err)
	revision, err := runs.Update(ctx, id, record, entry.Revision)
	require.NoError(b, err)
	_, err = runs.Update(ctx, id, record, revision)
	require.NoError(b, err)
	require.NoError(b, d.Ack(ctx))
}
