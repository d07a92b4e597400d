package filestate

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// stat asks a network's file server too, which a plain stat(2) believes to be as it was for up to a minute.
func stat(path string, follow bool) (State, error) {
	flags := unix.AT_STATX_FORCE_SYNC
	if !follow {
		flags |= unix.AT_SYMLINK_NOFOLLOW
	}
	var s unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, flags, unix.STATX_BASIC_STATS, &s)
	switch {
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR):
		return State{}, nil
	case err != nil:
		return State{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return State{
		Device: unix.Mkdev(s.Dev_major, s.Dev_minor), Inode: s.Ino, Size: int64(s.Size), Mode: uint32(s.Mode),
		Modified: s.Mtime.Sec*1e9 + int64(s.Mtime.Nsec), Changed: s.Ctime.Sec*1e9 + int64(s.Ctime.Nsec),
	}, nil
}
