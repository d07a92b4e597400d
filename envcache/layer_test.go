package envcache

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const stranger = 12345 // a uid that owns nothing

// newLayer is a store that root made for others to read, under a strict umask.
func newLayer(t *testing.T, dir string, keys ...Key) {
	t.Helper()
	s, err := Open(dir, Options{Readable: true})
	require.NoError(t, err)
	for _, key := range keys {
		require.NoError(t, acquire(t, s, key, &testBuilder{}).Close())
	}
}

// listing is everything below a directory with what a write would change.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	require.NoError(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		_, err = fmt.Fprintln(&b, path, st.Ino, st.Mode, st.Uid, st.Size, st.Mtim, st.Ctim, st.Nlink)
		return err
	}))
	return b.String()
}

// Layers that root built, on a read-only mount, are used in place by another user, who has an upper store of his own.
func TestAnotherUserReadsALayer(t *testing.T) {
	needRoot(t)
	base := publicDir(t)
	layer, upper := filepath.Join(base, "layer"), filepath.Join(base, "upper")
	builder := start(t, order{Root: layer, Options: Options{Readable: true}, Key: "x", Umask: 0o077})
	builder.state(t)
	builder.end(t)
	require.NoError(t, os.Chmod(layer, 0o755))
	require.NoError(t, os.Mkdir(upper, 0o700))
	require.NoError(t, os.Chown(upper, stranger, stranger))
	readOnly(t, layer)
	before := listing(t, layer)
	acquireAs := func(o order) (State, string) {
		o.Root, o.Options = upper, Options{Layers: []string{layer}}
		p := startAs(t, stranger, nil, o)
		defer p.end(t)
		return p.state(t)
	}
	state, dir := acquireAs(order{Key: "x"})
	assert.Equal(t, Hit, state)
	assert.True(t, strings.HasPrefix(dir, layer), dir)
	state, dir = acquireAs(order{Key: "y"})
	assert.Equal(t, Fresh, state, "a miss of the layer is built in the upper store")
	assert.True(t, strings.HasPrefix(dir, upper), dir)
	state, _ = acquireAs(order{Key: "y"})
	assert.Equal(t, Hit, state)
	assert.Equal(t, before, listing(t, layer), "nothing is written to a layer")

	// The upper store is full, or read-only: what the layer has works all the same.
	mountMemory(t, upper, fmt.Sprintf("size=4k,mode=700,uid=%d", stranger))
	require.NoError(t, os.WriteFile(filepath.Join(upper, "ballast"), make([]byte, 4096), 0o600))
	state, _ = acquireAs(order{Key: "x"})
	assert.Equal(t, Hit, state)
	remountReadOnly(t, upper)
	state, _ = acquireAs(order{Key: "x"})
	assert.Equal(t, Hit, state)
	p := startAs(t, stranger, nil, order{Root: upper, Options: Options{Layers: []string{layer}}, Key: "z"})
	assert.Contains(t, p.next(t, "error *envcache.StoreError"), "read-only")
}

