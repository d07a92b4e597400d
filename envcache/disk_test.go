package envcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFullDisk(t *testing.T) {
	dir := smallDisk(t, "size=1m")
	s, key := openStore(t, dir), testKey("x")
	_, err := s.Acquire(context.Background(), key, &testBuilder{fill: 4 << 20}, AcquireOptions{})
	var full *StoreError
	require.ErrorAs(t, err, &full)
	require.ErrorIs(t, err, syscall.ENOSPC)
	assert.Contains(t, err.Error(), dir)
	assertOnlyLock(t, s, key)
	assert.Equal(t, Fresh, acquire(t, s, key, &testBuilder{fill: 1 << 10}).State, "with space there is an environment: a full disk is not remembered")
}

// What nobody uses makes room for one more try; what is in use stays.
func TestAFullDiskIsCleared(t *testing.T) {
	s := openStore(t, smallDisk(t, "size=8m"))
	start := time.Now()
	for i, name := range []string{"oldest", "held", "newer"} {
		s.now = func() time.Time { return start.Add(time.Duration(i-10) * time.Hour) }
		env := acquire(t, s, testKey(name), &testBuilder{fill: 1536 << 10})
		if name != "held" {
			require.NoError(t, env.Close())
		}
	}
	s.now = time.Now
	downloads := filepath.Join(s.Downloads(), "pip")
	require.NoError(t, os.MkdirAll(downloads, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(downloads, "wheel"), make([]byte, 1<<20), 0o600))

	var phases []string
	count := filepath.Join(t.TempDir(), "count")
	env, err := s.Acquire(context.Background(), testKey("big"), &testBuilder{fill: 4 << 20, count: count}, AcquireOptions{Progress: func(p Progress) {
		if p.Phase == "building again" {
			phases = append(phases, p.Line)
		}
	}})
	require.NoError(t, err)
	defer func() { _ = env.Close() }()
	assert.Equal(t, 2, builds(t, count), "one more try")
	assert.Len(t, phases, 1, "the user is told")
	assertWhole(t, env)
	_, held := s.Find(testKey("held"))
	assert.True(t, held)
	_, oldest := s.Find(testKey("oldest"))
	assert.False(t, oldest, "the least recently used goes first")

	// Nothing is left to remove: the error comes after one more try at most.
	require.NoError(t, os.WriteFile(filepath.Join(s.Root(), "ballast"), bytes.Repeat([]byte("x"), int(free(s.Root()).bytes)-64<<10), 0o600))
	_, err = s.Acquire(context.Background(), testKey("bigger"), &testBuilder{fill: 4 << 20}, AcquireOptions{})
	require.ErrorIs(t, err, syscall.ENOSPC)
	assertWhole(t, env)
}

// The build succeeds, and the disk is full when it is published.
func TestADiskThatIsFullAtTheEnd(t *testing.T) {
	for _, point := range []string{"built", "synced"} {
		t.Run(point, func(t *testing.T) {
			s := openStore(t, smallDisk(t, "size=4m"))
			require.NoError(t, acquire(t, s, testKey("old"), &testBuilder{fill: 1 << 20}).Close())
			ballast, filled := filepath.Join(s.Root(), "ballast"), false
			s.sys.reached = func(at string) {
				if at == point && !filled {
					filled = true
					fillDisk(t, ballast)
				}
			}
			// tmpfs makes a link without room; the error of another file system takes its place.
			s.sys.link = func(from, to string) error {
				if filled && free(s.Root()).bytes == 0 {
					return &os.LinkError{Op: "link", Old: from, New: to, Err: syscall.ENOSPC}
				}
				return os.Link(from, to)
			}
			env := acquire(t, s, testKey("new"), &testBuilder{})
			assert.True(t, filled)
			assertWhole(t, env)
			_, there := s.Find(testKey("old"))
			assert.False(t, there)
		})
	}
}

func fillDisk(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	require.ErrorIs(t, err, syscall.ENOSPC)
}

// Bytes are free and inodes are not.
func TestADiskWithoutInodes(t *testing.T) {
	s := openStore(t, smallDisk(t, "nr_inodes=400,size=64m"))
	for i := range 2 {
		require.NoError(t, acquire(t, s, testKey(fmt.Sprint(i)), &testBuilder{files: 100}).Close())
	}
	env := acquire(t, s, testKey("new"), &testBuilder{files: 150})
	assertWhole(t, env)
	_, err := s.Acquire(context.Background(), testKey("newer"), &testBuilder{files: 500}, AcquireOptions{})
	require.ErrorIs(t, err, syscall.ENOSPC)
	assertWhole(t, env)

	// None is left even for a lock file.
	require.NoError(t, env.Close())
	for i := 0; err == nil || i == 0; i++ {
		err = os.WriteFile(filepath.Join(s.Root(), fmt.Sprint("ballast", i)), nil, 0o600)
	}
	require.ErrorIs(t, err, syscall.ENOSPC)
	assert.Equal(t, Fresh, acquire(t, s, testKey("last"), &testBuilder{}).State)
}

// An installer that says it in its own words, and leaves a disk that is full.
func TestAnInstallersWordsForAFullDisk(t *testing.T) {
	s, key := openStore(t, smallDisk(t, "size=2m")), testKey("x")
	ballast := filepath.Join(s.Root(), "ballast")
	b := &testBuilder{during: func(Site) error {
		fillDisk(t, ballast)
		return errors.New("exit status 28")
	}}
	_, err := s.Acquire(context.Background(), key, b, AcquireOptions{})
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.ErrorContains(t, err, "exit status 28")
	require.NoError(t, os.Remove(ballast))
	assert.Equal(t, Fresh, acquire(t, s, key, &testBuilder{}).State, "it is not remembered")
}

func TestReadOnlyStoreServesWhatItHolds(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	require.NoError(t, acquire(t, s, testKey("x"), &testBuilder{}).Close())
	readOnly(t, dir)
	env := acquire(t, openStore(t, dir), testKey("x"), &testBuilder{})
	assert.Equal(t, Hit, env.State)
	hold, err := env.Hold()
	require.NoError(t, err)
	require.NoError(t, hold.Close())
	_, err = s.Acquire(context.Background(), testKey("y"), &testBuilder{}, AcquireOptions{})
	require.ErrorIs(t, err, syscall.EROFS)
	require.ErrorContains(t, err, dir)
	require.ErrorIs(t, s.Remove(context.Background(), s.ID(testKey("x"))), syscall.EROFS)
	assertWhole(t, env)
}
