package envcache

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func openStore(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(dir, Options{})
	require.NoError(t, err)
	return s
}

func tempStore(t testing.TB) *Store { return openStore(t, filepath.Join(t.TempDir(), "cache")) }

func acquire(t testing.TB, s *Store, key Key, b Builder) *Env {
	t.Helper()
	env, err := s.Acquire(context.Background(), key, b, AcquireOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = env.Close() })
	return env
}

func builds(t *testing.T, file string) int {
	t.Helper()
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	return strings.Count(string(data), "\n")
}

func TestKeyDependsOnEveryInputAndOnNoOrder(t *testing.T) {
	const root = "/store"
	a, b := KeyInput{Name: "a", Value: "1"}, KeyInput{Name: "t", Value: "2"}
	key := NewKey([]KeyInput{a, b}, false)
	assert.Equal(t, key.ID(root), NewKey([]KeyInput{b, a}, false).ID(root))
	assert.Len(t, key.ID(root), 26)
	assert.Regexp(t, "^[a-z2-7]+$", key.ID(root))
	for _, other := range [][]KeyInput{
		{a}, {b}, {a, {Name: "t", Value: "3"}}, {a, {Name: "c", Value: "2"}}, {{Name: "a", Value: "1t2"}}, {{Name: "a1", Value: ""}, b},
	} {
		assert.NotEqual(t, key.ID(root), NewKey(other, false).ID(root))
	}
	assert.Panics(t, func() { NewKey([]KeyInput{a, a}, false) })
	assert.Panics(t, func() { NewKey([]KeyInput{{Name: "root"}}, true) })

	assert.Equal(t, key.ID(root), key.ID("/elsewhere"), "what does not carry its path is the same anywhere")
	bound := NewKey([]KeyInput{b, a}, true)
	assert.NotEqual(t, bound.ID(root), bound.ID("/elsewhere"))
	assert.Equal(t, []KeyInput{a, {Name: "root", Value: root}, b}, bound.Inputs(root))
}

func TestBuiltOnceThenHit(t *testing.T) {
	s := tempStore(t)
	count := filepath.Join(t.TempDir(), "count")
	first := acquire(t, s, testKey("x"), &testBuilder{count: count})
	assert.Equal(t, Fresh, first.State)
	assert.FileExists(t, filepath.Join(first.Dir, "whole"))
	assert.True(t, first.Built.Locked)
	assert.Regexp(t, "^sha256:[0-9a-f]{64}$", first.Resolved)

	second := acquire(t, openStore(t, s.Root()), testKey("x"), &testBuilder{count: count})
	assert.Equal(t, Hit, second.State)
	assert.Equal(t, first.Dir, second.Dir)
	assert.Equal(t, first.Resolved, second.Resolved)
	assert.Equal(t, 1, builds(t, count))
	assert.NotEqual(t, first.Dir, acquire(t, s, testKey("y"), &testBuilder{}).Dir)
}

func TestFailedBuildLeavesItsLogAndNothingElse(t *testing.T) {
	s := tempStore(t)
	key := testKey("x")
	for _, b := range []*testBuilder{{fail: errors.New("exit status 1")}, {stopAt: "", fail: os.ErrInvalid}} {
		_, err := s.Acquire(context.Background(), key, b, AcquireOptions{RetryFailed: true})
		var failed *BuildError
		require.ErrorAs(t, err, &failed)
		require.ErrorIs(t, err, b.fail)
		assert.Equal(t, "line 29", failed.Tail[len(failed.Tail)-1])
		assert.Len(t, failed.Tail, tailLines)
		log, err := os.ReadFile(failed.Log)
		require.NoError(t, err)
		assert.Contains(t, string(log), "line 0\n")
		assert.Equal(t, []string{"failed.json", "lock"}, remains(t, s, key))
	}
	env, err := s.Acquire(context.Background(), key, &testBuilder{}, AcquireOptions{RetryFailed: true})
	require.NoError(t, err)
	require.NoError(t, env.Close())
	assert.NoFileExists(t, s.entry(s.ID(key)).failedFile(), "what was built did not fail")
}

func assertWhole(t testing.TB, env *Env) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(env.Dir, "whole"))
	require.NoError(t, err)
	assert.Equal(t, "done", string(data))
	problems, err := env.Damage(context.Background())
	require.NoError(t, err)
	assert.Empty(t, problems)
}

// assertOnlyLock checks that no generation, pointer or temporary file is left of a key.
func assertOnlyLock(t *testing.T, s *Store, key Key) {
	t.Helper()
	assert.Equal(t, []string{"lock"}, remains(t, s, key))
}

// remains are the names in a key's directory, when the trash is empty.
func remains(t *testing.T, s *Store, key Key) []string {
	t.Helper()
	names := []string{}
	entries, err := os.ReadDir(s.entry(s.ID(key)).dir)
	require.NoError(t, err)
	for _, item := range entries {
		names = append(names, item.Name())
	}
	trash, err := os.ReadDir(s.trash())
	require.NoError(t, err)
	assert.Empty(t, trash)
	return names
}

