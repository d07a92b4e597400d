package bundle

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// claimed is a directory that was made for a while.
type claimed struct {
	dir  string
	made []string // what had to be made for it, the deepest last
	lock *os.File
}

// claim takes a directory that nobody uses.
func claim(dir string) (*claimed, error) {
	c := &claimed{dir: dir}
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Lstat(at); err == nil {
			break
		}
		c.made = append(c.made, at)
	}
	slices.Reverse(c.made)
	for _, path := range c.made {
		if err := os.Mkdir(path, 0o755); err != nil {
			c.release()
			return nil, fmt.Errorf("%s cannot be made on this machine: %w", dir, errors.Unwrap(err))
		}
	}
	lock, err := os.Open(dir)
	if err == nil {
		err = lockEmpty(lock)
	}
	if err == nil {
		err = lock.Chmod(0o755)
	}
	if err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("%s cannot be used on this machine: %w", dir, err)
	}
	c.lock = lock
	return c, nil
}

// lockEmpty makes an empty directory the caller's.
func lockEmpty(dir *os.File) error {
	if unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return errors.New("it is being used by another attune bundle")
	}
	if _, err := dir.Readdirnames(1); !errors.Is(err, io.EOF) {
		return errors.New("it is not empty")
	}
	return nil
}

func (c *claimed) release() {
	if c.lock != nil {
		_ = emptyDir(c.dir)
	}
	for _, path := range slices.Backward(c.made) {
		_ = os.Remove(path)
	}
	_ = c.lock.Close()
}
