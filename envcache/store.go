package envcache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Store is a directory of environments. It is safe for concurrent use, by any number of processes.
type Store struct {
	root string
	now  func() time.Time

	mu      sync.Mutex
	flights map[string]*flight // builds of this process, by key
}

// Options of a store. The zero value is a private store without layers.
type Options struct {
	Layers      []string // read-only lower stores, asked in this order
	LayerOwners []int    // uids that a layer may belong to beside root and the caller
	Shared      bool     // a new store is for all members of its group
	Readable    bool     // a new store can be read by everybody: for a layer
}

// Open names a store; it writes nothing: directories are made by the first build, so that a
// read-only store serves what it holds. A store that belongs to another user, or that others can
// write, is refused.
func Open(dir string, opt Options) (*Store, error) {
	root, err := resolve(dir)
	if err != nil {
		return nil, &StoreError{Path: dir, Err: err}
	}
	for _, path := range []string{root, filepath.Join(root, "v1")} {
		if err := checkOwner(path); err != nil {
			return nil, &StoreError{Path: path, Err: err}
		}
	}
	return &Store{root: root, now: time.Now, flights: map[string]*flight{}}, nil
}

// resolve makes dir absolute and follows links as far as it exists: the root is part of the keys of
// environments that embed their path.
func resolve(dir string) (string, error) {
	path, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	rest := ""
	for {
		resolved, err := filepath.EvalSymlinks(path)
		if err == nil {
			return filepath.Join(resolved, rest), nil
		}
		if !errors.Is(err, fs.ErrNotExist) || path == "/" {
			return "", err
		}
		path, rest = filepath.Dir(path), filepath.Join(filepath.Base(path), rest)
	}
}

func checkOwner(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return errors.New("is not a directory")
	case ok && int(stat.Uid) != os.Geteuid():
		return fmt.Errorf("belongs to uid %d, not to %d, who could be made to run its owner's code; choose a cache directory of your own", stat.Uid, os.Geteuid())
	case info.Mode()&0o022 != 0:
		return fmt.Errorf("can be written by others (mode %04o); chmod go-w it, or choose another", info.Mode().Perm())
	}
	return nil
}

// Root is the store's directory, absolute, links resolved.
func (s *Store) Root() string { return s.root }

// Downloads holds the download caches of tools, a directory for each; it may not exist yet.
func (s *Store) Downloads() string { return filepath.Join(s.root, "v1", "downloads") }

// LogDir holds the logs of builds.
func (s *Store) LogDir() string { return filepath.Join(s.root, "v1", "log") }

// DetectFile is where the interpreters detected on this machine are remembered, in the store at dir. It is asked for before
// the store is opened: most executions need no environment.
func DetectFile(dir string) string { return filepath.Join(dir, "v1", "detect.json") }

func (s *Store) trash() string { return filepath.Join(s.root, "v1", "trash") }

func (s *Store) envs() string { return filepath.Join(s.root, "v1", "envs") }

// ID names a key's environment in this store.
func (s *Store) ID(key Key) string { return key.ID(s.root) }

// entry is all that belongs to one key.
func (s *Store) entry(id string) entry {
	return entry{dir: filepath.Join(s.envs(), id[:2], id), id: id}
}

// makeDirs creates what a build needs.
func (s *Store) makeDirs(e entry) error {
	for _, dir := range []string{e.dir, s.LogDir(), s.trash()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return &StoreError{Path: s.root, Err: err}
		}
	}
	return nil
}
