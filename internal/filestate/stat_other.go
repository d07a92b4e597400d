//go:build !linux

package filestate

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

func stat(path string, follow bool) (State, error) {
	var s unix.Stat_t
	look := unix.Lstat
	if follow {
		look = unix.Stat
	}
	err := look(path, &s)
	switch {
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR):
		return State{}, nil
	case err != nil:
		return State{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return State{
		Device: uint64(s.Dev), Inode: s.Ino, Size: s.Size, Mode: uint32(s.Mode),
		Modified: s.Mtim.Nano(), Changed: s.Ctim.Nano(),
	}, nil
}
