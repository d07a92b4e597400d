package envcache

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The states of an Info.
const (
	Ready    = "ready"
	Broken   = "broken"   // what ready.json says is not there, or it cannot be read
	Building = "building" // not there yet, and somebody builds it
)

// Info describes one environment of a store.
type Info struct {
	ID          string      `json:"id"`
	State       string      `json:"state"`
	Problem     string      `json:"problem,omitempty"` // of a broken one
	Dir         string      `json:"dir"`               // empty while it is being built for the first time
	Generation  string      `json:"generation"`
	Size        int64       `json:"size"` // bytes of all files when it was built
	CreatedAt   time.Time   `json:"created_at,omitzero"`
	LastUsed    time.Time   `json:"last_used,omitzero"`
	InUse       bool        `json:"in_use"`
	Inputs      []KeyInput  `json:"inputs"`
	Interpreter Interpreter `json:"interpreter"`
	Built       Built       `json:"built"`
}

// List describes all environments, last used first.
func (s *Store) List(ctx context.Context) ([]Info, error) {
	ids, err := s.ids("")
	if err != nil {
		return nil, err
	}
	infos := make([]Info, 0, len(ids))
	for _, id := range ids {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		if info, ok := s.info(id); ok {
			infos = append(infos, info)
		}
	}
	slices.SortStableFunc(infos, func(a, b Info) int {
		return cmp.Or(b.LastUsed.Compare(a.LastUsed), cmp.Compare(a.ID, b.ID))
	})
	return infos, nil
}

// Get describes one environment by its ID or an unambiguous beginning of it. The error is a *NotFoundError.
func (s *Store) Get(id string) (Info, error) {
	ids, err := s.ids(id)
	if err != nil {
		return Info{}, err
	}
	var found Info
	var matches []string
	for _, candidate := range ids {
		if info, ok := s.info(candidate); ok {
			found, matches = info, append(matches, candidate)
		}
	}
	if len(matches) != 1 {
		return Info{}, &NotFoundError{ID: id, Matches: matches}
	}
	return found, nil
}

// ids are the keys that begin with prefix.
func (s *Store) ids(prefix string) ([]string, error) {
	shards, err := os.ReadDir(s.envs())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, &StoreError{Path: s.root, Err: err}
	}
	var ids []string
	for _, shard := range shards {
		common := min(len(prefix), len(shard.Name()))
		if shard.Name()[:common] != prefix[:common] {
			continue
		}
		entries, err := os.ReadDir(filepath.Join(s.envs(), shard.Name()))
		if err != nil {
			return nil, &StoreError{Path: s.root, Err: err}
		}
		for _, item := range entries {
			if strings.HasPrefix(item.Name(), prefix) && len(item.Name()) > 2 {
				ids = append(ids, item.Name())
			}
		}
	}
	return ids, nil
}

// info is false for a key that has nothing: its environment was removed, or never built.
func (s *Store) info(id string) (Info, bool) {
	e := s.entry(id)
	info := Info{ID: id, State: Ready}
	r, _, err := e.read()
	if errors.Is(err, errNothing) {
		info.State = Building
		return info, isLocked(e.lockFile())
	}
	if err == nil {
		info.Dir, info.Generation = e.generation(r.Generation), r.Generation
		info.Size, info.CreatedAt, info.LastUsed = r.Size, r.CreatedAt, r.CreatedAt
		info.Inputs, info.Interpreter, info.Built = r.Inputs, r.Interpreter, r.Built
		info.InUse = s.inUse(e, r.Generation)
		if use, statErr := os.Stat(e.useFile(r.Generation)); statErr == nil {
			info.LastUsed = use.ModTime()
		}
		err = e.intact(r)
	}
	if err != nil {
		info.State, info.Problem = Broken, err.Error()
	}
	return info, true
}

func isLocked(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	free, err := tryLock(f, unix.LOCK_EX)
	return err == nil && !free
}

// Remove deletes an environment, named as in Get, unless it is in use or being built: then the error is
// an *InUseError.
func (s *Store) Remove(ctx context.Context, id string) error {
	info, err := s.Get(id)
	if err != nil {
		return err
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	e := s.entry(info.ID)
	lock, err := os.OpenFile(e.lockFile(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return &StoreError{Path: s.root, Err: err}
	}
	defer func() { _ = lock.Close() }()
	free, err := tryLock(lock, unix.LOCK_EX)
	if err != nil {
		return err
	}
	if !free {
		return &InUseError{ID: info.ID, Why: "is being built by " + readHolder(e.lockFile()).String()}
	}
	if info.Generation != "" {
		use, err := s.claim(e, info.Generation)
		if err != nil {
			return err
		}
		defer func() { _ = use.Close() }()
	}
	if err := os.Remove(e.readyFile()); err != nil {
		return &StoreError{Path: s.root, Err: err}
	}
	if info.Generation != "" {
		s.discard(e, info.Generation)
	}
	s.sweep(e)
	return nil
}

// claim locks a generation's .use exclusively. A missing .use is made: nobody can be using it.
func (s *Store) claim(e entry, generation string) (*os.File, error) {
	use, err := os.OpenFile(e.useFile(generation), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, &StoreError{Path: s.root, Err: err}
	}
	free, err := tryLock(use, unix.LOCK_EX)
	if err == nil && !free {
		err = &InUseError{ID: e.id, Why: "is in use by an execution"}
	}
	if err != nil {
		_ = use.Close()
		return nil, err
	}
	return use, nil
}