// The reasons why a layer's environment is not taken.
func TestALayerThatDoesNotFit(t *testing.T) {
	interpreter, write := fakeInterpreter(t, "3.11.2 cp311")
	libc := func(name string) Key {
		return NewKey([]KeyInput{{Name: "manifest", Value: "x"}, {Name: "libc", Value: name}}, false)
	}
	bound := NewKey([]KeyInput{{Name: "manifest", Value: "x"}}, true)
	layer := filepath.Join(t.TempDir(), "layer")
	lower, err := Open(layer, Options{Readable: true})
	require.NoError(t, err)
	for _, key := range []Key{libc("glibc"), bound} {
		require.NoError(t, acquire(t, lower, key, &testBuilder{interpreter: interpreter}).Close())
	}
	upper := func() *Store {
		s, err := Open(filepath.Join(t.TempDir(), "upper"), Options{Layers: []string{layer}})
		require.NoError(t, err)
		return s
	}
	s, b := upper(), &testBuilder{interpreter: interpreter}
	assert.Equal(t, layer, acquire(t, s, libc("glibc"), b).Root)
	assert.Equal(t, layer, acquire(t, s, bound, b).Root, "what carries its path is of use in the place where it was built")
	assert.Equal(t, s.Root(), acquire(t, s, libc("musl"), b).Root, "another C library")

	// An image is copied to another place: its own path tells.
	copied := filepath.Join(t.TempDir(), "copied")
	out, err := runTool("cp", "-a", layer, copied)
	require.NoError(t, err, out)
	s, err = Open(filepath.Join(t.TempDir(), "upper"), Options{Layers: []string{copied}})
	require.NoError(t, err)
	assert.Equal(t, s.Root(), acquire(t, s, bound, b).Root)
	assert.Equal(t, copied, acquire(t, s, libc("glibc"), b).Root)

	// The interpreter was upgraded above the layer.
	write("3.12.0 cp312")
	s = upper()
	var passed []Progress
	env, err := s.Acquire(context.Background(), libc("glibc"), b, AcquireOptions{Progress: func(p Progress) {
		if strings.HasPrefix(p.Phase, "passing over") {
			passed = append(passed, p)
		}
	}})
	require.NoError(t, err)
	defer func() { _ = env.Close() }()
	assert.Equal(t, s.Root(), env.Root)
	require.Len(t, passed, 1)
	assert.Contains(t, passed[0].Phase, layer)
	assert.Contains(t, passed[0].Line, "3.12.0")
}

// An image's interpreter has another inode and other times than where the layer was built: the digest decides, once, and what
// was found out is remembered above the layer.
func TestALayersInterpreterIsComparedByContent(t *testing.T) {
	interpreter, write := fakeInterpreter(t, "3.11.2 cp311")
	layer, key := filepath.Join(t.TempDir(), "layer"), testKey("x")
	lower, err := Open(layer, Options{Readable: true})
	require.NoError(t, err)
	require.NoError(t, acquire(t, lower, key, &testBuilder{interpreter: interpreter}).Close())
	write("3.11.2 cp311")
	readOnly(t, layer)
	upper := filepath.Join(t.TempDir(), "upper")
	for range 2 {
		s, err := Open(upper, Options{Layers: []string{layer}})
		require.NoError(t, err)
		b := &testBuilder{interpreter: interpreter}
		assert.Equal(t, layer, acquire(t, s, key, b).Root)
		assert.Zero(t, b.probes.Load())
	}
	notes, err := filepath.Glob(filepath.Join(upper, "v1", "layers", "*.stat"))
	require.NoError(t, err)
	assert.Len(t, notes, 1)
}

func TestADamagedLayerIsPassedOver(t *testing.T) {
	layer, key := filepath.Join(t.TempDir(), "layer"), testKey("x")
	newLayer(t, layer, key, testKey("y"), testKey("z"))
	s, err := Open(filepath.Join(t.TempDir(), "upper"), Options{Layers: []string{layer}})
	require.NoError(t, err)
	lower := s.layers[0]
	env := acquire(t, s, key, &testBuilder{})
	require.NoError(t, os.Remove(filepath.Join(env.Dir, "whole")))
	assert.Equal(t, s.Root(), acquire(t, s, key, &testBuilder{}).Root)
	require.NoError(t, os.Truncate(lower.entry(lower.ID(testKey("y"))).readyFile(), 3))
	assert.Equal(t, s.Root(), acquire(t, s, testKey("y"), &testBuilder{}).Root)

	// Damage that only an execution notices is noted above the layer, once and for every process.
	env = acquire(t, s, testKey("z"), &testBuilder{})
	require.Equal(t, layer, env.Root)
	before := listing(t, layer)
	require.NoError(t, s.Quarantine(context.Background(), env, "it does not start"))
	again, err := Open(s.Root(), Options{Layers: []string{layer}})
	require.NoError(t, err)
	assert.Equal(t, s.Root(), acquire(t, again, testKey("z"), &testBuilder{}).Root)
	assert.Equal(t, before, listing(t, layer))
}

