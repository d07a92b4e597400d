package natsq_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/attune-run/attune/queue/natsq"
)

// TestObjectsAreReadAtAnyPace has a reader, and then the server, pause for longer than a request may take.
func TestObjectsAreReadAtAnyPace(t *testing.T) {
	t.Parallel()
	server := startServer(t, serverConfig{})
	b := open(t, natsq.Options{URL: server.url(), Timeout: time.Second})
	defer b.Close()
	text := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	require.NoError(t, b.Objects().Put(t.Context(), "o", bytes.NewReader(text)))
	r, err := b.Objects().Get(t.Context(), "o")
	require.NoError(t, err)
	defer func() { _ = r.Close() }()
	got := make([]byte, len(text))
	_, err = io.ReadFull(r, got[:1])
	require.NoError(t, err)
	time.Sleep(1500 * time.Millisecond)
	_, err = io.ReadFull(r, got[1:1<<20])
	require.NoError(t, err)
	server.freeze(t)
	defer time.AfterFunc(2500*time.Millisecond, func() { server.signal(syscall.SIGCONT) }).Stop()
	_, err = io.ReadFull(r, got[1<<20:])
	require.NoError(t, err)
	require.True(t, bytes.Equal(text, got))
	_, err = r.Read(got)
	require.ErrorIs(t, err, io.EOF)
}

// TestObjectsMayBeLargerThanAServersQueue stores one faster than a server can, which drops what is beyond 128 MiB.
func TestObjectsMayBeLargerThanAServersQueue(t *testing.T) {
	b := open(t, natsq.Options{Store: t.TempDir()})
	defer b.Close()
	const size = 160 << 20
	text := func() io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{}), size) }
	require.NoError(t, b.Objects().Put(t.Context(), "o", text()))
	r, err := b.Objects().Get(t.Context(), "o")
	require.NoError(t, err)
	defer func() { _ = r.Close() }()
	want, got := sha256.New(), sha256.New()
	_, err = io.Copy(want, text())
	require.NoError(t, err)
	_, err = io.Copy(got, r)
	require.NoError(t, err)
	require.Equal(t, want.Sum(nil), got.Sum(nil))
}

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
