package envcache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Store is a directory of environments. It is safe for concurrent use, by any number of processes.
type Store struct {
	root         string
	mode         fs.FileMode // of v1 and every directory below it: 0700, 0755 (readable) or 02775 (shared)
	layers       []*Store    // read-only lower stores
	reproducible bool        // as Options.Reproducible
	layer        bool        // this is one: nothing is written to it
	notes        string      // a layer's: where the store above keeps what it must remember of it
	now          func() time.Time
	sys          system

	mu      sync.Mutex
	flights map[string]*flight  // builds of this process, by ID
	seen    map[string]fileStat // what remember could not write, by generation
}

// system are the calls that file systems get wrong; tests replace them.
type system struct {
	flock       func(fd, how int) error
	link        func(from, to string) error
	network     func(dir string) bool
	processesIn func(envs string, dirs []string) []Process
	reached     func(point string) // a point of the protocol; nil outside tests
}

// Options of a store. The zero value is a private store without layers.
type Options struct {
	Layers      []string // read-only lower stores, asked in this order
	LayerOwners []int    // uids that a layer may belong to beside root and the caller
	Shared      bool     // the store belongs to a group: every member may build and prune
	Readable    bool     // a store that is made by this one can be read by everybody: it will be a layer
	// Reproducible names an environment's directory by its key, so that what is built at the same path is the same. It is for a
	// store that is filled by one process, once, and then baked.
	Reproducible bool
}

const (
	privateMode  fs.FileMode = 0o700
	readableMode fs.FileMode = 0o755
	sharedMode               = fs.ModeSetgid | 0o775
)

// Mode is that of the directories of a store that is made with these options.
func (o Options) Mode() fs.FileMode {
	switch {
	case o.Shared:
		return sharedMode
	case o.Readable:
		return readableMode
	}
	return privateMode
}

// Open names a store; it writes nothing: directories are made by the first build, so that a
// read-only store serves what it holds. A directory that is a link, belongs to somebody else or can be
// written by others is refused, for whoever can write it decides what its users run: the error is a *StoreError.
// Links above the directory are followed.
func Open(dir string, opt Options) (*Store, error) {
	s, err := newStore(dir)
	if err != nil {
		return nil, err
	}
	s.reproducible = opt.Reproducible
	if err := s.settleMode(opt); err != nil {
		return nil, &StoreError{Path: s.root, Err: err}
	}
	for _, dir := range opt.Layers {
		layer, err := openLayer(dir, opt.LayerOwners)
		if err != nil {
			return nil, err
		}
		layer.mode, layer.notes = s.mode, filepath.Join(s.version(), "layers")
		s.layers = append(s.layers, layer)
	}
	return s, nil
}

func newStore(dir string) (*Store, error) {
	root, err := resolve(dir)
	if err != nil {
		return nil, &StoreError{Path: dir, Err: err}
	}
	return &Store{
		root: root, now: time.Now, flights: map[string]*flight{}, seen: map[string]fileStat{},
		sys: system{flock: unix.Flock, link: os.Link, network: onNetwork, processesIn: processesIn},
	}, nil
}

// openLayer names a lower store. One that is not there is an error: a mistyped name would only be noticed as slowness.
func openLayer(dir string, owners []int) (*Store, error) {
	s, err := newStore(dir)
	if err != nil {
		return nil, err
	}
	s.layer = true
	trusted := append([]int{0, os.Geteuid()}, owners...)
	for _, path := range []string{s.root, s.version()} {
		info, err := statDir(path)
		switch {
		case errors.Is(err, fs.ErrNotExist) && path != s.root:
			continue // an empty layer
		case errors.Is(err, fs.ErrNotExist):
			return nil, &StoreError{Path: dir, Err: errors.New("the layer is not there")}
		case err != nil:
			return nil, &StoreError{Path: dir, Err: err}
		case !slices.Contains(trusted, info.uid):
			err = fmt.Errorf("the layer belongs to uid %d, who could change what is run; name that uid as an owner of layers if you trust it", info.uid)
		case info.mode&0o022 != 0:
			err = fmt.Errorf("the layer can be written by others (mode %04o); chmod -R go-w it", info.mode.Perm())
		}
		if err != nil {
			return nil, &StoreError{Path: path, Err: err}
		}
	}
	return s, nil
}

