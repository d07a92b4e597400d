package envcache

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestOpenWritesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	s := openStore(t, dir)
	list, err := s.List(context.Background())
	require.NoError(t, err)
	assert.Empty(t, list)
	assert.NoDirExists(t, dir)
}

func TestRootThroughALinkIsTheSameStore(t *testing.T) {
	base := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(base, "real"), 0o700))
	require.NoError(t, os.Symlink("real", filepath.Join(base, "link")))
	assert.Equal(t, openStore(t, filepath.Join(base, "real", "c")).Root(), openStore(t, filepath.Join(base, "link", "c")).Root())
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
