package envcache

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Remove deletes an environment, named as in Get, unless it is in use or being built: then the error is
// an *InUseError. One of a layer is not this store's to remove.
func (s *Store) Remove(ctx context.Context, id string) error {
	info, err := s.Get(id)
	switch {
	case err != nil:
		return err
	case info.Layer != "":
		return &StoreError{Path: info.Layer, Err: errors.New("is a layer, which is only read")}
	case context.Cause(ctx) != nil:
		return context.Cause(ctx)
	}
	c, err := s.claim(info)
	if err != nil {
		return err
	}
	defer c.release()
	if pids := s.processesIn([]string{s.entry(info.ID).dir}); len(pids) > 0 {
		return &InUseError{ID: info.ID, Why: "is in use by " + pids[0].String()}
	}
	return c.remove()
}

// claim is the exclusive right to an environment: nobody builds it, and nobody who took a hold uses it.
type claim struct {
	store *Store
	entry entry
	info  Info
	ready ready // zero where there is none
	lock  *os.File
	use   *os.File // nil for an entry without a generation
}

// claim waits for nobody.
func (s *Store) claim(info Info) (*claim, error) {
	c := &claim{store: s, entry: s.entry(info.ID), info: info}
	lock, err := s.create(c.entry.lockFile(), 0)
	if err != nil {
		return nil, &StoreError{Path: s.root, Err: err}
	}
	c.lock = lock
	if free, err := s.lock(lock, unix.LOCK_EX); err != nil || !free {
		c.release()
		if err == nil {
			err = &InUseError{ID: info.ID, Why: "is being built by " + readHolder(c.entry.lockFile()).String()}
		}
		return nil, err
	}
	// Under the lock nobody publishes: what is there now is what will be removed.
	c.ready, _, _ = c.entry.read()
	if c.info.Generation = c.ready.Generation; c.info.Generation == "" {
		return c, nil
	}
	// A missing .use is made: nobody can be using it.
	c.use, err = s.create(c.entry.useFile(c.info.Generation), 0)
	if err == nil {
		var free bool
		if free, err = s.lock(c.use, unix.LOCK_EX); err == nil && !free {
			err = &InUseError{ID: info.ID, Why: "is in use by an execution"}
		}
	} else {
		err = &StoreError{Path: s.root, Err: err}
	}
	if err != nil {
		c.release()
		return nil, err
	}
	return c, nil
}

// remove takes the pointer away, moves the generation aside and lets go; what takes time comes last, without a lock.
func (c *claim) remove() error {
	defer c.release()
	if err := os.Remove(c.entry.readyFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &StoreError{Path: c.store.root, Err: err}
	}
	_ = os.Remove(c.entry.failedFile())
	_ = os.Remove(c.entry.quarantineFile())
	if inputs := c.ready.details().Inputs; len(inputs) > 0 {
		_ = os.Remove(c.store.askedFile(inputs))
	}
	var aside []string
	if c.info.Generation != "" {
		aside = append(aside, c.store.moveAside(c.entry, c.info.Generation))
	}
	aside = append(aside, c.store.moveUnused(c.entry)...)
	c.release()
	for _, path := range aside {
		removeAll(path)
	}
	return nil
}

