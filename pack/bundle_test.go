package pack

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestABundleIsThePack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "mine")
	for name, content := range map[string]string{
		"pack.yaml": "ref: mine\nversion: 1.0.0\n", "actions/a.yaml": "ref: mine.a\nentry_point: a.sh\n", "lib/__pycache__/x.pyc": "junk", "pack.sig": "{}",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "actions/a.sh"), []byte("echo hi\n"), 0o700))
	require.NoError(t, os.Symlink("a.sh", filepath.Join(dir, "actions/b.sh")))
	p, err := Load(dir)
	require.NoError(t, err)
	var first, second bytes.Buffer
	require.NoError(t, p.WriteBundle(&first))
	require.NoError(t, p.WriteBundle(&second))
	assert.Equal(t, first.Bytes(), second.Bytes())

	file := filepath.Join(t.TempDir(), "mine.tar.gz")
	require.NoError(t, os.WriteFile(file, first.Bytes(), 0o600))
	installed, err := Installer{Into: t.TempDir(), Validate: func(*Pack) []Problem { return nil }}.Archive(file)
	require.NoError(t, err)
	want, err := p.Digest()
	require.NoError(t, err)
	got, err := installed.Digest()
	require.NoError(t, err)
	assert.Equal(t, want, got)
	assert.FileExists(t, filepath.Join(installed.Dir, "pack.sig"))
	assert.NoDirExists(t, filepath.Join(installed.Dir, "lib"))
}
