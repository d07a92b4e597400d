package envcache

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

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
	assert.Zero(t, b.probes.Load(), "the same stat needs no probe")

	write("3.11.2 cp311 ")
	assert.Equal(t, first.Dir, acquire(t, s, key, b).Dir, "the same identity is no miss")
	assert.EqualValues(t, 1, b.probes.Load())
	assert.Equal(t, Hit, acquire(t, s, key, b).State)
	assert.EqualValues(t, 1, b.probes.Load(), "the new stat is remembered")

	write("3.11.9 cp311")
	assert.Equal(t, Fresh, acquire(t, s, key, b).State)
	require.NoError(t, os.Remove(interpreter))
	_, err := s.Acquire(context.Background(), key, b, AcquireOptions{})
	assert.ErrorContains(t, err, "no such file")
}
