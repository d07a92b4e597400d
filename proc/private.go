package proc

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

// removeTree removes a directory with all that is in it, however deep: it goes down and up again with two descriptors and
// no recursion. Links are removed, never followed.
func removeTree(top string) error {
	if removeFlat(top) {
		return nil
	}
	fd, err := unix.Open(top, dirFlags, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "remove", Path: top, Err: err}
	}
	w := &walk{fd: fd}
	defer func() { _ = unix.Close(w.fd) }()
	if err = w.enter(""); err == nil {
		err = w.empty()
	}
	if err != nil {
		return &os.PathError{Op: "remove", Path: top, Err: err}
	}
	return os.Remove(top)
}

const dirFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// walk is where removeTree is: in a directory, below those on its way.
type walk struct {
	fd  int
	way []visited
}

type visited struct {
	name     string // in the directory above
	dev, ino uint64
	left     []string // entries still to remove
}

// enter notes what is in the directory that fd has become.
func (w *walk) enter(name string) error {
	var stat unix.Stat_t
	if err := unix.Fstat(w.fd, &stat); err != nil {
		return err
	}
	if stat.Mode&0o700 != 0o700 { // its owner may have closed it to itself
		_ = unix.Fchmod(w.fd, 0o700)
	}
	names, err := namesIn(w.fd)
	w.way = append(w.way, visited{name, uint64(stat.Dev), stat.Ino, names})
	return err
}

// empty removes everything below the first directory.
func (w *walk) empty() error {
	for {
		here := &w.way[len(w.way)-1]
		if len(here.left) == 0 {
			if len(w.way) == 1 {
				return nil
			}
			if err := w.leave(); err != nil {
				return err
			}
			continue
		}
		name := here.left[len(here.left)-1]
		here.left = here.left[:len(here.left)-1]
		if unix.Unlinkat(w.fd, name, 0) == nil || unix.Unlinkat(w.fd, name, unix.AT_REMOVEDIR) == nil {
			continue
		}
		below, err := unix.Openat(w.fd, name, dirFlags, 0)
		if errors.Is(err, unix.EACCES) && unix.Fchmodat(w.fd, name, 0o700, 0) == nil {
			below, err = unix.Openat(w.fd, name, dirFlags, 0)
		}
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return err
		}
		_ = unix.Close(w.fd)
		w.fd = below
		if err := w.enter(name); err != nil {
			return err
		}
	}
}

// leave goes back up and removes the directory it came from.
func (w *walk) leave() error {
	above, err := unix.Openat(w.fd, "..", dirFlags, 0)
	if err != nil {
		return err
	}
	_ = unix.Close(w.fd)
	w.fd = above
	from, to := w.way[len(w.way)-1], w.way[len(w.way)-2]
	w.way = w.way[:len(w.way)-1]
	var stat unix.Stat_t
	if err := unix.Fstat(above, &stat); err != nil {
		return err
	}
	if uint64(stat.Dev) != to.dev || stat.Ino != to.ino {
		return fmt.Errorf("%s was moved meanwhile", from.name)
	}
	return unix.Unlinkat(above, from.name, unix.AT_REMOVEDIR)
}

// namesIn reads a directory without taking its descriptor over.
func namesIn(fd int) ([]string, error) {
	again, err := unix.Openat(fd, ".", dirFlags, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(again), "directory")
	defer func() { _ = f.Close() }()
	return f.Readdirnames(-1)
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
