package envcache

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// build makes the environment under the key's lock, or finds that somebody else has made it.
func (s *Store) build(ctx context.Context, key Key, b Builder, report func(Progress)) (*Env, State, error) {
	e := s.entry(s.ID(key))
	if err := s.makeDirs(e); err != nil {
		return nil, "", err
	}
	lock, waited, err := e.lock(ctx, func(h holder) {
		report(Progress{Phase: "waiting", Holder: h.String(), Log: h.Log})
	})
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = lock.Close() }()
	env, reason := s.hit(ctx, e, b, true)
	if reason == nil {
		if waited {
			return env, Waited, nil
		}
		return env, Hit, nil
	}
	if err := cmp.Or(context.Cause(ctx), lockError(reason)); err != nil {
		return nil, "", err
	}
	if !errors.Is(reason, errNothing) {
		report(Progress{Phase: "replacing", Line: reason.Error()})
	}
	s.sweep(e)
	env, err = s.buildGeneration(ctx, key, e, b, lock, report)
	return env, Fresh, err
}

// buildGeneration builds in a fresh directory and publishes it. On an error nothing of it is left.
func (s *Store) buildGeneration(ctx context.Context, key Key, e entry, b Builder, lock *os.File, report func(Progress)) (env *Env, err error) {
	generation := newGeneration()
	use, err := os.OpenFile(e.useFile(generation), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, &StoreError{Path: s.root, Err: err}
	}
	dir := e.generation(generation)
	defer func() {
		if env == nil || env.Dir != dir {
			_ = use.Close()
			s.discard(e, generation)
		}
	}()
	if _, err := tryLock(use, unix.LOCK_SH); err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, &StoreError{Path: s.root, Err: err}
	}
	log := s.newLog(e.id, report)
	defer log.close()
	host, _ := os.Hostname()
	phase := func(name string) {
		holder{Host: host, PID: os.Getpid(), Phase: name, Log: log.path}.write(lock)
		log.setPhase(name)
	}
	phase("building")
	built, err := b.Build(ctx, Site{Dir: dir, Log: log, Phase: phase, Hold: use})
	if err == nil {
		phase("checking")
		err = b.Check(ctx, dir)
	}
	if err != nil {
		return nil, s.buildFailed(ctx, e, log, err)
	}
	phase("publishing")
	return s.publish(ctx, key, e, generation, b, built, use)
}

// buildFailed gives a builder's error its place: a canceled build is no failure, and a full disk is
// the store's.
func (s *Store) buildFailed(ctx context.Context, e entry, log *buildLog, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	failed := &BuildError{ID: e.id, Log: log.path, Tail: log.tail(), Err: err}
	if errors.Is(err, syscall.ENOSPC) || full(s.root) {
		return &StoreError{Path: s.root, Err: fmt.Errorf("%w: %w", syscall.ENOSPC, failed)}
	}
	return failed
}

// full tells whether a file system has run out of blocks or inodes; an installer's own words about that
// are not attune's to understand.
func full(dir string) bool {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil || st.Blocks == 0 {
		return false
	}
	return st.Bavail*uint64(st.Bsize) < 256<<10 || st.Files > 0 && st.Ffree == 0
}

// publish writes everything to disk and then makes ready.json point to the generation: from there on it
// exists, and before that it does not.
func (s *Store) publish(ctx context.Context, key Key, e entry, generation string, b Builder, built Built, use *os.File) (*Env, error) {
	interpreter := b.Interpreter()
	stat, err := statOf(interpreter.Path)
	if err != nil {
		return nil, fmt.Errorf("interpreter: %w", err)
	}
	size, err := treeSize(e.generation(generation))
	if err != nil {
		return nil, &StoreError{Path: s.root, Err: err}
	}
	r := ready{
		Schema: readySchema, Key: e.id, Generation: generation, CreatedAt: s.now().UTC(), Size: size, Inputs: key.Inputs(s.root),
		Interpreter: interpreter, Stat: stat, Built: built, Resolved: resolvedDigest(built.Resolved),
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, err
	}
	pending := e.pendingFile(generation)
	if err := os.WriteFile(pending, append(data, '\n'), 0o600); err != nil {
		return nil, &StoreError{Path: s.root, Err: err}
	}
	// One syncfs instead of an fsync per file.
	if err := unix.Syncfs(int(use.Fd())); err != nil {
		return nil, &StoreError{Path: s.root, Err: err}
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return s.point(ctx, e, r, b, use)
}

// point makes ready.json the pending file. link(2) replaces nothing: who finds a good ready.json after all (locks do
// not hold on every network file system) takes that environment. A broken one is replaced.
func (s *Store) point(ctx context.Context, e entry, r ready, b Builder, use *os.File) (*Env, error) {
	pending := e.pendingFile(r.Generation)
	err := os.Link(pending, e.readyFile())
	if errors.Is(err, fs.ErrExist) {
		if env, reason := s.hit(ctx, e, b, true); reason == nil {
			return env, nil
		}
		err = os.Rename(pending, e.readyFile())
	}
	if errors.Is(err, syscall.EPERM) || errors.Is(err, errors.ErrUnsupported) { // a file system without hard links
		err = os.Rename(pending, e.readyFile())
	}
	if err != nil {
		return nil, &StoreError{Path: s.root, Err: err}
	}
	_ = os.Remove(pending)
	return s.newEnv(e, r, use), nil
}

// newGeneration is a name that was never used before: 40 random bits, short for the sake of #! lines.
func newGeneration() string {
	var random [5]byte
	_, _ = rand.Read(random[:]) // never fails (crypto/rand)
	return encode(random[:])
}

// sweep throws away what builders left behind who were killed: generations that ready.json does not point to and
// nobody uses. The key's lock is held.
func (s *Store) sweep(e entry) {
	current := ""
	if r, _, err := e.read(); err == nil {
		current = r.Generation
	}
	entries, err := os.ReadDir(e.dir)
	if err != nil {
		return
	}
	for _, item := range entries {
		generation, _, _ := strings.Cut(item.Name(), ".")
		if generation == current || generation == "lock" || generation == "ready" || generation == "failed" {
			continue
		}
		if !s.inUse(e, generation) {
			s.discard(e, generation)
		}
	}
	s.emptyTrash()
}

// inUse tells whether anybody has the generation's .use.
func (s *Store) inUse(e entry, generation string) bool {
	f, err := os.Open(e.useFile(generation))
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	free, err := tryLock(f, unix.LOCK_EX)
	return err != nil || !free
}

// discard removes a generation and its siblings. The directory is moved aside first, so that a removal that is
// interrupted leaves no half of it here.
func (s *Store) discard(e entry, generation string) {
	aside := filepath.Join(s.trash(), e.id+"-"+generation)
	if err := os.Rename(e.generation(generation), aside); err == nil {
		removeAll(aside)
	} else if !errors.Is(err, fs.ErrNotExist) {
		removeAll(e.generation(generation))
	}
	for _, path := range []string{e.statFile(generation), e.pendingFile(generation), e.useFile(generation)} {
		_ = os.Remove(path)
	}
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

func treeSize(dir string) (int64, error) {
	var size int64
	err := filepath.WalkDir(dir, func(_ string, item fs.DirEntry, err error) error {
		if err != nil || !item.Type().IsRegular() {
			return err
		}
		info, err := item.Info()
		if err != nil {
			return err
		}
		size += info.Size()
		return nil
	})
	return size, err
}
