package natsq_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/queue"
	"github.com/attune-run/attune/queue/natsq"
)

// TestListOfWhatExpiresMeanwhile has most of what was there when a list began, and the marks of it, go before it could be read.
func TestListOfWhatExpiresMeanwhile(t *testing.T) {
	store := t.TempDir()
	b := open(t, natsq.Options{Store: store, WorkerTTL: 2 * time.Second})
	defer b.Close()
	leases := b.Table(queue.Leases)
	const n = 1000 // more than is read ahead
	for _, o := range together(n, func(i int) (uint64, error) { return leases.Put(t.Context(), fmt.Sprintf("k%d", i), []byte("{}")) }) {
		require.NoError(t, o.err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	there := 0
	for _, err := range leases.List(ctx, "") {
		require.NoError(t, err)
		if there == 0 {
			require.Eventually(t, func() bool { return stored(t, store, "KV_LEASES") == 0 }, 50*time.Second, 20*time.Millisecond)
		}
		there++
	}
	require.NoError(t, ctx.Err())
	require.Less(t, there, n)
}

// stored is how many messages a stream of a store holds.
func stored(t *testing.T, store, stream string) uint64 {
	t.Helper()
	options, err := natsq.Discover(store)
	require.NoError(t, err)
	nc, err := nats.Connect(options.URL, nats.UserInfo(options.User, options.Password))
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	s, err := js.Stream(t.Context(), stream)
	require.NoError(t, err)
	return s.CachedInfo().State.Msgs
}
