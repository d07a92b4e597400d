package envcache

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

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

// fill builds environments that were last used 1, 2, 3, ... hours ago.
func fill(t *testing.T, s *Store, c *clock, names ...string) {
	t.Helper()
	now := c.now
	for i, name := range names {
		c.now = now.Add(-time.Duration(i+1) * time.Hour)
		require.NoError(t, acquire(t, s, testKey(name), &testBuilder{fill: 100}).Close())
	}
	c.now = now
}

// left are the names of those that are there.
func left(s *Store, names ...string) (there []string) {
	for _, name := range names {
		if _, ok := s.Find(testKey(name)); ok {
			there = append(there, name)
		}
	}
	return there
}

func TestPruneBySizeAndAge(t *testing.T) {
	const size = 104 // bytes of one environment
	names := []string{"a", "b", "c", "d"}
	for what, test := range map[string]struct {
		policy Policy
		left   []string
		why    string
	}{
		"nothing":       {Policy{}, names, ""},
		"size":          {Policy{MaxSize: 2 * size}, []string{"a", "b"}, "least recently used of more than 208 bytes"},
		"a bit less":    {Policy{MaxSize: 2*size - 1}, []string{"a"}, "least recently used of more than 207 bytes"},
		"age":           {Policy{MaxAge: 150 * time.Minute}, []string{"a", "b"}, "last used 4h0m0s ago"},
		"size and age":  {Policy{MaxSize: size, MaxAge: 210 * time.Minute}, []string{"a"}, "last used 4h0m0s ago"},
		"the whole lot": {Policy{MaxSize: 1}, nil, "least recently used of more than 1 bytes"},
	} {
		t.Run(what, func(t *testing.T) {
			c := newClock()
			s := c.of(tempStore(t))
			fill(t, s, c, names...)
			dry := test.policy
			dry.DryRun = true
			planned, err := s.Prune(context.Background(), dry)
			require.NoError(t, err)
			assert.Equal(t, names, left(s, names...), "a dry run removes nothing")
			report, err := s.Prune(context.Background(), test.policy)
			require.NoError(t, err)
			assert.Equal(t, planned, report, "a dry run says what will be")
			assert.Equal(t, test.left, left(s, names...))
			assert.Len(t, report.Removed, len(names)-len(test.left))
			assert.Empty(t, report.Kept)
			assert.EqualValues(t, size*(len(names)-len(test.left)), report.Freed)
			assert.EqualValues(t, size*len(test.left), report.Left)
			if len(report.Removed) > 0 {
				assert.Equal(t, test.why, report.Removed[0].Why)
				assert.Equal(t, s.ID(testKey("d")), report.Removed[0].ID, "the oldest goes first")
			}
		})
	}
}

// A clock that was wrong when something was used makes nothing old, nor keeps it for ten years once it is used again.
func TestPruneWithClocksThatAreWrong(t *testing.T) {
	for _, years := range []int{-10, 10} {
		c := newClock()
		s := c.of(tempStore(t))
		right := c.now
		c.now = right.AddDate(years, 0, 0)
		require.NoError(t, acquire(t, s, testKey("used"), &testBuilder{}).Close())
		require.NoError(t, acquire(t, s, testKey("idle"), &testBuilder{}).Close())
		c.now = right
		require.NoError(t, acquire(t, s, testKey("used"), &testBuilder{}).Close())
		_, err := s.Prune(context.Background(), Policy{MaxAge: 24 * time.Hour})
		require.NoError(t, err)
		want := []string{"used"}
		if years > 0 {
			want = []string{"used", "idle"}
		}
		assert.Equal(t, want, left(s, "used", "idle"), years)
		c.now = right.Add(48 * time.Hour)
		_, err = s.Prune(context.Background(), Policy{MaxAge: 24 * time.Hour})
		require.NoError(t, err)
		assert.NotContains(t, left(s, "used", "idle"), "used", years)
	}
}

