package envcache

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// A file system or a sandbox that refuses to lock: two processes build at once, the second adopts what the first
// published, and nobody removes anything.
func TestWithoutLocks(t *testing.T) {
	for _, errno := range []string{"ENOLCK", "EBADF"} {
		t.Run(errno, func(t *testing.T) {
			s, key, count := tempStore(t), testKey("x"), filepath.Join(t.TempDir(), "count")
			o := order{Root: s.Root(), Key: "x", Count: count, Flock: errno, Handing: true}
			first, second := start(t, o), start(t, o)
			for _, p := range []*process{first, second} {
				p.next(t, "progress building without a lock")
				p.next(t, "progress building")
			}
			_, err := first.stdin.Write([]byte("\n"))
			require.NoError(t, err)
			state, dir := first.state(t)
			assert.Equal(t, Fresh, state)
			_, err = second.stdin.Write([]byte("\n"))
			require.NoError(t, err)
			_, adopted := second.state(t)
			assert.Equal(t, dir, adopted, "a loser takes the winner's")
			assert.Equal(t, 2, builds(t, count))

			pruner := start(t, order{Root: s.Root(), Flock: errno, Do: "prune", Policy: Policy{MaxSize: 1, Downloads: true}})
			report := pruner.next(t, "report")
			assert.Contains(t, report, `"removed":[]`)
			assert.Contains(t, report, "cannot lock files")
			hit := start(t, order{Root: s.Root(), Key: "x", Flock: errno})
			state, _ = hit.state(t)
			assert.Equal(t, Hit, state)
			assertWhole(t, acquire(t, s, key, &testBuilder{}))
		})
	}
}

// On a network file system locks may hold on each host only: flock succeeds for everybody.
func TestLocksThatLie(t *testing.T) {
	s, key, count := tempStore(t), testKey("x"), filepath.Join(t.TempDir(), "count")
	o := order{Root: s.Root(), Key: "x", Count: count, Flock: "lies", Network: true, Handing: true}
	first, second := start(t, o), start(t, o)
	first.next(t, "progress building")
	second.next(t, "progress building")
	for _, p := range []*process{first, second} {
		_, err := p.stdin.Write([]byte("\n"))
		require.NoError(t, err)
	}
	_, one := first.state(t)
	_, other := second.state(t)
	assert.Equal(t, one, other)
	assert.Equal(t, 2, builds(t, count))
	env := acquire(t, s, key, &testBuilder{})
	assert.Equal(t, one, env.Dir)
	assertWhole(t, env)
}

// The same on a file system that is not known for it: the sweep of the second takes the first one's work away. Whatever the
// order, nobody is given half of an environment, and there is a whole one afterwards.
func TestLocksThatLieWhereNobodyExpectsIt(t *testing.T) {
	s, key := tempStore(t), testKey("x")
	o := order{Root: s.Root(), Key: "x", Flock: "lies"}
	o.Handing = true
	first := start(t, o)
	first.next(t, "progress building")
	o.Handing = false
	second := start(t, o)
	_, dir := second.state(t)
	_, err := first.stdin.Write([]byte("\n"))
	require.NoError(t, err)
	require.True(t, first.lines.Scan())
	for !strings.HasPrefix(first.lines.Text(), "error") && !strings.HasPrefix(first.lines.Text(), "state") {
		require.True(t, first.lines.Scan())
	}
	if state, ok := strings.CutPrefix(first.lines.Text(), "state "); ok {
		assert.Contains(t, state, dir)
	}
	env := acquire(t, s, key, &testBuilder{})
	assert.Equal(t, dir, env.Dir)
	assertWhole(t, env)
}

// NFS repeats a link whose answer was lost, and reports the work of the first call as an error.
func TestLinkThatSucceedsWithAnError(t *testing.T) {
	for _, err := range []error{syscall.EEXIST, syscall.EIO} {
		s, key := tempStore(t), testKey("x")
		s.sys.link = func(from, to string) error {
			require.NoError(t, os.Link(from, to))
			return &os.LinkError{Op: "link", Old: from, New: to, Err: err}
		}
		env := acquire(t, s, key, &testBuilder{})
		assert.Equal(t, Fresh, env.State)
		assertWhole(t, env)
		assert.Equal(t, Hit, acquire(t, s, key, &testBuilder{}).State)
	}
}

// Without hard links publishing is a rename.
func TestWithoutHardLinks(t *testing.T) {
	s, key := tempStore(t), testKey("x")
	s.sys.link = func(from, to string) error {
		return &os.LinkError{Op: "link", Old: from, New: to, Err: syscall.EPERM}
	}
	assert.Equal(t, Fresh, acquire(t, s, key, &testBuilder{}).State)
	assert.Equal(t, Hit, acquire(t, s, key, &testBuilder{}).State)
}

// Somebody else publishes between the build and the link.
func TestALoserAdoptsTheWinner(t *testing.T) {
	s, key := tempStore(t), testKey("x")
	other := openStore(t, s.Root())
	unlocked := func(int, int) error { return syscall.ENOLCK }
	s.sys.flock, other.sys.flock = unlocked, unlocked
	var winner *Env
	s.sys.reached = func(point string) {
		if point == "synced" {
			winner = acquire(t, other, key, &testBuilder{})
		}
	}
	env := acquire(t, s, key, &testBuilder{})
	assert.Equal(t, winner.Dir, env.Dir)
	assert.Equal(t, Fresh, winner.State)
	assertWhole(t, env)
	generations, err := filepath.Glob(filepath.Join(globQuote(s.entry(env.ID).dir), "*.use"))
	require.NoError(t, err)
	assert.Len(t, generations, 1, "the loser's work is gone")
}

func TestANetworkFileSystemIsNotPrunedByItself(t *testing.T) {
	s, key := tempStore(t), testKey("x")
	env := acquire(t, s, key, &testBuilder{})
	require.NoError(t, env.Close())
	s.sys.network = func(string) bool { return true }
	_, err := s.Prune(context.Background(), Policy{MaxSize: 1})
	var refused *NetworkError
	require.ErrorAs(t, err, &refused)
	require.ErrorContains(t, err, "--network-fs")
	assert.DirExists(t, env.Dir)
	report, err := s.Prune(context.Background(), Policy{MaxSize: 1, Network: true})
	require.NoError(t, err)
	assert.Len(t, report.Removed, 1)
	assert.NoDirExists(t, env.Dir)
}

// Who lists a store has each .use for a moment; that costs nobody his hit, not even where nothing can be locked or written.
func TestListsDoNotDisturbHits(t *testing.T) {
	s, key := tempStore(t), testKey("x")
	require.NoError(t, acquire(t, s, key, &testBuilder{}).Close())
	ctx, cancel := context.WithCancel(context.Background())
	var group errgroup.Group
	group.Go(func() error {
		for ctx.Err() == nil {
			if _, err := s.List(context.Background(), false); err != nil {
				return err
			}
		}
		return nil
	})
	s.sys.reached = func(point string) { t.Error("a hit went to build: ", point) }
	for range 500 {
		env, err := s.Acquire(ctx, key, &testBuilder{}, AcquireOptions{})
		require.NoError(t, err)
		require.NoError(t, env.Close())
	}
	cancel()
	require.NoError(t, group.Wait())
}