// resolve makes dir absolute and follows the links above it as far as it exists: the root is part of the keys of
// environments that embed their path.
func resolve(dir string) (string, error) {
	path, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if target, err := os.Readlink(path); err == nil {
		return "", fmt.Errorf("is a symbolic link, which somebody could point elsewhere; name its target %s", target)
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

// settleMode checks the directories that are there and decides the mode of those that will be made. A store keeps the
// mode it was made with.
func (s *Store) settleMode(opt Options) error {
	s.mode = opt.Mode()
	for _, path := range []string{s.root, s.version()} {
		info, err := statDir(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			err = info.check(opt.Shared)
		}
		if err != nil {
			if path != s.root {
				err = fmt.Errorf("%s: %w", filepath.Base(path), err)
			}
			return err
		}
		if path == s.version() {
			if made := info.mode & (fs.ModeSetgid | 0o777); opt.Shared && made&0o070 != 0o070 {
				return fmt.Errorf("was made for one user (mode %04o), not for a group; name another directory", made.Perm())
			} else if !opt.Shared {
				s.mode = made
			}
		}
	}
	return nil
}

// dirInfo is what decides whether a directory can be trusted.
type dirInfo struct {
	uid, gid int
	mode     fs.FileMode
}

func statDir(path string) (dirInfo, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return dirInfo{}, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok {
		return dirInfo{}, errors.New("is not a directory")
	}
	return dirInfo{uid: int(stat.Uid), gid: int(stat.Gid), mode: info.Mode()}, nil
}

// check refuses a directory whose content somebody else decides; the group may where the store is shared.
func (d dirInfo) check(shared bool) error {
	switch {
	case d.mode&0o002 != 0:
		return fmt.Errorf("can be written by everybody (mode %04o), who could make you run their code; chmod o-w it, or choose another", d.mode.Perm())
	case shared && !memberOf(d.gid) && d.uid != os.Geteuid():
		return fmt.Errorf("is shared by the group %d, which you are no member of", d.gid)
	case shared:
		return nil
	case d.uid != os.Geteuid():
		return fmt.Errorf("belongs to uid %d, not to %d, who could be made to run its owner's code; choose a cache directory of your own", d.uid, os.Geteuid())
	case d.mode&0o020 != 0:
		return fmt.Errorf("can be written by others (mode %04o); chmod go-w it, choose another, or say that it is shared (--shared)", d.mode.Perm())
	}
	return nil
}

func memberOf(gid int) bool {
	groups, err := os.Getgroups()
	return gid == os.Getegid() || err == nil && slices.Contains(groups, gid)
}

// Root is the store's directory, absolute, links resolved.
func (s *Store) Root() string { return s.root }

// ID names a key's environment in this store.
func (s *Store) ID(key Key) string { return key.ID(s.root) }

func (s *Store) version() string { return filepath.Join(s.root, "v1") }

// Downloads holds the download caches of tools, a directory for each; it may not exist yet. Tools refuse the caches of
// other users, so each user of a shared store has its own.
func (s *Store) Downloads() string {
	dir := filepath.Join(s.version(), "downloads")
	if s.shared() {
		dir = filepath.Join(dir, "uid-"+strconv.Itoa(os.Geteuid()))
	}
	return dir
}

func (s *Store) shared() bool { return s.mode&0o020 != 0 }

// LogDir holds the logs of builds.
func (s *Store) LogDir() string { return filepath.Join(s.version(), "log") }

// DetectFile is where the interpreters detected on this machine are remembered, in the store at dir. It is asked for before
// the store is opened: most executions need no environment.
func DetectFile(dir string) string { return filepath.Join(dir, "v1", "detect.json") }

func (s *Store) trash() string { return filepath.Join(s.version(), "trash") }

func (s *Store) envs() string { return filepath.Join(s.version(), "envs") }

// entry is all that belongs to one ID.
func (s *Store) entry(id string) entry {
	return entry{dir: filepath.Join(s.envs(), id[:2], id), id: id}
}

// makeDirs creates what a build needs.
func (s *Store) makeDirs(e entry) error {
	for _, dir := range []string{e.dir, s.LogDir(), s.trash(), s.Downloads()} {
		if err := s.mkdirAll(dir); err != nil {
			return &StoreError{Path: s.root, Err: err}
		}
	}
	return nil
}

// mkdirAll makes a directory of the store, and those above it, with the store's mode whatever the umask is.
func (s *Store) mkdirAll(dir string) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	if dir == s.root {
		if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
			return err
		}
	} else if err := s.mkdirAll(filepath.Dir(dir)); err != nil {
		return err
	}
	err := os.Mkdir(dir, s.mode.Perm())
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil && s.mode != privateMode {
		err = os.Chmod(dir, s.mode)
	}
	return err
}

// create opens a file of the store for writing, made with the store's mode whatever the umask is.
func (s *Store) create(path string, flag int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|flag, s.fileMode())
	if err != nil {
		return nil, err
	}
	if s.mode != privateMode {
		_ = f.Chmod(s.fileMode()) // refused where the file is another member's, who did it
	}
	return f, nil
}

func (s *Store) fileMode() fs.FileMode { return s.mode.Perm() &^ 0o111 }

// write replaces a file of the store in one step.
func (s *Store) write(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(s.fileMode())
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// at tells tests which point of the protocol was reached.
func (s *Store) at(point string) {
	if s.sys.reached != nil {
		s.sys.reached(point)
	}
}
