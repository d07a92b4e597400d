package envcache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// entry is the directory of one ID:
//
//	lock              flock target of builders, never unlinked; holds who builds
//	ready.json        the commit point
//	failed.json       a remembered failure
//	quarantine.json   why the last generation was given up, until there is a new one
//	<generation>/     built in place, never moved
//	<generation>.use  shared flock while in use; its mtime is the last use
//	<generation>.list what the generation held when it was published, for Verify
//	<generation>.stat the interpreter's stat where it no longer is as recorded
type entry struct{ dir, id string }

func (e entry) lockFile() string            { return filepath.Join(e.dir, "lock") }
func (e entry) readyFile() string           { return filepath.Join(e.dir, "ready.json") }
func (e entry) failedFile() string          { return filepath.Join(e.dir, "failed.json") }
func (e entry) quarantineFile() string      { return filepath.Join(e.dir, "quarantine.json") }
func (e entry) generation(g string) string  { return filepath.Join(e.dir, g) }
func (e entry) useFile(g string) string     { return filepath.Join(e.dir, g+".use") }
func (e entry) listFile(g string) string    { return filepath.Join(e.dir, g+".list") }
func (e entry) statFile(g string) string    { return filepath.Join(e.dir, g+".stat") }
func (e entry) pendingFile(g string) string { return filepath.Join(e.dir, g+".ready") }

const readySchema = "attune.env/v3"

// ready is the first line of ready.json: what a hit and a list need. What else is known stands in the second, so that it is not
// decoded every time.
type ready struct {
	Schema      string            `json:"schema"`
	ID          string            `json:"id"`
	Root        string            `json:"root,omitempty"` // of the store, where the environment is bound to it
	Generation  string            `json:"generation"`
	CreatedAt   time.Time         `json:"created_at"`
	Size        int64             `json:"size"`  // bytes of all files
	Files       int               `json:"files"` // of any kind
	Interpreter Interpreter       `json:"interpreter"`
	Stat        fileStat          `json:"interpreter_stat"`
	Digest      string            `json:"interpreter_digest"` // "sha256:<hex>"
	Sentinels   []string          `json:"sentinels"`
	Complete    map[string]census `json:"complete"` // by directory
	Kind        string            `json:"kind"`     // the input RecipeInput
	Locked      bool              `json:"locked"`
	Resolved    string            `json:"resolved"` // digest

	second []byte // details, encoded
}

// details is the second line.
type details struct {
	Inputs   []KeyInput `json:"inputs"`
	Resolved []string   `json:"resolved"`
}

// details are empty where the second line is damaged: nothing but what is shown depends on it.
func (r ready) details() (d details) {
	_ = json.Unmarshal(r.second, &d)
	return d
}

func (r ready) encode() ([]byte, error) {
	first, err := json.Marshal(r)
	return slices.Concat(first, []byte("\n"), r.second, []byte("\n")), err
}

func decodeReady(data []byte) (r ready, err error) {
	first, second, _ := bytes.Cut(data, []byte("\n"))
	if err = json.Unmarshal(first, &r); err != nil {
		return ready{}, err
	}
	var whole bool
	if r.second, whole = bytes.CutSuffix(second, []byte("\n")); !whole {
		return ready{}, errors.New("unexpected end of file")
	}
	return r, nil
}

// fileStat tells whether a file is still the one it was. Devices are left out: they change with mounts.
type fileStat struct {
	Inode uint64 `json:"inode"`
	Size  int64  `json:"size"`
	MTime int64  `json:"mtime_ns"`
	CTime int64  `json:"ctime_ns"`
}

func statOf(path string) (fileStat, error) {
	if path == "" {
		return fileStat{}, nil
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return fileStat{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return fileStat{Inode: st.Ino, Size: st.Size, MTime: st.Mtim.Nano(), CTime: st.Ctim.Nano()}, nil
}

// digestOf is "sha256:<hex>" of a file's content; empty without a path.
func digestOf(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	hash := sha256.New()
	_, err = io.Copy(hash, f)
	return "sha256:" + hex.EncodeToString(hash.Sum(nil)), err
}

// errNothing is a miss without a reason: nothing was ever built.
var errNothing = errors.New("nothing is built")

// read parses and checks ready.json. An error is the reason for a miss.
func (e entry) read() (ready, []byte, error) {
	p, err := e.pointer()
	_ = p.close()
	return p.ready, p.data, err
}

// pointer is a ready.json that was read and is still open. It is replaced, never changed: while it is open, its inode means this
// content, and no other file has it.
type pointer struct {
	file  *os.File
	inode uint64
	data  []byte
	ready ready
}

// pointer opens, reads and checks ready.json. An error is the reason for a miss.
func (e entry) pointer() (p pointer, err error) {
	defer func() {
		if err != nil {
			_ = p.close()
			p = pointer{}
		}
	}()
	if p.file, err = openPlain(e.readyFile(), unix.O_RDONLY); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = errNothing
		}
		return p, err
	}
	if p.data, p.inode, err = readPlain(p.file); err != nil {
		return p, err
	}
	if p.ready, err = decodeReady(p.data); err != nil {
		return p, fmt.Errorf("ready.json is damaged: %w", err)
	}
	if r := p.ready; r.Schema != readySchema || r.ID != e.id || !isGeneration(r.Generation) {
		return p, fmt.Errorf("ready.json is not one of environment %s", e.id)
	}
	return p, nil
}

