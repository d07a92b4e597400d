package envcache

import (
	"maps"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Env is a ready environment, held against removal until Close.
type Env struct {
	ID       string
	Inputs   []KeyInput // of its key
	State    State
	Root     string // of the store that holds it
	Dir      string // the generation: the environment's root
	Built    Built
	Resolved string // digest of Built.Resolved: "sha256:<hex>"

	store *Store
	entry entry
	ready ready
	once  sync.Once
	use   *os.File // shared lock of the generation; nil in a layer, where nothing is removed
}

func newEnv(s *Store, e entry, r ready, use *os.File) *Env {
	details := r.details()
	return &Env{
		ID: e.id, Inputs: details.Inputs, State: Hit, Root: s.root, Dir: e.generation(r.Generation),
		Built: Built{Resolved: details.Resolved, Locked: r.Locked, Sentinels: r.Sentinels, Complete: slices.Sorted(maps.Keys(r.Complete))}, Resolved: r.Resolved, store: s, entry: e, ready: r, use: use,
	}
}

// again is the same environment with a hold of its own. e is held, so that it is still there.
func (e *Env) again() (*Env, error) {
	use, err := e.Hold()
	if err != nil {
		return nil, err
	}
	return newEnv(e.store, e.entry, e.ready, use), nil
}

// Close lets go of the environment; it may be removed from then on. It may be called again.
func (e *Env) Close() error {
	var err error
	e.once.Do(func() {
		if e.use != nil {
			err = e.use.Close()
		}
	})
	return err
}

// Hold is a lock of its own on the environment, for a child to inherit: it lasts until the last
// process that has the descriptor is gone, whatever becomes of this one. The caller closes its copy. It is nil where there is
// nothing to hold: in a layer.
func (e *Env) Hold() (*os.File, error) {
	if e.use == nil {
		return nil, nil
	}
	f, err := os.Open(e.use.Name())
	if err != nil {
		return nil, &StoreError{Path: e.Root, Err: err}
	}
	// It cannot block: this process has the lock shared already. Where locks do not work nothing is removed.
	_, _ = e.store.lock(f, unix.LOCK_SH)
	return f, nil
}
