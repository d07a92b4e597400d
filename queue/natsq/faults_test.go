package natsq_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/queue"
	"github.com/attune-run/attune/queue/natsq"
)

// TestUncertain freezes the server: a write without an answer may have happened, and reading back tells.
func TestUncertain(t *testing.T) {
	server := startServer(t, serverConfig{Name: "frozen"})
	b := open(t, natsq.Options{URL: server.url()})
	defer b.Close()
	runs := b.Table(queue.Runs)
	revision, err := runs.Create(t.Context(), "a", []byte("1"))
	require.NoError(t, err)

	server.freeze(t)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err = runs.Update(ctx, "a", []byte("2"), revision)
	require.ErrorIs(t, err, queue.ErrUncertain)
	_, err = runs.Get(ctx, "a")
	require.ErrorIs(t, err, queue.ErrUnavailable)
	start := time.Now()
	for range 2000 {
		b.Logs().Append("a", []byte("chunk"))
	}
	require.Less(t, time.Since(start), time.Second, "logs do not wait")
	server.signal(syscall.SIGCONT)

	require.Eventually(t, func() bool {
		entry, err := runs.Get(t.Context(), "a")
		return err == nil && string(entry.Value) == "2"
	}, 20*time.Second, 50*time.Millisecond, "it happened after all")
}

// TestLeaderKilled kills the server that leads the records while many write: what was acknowledged is there afterwards, what was
// refused is not, and what was uncertain is one of both.
func TestLeaderKilled(t *testing.T) {
	t.Parallel()
	servers := startCluster(t)
	b := open(t, natsq.Options{URL: servers.url(), Timeout: 3 * time.Second})
	defer b.Close()
	ctx, stop := context.WithCancel(t.Context())
	var mu sync.Mutex
	outcomes := map[string]error{}
	var writers sync.WaitGroup
	for w := range 8 {
		writers.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				id := fmt.Sprintf("w%d-%d", w, i)
				_, err := b.Table(queue.Runs).Create(t.Context(), id, []byte(id))
				if err != nil && !errors.Is(err, queue.ErrUncertain) && !errors.Is(err, queue.ErrUnavailable) {
					assert.NoError(t, err)
				}
				mu.Lock()
				outcomes[id] = err
				mu.Unlock()
			}
		})
	}
	for _, s := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGKILL} {
		leader := servers.leader(t, "KV_RUN")
		before := acknowledged(&mu, outcomes)
		if s == syscall.SIGSTOP {
			leader.signal(s)
			require.Eventually(t, func() bool { return acknowledged(&mu, outcomes) > before+50 }, 60*time.Second, 50*time.Millisecond)
			leader.signal(syscall.SIGCONT)
		} else {
			leader.kill()
			require.Eventually(t, func() bool { return acknowledged(&mu, outcomes) > before+50 }, 60*time.Second, 50*time.Millisecond)
			leader.start(t)
		}
	}
	stop()
	writers.Wait()
	for id, err := range outcomes {
		if err == nil {
			var err error
			require.Eventually(t, func() bool { // a server that has just started may have no leader to ask
				_, err = b.Table(queue.Runs).Get(t.Context(), id)
				return !errors.Is(err, queue.ErrUnavailable)
			}, 30*time.Second, 100*time.Millisecond)
			require.NoError(t, err, "%s was acknowledged", id)
		}
	}
	there := map[string]bool{}
	require.Eventually(t, func() bool {
		clear(there)
		for entry, err := range b.Table(queue.Runs).List(t.Context(), "") {
			if err != nil {
				require.ErrorIs(t, err, queue.ErrUnavailable)
				return false
			}
			there[entry.Key] = true
		}
		return true
	}, 60*time.Second, 100*time.Millisecond)
	for id, err := range outcomes {
		require.True(t, err != nil || there[id], "%s was acknowledged", id)
	}
	uncertain := 0
	for id, err := range outcomes {
		switch {
		case err == nil:
		case errors.Is(err, queue.ErrUncertain):
			uncertain++
			_, err := b.Table(queue.Runs).Get(t.Context(), id)
			require.Equal(t, there[id], err == nil)
		default:
			require.False(t, there[id], "%s was refused: %v", id, err)
		}
	}
	t.Logf("%d acknowledged, %d uncertain of %d", acknowledged(&mu, outcomes), uncertain, len(outcomes))
}

func acknowledged(mu *sync.Mutex, outcomes map[string]error) int {
	mu.Lock()
	defer mu.Unlock()
	n := 0
	for _, err := range outcomes {
		if err == nil {
			n++
		}
	}
	return n
}

// A route is opened although who decides about it is silent for longer than one request takes.
func TestOpeningIsAskedAgain(t *testing.T) {
	t.Parallel()
	server := startServer(t, serverConfig{})
	b := open(t, natsq.Options{URL: server.url(), Timeout: 2 * time.Second})
	defer b.Close()
	server.freeze(t)
	defer time.AfterFunc(3*time.Second, func() { server.signal(syscall.SIGCONT) }).Stop()
	require.NoError(t, b.Work().Open(t.Context(), "route"))
	require.NoError(t, b.Work().Publish(t.Context(), queue.Message{Route: "route", ID: "a"}))
}