// isStill tells whether path is the file that was read, or one of the same content.
func (p pointer) isStill(path string) bool {
	var st unix.Stat_t
	if unix.Stat(path, &st) == nil && st.Ino == p.inode {
		return true
	}
	data, err := os.ReadFile(path)
	return err == nil && bytes.Equal(data, p.data)
}

func (p pointer) close() error {
	if p.file == nil {
		return nil
	}
	return p.file.Close()
}

// openPlain opens a file without a word to the poller. os.Open makes eight system calls of one (epoll_ctl(2) and fcntl(2) of a
// file that can never be polled), and a hit consists of little else than system calls.
func openPlain(path string, flag int) (*os.File, error) {
	for {
		fd, err := unix.Open(path, flag|unix.O_CLOEXEC, 0)
		if err == nil {
			return os.NewFile(uintptr(fd), path), nil
		}
		if err != unix.EINTR {
			return nil, &fs.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

// readPlain reads a regular file in one call, as a rule.
func readPlain(f *os.File) (data []byte, inode uint64, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, 0, &fs.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	data = make([]byte, st.Size)
	n, err := f.ReadAt(data, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return data[:n], st.Ino, err
}

// exists is nil when there is something at the end of the path and its links.
func exists(path string) error {
	_, err := statOf(path)
	return err
}

// intact looks for the files whose absence means damage.
func (e entry) intact(r ready) error {
	dir := e.generation(r.Generation)
	if err := exists(dir); err != nil {
		return fmt.Errorf("it is damaged: %w", err)
	}
	for _, name := range r.Sentinels {
		if err := exists(dir + "/" + name); err != nil {
			return fmt.Errorf("it is damaged: %w", err)
		}
	}
	for name, want := range r.Complete {
		if err := want.check(dir + "/" + name); err != nil {
			return fmt.Errorf("it is damaged: %w", err)
		}
	}
	return nil
}

// census is what tells that nothing was taken out of a directory.
type census struct {
	Entries int   `json:"entries"`
	MTime   int64 `json:"mtime_ns"` // nothing came or went while it is the same
}

func takeCensus(dir string) (census, error) {
	stat, err := statOf(dir)
	if err != nil {
		return census{}, err
	}
	names, err := os.ReadDir(dir)
	return census{Entries: len(names), MTime: stat.MTime}, err
}

// check counts when something came or went, or the directory was copied.
func (c census) check(dir string) error {
	if stat, err := statOf(dir); err != nil || stat.MTime == c.MTime {
		return err
	}
	now, err := takeCensus(dir)
	if err == nil && now.Entries < c.Entries {
		err = fmt.Errorf("%s holds %d entries of %d", dir, now.Entries, c.Entries)
	}
	return err
}

// hit holds the environment that ready.json points to. No lock of builders is touched. wait says
// whether to wait for a generation whose .use is locked exclusively for a moment. An error is the reason for a miss.
func (s *Store) hit(ctx context.Context, e entry, b Builder, wait bool) (*Env, error) {
	p, err := e.pointer()
	if err != nil {
		return nil, err
	}
	defer func() { _ = p.close() }()
	r := p.ready
	if r.Root != "" && r.Root != s.root {
		return nil, fmt.Errorf("it was built for the root %s", r.Root)
	}
	if err := e.intact(r); err != nil {
		return nil, err
	}
	if err := s.sameInterpreter(ctx, e, r, b); err != nil {
		return nil, err
	}
	use, err := s.lockShared(ctx, e.useFile(r.Generation), wait)
	if err != nil {
		return nil, err
	}
	if !p.isStill(e.readyFile()) {
		_ = use.Close()
		return nil, errReplaced
	}
	s.touch(use)
	return newEnv(s, e, r, use), nil
}

// errReplaced is a miss because the environment changed while it was being looked at.
var errReplaced = errors.New("it was replaced meanwhile")

// touch notes the last use in the .use file's mtime, at most hourly. A time in the future, left by a
// clock that was wrong, is corrected at once. Errors do not matter: the store may be read-only, or the file another's.
func (s *Store) touch(use *os.File) {
	var st unix.Stat_t
	if unix.Fstat(int(use.Fd()), &st) != nil {
		return
	}
	if age := s.now().Sub(time.Unix(st.Mtim.Unix())); age >= 0 && age < time.Hour {
		return
	}
	now := unix.NsecToTimeval(s.now().UnixNano())
	if err := unix.Futimes(int(use.Fd()), []unix.Timeval{now, now}); err != nil && s.shared() {
		_ = unix.Futimes(int(use.Fd()), nil) // the present is all that another than the owner may set (utimensat(2))
	}
}