func TestLayersAreAskedInOrder(t *testing.T) {
	base := t.TempDir()
	first, second := filepath.Join(base, "first"), filepath.Join(base, "second")
	newLayer(t, first, testKey("both"))
	newLayer(t, second, testKey("both"), testKey("second"))
	s, err := Open(filepath.Join(base, "upper"), Options{Layers: []string{first, second}})
	require.NoError(t, err)
	assert.Equal(t, first, acquire(t, s, testKey("both"), &testBuilder{}).Root)
	assert.Equal(t, second, acquire(t, s, testKey("second"), &testBuilder{}).Root)
	assert.Equal(t, s.Root(), acquire(t, s, testKey("none"), &testBuilder{}).Root)
	list, err := s.List(context.Background(), false)
	require.NoError(t, err)
	assert.Len(t, list, 4)
	for _, info := range list {
		assert.Equal(t, Ready, info.State)
	}
	layered, err := s.Get(s.ID(testKey("second")))
	require.NoError(t, err)
	assert.Equal(t, second, layered.Layer)
	var refused *StoreError
	require.ErrorAs(t, s.Remove(context.Background(), layered.ID), &refused, "a layer is only read")
	report, err := s.Prune(context.Background(), Policy{MaxSize: 1})
	require.NoError(t, err)
	assert.Empty(t, report.Removed, "what is held above stays, and layers are not this store's to prune")
}

func TestLayersThatCannotBeTrusted(t *testing.T) {
	needRoot(t)
	open := func(dir string, owners ...int) error {
		_, err := Open(filepath.Join(t.TempDir(), "upper"), Options{Layers: []string{dir}, LayerOwners: owners})
		return err
	}
	make := func() string {
		dir := filepath.Join(t.TempDir(), "layer")
		newLayer(t, dir, testKey("x"))
		require.NoError(t, open(dir))
		return dir
	}
	dir := make()
	require.NoError(t, os.Chmod(dir, 0o777))
	require.ErrorContains(t, open(dir), "can be written by others (mode 0777); chmod -R go-w")
	dir = make()
	require.NoError(t, os.Chmod(filepath.Join(dir, "v1"), 0o775))
	require.ErrorContains(t, open(dir), "can be written by others")
	dir = make()
	require.NoError(t, os.Chown(dir, stranger, -1))
	require.ErrorContains(t, open(dir), "belongs to uid 12345")
	require.NoError(t, open(dir, stranger), "an owner that the operator names is trusted")
	require.ErrorContains(t, open(filepath.Join(dir, "missing")), "is not there")
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(dir, link))
	require.ErrorContains(t, open(link), "symbolic link")
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.ErrorContains(t, open(file), "not a directory")
	require.NoError(t, open(t.TempDir()), "an empty layer is a layer")
}

// Where an image is built there are installers and mirrors that its containers know nothing of.
func TestALayerAnswersHoweverItWasFilled(t *testing.T) {
	key := func(manifest, installer string) Key {
		return NewKey([]KeyInput{{Name: "manifest", Value: manifest}, {Name: "installer", Value: installer, How: true}}, true)
	}
	layer := tempStore(t)
	built := acquire(t, layer, key("x", "uv 1"), &testBuilder{})
	require.NoError(t, built.Close())

	upper, err := Open(filepath.Join(t.TempDir(), "upper"), Options{Layers: []string{layer.Root()}})
	require.NoError(t, err)
	for _, installer := range []string{"uv 1", "uv 2", "pip", ""} {
		env := acquire(t, upper, key("x", installer), &testBuilder{fail: os.ErrInvalid})
		assert.Equal(t, built.Dir, env.Dir, installer)
	}
	info, found := upper.Find(key("x", "pip"))
	require.True(t, found)
	assert.Equal(t, built.ID, info.ID)
	assert.Equal(t, Fresh, acquire(t, upper, key("y", "uv 1"), &testBuilder{}).State)
	assert.Equal(t, Fresh, acquire(t, layer, key("x", "pip"), &testBuilder{}).State, "in a store of one's own it counts")

	require.NoError(t, os.WriteFile(layer.askedFile(key("z", "").Inputs(layer.Root())), []byte(built.ID), 0o600))
	assert.Equal(t, Fresh, acquire(t, upper, key("z", "pip"), &testBuilder{}).State, "a name that leads to something else is none")
}
