package main

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/executor"
)

// bake builds the environments of packs into a layer, as an image's build does, and makes it read-only.
func bake(t *testing.T, packs string) string {
	t.Helper()
	attune, layer := filepath.Join(t.TempDir(), "attune-run"), filepath.Join(t.TempDir(), "layer")
	build := exec.Command("go", "build", "-o", attune, "../attune-run")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	warm := exec.Command(attune, "--cache", layer, "--packs", packs, "env", "warm")
	warm.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	out, err = warm.CombinedOutput()
	require.NoError(t, err, "%s", out)
	chmod(t, layer, 0o222)
	t.Cleanup(func() { chmod(t, layer, 0) })
	return layer
}

// chmod takes bits from all below a directory; none given: gives writing back.
func chmod(t *testing.T, dir string, take fs.FileMode) {
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		mode := info.Mode().Perm() &^ take
		if take == 0 {
			mode |= 0o200
		}
		return os.Chmod(path, mode)
	}))
}

func TestABakedLayerIsUsedInPlace(t *testing.T) {
	packs := t.TempDir()
	for _, name := range []string{"t/pack.yaml", "t/actions/compiled.yaml", "t/actions/Main.java"} {
		path := filepath.Join(packs, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(actions[name]), 0o644))
	}
	layer := bake(t, packs)
	before := listing(t, layer)
	p := start(t, "ATTUNE_LAMBDA_ALLOW=*", "ATTUNE_PACKS="+packs, "ATTUNE_LAYERS="+layer, "ATTUNE_NETWORK=offline")
	assert.Equal(t, []string{"."}, listing(t, p.tmp), "the init builds, probes and writes nothing")
	d := p.result(p.invoke(request("t.compiled", nil)))
	assert.Equal(t, executor.Succeeded, d.Status, "%+v", d.Error)
	assert.Equal(t, "compiled", d.Stderr)
	assert.Equal(t, "hit", d.Environment.State)
	assert.True(t, strings.HasPrefix(d.Environment.Path, layer), d.Environment.Path)
	assert.NoDirExists(t, filepath.Join(p.tmp, "attune", "v1", "envs"))
	assert.NoFileExists(t, filepath.Join(p.tmp, "attune", "v1", "detect.json"), "what the layer knows of the interpreter is not asked again")
	assert.Equal(t, before, listing(t, layer))
}

func TestWhatWasBuiltHereIsBounded(t *testing.T) {
	p := start(t, "ATTUNE_LAMBDA_ALLOW=*", "ATTUNE_LAMBDA_CACHE_MAX=1")
	d := p.result(p.invoke(request("t.compiled", nil)))
	assert.Equal(t, "built", d.Environment.State, "%+v", d.Error)
	envs, err := filepath.Glob(filepath.Join(p.tmp, "attune", "v1", "envs", "*", "*", "ready*"))
	require.NoError(t, err)
	assert.Empty(t, envs)
	assert.Equal(t, "built", p.result(p.invoke(request("t.compiled", nil))).Environment.State, "the next is as healthy")
}

func TestWithoutRoomNothingRuns(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ran")
	p := start(t, "ATTUNE_LAMBDA_ALLOW=*", "ATTUNE_LAMBDA_MIN_FREE="+strconv.Itoa(1<<50))
	_, message := p.functionError(p.invoke(request("t.count", map[string]any{"file": file})))
	assert.Contains(t, message, "bytes free")
	assert.NoFileExists(t, file)
}
