package pack

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/attune-run/attune/internal/filestate"
	"github.com/attune-run/attune/runtime"
)

// Memory keeps what was found for an action's name, and gives it again as long as the file system says that no file of its pack has
// changed, and none has come or gone that a Finder would have looked at. Reading and hashing a pack costs some twenty times as much as asking
// for that. The first time a name is asked for nothing is kept: most processes ask once.
//
// The zero value is empty. It is safe for concurrent use; what it gives is shared and must not be changed.
type Memory struct {
	mu    sync.Mutex
	asked map[string]*Found // by name and directories; nil when it was asked for and is not kept
}

// Found is an action and what an execution needs of its pack.
type Found struct {
	Action  *Action
	Runtime *runtime.Spec // what the action runs with; nil when RuntimeErr is set
	// RuntimeErr is an error of Finder.Runtime.
	RuntimeErr error

	witness *filestate.Witness // nil when it is not kept
	hashing sync.Mutex
	digest  atomic.Pointer[string] // nil until it was computed
}

// Digest is the pack's Digest, computed once for all who were given the same Found. An error is not kept: it may be the machine's, too many
// open files for one.
func (f *Found) Digest() (string, error) {
	f.hashing.Lock()
	defer f.hashing.Unlock()
	if f.Hashed() {
		return *f.digest.Load(), nil
	}
	text, err := f.Action.Pack.Digest()
	if err == nil {
		f.digest.Store(&text)
	}
	return text, err
}

// Hashed tells whether Digest answers at once.
func (f *Found) Hashed() bool { return f.digest.Load() != nil }

// maxRemembered bounds the Memory of a service that is asked for ever new names: it is emptied then.
const maxRemembered = 1024

// Action is what the Finder's Action and Runtime find. The base must be the same each time.
func (m *Memory) Action(f Finder, base runtime.Catalog, name string) (*Found, error) {
	key := strings.Join(append([]string{name}, f.Dirs...), "\x00")
	kept, asked := m.recall(key)
	if kept != nil && kept.witness.Holds() {
		return kept, nil
	}
	var witness *filestate.Witness
	if asked {
		witness = f.witness(name)
	}
	found, err := f.found(base, name)
	if err == nil && witness != nil && found.keepable() && witness.Settled() {
		found.witness = witness
	}
	m.keep(key, found)
	return found, err
}

func (m *Memory) recall(key string) (kept *Found, asked bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	kept, asked = m.asked[key]
	return kept, asked
}

func (m *Memory) keep(key string, found *Found) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if found != nil && found.witness == nil {
		found = nil
	}
	if m.asked == nil || len(m.asked) >= maxRemembered {
		m.asked = map[string]*Found{}
	}
	m.asked[key] = found
}

func (f Finder) found(base runtime.Catalog, name string) (*Found, error) {
	action, err := f.Action(name)
	if err != nil {
		return nil, err
	}
	found := &Found{Action: action}
	found.Runtime, found.RuntimeErr = f.Runtime(base, action.Pack, action.Runtime)
	return found, nil
}

// keepable is false where what was found depends on more than the pack: on a runtime that another pack brings.
func (f *Found) keepable() bool {
	if f.RuntimeErr != nil {
		return false
	}
	ref, _, qualified := strings.Cut(f.Action.Runtime, ".")
	return !qualified || strings.EqualFold(ref, f.Action.Pack.Ref)
}

// witness is the state of what decides where a name leads and what is found there: the directories up to the one with the pack, and the
// pack. It is taken before that is read. Nil means that there is no such pack, or that it cannot be looked at.
func (f Finder) witness(name string) *filestate.Witness {
	full, constraint, _ := strings.Cut(name, "@")
	ref, _, _ := strings.Cut(full, ".")
	p, err := f.Pack(ref, constraint)
	if err != nil {
		return nil
	}
	w := filestate.NewWitness()
	for _, dir := range f.Dirs {
		if w.File(dir) != nil {
			return nil
		}
		if abs, err := filepath.Abs(dir); err == nil && abs == filepath.Dir(p.Dir) {
			break
		}
	}
	if p.witnessed(w) != nil {
		return nil
	}
	return w
}

// witnessed adds everything below the pack that is digested or read. A link that leads out to a directory is an error: what is read
// there is not known.
func (p *Pack) witnessed(w *filestate.Witness) error {
	if err := w.File(p.Dir); err != nil {
		return err
	}
	real, err := filepath.EvalSymlinks(p.Dir)
	if err != nil {
		return err
	}
	return fs.WalkDir(os.DirFS(p.Dir), ".", func(name string, entry fs.DirEntry, err error) error {
		path := filepath.Join(p.Dir, filepath.FromSlash(name))
		switch {
		case err != nil || name == ".":
			return err
		case undigested(name) && entry.IsDir():
			return fs.SkipDir
		case undigested(name):
			return nil
		case entry.Type()&fs.ModeSymlink != 0:
			return witnessLink(w, path, real)
		}
		return w.Link(path)
	})
}

func witnessLink(w *filestate.Witness, path, pack string) error {
	target, err := filepath.EvalSymlinks(path)
	if err != nil || strings.HasPrefix(target, pack+string(filepath.Separator)) { // it leads nowhere, or to what is looked at anyway
		return w.Link(path)
	}
	if info, err := os.Stat(target); err != nil || !info.Mode().IsRegular() {
		return &fs.PathError{Op: "witness", Path: path, Err: errors.ErrUnsupported}
	}
	return errors.Join(w.Link(path), w.File(path))
}
