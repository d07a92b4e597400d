//go:build !linux || attune_portable

package envcache

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// What cannot be written to disk, or need not be, is passed over: a pipe would block for ever, a link may lead nowhere.
func TestSyncTakesWhateverAnInstallerLeaves(t *testing.T) {
	dir := t.TempDir()
	below := filepath.Join(dir, "a", "b")
	require.NoError(t, os.MkdirAll(below, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(below, "closed"), []byte("x"), 0))
	require.NoError(t, os.Symlink("nowhere", filepath.Join(below, "link")))
	require.NoError(t, os.Symlink("..", filepath.Join(below, "up")))
	require.NoError(t, unix.Mkfifo(filepath.Join(below, "pipe"), 0o600))
	require.NoError(t, syncTree(dir))
	assert.ErrorIs(t, syncTree(filepath.Join(dir, "gone")), fs.ErrNotExist)
}
