package inplace_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/internal/inplace"
)

func TestAProgramSeesTheDirectoryElsewhere(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "here"), []byte("content\n"), 0o644))
	at := "/var/attune-test/deep/place"
	before, err := os.ReadDir("/var")
	require.NoError(t, err)
	places := []inplace.Place{{Dir: dir, At: at}, {Dir: t.TempDir(), At: "/tmp"}}
	require.NoError(t, inplace.Check(t.Context(), places))
	out, err := inplace.Command(t.Context(), places, at, "/bin/sh", "sh", "-c", "cat here; ls /tmp; echo made > "+at+"/there; ls -A /var").CombinedOutput()
	require.NoError(t, err, "%s", out)
	want := []string{"content", "attune-test"}
	for _, entry := range before {
		want = append(want, entry.Name())
	}
	assert.ElementsMatch(t, want, strings.Fields(string(out)))
	made, err := os.ReadFile(filepath.Join(dir, "there"))
	require.NoError(t, err)
	assert.Equal(t, "made\n", string(made), "the real directory was written")
	assert.NoDirExists(t, "/var/attune-test", "nothing is left on the machine")
}

func TestWhatCannotBePlacedIsSaid(t *testing.T) {
	err := inplace.Check(t.Context(), []inplace.Place{{Dir: t.TempDir(), At: "/no-such-directory/place"}})
	require.ErrorContains(t, err, "there is no /no-such-directory on this machine")
	err = inplace.Check(t.Context(), []inplace.Place{{Dir: "/no/such/dir", At: "/var/x"}})
	require.ErrorContains(t, err, "/no/such/dir")
}

func TestAPlaceThatIsReadOnly(t *testing.T) {
	dir := t.TempDir()
	out, err := inplace.Command(t.Context(), []inplace.Place{{Dir: dir, At: "/var/attune-test", ReadOnly: true}}, "/", "/bin/sh", "sh", "-c", "touch /var/attune-test/x").CombinedOutput()
	require.Error(t, err)
	assert.Contains(t, string(out), "Read-only file system")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "y"), nil, 0o600), "here it is as before")
}
