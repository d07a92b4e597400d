package natsq_test

import (
	"bytes"
	"fmt"
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/attune-run/attune/queue/natsq"
)

// TestObjectsWhileAServerLags reads what was stored while one of three servers was frozen, at once when that one is back.
func TestObjectsWhileAServerLags(t *testing.T) {
	t.Parallel()
	servers := startCluster(t)
	open(t, natsq.Options{URL: servers.url()}).Close()
	leader := servers.leader(t, "OBJ_attune")
	b := open(t, natsq.Options{URL: leader.url()})
	defer b.Close()
	for round := range 8 {
		follower := servers[round%3]
		if follower == leader {
			continue
		}
		name, text := fmt.Sprintf("o%d", round), bytes.Repeat([]byte{byte(round)}, 3<<20)
		follower.freeze(t)
		err := b.Objects().Put(t.Context(), name, bytes.NewReader(text))
		follower.signal(syscall.SIGCONT)
		require.NoError(t, err)
		var readers errgroup.Group
		for range 20 {
			readers.Go(func() error {
				r, err := b.Objects().Get(t.Context(), name)
				if err != nil {
					return err
				}
				defer func() { _ = r.Close() }()
				got, err := io.ReadAll(r)
				if err == nil && !bytes.Equal(got, text) {
					err = fmt.Errorf("%d bytes of something else", len(got))
				}
				return err
			})
			time.Sleep(time.Millisecond) // the server catches up within these
		}
		require.NoError(t, readers.Wait(), name)
	}
}
