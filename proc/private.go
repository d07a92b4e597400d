package proc

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/attune-run/attune/internal/filestate"
)

// PrivateDirs makes the directories of executions below one base.
type PrivateDirs struct {
	base string

	mu   sync.Mutex
	keep int
	idle []*PrivateDir // the last is used next
}

// NewPrivateDirs makes them below base, which is made too; one that belongs to somebody else, or that others may enter, is refused by
// Take. So many directories in which nothing was left, at most, are kept for other executions until Close.
func NewPrivateDirs(base string, keep int) *PrivateDirs { return &PrivateDirs{base: base, keep: keep} }

// PrivateDir is a directory of one execution, open to nobody else. A lock on it marks its owner as alive.
type PrivateDir struct {
	Path string

	dirs   *PrivateDirs
	layout PrivateLayout
	lock   *os.File
	taken  time.Time
	was    map[string]filestate.State // of itself, "", and what is in it, when they were last found untouched
}

// PrivateLayout is what lies in a new PrivateDir: empty directories, and files by name with their content, which their owner alone can
// read.
type PrivateLayout struct {
	Dirs  []string
	Files map[string]string
}

func (l PrivateLayout) equal(m PrivateLayout) bool {
	return slices.Equal(l.Dirs, m.Dirs) && maps.Equal(l.Files, m.Files)
}

const privatePrefix = "run-"

// Take makes a directory, or gives one that was kept and is as it would make it.
func (d *PrivateDirs) Take(layout PrivateLayout) (*PrivateDir, error) {
	if p := d.kept(layout); p != nil {
		return p, nil
	}
	if err := privateBase(d.base); err != nil {
		return nil, err
	}
	p := &PrivateDir{dirs: d, layout: layout, taken: time.Now(), was: map[string]filestate.State{}}
	if err := p.make(); err != nil {
		return nil, err
	}
	if err := p.fill(); err != nil {
		return nil, errors.Join(err, p.remove())
	}
	return p, nil
}

func (d *PrivateDirs) kept(layout PrivateLayout) *PrivateDir {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, p := range slices.Backward(d.idle) {
		if p.layout.equal(layout) {
			d.idle = slices.Delete(d.idle, i, i+1)
			p.taken = time.Now()
			return p
		}
	}
	return nil
}

// Release takes the directory away with all that is in it, once nothing uses it any more. If it is safe to keep it, and it is as it was
// made, it may be kept for another Take.
func (p *PrivateDir) Release(safe bool) error {
	if !safe || !p.dirs.wants() || !p.untouched() {
		return p.remove()
	}
	if surplus := p.dirs.put(p); surplus != nil {
		return surplus.remove()
	}
	return nil
}

func (d *PrivateDirs) wants() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.keep > 0
}

// put keeps p, and gives the one that is too much.
func (d *PrivateDirs) put(p *PrivateDir) (surplus *PrivateDir) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.idle = append(d.idle, p)
	if len(d.idle) > d.keep {
		surplus = d.idle[0]
		d.idle = slices.Delete(d.idle, 0, 1)
	}
	return surplus
}

// Close removes what is kept. What is released afterwards is removed as well.
func (d *PrivateDirs) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var err error
	for _, p := range d.idle {
		err = errors.Join(err, p.remove())
	}
	d.idle, d.keep = nil, 0
	return err
}

func (p *PrivateDir) make() error {
	for {
		path, err := os.MkdirTemp(p.dirs.base, privatePrefix)
		if err != nil {
			return err
		}
		lock, err := lockDir(path)
		switch {
		case err == nil:
			p.Path, p.lock = path, lock
			return nil
		case !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.EWOULDBLOCK):
			_ = os.Remove(path)
			return err
		}
		// A sweep came between making and locking it.
	}
}

func (p *PrivateDir) fill() error {
	for _, name := range p.layout.Dirs {
		if err := os.Mkdir(filepath.Join(p.Path, name), 0o700); err != nil {
			return err
		}
	}
	for name, content := range p.layout.Files {
		if err := os.WriteFile(filepath.Join(p.Path, name), []byte(content), 0o400); err != nil {
			return err
		}
	}
	return nil
}

// untouched tells whether the directory holds what was made in it, and nothing else.
func (p *PrivateDir) untouched() bool {
	if !p.dirUntouched("", slices.AppendSeq(slices.Clone(p.layout.Dirs), maps.Keys(p.layout.Files))) {
		return false
	}
	for _, name := range p.layout.Dirs {
		if !p.dirUntouched(name, nil) {
			return false
		}
	}
	for name, content := range p.layout.Files {
		if !p.fileUntouched(name, content) {
			return false
		}
	}
	return true
}

// known tells whether the state of an entry says by itself that nothing was done to it since the directory was taken.
func (p *PrivateDir) known(name string) (now filestate.State, same bool) {
	now, err := filestate.OfLink(filepath.Join(p.Path, name))
	return now, err == nil && now != (filestate.State{}) && now == p.was[name] && now.Settled(p.taken)
}

// Unused tells whether nothing can have been made in one of the directory's own directories, or "", the directory itself, since it was
// taken. It is false where that is not plain to see.
func (p *PrivateDir) Unused(name string) bool {
	_, same := p.known(name)
	return same
}

func (p *PrivateDir) dirUntouched(name string, entries []string) bool {
	now, same := p.known(name)
	if same {
		return true
	}
	p.was[name] = now
	found, err := os.ReadDir(filepath.Join(p.Path, name))
	return err == nil && now.Mode == unix.S_IFDIR|0o700 && len(found) == len(entries) &&
		!slices.ContainsFunc(found, func(e os.DirEntry) bool { return !slices.Contains(entries, e.Name()) })
}

func (p *PrivateDir) fileUntouched(name, content string) bool {
	now, same := p.known(name)
	if same {
		return true
	}
	p.was[name] = now
	if now.Mode != unix.S_IFREG|0o400 || now.Size != int64(len(content)) {
		return false
	}
	found, err := os.ReadFile(filepath.Join(p.Path, name))
	return err == nil && string(found) == content
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

func (p *PrivateDir) remove() error {
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
