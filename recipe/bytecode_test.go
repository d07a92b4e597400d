package recipe_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/recipe"
)

// Python is asked with -v, which tells whether it took the bytecode or compiled the source.
func TestSealedBytecodeIsTakenWhateverTheTimes(t *testing.T) {
	dir := t.TempDir()
	source := filepath.Join(dir, "mod.py")
	require.NoError(t, os.WriteFile(source, []byte("print('imported')\n"), 0o644))
	python := func(args ...string) string {
		cmd := exec.Command("/usr/bin/python3", args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	python("-m", "compileall", "-q", ".")
	files, err := filepath.Glob(dir + "/__pycache__/*.pyc")
	require.NoError(t, err)
	require.Len(t, files, 1)
	data, err := os.ReadFile(files[0])
	require.NoError(t, err)
	require.NoError(t, os.Chtimes(source, time.Unix(315532800, 0), time.Unix(315532800, 0)))
	assert.Contains(t, python("-B", "-v", "-c", "import mod"), "bytecode is stale", "the reason for all this")

	sealed := recipe.SealBytecode(data)
	assert.Len(t, sealed, len(data))
	require.NoError(t, os.WriteFile(files[0], sealed, 0o644))
	out := python("-B", "-v", "-c", "import mod")
	assert.Contains(t, out, "imported")
	assert.NotContains(t, out, "stale")
	assert.Equal(t, sealed, recipe.SealBytecode(sealed))
	assert.Equal(t, []byte("text"), recipe.SealBytecode([]byte("text")))
}
