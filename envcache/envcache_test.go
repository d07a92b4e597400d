package envcache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
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

func TestOpenWritesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	s := openStore(t, dir)
	list, err := s.List(context.Background())
	require.NoError(t, err)
	assert.Empty(t, list)
	assert.NoDirExists(t, dir)
}

func TestOpenRefusesAStoreThatOthersCanChange(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o777))
	_, err := Open(dir, Options{})
	var refused *StoreError
	require.ErrorAs(t, err, &refused)
	assert.ErrorContains(t, err, "chmod o-w")

	if os.Geteuid() != 0 {
		t.Skip("giving a directory to another user takes root")
	}
	dir = t.TempDir()
	require.NoError(t, os.Chown(dir, 12345, -1))
	_, err = Open(dir, Options{})
	assert.ErrorContains(t, err, "belongs to uid 12345")
}

func TestRootThroughALinkIsTheSameStore(t *testing.T) {
	base := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(base, "real"), 0o700))
	require.NoError(t, os.Symlink("real", filepath.Join(base, "link")))
	assert.Equal(t, openStore(t, filepath.Join(base, "real", "c")).Root(), openStore(t, filepath.Join(base, "link", "c")).Root())
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

func TestDamageIsAMissWithAReason(t *testing.T) {
	damages := map[string]func(t *testing.T, e entry, env *Env){
		"ready.json is damaged": func(t *testing.T, e entry, _ *Env) {
			require.NoError(t, os.Truncate(e.readyFile(), 40))
		},
		"ready.json is damaged: unexpected end": func(t *testing.T, e entry, _ *Env) {
			require.NoError(t, os.Truncate(e.readyFile(), 0))
		},
		"ready.json is not one of environment": func(t *testing.T, e entry, _ *Env) {
			require.NoError(t, os.WriteFile(e.readyFile(), []byte(`{"schema":"attune.env/v1","key":"other"}`), 0o600))
		},
		"it is damaged: stat": func(t *testing.T, _ entry, env *Env) {
			require.NoError(t, os.Remove(filepath.Join(env.Dir, "whole")))
		},
		"it is damaged: open": func(t *testing.T, e entry, env *Env) {
			require.NoError(t, os.Remove(e.useFile(filepath.Base(env.Dir))))
		},
	}
	for want, damage := range damages {
		t.Run(want, func(t *testing.T) {
			s, key := tempStore(t), testKey("x")
			old := acquire(t, s, key, &testBuilder{})
			damage(t, s.entry(s.ID(key)), old)
			require.NoError(t, old.Close())
			var reasons []string
			env, err := s.Acquire(context.Background(), key, &testBuilder{}, AcquireOptions{Progress: func(p Progress) {
				if p.Phase == "replacing" {
					reasons = append(reasons, p.Line)
				}
			}})
			require.NoError(t, err)
			defer func() { _ = env.Close() }()
			assert.Equal(t, Fresh, env.State)
			assert.NotEqual(t, old.Dir, env.Dir, "a generation is never used again")
			require.Len(t, reasons, 1)
			assert.Contains(t, reasons[0], want)
			again := acquire(t, s, key, &testBuilder{})
			assert.Equal(t, Hit, again.State)
		})
	}
}

func TestARebuildLeavesTheRunningItsGeneration(t *testing.T) {
	s, key := tempStore(t), testKey("x")
	running := acquire(t, s, key, &testBuilder{})
	require.NoError(t, os.Truncate(s.entry(s.ID(key)).readyFile(), 0))
	rebuilt := acquire(t, s, key, &testBuilder{})
	assert.NotEqual(t, running.Dir, rebuilt.Dir)
	assert.FileExists(t, filepath.Join(running.Dir, "whole"))
}

