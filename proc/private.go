package proc

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// PrivateDir is a directory of one execution, open to nobody else. A lock on it marks its owner as alive.
type PrivateDir struct {
	Path string
	lock *os.File
}

const privatePrefix = "run-"

// NewPrivateDir makes one below base, which is made too. A base that belongs to somebody else, or that others may
// enter, is refused.
func NewPrivateDir(base string) (*PrivateDir, error) {
	if err := privateBase(base); err != nil {
		return nil, err
	}
	for {
		path, err := os.MkdirTemp(base, privatePrefix)
		if err != nil {
			return nil, err
		}
		lock, err := lockDir(path)
		switch {
		case err == nil:
			return &PrivateDir{Path: path, lock: lock}, nil
		case !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.EWOULDBLOCK):
			_ = os.Remove(path)
			return nil, err
		}
		// A sweep came between making and locking it.
	}
}

func privateBase(base string) error {
	if err := os.Mkdir(base, 0o700); err == nil {
		return nil
	} else if errors.Is(err, os.ErrNotExist) {
		return os.MkdirAll(base, 0o700)
	}
	info, err := os.Lstat(base)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return fmt.Errorf("%s is no directory", base)
	case ok && int(stat.Uid) != os.Geteuid():
		return fmt.Errorf("%s belongs to uid %d, not to %d", base, stat.Uid, os.Geteuid())
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%s is open to others (mode %04o); chmod 700 it", base, info.Mode().Perm())
	}
	return nil
}

// lockDir locks a directory and makes sure that it is still the one at path.
func lockDir(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, err
	}
	mine, err := f.Stat()
	if err == nil {
		var there os.FileInfo
		if there, err = os.Lstat(path); err == nil && !os.SameFile(mine, there) {
			err = os.ErrNotExist
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// Remove takes the directory away with all that is in it.
func (p *PrivateDir) Remove() error {
	err := removeTree(p.Path)
	return errors.Join(err, p.lock.Close())
}

// SweepPrivateDirs removes the directories below base whose owners are dead.
func SweepPrivateDirs(base string) {
	entries, err := os.ReadDir(base)
	if err != nil {
		return
	}
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), privatePrefix) {
			continue
		}
		path := filepath.Join(base, e.Name())
		if lock, err := lockDir(path); err == nil {
			_ = removeTree(path)
			_ = lock.Close()
		}
	}
}

// removeTree removes a directory without recursion and with two descriptors, however deep it is: directories
// that are not empty are moved up to the top, where their turn comes. Links are removed, never followed.
func removeTree(top string) error {
	if removeFlat(top) {
		return nil
	}
	root, err := os.OpenRoot(top)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	for moved := 0; ; {
		names, err := namesIn(root, ".")
		if err != nil {
			return err
		}
		if len(names) == 0 {
			return os.Remove(top)
		}
		for _, name := range names {
			if err := removeOrFlatten(root, name, &moved); err != nil {
				return err
			}
		}
	}
}

// removeFlat removes a directory of files and empty directories, as most executions leave theirs. It is false where more
// is left.
func removeFlat(top string) bool {
	entries, err := os.ReadDir(top)
	if err != nil {
		return false
	}
	for _, e := range entries {
		path, flags := filepath.Join(top, e.Name()), 0
		if e.IsDir() {
			flags = unix.AT_REMOVEDIR
		}
		if unix.Unlinkat(unix.AT_FDCWD, path, flags) != nil {
			return false
		}
	}
	return unix.Rmdir(top) == nil
}

// removeOrFlatten removes one entry at the top; a directory's own directories are moved beside it first.
func removeOrFlatten(root *os.Root, name string, moved *int) error {
	if err := root.Remove(name); err == nil || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	_ = root.Chmod(name, 0o700) // its owner may have closed it to itself
	names, err := namesIn(root, name)
	if err != nil {
		return fmt.Errorf("remove %s: %w", filepath.Join(root.Name(), name), err)
	}
	for _, below := range names {
		path := filepath.Join(name, below)
		if root.Remove(path) == nil {
			continue
		}
		_ = root.Chmod(path, 0o700) // moving a directory rewrites its ".."
		for {
			*moved++
			target := ".attune-" + strconv.Itoa(*moved)
			if _, err := root.Lstat(target); err == nil {
				continue
			}
			if err := root.Rename(path, target); err != nil {
				return fmt.Errorf("remove %s: %w", filepath.Join(root.Name(), path), err)
			}
			break
		}
	}
	if err := root.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func namesIn(root *os.Root, dir string) ([]string, error) {
	f, err := root.Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return f.Readdirnames(-1)
}
