package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// nobody is a uid that owns nothing.
const nobody = 64999

// An image is built by root, and its containers run as somebody else, with a read-only root file system.
func TestALayerThatRootWarmedServesAnotherUser(t *testing.T) {
	require.Zero(t, os.Geteuid(), "becoming another user takes root")
	dir := t.TempDir()
	for up := dir; up != os.TempDir() && up != "/"; up = filepath.Dir(up) {
		require.NoError(t, os.Chmod(up, 0o755))
	}
	program := filepath.Join(dir, "attune-run")
	copyProgram(t, program)
	pack := filepath.Join(dir, "packs", "layered")
	for name, text := range map[string]string{
		"pack.yaml": "ref: layered\nversion: 1.0.0\n", "requirements.txt": "six==1.17.0\n",
		"actions/six.yaml": "ref: layered.six\nrunner_type: python\nentry_point: six_version.py\n", "actions/six_version.py": "import six\nprint(six.__version__)\n",
	} {
		path := filepath.Join(pack, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	run := func(uid uint32, cache string, env []string, args ...string) (string, error) {
		cmd := exec.Command(program, args...)
		cmd.Dir = "/"
		// Only what every user can reach: an interpreter in root's home is none for others.
		cmd.Env = append(os.Environ(), "PATH=/usr/bin:/bin", "HOME=/nonexistent", "ATTUNE_CACHE="+cache, "ATTUNE_PACKS="+filepath.Dir(pack),
			"TMPDIR="+cache+"-tmp", "GORACE=atexit_sleep_ms=0")
		cmd.Env = append(cmd.Env, env...)
		require.NoError(t, os.MkdirAll(cache+"-tmp", 0o777))
		require.NoError(t, os.Chmod(cache+"-tmp", 0o777))
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	layer := filepath.Join(dir, "layer")
	before := syscall.Umask(0o077) // a strict umask of who builds the image must not matter
	out, err := run(0, layer, nil, "env", "warm", "-q", "layered.*")
	syscall.Umask(before)
	require.NoError(t, err, out)
	assert.Contains(t, out, "built")
	assert.NoDirExists(t, filepath.Join(layer, "v1", "downloads"))
	require.NoError(t, syscall.Mount(layer, layer, "", syscall.MS_BIND, ""))
	t.Cleanup(func() { _ = syscall.Unmount(layer, syscall.MNT_DETACH) })
	require.NoError(t, syscall.Mount("", layer, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))

	upper := filepath.Join(dir, "upper") // nobody may make it
	out, err = run(nobody, upper, nil, "--layer", layer, "layered.six")
	require.NoError(t, err, out)
	assert.Equal(t, "1.17.0\n", out)
	elsewhere := []string{"PIP_INDEX_URL=http://127.0.0.1:9/simple"} // a layer is not asked where its content came from
	out, err = run(nobody, upper, elsewhere, "--layer", layer, "layered.six")
	require.NoError(t, err, out)
	assert.Equal(t, "1.17.0\n", out)
	assert.NoDirExists(t, upper)
	out, err = run(nobody, upper, nil, "--layer", layer, "env", "list")
	require.NoError(t, err)
	assert.Equal(t, 1, strings.Count(out, layer), out)

	require.NoError(t, os.WriteFile(filepath.Join(pack, "requirements.txt"), []byte("six==1.16.0\n"), 0o644))
	out, err = run(nobody, upper, nil, "--layer", layer, "layered.six")
	require.Error(t, err, "what no layer has wants a cache that can be written")
	assert.Contains(t, out, upper)
}

func copyProgram(t *testing.T, to string) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	copyFile(t, self, to)
}

// copyFile makes a program of a file's content.
func copyFile(t *testing.T, source, to string) {
	t.Helper()
	from, err := os.Open(source)
	require.NoError(t, err)
	defer func() { _ = from.Close() }()
	f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	require.NoError(t, err)
	_, err = io.Copy(f, from)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}
