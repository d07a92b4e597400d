package envcache

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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
