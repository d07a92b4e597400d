package envcache

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
)

// entry is the directory of one key:
//
//	lock              flock target of builders, never unlinked; holds who builds
//	ready.json        the commit point
//	<generation>/     built in place, never moved
//	<generation>.use  shared flock while in use; its mtime is the last use
//	<generation>.stat the interpreter's stat where it no longer is as recorded
type entry struct{ dir, id string }

func (e entry) lockFile() string            { return filepath.Join(e.dir, "lock") }
func (e entry) readyFile() string           { return filepath.Join(e.dir, "ready.json") }
func (e entry) generation(g string) string  { return filepath.Join(e.dir, g) }
func (e entry) useFile(g string) string     { return filepath.Join(e.dir, g+".use") }
func (e entry) statFile(g string) string    { return filepath.Join(e.dir, g+".stat") }
func (e entry) pendingFile(g string) string { return filepath.Join(e.dir, g+".ready") }

const readySchema = "attune.env/v1"

// ready is the content of ready.json.
type ready struct {
	Schema      string      `json:"schema"`
	Key         string      `json:"key"`
	Generation  string      `json:"generation"`
	CreatedAt   time.Time   `json:"created_at"`
	Size        int64       `json:"size"` // bytes of all files
	Inputs      []KeyInput  `json:"inputs"`
	Interpreter Interpreter `json:"interpreter"`
	Stat        fileStat    `json:"interpreter_stat"`
	Built       Built       `json:"built"`
	Resolved    string      `json:"resolved"`
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
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return fileStat{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return fileStat{Inode: st.Ino, Size: st.Size, MTime: st.Mtim.Nano(), CTime: st.Ctim.Nano()}, nil
}

// errNothing is a miss without a reason: nothing was ever built.
var errNothing = errors.New("nothing is built")

// read parses and checks ready.json. An error is the reason for a miss.
func (e entry) read() (ready, []byte, error) {
	data, err := os.ReadFile(e.readyFile())
	if errors.Is(err, fs.ErrNotExist) {
		return ready{}, nil, errNothing
	}
	if err != nil {
		return ready{}, nil, err
	}
	var r ready
	if err := json.Unmarshal(data, &r); err != nil {
		return ready{}, nil, fmt.Errorf("ready.json is damaged: %w", err)
	}
	if r.Schema != readySchema || r.Key != e.id || r.Generation == "" || r.Generation != filepath.Base(r.Generation) {
		return ready{}, nil, fmt.Errorf("ready.json is not one of environment %s", e.id)
	}
	return r, data, nil
}

// intact looks for the files whose absence means damage.
func (e entry) intact(r ready) error {
	dir := e.generation(r.Generation)
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("it is damaged: %w", err)
	}
	for _, name := range r.Built.Sentinels {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("it is damaged: %w", err)
		}
	}
	return nil
}

// sameInterpreter compares the interpreter with the one the environment was built with. One whose stat
// differs is asked who it is: a restored cache or an image layer brings new inodes and times.
func (e entry) sameInterpreter(ctx context.Context, r ready, b Builder) error {
	now, err := statOf(r.Interpreter.Path)
	if err != nil {
		return fmt.Errorf("its interpreter is gone: %w", err)
	}
	if now == r.Stat || e.remembered(r.Generation) == now {
		return nil
	}
	identity, err := b.Probe(ctx, r.Interpreter.Path)
	if err != nil {
		return fmt.Errorf("its interpreter does not answer: %w", err)
	}
	if identity != r.Interpreter {
		return fmt.Errorf("its interpreter %s was %s %s and is %s %s now", r.Interpreter.Path,
			r.Interpreter.Version, r.Interpreter.ABI, identity.Version, identity.ABI)
	}
	e.remember(r.Generation, now)
	return nil
}

func (e entry) remembered(generation string) fileStat {
	var stat fileStat
	data, err := os.ReadFile(e.statFile(generation))
	if err != nil || json.Unmarshal(data, &stat) != nil {
		return fileStat{}
	}
	return stat
}

// remember is best effort: without it the interpreter is probed again.
func (e entry) remember(generation string, stat fileStat) {
	if data, err := json.Marshal(stat); err == nil {
		_ = renameio.WriteFile(e.statFile(generation), data, 0o600)
	}
}

// hit holds the environment that ready.json points to. No lock of builders is touched. wait says
// whether to wait for a generation whose .use is locked exclusively for a moment. An error that is not
// a *LockError is the reason for a miss.
func (s *Store) hit(ctx context.Context, e entry, b Builder, wait bool) (*Env, error) {
	r, before, err := e.read()
	if err != nil {
		return nil, err
	}
	if err := e.intact(r); err != nil {
		return nil, err
	}
	if err := e.sameInterpreter(ctx, r, b); err != nil {
		return nil, err
	}
	use, err := lockShared(ctx, e.useFile(r.Generation), wait)
	if err != nil {
		return nil, err
	}
	if after, err := os.ReadFile(e.readyFile()); err != nil || !bytes.Equal(before, after) {
		_ = use.Close()
		return nil, errReplaced
	}
	s.touch(use)
	return s.newEnv(e, r, use), nil
}

// errReplaced is a miss because the environment changed while it was being looked at.
var errReplaced = errors.New("it was replaced meanwhile")

// touch notes the last use in the .use file's mtime, at most hourly. A time in the future, left by a
// clock that was wrong, is corrected at once. Errors do not matter: the store may be read-only.
func (s *Store) touch(use *os.File) {
	info, err := use.Stat()
	if err != nil {
		return
	}
	if age := s.now().Sub(info.ModTime()); age >= 0 && age < time.Hour {
		return
	}
	now := syscall.NsecToTimeval(s.now().UnixNano())
	_ = syscall.Futimes(int(use.Fd()), []syscall.Timeval{now, now})
}
