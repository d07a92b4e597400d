package natsq

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/sys/unix"
)

// A server gathers the writes of a batch in files of their own before it stores them, makes a directory and syncs half a dozen files for
// each, and removes them again: more than a batch of few writes saves. Those files matter to a server only that was killed in the middle
// of a batch, and then only so that the batch becomes whole, which no write here asks for. So the server in this process has them in
// memory: the directory for them in each stream is a link.

const (
	memoryDir     = "/dev/shm"
	stagingPrefix = "attune-batches-"
)

// staging is the directory in memory, locked until it is removed.
type staging struct{ dir *os.File }

// streamsDir is where the server keeps its streams, each in a directory of its name.
func streamsDir(store string) string {
	return filepath.Join(store, "jetstream", server.DEFAULT_GLOBAL_ACCOUNT, "streams")
}

// batchesDir is where the server looks for the batches of a stream. It removes it at its start.
func batchesDir(store, stream string) string {
	return filepath.Join(streamsDir(store), stream, "batches")
}

// isStaged tells whether the server of a store gathers the batches of a stream in memory.
func isStaged(store, stream string) bool {
	target, err := os.Readlink(batchesDir(store, stream))
	return err == nil && strings.HasPrefix(target, filepath.Join(memoryDir, stagingPrefix))
}

// tmpfsMagic is TMPFS_MAGIC of linux/magic.h, which package unix has on Linux alone.
const tmpfsMagic = 0x01021994

// openStaging makes a directory in memory, and removes those that dead processes left.
func openStaging() (*staging, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(memoryDir, &stat); err != nil || stat.Type != tmpfsMagic {
		return nil, fmt.Errorf("%s is no tmpfs: %w", memoryDir, cmp.Or(err, errors.ErrUnsupported))
	}
	sweepStagings()
	path, err := os.MkdirTemp(memoryDir, stagingPrefix)
	if err != nil {
		return nil, err
	}
	dir, err := lockStaging(path)
	if err != nil {
		return nil, err
	}
	return &staging{dir}, nil
}

// lockStaging fails where somebody else has the directory, or just removed it.
func lockStaging(path string) (*os.File, error) {
	dir, err := os.OpenFile(path, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err = unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
		_, err = os.Lstat(path)
	}
	if err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return dir, nil
}

func sweepStagings() {
	left, _ := filepath.Glob(filepath.Join(memoryDir, stagingPrefix+"*"))
	for _, path := range left {
		if dir, err := lockStaging(path); err == nil { // not those of others: they cannot be opened
			_ = os.RemoveAll(path)
			_ = dir.Close()
		}
	}
}

// link makes the server gather batches there, for the streams that exist.
func (s *staging) link(store string) error {
	streams, err := os.ReadDir(streamsDir(store))
	for _, stream := range streams {
		path := batchesDir(store, stream.Name())
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // the directory of batches before, or a link
			return err
		}
		if err := os.Symlink(s.dir.Name(), path); err != nil {
			return err
		}
	}
	return err
}

// close is for when the server is gone.
func (s *staging) close(store string) error {
	var err error
	streams, _ := os.ReadDir(streamsDir(store)) // none where the server never came so far
	for _, stream := range streams {
		if isStaged(store, stream.Name()) {
			err = errors.Join(err, os.Remove(batchesDir(store, stream.Name())))
		}
	}
	return errors.Join(err, os.RemoveAll(s.dir.Name()), s.dir.Close())
}
