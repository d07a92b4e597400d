//go:build !linux || attune_portable

package envcache

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// sync writes the generation, what describes it, and the directories that lead there to disk. fsync(2) hands a file to the device; the last one
// makes the device write what it was handed (os.File.Sync uses F_FULLFSYNC on macOS).
func (g *generation) sync() error {
	if err := syncTree(g.dir()); err != nil {
		return err
	}
	for _, path := range []string{g.entry.pendingFile(g.name), g.entry.listFile(g.name)} {
		if err := syncOne(path); err != nil {
			return err
		}
	}
	for dir := g.entry.dir; ; dir = filepath.Dir(dir) {
		if err := syncOne(dir); err != nil {
			return err
		}
		if dir == g.store.root || dir == filepath.Dir(dir) {
			return g.use.Sync()
		}
	}
}

// syncTree takes files before the directories that name them.
func syncTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case e.IsDir():
			err = syncTree(path)
		case e.Type().IsRegular():
			err = syncOne(path)
		}
		if err != nil {
			return err
		}
	}
	return syncOne(dir)
}

// syncOne passes over a file that nobody may read.
func syncOne(path string) error {
	f, err := openPlain(path, unix.O_RDONLY)
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := unix.Fsync(int(f.Fd())); err != nil {
		return &fs.PathError{Op: "sync", Path: path, Err: err}
	}
	return nil
}
