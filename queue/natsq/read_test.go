package natsq_test

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/attune-run/attune/queue"
	"github.com/attune-run/attune/queue/natsq"
)

// TestListOfWhatExpiresMeanwhile has most of what was there when a list began, and the marks of it, go before it could be read.
func TestListOfWhatExpiresMeanwhile(t *testing.T) {
	store := t.TempDir()
	b := open(t, natsq.Options{Store: store})
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

// TestListWhileItsServerIsFrozen freezes the server that a list is read from, in the middle of it.
func TestListWhileItsServerIsFrozen(t *testing.T) {
	t.Parallel()
	servers := startCluster(t)
	b := open(t, natsq.Options{URL: servers.url()})
	defer b.Close()
	const n = 1000 // more than is read ahead
	for _, o := range together(n, func(i int) (uint64, error) {
		return b.Table(queue.Runs).Put(t.Context(), fmt.Sprintf("k%d", i), []byte("{}"))
	}) {
		require.NoError(t, o.err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	there := map[string]bool{}
	for entry, err := range b.Table(queue.Runs).List(ctx, "") {
		require.NoError(t, err)
		if len(there) == 0 {
			reader := servers.reader(t, "KV_RUN")
			reader.freeze(t)
			defer reader.signal(syscall.SIGCONT)
		}
		there[entry.Key] = true
	}
	require.Len(t, there, n)
}

// TestReadsWhileAServerLags writes while one of three servers is frozen, and reads at once when that one is back.
func TestReadsWhileAServerLags(t *testing.T) {
	t.Parallel()
	servers := startCluster(t)
	open(t, natsq.Options{URL: servers.url()}).Close()
	leader := servers.leader(t, "LOG")
	b := open(t, natsq.Options{URL: leader.url()})
	defer b.Close()
	const n = 100
	chunk := make([]byte, queue.ChunkMax/2)
	for round := range 9 {
		follower := servers[round%3]
		if follower == leader {
			continue
		}
		id := fmt.Sprintf("e%d", round)
		follower.freeze(t)
		for range n {
			require.Eventually(t, func() bool { return b.Logs().Append(id, chunk) }, 30*time.Second, time.Millisecond)
		}
		err := b.Logs().Flush(t.Context())
		follower.signal(syscall.SIGCONT)
		require.NoError(t, err)
		var readers errgroup.Group
		for range 10 { // all of it is less than a server holds back for one connection
			readers.Go(func() error {
				there := 0
				for _, err := range b.Logs().Read(t.Context(), id, false) {
					if err != nil {
						return err
					}
					there++
				}
				if there != n {
					return fmt.Errorf("%d of %d", there, n)
				}
				return nil
			})
			time.Sleep(time.Millisecond) // the server catches up within these
		}
		require.NoError(t, readers.Wait(), id)
	}
}

// TestReadsWhileNobodyLeads kills the leader of what is read.
func TestReadsWhileNobodyLeads(t *testing.T) {
	t.Parallel()
	servers := startCluster(t)
	open(t, natsq.Options{URL: servers.url()}).Close()
	leader := servers.leader(t, "KV_RUN")
	b := open(t, natsq.Options{URL: servers.without(leader).url()})
	defer b.Close()
	const n = 50
	for i := range n {
		_, err := b.Table(queue.Runs).Put(t.Context(), fmt.Sprintf("k%d", i), []byte("{}"))
		require.NoError(t, err)
	}
	leader.kill()
	_, err := b.Table(queue.Runs).Get(t.Context(), "k1")
	require.NoError(t, err)
	leader.start(t)
	leader = servers.leader(t, "KV_RUN")
	b = open(t, natsq.Options{URL: servers.without(leader).url()})
	defer b.Close()
	leader.kill()
	there := 0
	for _, err := range b.Table(queue.Runs).List(t.Context(), "") {
		require.NoError(t, err)
		there++
	}
	require.Equal(t, n, there)
}

func (c cluster) without(one *process) (others cluster) {
	for _, p := range c {
		if p != one {
			others = append(others, p)
		}
	}
	return others
}

// reader is the server of the only consumer of a stream.
func (c cluster) reader(t *testing.T, stream string) *process {
	t.Helper()
	_, js := connected(t, natsq.Options{URL: c.url()})
	s, err := js.Stream(t.Context(), stream)
	require.NoError(t, err)
	for info := range s.ListConsumers(t.Context()).Info() {
		for _, p := range c {
			if p.config.Name == info.Cluster.Leader {
				return p
			}
		}
	}
	t.Fatal("nobody reads " + stream)
	return nil
}

// stored is how many messages a stream of a store holds.
func stored(t *testing.T, store, stream string) uint64 {
	t.Helper()
	options, err := natsq.Discover(store)
	require.NoError(t, err)
	nc, js := connected(t, options)
	defer nc.Close()
	s, err := js.Stream(t.Context(), stream)
	require.NoError(t, err)
	return s.CachedInfo().State.Msgs
}

// connected is a connection beside the broker's.
func connected(t *testing.T, options natsq.Options) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := nats.Connect(options.URL, nats.UserInfo(options.User, options.Password))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	return nc, js
}