func TestLogsOfAKeyAreBounded(t *testing.T) {
	s := tempStore(t)
	now := time.Now()
	s.now = func() time.Time { now = now.Add(time.Second); return now }
	for range 2 * logsPerKey {
		_, err := s.Acquire(context.Background(), testKey("x"), &testBuilder{fail: os.ErrInvalid}, AcquireOptions{RetryFailed: true})
		require.Error(t, err)
	}
	logs, err := os.ReadDir(s.LogDir())
	require.NoError(t, err)
	assert.Len(t, logs, logsPerKey)
}

func TestManyGoroutinesOneBuild(t *testing.T) {
	s, count := tempStore(t), filepath.Join(t.TempDir(), "count")
	b := &testBuilder{count: count, wait: make(chan struct{}), started: make(chan struct{})}
	states := make(chan State, 20)
	var group sync.WaitGroup
	for range cap(states) {
		group.Go(func() {
			env, err := s.Acquire(context.Background(), testKey("x"), b, AcquireOptions{})
			if assert.NoError(t, err) {
				states <- env.State
				assert.NoError(t, env.Close())
			}
		})
	}
	<-b.started
	close(b.wait)
	group.Wait()
	close(states)
	assert.Equal(t, 1, builds(t, count))
	fresh := 0
	for state := range states {
		if state == Fresh {
			fresh++
		}
	}
	assert.Equal(t, 1, fresh)
}

func TestABuildEndsWithItsLastWaiter(t *testing.T) {
	s, key := tempStore(t), testKey("x")
	b := &testBuilder{wait: make(chan struct{}), started: make(chan struct{})}
	first, cancelFirst := context.WithCancelCause(context.Background())
	second, cancelSecond := context.WithCancelCause(context.Background())
	gone := errors.New("gone")
	results := make(chan error, 2)
	wait := func(ctx context.Context) {
		_, err := s.Acquire(ctx, key, b, AcquireOptions{})
		results <- err
	}
	go wait(first)
	<-b.started
	go wait(second)
	for joined := false; !joined; { // until the second waits as well
		s.mu.Lock()
		f := s.flights[s.ID(key)]
		s.mu.Unlock()
		f.mu.Lock()
		joined = len(f.seats) == 2
		f.mu.Unlock()
	}
	cancelFirst(gone)
	require.ErrorIs(t, <-results, gone)
	assert.Contains(t, s.flights, s.ID(key), "the build goes on for the other")
	cancelSecond(gone)
	require.ErrorIs(t, <-results, gone)
	assertOnlyLock(t, s, key)
}

func TestRemove(t *testing.T) {
	ctx := context.Background()
	s, key := tempStore(t), testKey("x")
	env := acquire(t, s, key, &testBuilder{})
	info, err := s.Get(s.ID(key)[:5])
	require.NoError(t, err)
	assert.Equal(t, Ready, info.State)
	assert.True(t, info.InUse)
	assert.Equal(t, int64(4), info.Size)
	assert.Equal(t, []KeyInput{{Name: "manifest", Value: "x"}}, info.Inputs)

	var busy *InUseError
	require.ErrorAs(t, s.Remove(ctx, s.ID(key)), &busy)
	hold, err := env.Hold()
	require.NoError(t, err)
	require.NoError(t, env.Close())
	require.NoError(t, env.Close(), "closing twice is no error")
	require.ErrorAs(t, s.Remove(ctx, s.ID(key)), &busy, "a child's hold counts")
	require.NoError(t, hold.Close())
	require.NoError(t, s.Remove(ctx, s.ID(key)))
	assertOnlyLock(t, s, key)

	var missing *NotFoundError
	require.ErrorAs(t, s.Remove(ctx, s.ID(key)), &missing)
	_, err = s.Get("nothing")
	require.ErrorAs(t, err, &missing)
	assert.Equal(t, Fresh, acquire(t, s, key, &testBuilder{}).State)
}

func TestListTellsWhatIsBroken(t *testing.T) {
	s := tempStore(t)
	require.NoError(t, acquire(t, s, testKey("good"), &testBuilder{}).Close())
	require.NoError(t, acquire(t, s, testKey("bad"), &testBuilder{}).Close())
	require.NoError(t, os.Truncate(s.entry(s.ID(testKey("bad"))).readyFile(), 1))
	list, err := s.List(context.Background(), false)
	require.NoError(t, err)
	states := map[string]string{}
	for _, info := range list {
		states[info.ID] = info.State
		assert.False(t, info.InUse)
	}
	assert.Equal(t, map[string]string{s.ID(testKey("good")): Ready, s.ID(testKey("bad")): Broken}, states)
	require.NoError(t, s.Remove(context.Background(), s.ID(testKey("bad"))), "a broken one can be removed")
	_, err = s.Get("")
	require.NoError(t, err, "a prefix of one environment is enough")
}