func TestPruneRemovesDownloadsUnlessABuildRuns(t *testing.T) {
	s := tempStore(t)
	wheel := filepath.Join(s.Downloads(), "pip", "wheel")
	b := &testBuilder{wait: make(chan struct{}), started: make(chan struct{})}
	var group errgroup.Group
	group.Go(func() error {
		env, err := s.Acquire(context.Background(), testKey("x"), b, AcquireOptions{})
		if err == nil {
			err = env.Close()
		}
		return err
	})
	<-b.started
	require.NoError(t, os.MkdirAll(filepath.Dir(wheel), 0o700))
	require.NoError(t, os.WriteFile(wheel, make([]byte, 10), 0o600))
	report, err := s.Prune(context.Background(), Policy{Downloads: true})
	require.NoError(t, err)
	assert.Equal(t, []Removal{{"downloads", 10, "a build is running"}}, report.Kept)
	assert.FileExists(t, wheel)
	close(b.wait)
	require.NoError(t, group.Wait())
	report, err = s.Prune(context.Background(), Policy{Downloads: true})
	require.NoError(t, err)
	assert.Equal(t, []Removal{{"downloads", 10, "asked for"}}, report.Removed)
	assert.EqualValues(t, 10, report.Freed)
	assert.NoFileExists(t, wheel)
	assert.Equal(t, []string{"x"}, left(s, "x"))
}

// What was chosen by a prune, and is built anew before its turn, is not what was chosen.
func TestPruneLeavesWhatWasBuiltMeanwhile(t *testing.T) {
	s, key := tempStore(t), testKey("x")
	require.NoError(t, acquire(t, s, key, &testBuilder{}).Close())
	infos, err := s.own(context.Background(), false)
	require.NoError(t, err)
	require.NoError(t, s.Remove(context.Background(), s.ID(key)))
	report := Report{}
	s.pruneBatch([]candidate{{infos[0], "old"}}, false, &report)
	assert.Empty(t, report.Removed, "what is gone is not removed again")
	require.NoError(t, acquire(t, s, key, &testBuilder{}).Close())
	s.pruneBatch([]candidate{{infos[0], "old"}}, false, &report)
	assert.Empty(t, report.Removed)
	assert.Equal(t, []string{"x"}, left(s, "x"))
}

// What somebody left in the store is nobody's environment, and ends no list and no prune.
func TestStrayFiles(t *testing.T) {
	s, key := tempStore(t), testKey("x")
	env := acquire(t, s, key, &testBuilder{})
	for _, path := range []string{"envs/.DS_Store", "envs/ab/note", "envs/zz/short/file", "envs/" + env.ID[:2] + "/" + env.ID[:20], "trash/file"} {
		path = filepath.Join(s.version(), path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, nil, 0o600))
	}
	list, err := s.List(context.Background(), false)
	require.NoError(t, err)
	assert.Len(t, list, 1)
	_, err = s.Prune(context.Background(), Policy{MaxSize: 1})
	require.NoError(t, err)
	assertWhole(t, env)
}

// Ten thousand acquisitions against prunes that remove everything they may: what is held stays whole.
func TestPruneAgainstAcquire(t *testing.T) {
	const acquisitions, workers, keys = 10_000, 8, 4
	s := openStore(t, memoryDir(t))
	ctx, cancel := context.WithCancel(context.Background())
	var pruners, group errgroup.Group
	pruned := 0
	other := openStore(t, s.Root())
	other.sys.processesIn = func(string, []string) []Process { return nil } // nobody runs in the environments, and the race is tighter
	pruners.Go(func() error {
		for ctx.Err() == nil {
			report, err := other.Prune(context.Background(), Policy{MaxSize: 1})
			if err != nil {
				return err
			}
			pruned += len(report.Removed)
		}
		return nil
	})
	for worker := range workers {
		group.Go(func() error {
			store := s
			if worker%2 == 1 { // as another process: no flight is shared
				store = openStore(t, s.Root())
			}
			for i := range acquisitions / workers {
				env, err := store.Acquire(ctx, testKey(fmt.Sprint(i%keys)), quickBuilder{}, AcquireOptions{})
				if err != nil {
					return err
				}
				if err := env.entry.intact(env.ready); err != nil {
					return fmt.Errorf("while it was held: %w", err)
				}
				if err := env.Close(); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	cancel()
	require.NoError(t, pruners.Wait())
	assert.Positive(t, pruned)
	t.Logf("%d environments were pruned in the meantime", pruned)
}

// quickBuilder makes one file.
type quickBuilder struct{ *testBuilder }

func (quickBuilder) Interpreter() Interpreter { return Interpreter{} }

func (quickBuilder) Build(_ context.Context, site Site) (Built, error) {
	return Built{Sentinels: []string{"whole"}}, os.WriteFile(filepath.Join(site.Dir, "whole"), []byte("done"), 0o600)
}

func (quickBuilder) Check(context.Context, string) error { return nil }

// memoryDir is a directory in memory where there is one, for tests of many small writes.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "envcache")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
