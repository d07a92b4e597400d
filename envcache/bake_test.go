package envcache

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// bakeFresh builds an environment in a new store at root and bakes it; then the store is taken away.
func bakeFresh(t *testing.T, root string, key Key) map[string]Baked {
	t.Helper()
	s, err := Open(root, Options{Readable: true, Reproducible: true})
	require.NoError(t, err)
	require.NoError(t, acquire(t, s, key, &testBuilder{}).Close())
	entries, release, err := s.Bake(context.Background(), []string{s.ID(key)}, root)
	require.NoError(t, err)
	defer release()
	all := map[string]Baked{}
	for _, e := range entries {
		if e.Path != "" {
			e.Data, err = e.Content()
			require.NoError(t, err)
			e.Path = ""
		}
		all[e.Name] = e
	}
	require.NoError(t, os.RemoveAll(root))
	return all
}

// write unpacks what was baked as somebody would who keeps neither times nor inodes.
func writeBaked(t *testing.T, root string, entries map[string]Baked) {
	t.Helper()
	for _, e := range entries {
		path := filepath.Join(root, e.Name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		switch {
		case e.Mode.IsDir():
			require.NoError(t, os.MkdirAll(path, 0o755))
		case e.Target != "":
			require.NoError(t, os.Symlink(e.Target, path))
		default:
			require.NoError(t, os.WriteFile(path, e.Data, e.Mode.Perm()))
			require.NoError(t, os.Chtimes(path, time.Unix(1e9, 0), time.Unix(1e9, 0)))
		}
	}
}

func TestWhatIsBakedIsTheSameEachTimeAndUsedInPlace(t *testing.T) {
	base := t.TempDir()
	root := filepath.Join(base, "layer")
	key := NewKey([]KeyInput{{Name: "manifest", Value: "x"}}, true)
	first := bakeFresh(t, root, key)
	assert.Equal(t, first, bakeFresh(t, root, key))

	writeBaked(t, root, first)
	upper, err := Open(filepath.Join(base, "upper"), Options{Layers: []string{root}})
	require.NoError(t, err)
	env := acquire(t, upper, key, &testBuilder{})
	defer func() { _ = env.Close() }()
	assert.Equal(t, Hit, env.State)
	assert.Equal(t, root, env.Root)
	problems, err := env.Damage(context.Background())
	require.NoError(t, err)
	assert.Empty(t, problems, "other times are no damage")

	require.NoError(t, os.Remove(filepath.Join(env.Dir, filepath.FromSlash(anyFile(t, env.Dir)))))
	problems, err = env.Damage(context.Background())
	require.NoError(t, err)
	assert.NotEmpty(t, problems, "a missing file is")
}

func anyFile(t *testing.T, dir string) (name string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		if e.Type().IsRegular() {
			return e.Name()
		}
	}
	t.Fatalf("%s holds no file", dir)
	return ""
}

func TestBakingForAnotherRootIsRefused(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "s"), Options{})
	require.NoError(t, err)
	key := NewKey([]KeyInput{{Name: "manifest", Value: "x"}}, true)
	require.NoError(t, acquire(t, s, key, &testBuilder{}).Close())
	_, _, err = s.Bake(context.Background(), []string{s.ID(key)}, "/elsewhere")
	require.ErrorContains(t, err, "is of use at "+s.Root()+" only, not at /elsewhere")
}
