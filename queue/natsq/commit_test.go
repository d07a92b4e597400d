package natsq_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/queue"
	"github.com/attune-run/attune/queue/natsq"
)

// outcome is what a write was told.
type outcome struct {
	revision uint64
	err      error
}

// together writes n values at the same time.
func together(n int, write func(i int) (uint64, error)) []outcome {
	outcomes := make([]outcome, n)
	var writers sync.WaitGroup
	for i := range n {
		writers.Go(func() { outcomes[i].revision, outcomes[i].err = write(i) })
	}
	writers.Wait()
	return outcomes
}

// TestWritesThatGatherAreAnsweredEach has a write that loses among many that do not.
func TestWritesThatGatherAreAnsweredEach(t *testing.T) {
	b := open(t, natsq.Options{Store: t.TempDir()})
	defer b.Close()
	runs, key := b.Table(queue.Runs), func(i int) string { return fmt.Sprintf("k%d", i) }
	created := together(300, func(i int) (uint64, error) { return runs.Create(t.Context(), key(i), []byte("0")) })
	updated := together(len(created), func(i int) (uint64, error) {
		if i%50 == 0 {
			return runs.Update(t.Context(), key(i), []byte("stale"), created[i].revision+1)
		}
		return runs.Update(t.Context(), key(i), []byte("1"), created[i].revision)
	})
	for i, o := range updated {
		require.NoError(t, created[i].err)
		wanted, value := o.revision, "1"
		if i%50 == 0 {
			require.ErrorIs(t, o.err, queue.ErrConflict)
			wanted, value = created[i].revision, "0"
		} else {
			require.NoError(t, o.err)
		}
		entry, err := runs.Get(t.Context(), key(i))
		require.NoError(t, err)
		require.Equal(t, value, string(entry.Value))
		require.Equal(t, wanted, entry.Revision)
	}
}

// batchesLink is where a server looks for the batches of records.
func batchesLink(store string) string {
	return filepath.Join(store, "jetstream", "$G", "streams", "KV_RUN", "batches")
}

// TestNothingIsLeftInMemory looks for what a server leaves, and a killed one's, which is removed, beside a living one's, which is not.
func TestNothingIsLeftInMemory(t *testing.T) {
	store := t.TempDir()
	b := open(t, natsq.Options{Store: store})
	link := batchesLink(store)
	mine, err := os.Readlink(link)
	require.NoError(t, err)
	require.Equal(t, "/dev/shm", filepath.Dir(mine))
	require.DirExists(t, mine)
	killed, err := os.MkdirTemp("/dev/shm", "attune-batches-")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(killed, "file"), nil, 0o600))

	other := open(t, natsq.Options{Store: t.TempDir()})
	require.NoDirExists(t, killed)
	require.DirExists(t, mine)
	require.NoError(t, other.Close())
	require.NoError(t, b.Close())
	require.NoDirExists(t, mine)
	_, err = os.Lstat(link)
	require.ErrorIs(t, err, os.ErrNotExist)

	relaxed := open(t, natsq.Options{Store: store, Sync: natsq.SyncRelaxed})
	_, err = os.Lstat(link)
	require.ErrorIs(t, err, os.ErrNotExist, "nothing is gathered where nothing is synced")
	require.NoError(t, relaxed.Close())
}

// TestWritesGoOnWithoutMemory takes away what batches are gathered in, as whoever clears /dev/shm does.
func TestWritesGoOnWithoutMemory(t *testing.T) {
	store := t.TempDir()
	b := open(t, natsq.Options{Store: store})
	defer b.Close()
	dir, err := os.Readlink(batchesLink(store))
	require.NoError(t, err)
	require.NoError(t, os.RemoveAll(dir))
	for round := range 2 {
		for i, o := range together(100, func(i int) (uint64, error) {
			return b.Table(queue.Runs).Create(t.Context(), fmt.Sprintf("r%d-%d", round, i), []byte(strings.Repeat("x", 1000)))
		}) {
			require.NoError(t, o.err, i)
		}
	}
	require.NoError(t, b.Ready(t.Context()))
}