func TestInterpreterAtTheSamePath(t *testing.T) {
	interpreter := filepath.Join(t.TempDir(), "python")
	write := func(text string) {
		require.NoError(t, os.Remove(interpreter), "a new inode, as an upgrade leaves it")
		require.NoError(t, os.WriteFile(interpreter, []byte(text), 0o700))
	}
	require.NoError(t, os.WriteFile(interpreter, []byte("3.11.2 cp311"), 0o700))
	s, key := tempStore(t), testKey("x")
	first := acquire(t, s, key, &testBuilder{interpreter: interpreter})

	b := &testBuilder{interpreter: interpreter}
	assert.Equal(t, Hit, acquire(t, s, key, b).State)
	assert.Zero(t, b.probes, "the same stat needs no probe")

	write("3.11.2 cp311 ")
	assert.Equal(t, first.Dir, acquire(t, s, key, b).Dir, "the same identity is no miss")
	assert.Equal(t, 1, b.probes)
	assert.Equal(t, Hit, acquire(t, s, key, b).State)
	assert.Equal(t, 1, b.probes, "the new stat is remembered")

	write("3.11.9 cp311")
	assert.Equal(t, Fresh, acquire(t, s, key, b).State)
	require.NoError(t, os.Remove(interpreter))
	_, err := s.Acquire(context.Background(), key, b, AcquireOptions{})
	assert.ErrorContains(t, err, "no such file")
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
	list, err := s.List(context.Background())
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

func TestLastUseWithClocksThatAreWrong(t *testing.T) {
	s, key := tempStore(t), testKey("x")
	env := acquire(t, s, key, &testBuilder{})
	use := s.entry(s.ID(key)).useFile(filepath.Base(env.Dir))
	mtime := func() time.Time {
		info, err := os.Stat(use)
		require.NoError(t, err)
		return info.ModTime()
	}
	start := mtime()
	for _, step := range []struct {
		shift   time.Duration
		touched bool
	}{{10 * time.Minute, false}, {2 * time.Hour, true}, {10 * 365 * 24 * time.Hour, true}, {-10 * 365 * 24 * time.Hour, true}, {0, true}} {
		before := mtime()
		s.now = func() time.Time { return start.Add(step.shift) }
		acquire(t, s, key, &testBuilder{})
		if step.touched {
			assert.WithinDuration(t, start.Add(step.shift), mtime(), time.Millisecond, step.shift)
		} else {
			assert.Equal(t, before, mtime(), step.shift)
		}
	}
}

func TestLongRootWithBlanks(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "with blanks and [brackets]", strings.Repeat("x", 200))
	s := openStore(t, dir)
	for range 2 * logsPerKey {
		_, err := s.Acquire(context.Background(), testKey("x"), &testBuilder{fail: os.ErrInvalid}, AcquireOptions{RetryFailed: true})
		require.Error(t, err)
	}
	logs, err := os.ReadDir(s.LogDir())
	require.NoError(t, err)
	assert.Len(t, logs, logsPerKey)
	env, err := s.Acquire(context.Background(), testKey("x"), &testBuilder{}, AcquireOptions{RetryFailed: true})
	require.NoError(t, err)
	require.NoError(t, env.Close())
	assert.Equal(t, Hit, acquire(t, s, testKey("x"), &testBuilder{}).State)
}

func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("attune", dir, "tmpfs", 0, "size=1m,mode=700"); err != nil {
		t.Skipf("a small tmpfs cannot be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	s, key := openStore(t, dir), testKey("x")
	_, err := s.Acquire(context.Background(), key, &testBuilder{fill: 4 << 20}, AcquireOptions{})
	var full *StoreError
	require.ErrorAs(t, err, &full)
	require.ErrorIs(t, err, syscall.ENOSPC)
	assert.Contains(t, err.Error(), dir)
	assertOnlyLock(t, s, key)
	assert.Equal(t, Fresh, acquire(t, s, key, &testBuilder{fill: 1 << 10}).State, "with space there is an environment")
}

func TestReadOnlyStoreServesWhatItHolds(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	require.NoError(t, acquire(t, s, testKey("x"), &testBuilder{}).Close())
	if err := syscall.Mount(dir, dir, "", syscall.MS_BIND, ""); err != nil {
		t.Skipf("a bind mount cannot be made here: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	require.NoError(t, syscall.Mount("", dir, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	env := acquire(t, openStore(t, dir), testKey("x"), &testBuilder{})
	assert.Equal(t, Hit, env.State)
	hold, err := env.Hold()
	require.NoError(t, err)
	require.NoError(t, hold.Close())
	_, err = s.Acquire(context.Background(), testKey("y"), &testBuilder{}, AcquireOptions{})
	require.ErrorIs(t, err, syscall.EROFS)
	assert.ErrorContains(t, err, dir)
}

func BenchmarkHit(b *testing.B) {
	s := tempStore(b)
	for i := range 1000 {
		env, err := s.Acquire(context.Background(), testKey(fmt.Sprint(i)), &testBuilder{}, AcquireOptions{})
		require.NoError(b, err)
		require.NoError(b, env.Close())
	}
	for i := 0; b.Loop(); i++ {
		env, err := s.Acquire(context.Background(), testKey(fmt.Sprint(i%1000)), &testBuilder{}, AcquireOptions{})
		if err != nil || env.State != Hit {
			b.Fatal(env, err)
		}
		_ = env.Close()
	}
}
