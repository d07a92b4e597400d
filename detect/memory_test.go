package detect

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/runtime"
)

// restore gives a file a new inode and new times, as an unpacked archive or an image's layer does.
func restore(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path+".new", data, 0o755))
	require.NoError(t, os.Chtimes(path+".new", time.Time{}, time.Now().Add(-24*time.Hour)))
	require.NoError(t, os.Rename(path+".new", path))
}

func (m *machine) memory() string { return filepath.Join(m.dir, "cache", "detect.json") }

// layered is a fresh detector with a memory of its own over others.
func (m *machine) layered(own string, layers ...string) *Detector {
	return New(Options{Path: m.dir + "/bin:/usr/bin:/bin", Home: m.dir, Dir: m.dir, CacheFile: own, Memories: layers})
}

func TestARestoredInterpreterIsNotAskedAgain(t *testing.T) {
	m := newMachine(t)
	path := m.write("bin/lang", "echo lang 1.2.3")
	_, err := m.find("")
	require.NoError(t, err)
	restore(t, path)
	found, err := m.find("")
	require.NoError(t, err)
	assert.Equal(t, "1.2.3", found.Version)
	assert.Equal(t, 1, m.started())

	// The new stat is remembered beside the old: the content is read once.
	d := m.detector()
	c := d.candidates(m.spec)[0]
	known, ok := d.recall(m.spec, c)
	require.True(t, ok)
	assert.Equal(t, "1.2.3", known.interpreter.Version)

	m.write("bin/lang", "echo lang 1.2.4")
	found, err = m.find("")
	require.NoError(t, err)
	assert.Equal(t, "1.2.4", found.Version, "same size, another content")
	assert.Equal(t, 2, m.started())
}

func TestALayersMemoryIsRead(t *testing.T) {
	m := newMachine(t)
	path := m.write("bin/lang", "echo lang 1.2.3")
	_, err := m.find("")
	require.NoError(t, err)
	layer := m.memory()
	before, err := os.ReadFile(layer)
	require.NoError(t, err)
	restore(t, path)

	own := filepath.Join(m.dir, "own", "detect.json")
	for range 2 {
		found, err := m.layered(own, filepath.Join(m.dir, "missing"), layer).Find(context.Background(), m.spec, "")
		require.NoError(t, err)
		assert.Equal(t, "1.2.3", found.Version)
	}
	assert.Equal(t, 1, m.started())
	after, err := os.ReadFile(layer)
	require.NoError(t, err)
	assert.Equal(t, string(before), string(after))
	assert.NoFileExists(t, layer+".lock.new")
	_, ok := m.layered(own).recall(m.spec, m.detector().candidates(m.spec)[0])
	assert.True(t, ok, "the own memory holds the new stat")

	// Without a memory of its own that can be written it still works.
	found, err := m.layered("/proc/none/detect.json", layer).Find(context.Background(), m.spec, "")
	require.NoError(t, err)
	assert.Equal(t, "1.2.3", found.Version)
	assert.Equal(t, 1, m.started())
}

func TestARejectionIsRememberedToo(t *testing.T) {
	m := newMachine(t)
	path := m.write("bin/lang", "echo something else")
	_, err := m.find("")
	require.Error(t, err)
	restore(t, path)
	_, err = m.find("")
	require.Error(t, err)
	assert.Equal(t, 1, m.started())
}

func TestProcessesDoNotLoseEachOthersAnswers(t *testing.T) {
	m := newMachine(t)
	const n = 20
	specs := make([]*runtime.Spec, n)
	for i := range n {
		name := fmt.Sprintf("lang%02d", i)
		m.write("bin/"+name, "echo lang 1.0."+fmt.Sprint(i))
		spec := *m.spec
		spec.Interpreter.Binary, spec.Verification.Locations = name, nil
		specs[i] = &spec
	}
	var group sync.WaitGroup
	for _, spec := range specs {
		group.Go(func() {
			_, err := m.detector().Find(context.Background(), spec, "")
			assert.NoError(t, err)
		})
	}
	group.Wait()
	assert.Equal(t, n, m.started())
	found, err := m.detector().All(context.Background(), specs)
	require.NoError(t, err)
	assert.Len(t, found, n)
	assert.Equal(t, n, m.started(), "every answer was kept")
}

// A layer is made by one and read by another; a group's store is for all its members.
func TestModesOfTheMemory(t *testing.T) {
	m := newMachine(t)
	m.write("bin/lang", "echo lang 1.2.3")
	defer syscall.Umask(syscall.Umask(0o077))
	for want, mode := range map[fs.FileMode]fs.FileMode{0o700: 0, 0o755: 0o755, fs.ModeSetgid | 0o775: fs.ModeSetgid | 0o775} {
		root := filepath.Join(t.TempDir(), "store")
		d := New(Options{Path: m.dir + "/bin:/usr/bin:/bin", CacheFile: filepath.Join(root, "v1", "detect.json"), CacheMode: mode})
		_, err := d.Find(context.Background(), m.spec, "")
		require.NoError(t, err)
		for path, want := range map[string]fs.FileMode{root: fs.ModeDir | want, root + "/v1": fs.ModeDir | want, root + "/v1/detect.json": 0o644} {
			info, err := os.Stat(path)
			require.NoError(t, err)
			assert.Equal(t, want, info.Mode(), path)
		}
	}
}

func TestTheMemoryDoesNotGrowWithoutBound(t *testing.T) {
	m := newMachine(t)
	path := m.write("bin/lang", "echo lang 1.2.3")
	for range 2 * maxAnswers {
		_, err := m.find("")
		require.NoError(t, err)
		restore(t, path)
	}
	for _, list := range read(m.memory()) {
		assert.LessOrEqual(t, len(list), maxAnswers)
	}
	assert.Equal(t, 1, m.started())
}

func TestTheDigestSeesWhatAnUpgradeChanges(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "bin", "big")
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
	content := bytes.Repeat([]byte("x"), 3*stride+100)
	digest := func() string {
		require.NoError(t, os.WriteFile(file, content, 0o755))
		text, err := contentDigest([]string{file})
		require.NoError(t, err)
		return text
	}
	base := digest()
	assert.Equal(t, base, digest())
	for _, at := range []int{0, stride + 5, len(content) - 1} {
		content[at] = 'y'
		assert.NotEqual(t, base, digest(), at)
		content[at] = 'x'
	}
	content = append(content, 'x')
	assert.NotEqual(t, base, digest())
}

// A layer that was baked knows interpreters by their content, whatever their times are.
func TestABakedMemoryIsEnough(t *testing.T) {
	m := newMachine(t)
	path := m.write("bin/lang", "echo lang 1.2.3")
	_, err := m.find("")
	require.NoError(t, err)
	data, err := Bake(m.memory())
	require.NoError(t, err)
	again, err := Bake(m.memory())
	require.NoError(t, err)
	assert.Equal(t, data, again)
	assert.NotContains(t, string(data), time.Now().UTC().Format("2006-01-"), "it tells no times")
	layer := filepath.Join(m.dir, "layer.json")
	require.NoError(t, os.WriteFile(layer, data, 0o644))
	restore(t, path)
	found, err := m.layered(filepath.Join(m.dir, "own", "v1", "detect.json"), layer).Find(context.Background(), m.spec, "")
	require.NoError(t, err)
	assert.Equal(t, "1.2.3", found.Version)
	assert.Equal(t, 1, m.started())
	nothing, err := Bake(filepath.Join(m.dir, "none"))
	require.NoError(t, err)
	assert.Nil(t, nothing)
}