// release may be called again.
func (c *claim) release() {
	for _, f := range []*os.File{c.use, c.lock} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// moveAside renames a generation into the trash and removes its siblings. The path in the trash may not exist.
func (s *Store) moveAside(e entry, generation string) string {
	aside := filepath.Join(s.trash(), e.id+"-"+generation)
	if err := os.Rename(e.generation(generation), aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		aside = e.generation(generation) // there may be no trash, on a full disk
	}
	for _, path := range []string{e.statFile(generation), e.listFile(generation), e.pendingFile(generation), e.useFile(generation)} {
		_ = os.Remove(path)
	}
	return aside
}

// discard removes a generation and its siblings.
func (s *Store) discard(e entry, generation string) { removeAll(s.moveAside(e, generation)) }

// networkGrace is how long a generation is left alone where a lock of another host may not be seen. No build takes that long.
const networkGrace = 24 * time.Hour

// moveUnused moves away what builders left behind who were killed, and what was replaced: generations that ready.json does
// not point to and nobody uses. The key's lock is held.
func (s *Store) moveUnused(e entry) (aside []string) {
	r, _, err := e.read()
	var unread *fs.PathError
	if errors.As(err, &unread) {
		return nil // too many files are open, for one: who knows what it points to
	}
	entries, err := os.ReadDir(e.dir)
	if err != nil {
		return nil
	}
	distant := s.sys.network(e.dir)
	done := map[string]bool{r.Generation: true}
	for _, item := range entries {
		generation, _, _ := strings.Cut(item.Name(), ".")
		if left := strings.HasPrefix(item.Name(), ".") || item.Name() == r.Generation+".ready"; left {
			s.removeLeft(filepath.Join(e.dir, item.Name()), distant)
		}
		if done[generation] || !isGeneration(generation) {
			continue
		}
		done[generation] = true
		if info, err := item.Info(); distant && (err != nil || s.now().Sub(info.ModTime()) < networkGrace) {
			continue
		}
		if !s.isLocked(e.useFile(generation)) && len(s.processesIn([]string{e.generation(generation)})) == 0 {
			aside = append(aside, s.moveAside(e, generation))
		}
	}
	return aside
}

// removeLeft removes a temporary file whose writer was killed. Their writers have the key's lock, but for those of a .stat and
// those of other hosts, who may still be at work.
func (s *Store) removeLeft(path string, distant bool) {
	if distant || strings.Contains(filepath.Base(path), ".stat-") {
		if info, err := os.Lstat(path); err != nil || s.now().Sub(info.ModTime()) < time.Hour {
			return
		}
	}
	_ = os.Remove(path)
}

// sweep throws away what nobody needs of an entry, and what is in the trash. The key's lock is held.
func (s *Store) sweep(e entry) {
	for _, path := range s.moveUnused(e) {
		removeAll(path)
	}
	s.emptyTrash()
}

func (s *Store) emptyTrash() {
	entries, err := os.ReadDir(s.trash())
	if err != nil {
		return
	}
	for _, item := range entries {
		removeAll(filepath.Join(s.trash(), item.Name()))
	}
}

// removeAll removes a tree that may hold directories without write permission, as Go's module cache has them.
// What cannot be removed stays for the next sweep.
func removeAll(dir string) {
	if os.RemoveAll(dir) == nil {
		return
	}
	_ = filepath.WalkDir(dir, func(path string, item fs.DirEntry, err error) error {
		if err == nil && item.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	_ = os.RemoveAll(dir)
}

// quarantine is the content of quarantine.json.
type quarantine struct {
	At         time.Time `json:"at"`
	Generation string    `json:"generation"`
	Reason     string    `json:"reason"`
}

// Quarantine gives an environment up that turned out to be damaged: the next Acquire builds a new generation, and whoever
// runs in this one keeps it. A generation of a layer is passed over from now on. It does nothing when somebody has replaced it already.
func (s *Store) Quarantine(ctx context.Context, env *Env, reason string) error {
	generation := filepath.Base(env.Dir)
	data, err := json.Marshal(quarantine{At: s.now().UTC(), Generation: generation, Reason: reason})
	if err != nil {
		return err
	}
	if env.store.layer {
		note := env.store.damageNote(env.entry, generation)
		if err := env.store.mkdirAll(filepath.Dir(note)); err != nil {
			return &StoreError{Path: s.root, Err: err}
		}
		return env.store.write(note, data)
	}
	lock, _, err := s.lockKey(ctx, env.entry, func(holder) {}, nil)
	var unlockable *LockError
	if err != nil && !errors.As(err, &unlockable) {
		return err
	}
	defer func() { _ = lock.Close() }()
	if r, _, err := env.entry.read(); err != nil || r.Generation != generation {
		return nil //nolint:nilerr // it is no longer what an Acquire finds
	}
	if err := s.write(env.entry.quarantineFile(), data); err != nil {
		return &StoreError{Path: s.root, Err: err}
	}
	if err := os.Remove(env.entry.readyFile()); err != nil {
		return &StoreError{Path: s.root, Err: err}
	}
	return nil
}

// GiveUp quarantines the environment with an ID that Verify reported.
func (s *Store) GiveUp(ctx context.Context, id, reason string) error {
	info, err := s.Get(id)
	if err != nil {
		return err
	}
	holder := s.holding(info)
	e := holder.entry(info.ID)
	return s.Quarantine(ctx, &Env{Dir: e.generation(info.Generation), store: holder, entry: e}, reason)
}

// damageNote says, in the store above, that a generation of a layer is damaged.
func (s *Store) damageNote(e entry, generation string) string {
	return filepath.Join(s.notes, e.id+"-"+generation+".damaged")
}
