package envcache

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// clock is a time that tests set.
type clock struct{ now time.Time }

func (c *clock) of(s *Store) *Store {
	s.now = func() time.Time { return c.now }
	return s
}

func newClock() *clock { return &clock{now: time.Now().Round(0)} }

func TestFailuresAreRemembered(t *testing.T) {
	for class, want := range map[Class][]time.Duration{
		Permanent: {5 * time.Minute, 10 * time.Minute, 20 * time.Minute, 40 * time.Minute, time.Hour, time.Hour},
		Transient: {5 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second, time.Minute, time.Minute},
	} {
		t.Run(string(class), func(t *testing.T) {
			c := newClock()
			s, key := c.of(tempStore(t)), testKey("x")
			b := &testBuilder{fail: classError(class)}
			for _, span := range want {
				_, err := s.Acquire(context.Background(), key, b, AcquireOptions{})
				var failed *BuildError
				require.ErrorAs(t, err, &failed)
				require.False(t, failed.Remembered(), "it was built")
				failedAt := c.now

				c.now = failedAt.Add(span)
				none := &testBuilder{during: func(Site) error { t.Error("it was built"); return nil }}
				_, err = c.of(openStore(t, s.Root())).Acquire(context.Background(), key, none, AcquireOptions{})
				require.ErrorAs(t, err, &failed, "another process")
				require.True(t, failed.Remembered())
				assert.True(t, failed.RetryAt.Equal(failedAt.Add(span)), "%s: %s", span, failed.RetryAt.Sub(failedAt))
				require.ErrorContains(t, err, "a "+string(class)+" failure")
				assert.Equal(t, "line 29", failed.Tail[len(failed.Tail)-1])
				assert.FileExists(t, failed.Log)
				info, err := s.Get(s.ID(key))
				require.NoError(t, err)
				assert.Equal(t, Failed, info.State)
				assert.Equal(t, class, classOf(failed.Err), "a remembered failure keeps its class")
				c.now = failedAt.Add(span + time.Second)
			}
			// A success forgets them all.
			require.NoError(t, acquire(t, s, key, &testBuilder{}).Close())
			require.NoError(t, s.Remove(context.Background(), s.ID(key)))
			_, err := s.Acquire(context.Background(), key, b, AcquireOptions{})
			require.Error(t, err)
			assert.True(t, s.recallFailure(s.entry(s.ID(key))).Until.Equal(c.now.Add(want[0])))
		})
	}
}

func TestPassingFailuresAreNotRemembered(t *testing.T) {
	s, key := tempStore(t), testKey("x")
	_, err := s.Acquire(context.Background(), key, &testBuilder{fail: classError(Passing)}, AcquireOptions{})
	require.ErrorIs(t, err, classError(Passing))
	ctx, cancel := context.WithCancel(context.Background())
	_, err = s.Acquire(ctx, key, &testBuilder{during: func(Site) error { cancel(); return ctx.Err() }}, AcquireOptions{})
	require.ErrorIs(t, err, context.Canceled)
	assertOnlyLock(t, s, key)
	assert.Equal(t, Fresh, acquire(t, s, key, &testBuilder{}).State)
}

// An error that does not know its class is taken for one that may pass.
func TestAnUnknownFailureIsTransient(t *testing.T) {
	c := newClock()
	s, key := c.of(tempStore(t)), testKey("x")
	_, err := s.Acquire(context.Background(), key, &testBuilder{fail: errors.New("what?")}, AcquireOptions{})
	require.Error(t, err)
	c.now = c.now.Add(6 * time.Second)
	assert.Equal(t, Fresh, acquire(t, s, key, &testBuilder{}).State)
}

func TestRetryFailedBuildsAllTheSame(t *testing.T) {
	s, key := tempStore(t), testKey("x")
	_, err := s.Acquire(context.Background(), key, &testBuilder{fail: classError(Permanent)}, AcquireOptions{})
	require.Error(t, err)
	env, err := s.Acquire(context.Background(), key, &testBuilder{}, AcquireOptions{RetryFailed: true})
	require.NoError(t, err)
	require.NoError(t, env.Close())
	assert.Equal(t, Hit, acquire(t, s, key, &testBuilder{}).State)
}

// Long after the last failure the next one is a first one again.
func TestAFailureLongAgoDoesNotCount(t *testing.T) {
	c := newClock()
	s, key := c.of(tempStore(t)), testKey("x")
	for range 3 {
		_, err := s.Acquire(context.Background(), key, &testBuilder{fail: classError(Permanent)}, AcquireOptions{RetryFailed: true})
		require.Error(t, err)
	}
	c.now = c.now.Add(24 * time.Hour)
	_, err := s.Acquire(context.Background(), key, &testBuilder{fail: classError(Permanent)}, AcquireOptions{})
	require.Error(t, err)
	assert.Equal(t, 1, s.recallFailure(s.entry(s.ID(key))).Attempts)
}

func TestADamagedMemoryOfAFailureIsNone(t *testing.T) {
	for _, text := range []string{"", "{", "null", `{"schema":"attune.failure/v9"}`, `{"schema":"attune.failure/v1","id":"other","until":"2999-01-01T00:00:00Z"}`} {
		s, key := tempStore(t), testKey("x")
		_, err := s.Acquire(context.Background(), key, &testBuilder{fail: classError(Permanent)}, AcquireOptions{})
		require.Error(t, err)
		require.NoError(t, os.WriteFile(s.entry(s.ID(key)).failedFile(), []byte(text), 0o600))
		assert.Equal(t, Fresh, acquire(t, s, key, &testBuilder{}).State, text)
	}
}

// A clock that was ten years wrong locks nobody out.
func TestFailuresWithClocksThatAreWrong(t *testing.T) {
	for _, years := range []int{-10, 10} {
		c := newClock()
		s, key := c.of(tempStore(t)), testKey("x")
		right := c.now
		c.now = right.AddDate(years, 0, 0)
		_, err := s.Acquire(context.Background(), key, &testBuilder{fail: classError(Permanent)}, AcquireOptions{})
		require.Error(t, err)
		c.now = right
		assert.Equal(t, Fresh, acquire(t, s, key, &testBuilder{}).State, years)
	}
}

// A builder that names files which it did not make has failed; it is not built again and again.
func TestAnEnvironmentIsWholeBeforeItIsPublished(t *testing.T) {
	for _, built := range []Built{{Sentinels: []string{"nothing"}}, {Complete: []string{"nothing"}}} {
		s, key := tempStore(t), testKey("x")
		_, err := s.Acquire(context.Background(), key, claims{&testBuilder{}, built}, AcquireOptions{})
		var failed *BuildError
		require.ErrorAs(t, err, &failed)
		require.ErrorContains(t, err, "not whole")
		require.ErrorContains(t, err, "nothing")
		assert.NoFileExists(t, s.entry(s.ID(key)).readyFile())
	}
}

// claims reports something else than what it built.
type claims struct {
	*testBuilder
	built Built
}

func (c claims) Build(ctx context.Context, site Site) (Built, error) {
	_, err := c.testBuilder.Build(ctx, site)
	return c.built, err
}
