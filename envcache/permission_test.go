package envcache

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestOpenWritesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	s := openStore(t, dir)
	list, err := s.List(context.Background(), false)
	require.NoError(t, err)
	assert.Empty(t, list)
	assert.NoDirExists(t, dir)
}

func TestRootThroughALinkIsTheSameStore(t *testing.T) {
	base := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(base, "real"), 0o700))
	require.NoError(t, os.Symlink("real", filepath.Join(base, "link")))
	assert.Equal(t, openStore(t, filepath.Join(base, "real", "c")).Root(), openStore(t, filepath.Join(base, "link", "c")).Root())
}

func TestOpenRefusesAStoreThatOthersDecideAbout(t *testing.T) {
	refused := func(dir string, opt Options, want string) {
		t.Helper()
		_, err := Open(dir, opt)
		var refused *StoreError
		require.ErrorAs(t, err, &refused)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, dir, "the directory is named")
	}
	dir := t.TempDir()
	for mode, want := range map[os.FileMode]string{0o777: "can be written by everybody (mode 0777)", 0o770: "can be written by others (mode 0770)"} {
		require.NoError(t, os.Chmod(dir, mode))
		refused(dir, Options{}, want)
	}
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(dir, link))
	refused(link, Options{}, "is a symbolic link, which somebody could point elsewhere; name its target "+dir)
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	refused(file, Options{}, "is not a directory")

	// What is inside counts as well.
	dir = t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "v1"), 0o700))
	require.NoError(t, os.Chmod(filepath.Join(dir, "v1"), 0o777))
	refused(dir, Options{}, "v1: can be written by everybody")

	dir = t.TempDir()
	require.NoError(t, acquire(t, openStore(t, dir), testKey("x"), &testBuilder{}).Close())
	refused(dir, Options{Shared: true}, "was made for one user (mode 0700)")

	needRoot(t)
	dir = t.TempDir()
	require.NoError(t, os.Chown(dir, stranger, -1))
	refused(dir, Options{}, "belongs to uid 12345, not to 0")
}

// Two members of a group build for each other, under whatever umask, and prune what the other built.
func TestTwoUsersShareAStore(t *testing.T) {
	needRoot(t)
	const group, first, second = 23456, stranger, stranger + 1
	root := filepath.Join(publicDir(t), "store")
	require.NoError(t, os.Mkdir(root, 0o700))
	require.NoError(t, os.Chown(root, first, group))
	require.NoError(t, os.Chmod(root, 0o2775|os.ModeSetgid))
	shared := Options{Shared: true}
	member := func(uid uint32, o order) *process {
		o.Root, o.Options = root, shared
		return startAs(t, uid, []uint32{group}, o)
	}
	builder := member(first, order{Key: "x", Umask: 0o077})
	state, dir := builder.state(t)
	assert.Equal(t, Fresh, state)
	builder.end(t)
	user := member(second, order{Key: "x"})
	state, hit := user.state(t)
	assert.Equal(t, Hit, state)
	assert.Equal(t, dir, hit)

	// What the second uses is not pruned by the first, and his use is noted.
	report := member(first, order{Do: "prune", Policy: Policy{MaxSize: 1}}).next(t, "report")
	assert.Contains(t, report, `"removed":[]`)
	assert.Contains(t, report, "is in use")
	user.end(t)
	old := time.Now().Add(-100 * time.Hour)
	require.NoError(t, os.Chtimes(dir+".use", old, old))
	user = member(second, order{Key: "x"})
	user.state(t)
	user.end(t)
	info, err := os.Stat(dir + ".use")
	require.NoError(t, err)
	assert.WithinDuration(t, time.Now(), info.ModTime(), time.Hour, "the use of another member counts")

	// The other way round: the second replaces what the first left behind, and prunes what he built.
	killed := member(first, order{Key: "y", StopAt: "build", Umask: 0o077})
	killed.next(t, "progress build")
	killed.kill(t)
	after := member(second, order{Key: "y", Umask: 0o077})
	state, _ = after.state(t)
	assert.Equal(t, Fresh, state)
	after.end(t)
	report = member(second, order{Do: "prune", Policy: Policy{MaxSize: 1, Downloads: true}}).next(t, "report")
	assert.Contains(t, report, `"kept":[]`)
	assert.NoDirExists(t, dir)
	// The files of the first that the second may not remove wait in the trash for the first.
	member(first, order{Do: "prune"}).next(t, "report")
	trash, err := os.ReadDir(filepath.Join(root, "v1", "trash"))
	require.NoError(t, err)
	assert.Empty(t, trash)

	assert.Contains(t, startAs(t, stranger+2, nil, order{Root: root, Options: shared, Key: "x"}).next(t, "error *envcache.StoreError"),
		"is shared by the group 23456, which you are no member of")
	assert.Contains(t, startAs(t, first, []uint32{group}, order{Root: root, Key: "x"}).next(t, "error *envcache.StoreError"), "--shared",
		"a store for a group is not taken for a private one")
}

func TestLongRootWithBlanks(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "with blanks, [brackets] and a\nnewline", strings.Repeat("x", 200))
	s := openStore(t, dir)
	for range 2 * logsPerKey {
		_, err := s.Acquire(context.Background(), testKey("x"), &testBuilder{fail: os.ErrInvalid}, AcquireOptions{RetryFailed: true})
		require.Error(t, err)
	}
	logs, err := os.ReadDir(s.LogDir())
	require.NoError(t, err)
	assert.Len(t, logs, logsPerKey)
	env, err := s.Acquire(context.Background(), testKey("x"), &testBuilder{}, AcquireOptions{RetryFailed: true})
	require.NoError(t, err)
	require.NoError(t, env.Close())
	assert.Equal(t, Hit, acquire(t, s, testKey("x"), &testBuilder{}).State)
}
