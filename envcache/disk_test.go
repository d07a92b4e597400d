package envcache

import (
	"context"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("attune", dir, "tmpfs", 0, "size=1m,mode=700"); err != nil {
		t.Skipf("a small tmpfs cannot be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	s, key := openStore(t, dir), testKey("x")
	_, err := s.Acquire(context.Background(), key, &testBuilder{fill: 4 << 20}, AcquireOptions{})
	var full *StoreError
	require.ErrorAs(t, err, &full)
	require.ErrorIs(t, err, syscall.ENOSPC)
	assert.Contains(t, err.Error(), dir)
	assertOnlyLock(t, s, key)
	assert.Equal(t, Fresh, acquire(t, s, key, &testBuilder{fill: 1 << 10}).State, "with space there is an environment")
}

func TestReadOnlyStoreServesWhatItHolds(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	require.NoError(t, acquire(t, s, testKey("x"), &testBuilder{}).Close())
	if err := syscall.Mount(dir, dir, "", syscall.MS_BIND, ""); err != nil {
		t.Skipf("a bind mount cannot be made here: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	require.NoError(t, syscall.Mount("", dir, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	env := acquire(t, openStore(t, dir), testKey("x"), &testBuilder{})
	assert.Equal(t, Hit, env.State)
	hold, err := env.Hold()
	require.NoError(t, err)
	require.NoError(t, hold.Close())
	_, err = s.Acquire(context.Background(), testKey("y"), &testBuilder{}, AcquireOptions{})
	require.ErrorIs(t, err, syscall.EROFS)
	assert.ErrorContains(t, err, dir)
}
