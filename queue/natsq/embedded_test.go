package natsq_test

import (
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/attune-run/attune/queue"
	"github.com/attune-run/attune/queue/natsq"
)

func TestOneServerOnAStore(t *testing.T) {
	store := t.TempDir()
	_, err := natsq.Discover(store)
	require.ErrorIs(t, err, queue.ErrUnavailable)
	b := open(t, natsq.Options{Store: store})
	_, err = natsq.Open(t.Context(), natsq.Options{Store: store})
	require.ErrorContains(t, err, "is served already by process "+strings.TrimSpace(strings.Fields(read(t, store, "lock"))[1]))
	require.NoError(t, b.Ready(t.Context()))
	require.NoError(t, b.Close())
	require.NoError(t, open(t, natsq.Options{Store: store}).Close(), "its end frees the store")
}

func read(t *testing.T, parts ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(parts...))
	require.NoError(t, err)
	return string(text)
}

func TestEndpoint(t *testing.T) {
	store := t.TempDir()
	b := open(t, natsq.Options{Store: store})
	require.NotEmpty(t, b.User())
	info, err := os.Stat(filepath.Join(store, "server.json"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	options, err := natsq.Discover(store)
	require.NoError(t, err)
	u, err := url.Parse(options.URL)
	require.NoError(t, err)
	require.True(t, net.ParseIP(u.Hostname()).IsLoopback())

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, wrong := range []natsq.Options{{URL: options.URL}, {URL: options.URL, User: options.User, Password: "guessed"}, {URL: options.URL, Token: options.Password}} {
		start := time.Now()
		_, err = natsq.Open(ctx, wrong)
		require.ErrorContains(t, err, "Authorization Violation")
		require.NotErrorIs(t, err, queue.ErrUnavailable)
		require.Less(t, time.Since(start), 5*time.Second, "refused at once")
	}

	client := open(t, options)
	defer client.Close()
	require.Equal(t, b.User(), client.User())
	_, err = client.Table(queue.Runs).Create(ctx, "kept", []byte("{}"))
	require.NoError(t, err)
	require.NoError(t, b.Close())
	_, err = client.Table(queue.Runs).Get(ctx, "kept")
	require.ErrorIs(t, err, queue.ErrUnavailable)
	require.ErrorIs(t, client.Ready(ctx), queue.ErrUnavailable)

	b = open(t, natsq.Options{Store: store})
	defer b.Close()
	require.Eventually(t, func() bool {
		_, err := client.Table(queue.Runs).Get(ctx, "kept")
		return err == nil
	}, 20*time.Second, 20*time.Millisecond, "a client finds the server where it was")
}

func TestNoServer(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := natsq.Open(ctx, natsq.Options{URL: "nats://ada:secret@127.0.0.1:1"})
	require.ErrorIs(t, err, queue.ErrUnavailable)
	require.NotContains(t, err.Error(), "secret")
	_, err = natsq.Open(ctx, natsq.Options{})
	require.ErrorContains(t, err, "neither a URL nor a store")
	_, err = natsq.Open(ctx, natsq.Options{Store: t.TempDir(), Sync: "sometimes"})
	require.ErrorContains(t, err, "sometimes")
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = natsq.Open(ctx, natsq.Options{Store: file})
	require.ErrorContains(t, err, file)
}

// TestLimitReached fills a server that allows little.
func TestLimitReached(t *testing.T) {
	server := startServer(t, serverConfig{Name: "small", MaxStore: 4 << 20})
	b := open(t, natsq.Options{URL: server.url(), Replicas: 1})
	defer b.Close()
	fill(t, b)
}

// fill writes until the broker says that it is full, and looks whether what it accepted is there.
func fill(t *testing.T, b queue.Broker) {
	t.Helper()
	value := []byte(strings.Repeat("x", 500<<10))
	var stored []string
	var err error
	for i := 0; err == nil && i < 200; i++ {
		key := "k" + strings.Repeat("x", i)
		if _, err = b.Table(queue.Runs).Create(t.Context(), key, value); err == nil {
			stored = append(stored, key)
		}
	}
	require.ErrorIs(t, err, queue.ErrFull)
	require.NotEmpty(t, stored)
	for _, key := range stored {
		_, err := b.Table(queue.Runs).Get(t.Context(), key)
		require.NoError(t, err)
	}
}

func tmpfs(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		if errors.Is(err, unix.EPERM) {
			t.Skip("file systems cannot be mounted here")
		}
		require.NoError(t, err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func TestFullDisk(t *testing.T) {
	dir := tmpfs(t, "size=64m")
	first := open(t, natsq.Options{Store: filepath.Join(dir, "store")})
	defer first.Close()
	options, err := natsq.Discover(filepath.Join(dir, "store"))
	require.NoError(t, err)
	b := open(t, options)
	defer b.Close()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "other"), make([]byte, 24<<20), 0o600)) // somebody else fills it, too
	value := []byte(strings.Repeat("x", 500<<10))
	for i := 0; err == nil && i < 100; i++ {
		_, err = b.Table(queue.Runs).Create(t.Context(), "k"+strings.Repeat("x", i), value)
	}
	require.ErrorIs(t, err, queue.ErrFull)
	require.ErrorIs(t, b.Ready(t.Context()), queue.ErrFull)
	require.ErrorIs(t, first.Ready(t.Context()), queue.ErrFull)
	require.ErrorIs(t, b.Audit().Append(t.Context(), []byte("line"), ""), queue.ErrFull)
	require.ErrorIs(t, b.Objects().Put(t.Context(), "a", strings.NewReader("x")), queue.ErrFull)
	require.False(t, b.Logs().Append("a", []byte("x")))
	_, err = b.Table(queue.Runs).Get(t.Context(), "k")
	require.NoError(t, err, "reading goes on")
	require.NoError(t, os.Remove(filepath.Join(dir, "other")))
	require.NoError(t, b.Ready(t.Context()))
	_, err = b.Table(queue.Runs).Create(t.Context(), "more", value)
	require.NoError(t, err, "with room it goes on")
}

// TestDiskThatIsFullAtOnce has the server itself find that nothing can be written, as when somebody else takes what is left between
// a look at it and a write.
func TestDiskThatIsFullAtOnce(t *testing.T) {
	dir := tmpfs(t, "size=64m")
	store, other := filepath.Join(dir, "store"), filepath.Join(dir, "other")
	first := open(t, natsq.Options{Store: store})
	options, err := natsq.Discover(store)
	require.NoError(t, err)
	options.Store, options.Timeout = "", 500*time.Millisecond // does not look at the disk
	b := open(t, options)
	defer b.Close()
	runs, value := b.Table(queue.Runs), []byte(strings.Repeat("x", 3000))
	for _, cycle := range []string{"a", "b"} {
		_, err = runs.Create(t.Context(), cycle+"-before", value)
		require.NoError(t, err)
		fillUp(t, other)
		refused := []string{}
		key := func(i int) string { return cycle + "-refused-" + strconv.Itoa(i) }
		for i, o := range together(20, func(i int) (uint64, error) { return runs.Create(t.Context(), key(i), value) }) {
			if key := key(i); o.err != nil {
				require.ErrorIs(t, o.err, queue.ErrUncertain)
				_, err = runs.Get(t.Context(), key)
				require.ErrorIs(t, err, queue.ErrNotFound, "reading back says that it did not happen")
				refused = append(refused, key)
			}
		}
		require.NotEmpty(t, refused)
		require.Eventually(t, func() bool {
			err := first.Ready(t.Context())
			return errors.Is(err, queue.ErrFull) && strings.Contains(err.Error(), "a write to "+store+" failed")
		}, 10*time.Second, 10*time.Millisecond)
		require.NoError(t, os.Remove(other))
		require.Eventually(t, func() bool { return first.Ready(t.Context()) == nil }, 30*time.Second, 10*time.Millisecond)
		_, err = os.Readlink(batchesLink(store))
		require.NoError(t, err, "batches are gathered in memory again")
		for _, any := range []queue.Broker{first, b} {
			require.Eventually(t, func() bool {
				_, err := any.Table(queue.Runs).Put(t.Context(), cycle+"-after", value)
				return err == nil
			}, 30*time.Second, 50*time.Millisecond, "with room it goes on, in the same process and with the same connections")
		}
		_, err = runs.Get(t.Context(), cycle+"-before")
		require.NoError(t, err)
		for _, key := range refused {
			_, err = runs.Get(t.Context(), key)
			require.ErrorIs(t, err, queue.ErrNotFound, "what was not there does not come back")
		}
	}
	require.NoError(t, first.Close())
}

// fillUp leaves nothing of a disk.
func fillUp(t *testing.T, name string) {
	t.Helper()
	file, err := os.Create(name)
	require.NoError(t, err)
	for block := make([]byte, 4096); err == nil; {
		_, err = file.Write(block)
	}
	require.ErrorIs(t, err, unix.ENOSPC)
	require.NoError(t, file.Close())
}

func TestReadOnlyDisk(t *testing.T) {
	dir := tmpfs(t, "size=8m")
	require.NoError(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	_, err := natsq.Open(t.Context(), natsq.Options{Store: filepath.Join(dir, "store")})
	require.ErrorContains(t, err, "read-only file system")
	require.ErrorContains(t, err, dir)
}
