package pack

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/runtime"
)

// remembering is a Memory that has kept p.a of a packs directory.
type remembering struct {
	*testing.T
	memory Memory
	finder Finder
	base   runtime.Catalog
	kept   *Found
}

func (r *remembering) ask() *Found {
	found, err := r.memory.Action(r.finder, r.base, "p.a")
	require.NoError(r, err)
	return found
}

func remember(t *testing.T, dirs ...string) *remembering {
	base, err := runtime.Builtin()
	require.NoError(t, err)
	r := &remembering{T: t, finder: Finder{Dirs: dirs}, base: base}
	r.kept = r.ask()
	require.Eventually(t, func() bool { // what was changed just now is not kept
		last := r.kept
		r.kept = r.ask()
		return r.kept == last
	}, time.Minute, 50*time.Millisecond)
	return r
}

func packFiles() map[string]string {
	return map[string]string{
		"p/pack.yaml":      "ref: p\nversion: 1.0.0\n",
		"p/actions/a.yaml": "ref: p.a\nentry_point: a.sh\n",
		"p/actions/a.sh":   "true\n",
		"p/lib/b.sh":       "true\n",
	}
}

func TestMemorySeesEveryChange(t *testing.T) {
	for name, change := range map[string]func(dir string) error{
		"content":   func(dir string) error { return os.WriteFile(filepath.Join(dir, "p/lib/b.sh"), []byte("fals\n"), 0o644) },
		"mode":      func(dir string) error { return os.Chmod(filepath.Join(dir, "p/actions/a.sh"), 0o755) },
		"new file":  func(dir string) error { return os.WriteFile(filepath.Join(dir, "p/lib/c.sh"), nil, 0o644) },
		"lost file": func(dir string) error { return os.Remove(filepath.Join(dir, "p/lib/b.sh")) },
		"renamed": func(dir string) error {
			return os.Rename(filepath.Join(dir, "p/lib/b.sh"), filepath.Join(dir, "p/lib/c.sh"))
		},
		"file with the times of the old one": func(dir string) error {
			path := filepath.Join(dir, "p/lib/b.sh")
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			if err := os.WriteFile(path, []byte("fals\n"), 0o644); err != nil {
				return err
			}
			return os.Chtimes(path, info.ModTime(), info.ModTime())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := write(t, packFiles())
			r := remember(t, dir)
			before, err := r.kept.Digest()
			require.NoError(t, err)
			require.True(t, r.ask().Hashed())
			require.NoError(t, change(dir))
			found := r.ask()
			assert.NotSame(t, r.kept, found)
			after, err := found.Digest()
			require.NoError(t, err)
			assert.NotEqual(t, before, after)
			actual, err := found.Action.Pack.Digest()
			require.NoError(t, err)
			assert.Equal(t, actual, after)
		})
	}
}

func TestMemorySeesAnotherPack(t *testing.T) {
	t.Parallel()
	first, second := t.TempDir(), write(t, packFiles())
	r := remember(t, first, second)
	assert.Equal(t, filepath.Join(second, "p"), r.kept.Action.Pack.Dir)

	require.NoError(t, os.CopyFS(first, os.DirFS(second)))
	assert.Equal(t, filepath.Join(first, "p"), r.ask().Action.Pack.Dir)

	versioned := filepath.Join(second, "p@1.1.0")
	require.NoError(t, os.CopyFS(versioned, os.DirFS(filepath.Join(second, "p"))))
	require.NoError(t, os.WriteFile(filepath.Join(versioned, "pack.yaml"), []byte("ref: p\nversion: 1.1.0\n"), 0o644))
	found, err := r.memory.Action(r.finder, r.base, "p.a@>=1.1")
	require.NoError(t, err)
	assert.Equal(t, "1.1.0", found.Action.Pack.Version)
}

func TestMemorySeesWhatALinkLeadsTo(t *testing.T) {
	t.Parallel()
	dir := write(t, packFiles())
	current, shared := filepath.Join(t.TempDir(), "packs"), filepath.Join(t.TempDir(), "a.yaml")
	require.NoError(t, os.Rename(filepath.Join(dir, "p/actions/a.yaml"), shared))
	require.NoError(t, os.Symlink(shared, filepath.Join(dir, "p/actions/a.yaml")))
	require.NoError(t, os.Symlink(dir, current))
	r := remember(t, current)
	require.NoError(t, os.WriteFile(shared, []byte("ref: p.a\nentry_point: a.sh\nlabel: new\n"), 0o644))
	assert.Equal(t, "new", r.ask().Action.Label)

	r = remember(t, current)
	other := write(t, packFiles())
	require.NoError(t, os.Remove(current))
	require.NoError(t, os.Symlink(other, current))
	assert.Equal(t, "a", r.ask().Action.Label)
}

func TestMemoryKeepsNothingItCannotSeeAllOf(t *testing.T) {
	t.Parallel()
	dir, outside := write(t, packFiles()), t.TempDir()
	require.NoError(t, os.Symlink(outside, filepath.Join(dir, "p/runtimes")))
	assert.Nil(t, Finder{Dirs: []string{dir}}.witness("p.a"))
	assert.Nil(t, Finder{Dirs: []string{dir}}.witness("q.a"))
}

func TestMemoryKeepsNoFailure(t *testing.T) {
	t.Parallel()
	dir := write(t, packFiles())
	r := remember(t, dir)
	lib := filepath.Join(dir, "p/lib")
	require.NoError(t, os.Rename(lib, lib+".away"))
	require.NoError(t, syscall.Mkfifo(lib, 0o600))
	_, err := r.kept.Digest()
	require.Error(t, err)
	require.NoError(t, os.Remove(lib))
	require.NoError(t, os.Rename(lib+".away", lib))
	got, err := r.kept.Digest()
	require.NoError(t, err)
	want, err := r.kept.Action.Pack.Digest()
	require.NoError(t, err)
	assert.Equal(t, want, got)
}
