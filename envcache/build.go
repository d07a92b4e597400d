package envcache

import (
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
func (s *Store) build(ctx context.Context, key Key, b Builder, opt AcquireOptions) (*Env, State, error) {
	e, begun := s.entry(s.ID(key)), s.now()
	turn, err := s.waitForTurn(ctx, e, opt.Progress)
	for errors.Is(err, errPublished) {
		if env, reason := s.hit(ctx, e, b, true); reason == nil {
			return env, Waited, nil
		}
		turn, err = s.waitForTurn(ctx, e, opt.Progress)
	}
	if err != nil && s.makeRoom(ctx, err) {
		turn, err = s.waitForTurn(ctx, e, opt.Progress)
	}
	if err != nil {
		return nil, "", err
	}
	defer turn.end()
	writeHolder(turn.file, "preparing", "")
	s.at("locked")
	env, reason := s.hit(ctx, e, b, true)
	switch {
	case reason == nil && turn.waited:
		return env, Waited, nil
	case reason == nil:
		return env, Hit, nil
	case context.Cause(ctx) != nil:
		return nil, "", context.Cause(ctx)
	}
	// A failure that came while this one waited is the answer for all who waited.
	if failed := s.recallFailure(e); failed != nil && (!opt.RetryFailed || failed.At.After(begun)) {
		return nil, "", failed.asError()
	}
	if !errors.Is(reason, errNothing) {
		opt.Progress(Progress{Phase: "replacing", Line: reason.Error()})
	}
	if turn.locked {
		s.sweep(e)
	}
	j := job{key: key, entry: e, builder: b, interpreter: b.Interpreter(), lock: turn.file, report: opt.Progress}
	var other *otherInterpreter
	if errors.As(reason, &other) { // the builder may not know yet
		j.interpreter = other.is
	}
	env, err = s.buildWithRoom(ctx, j)
	if err == nil {
		_ = os.Remove(e.failedFile())
		_ = os.Remove(e.quarantineFile())
	}
	return env, Fresh, err
}

// job is one build whose turn has come.
type job struct {
	key         Key
	entry       entry
	builder     Builder
	interpreter Interpreter // as it is now
	lock        *os.File
	report      func(Progress)
}

// turn is the right to build an entry.
type turn struct {
	file   *os.File
	locked bool // false where locks do not work: others may be building as well
	waited bool // somebody else had it before
}

// errPublished ends a wait without the lock: what all were waiting for is there, and need not be taken one after the other.
var errPublished = errors.New("it was published meanwhile")

// waitForTurn takes the key's lock, or goes without where locks do not work.
func (s *Store) waitForTurn(ctx context.Context, e entry, report func(Progress)) (t turn, err error) {
	if err := s.makeDirs(e); err != nil {
		return t, err
	}
	before, _ := statOf(e.readyFile())
	t.file, t.waited, err = s.lockKey(ctx, e, func(h holder) {
		report(Progress{Phase: "waiting", Holder: h.String(), Log: h.Log})
	}, func() error {
		if now, err := statOf(e.readyFile()); err == nil && now.Inode != before.Inode {
			return errPublished
		}
		return nil
	})
	var unlockable *LockError
	if errors.As(err, &unlockable) {
		report(Progress{Phase: "building without a lock", Line: err.Error()})
		return t, nil
	}
	t.locked = err == nil
	return t, err
}

// end leaves no name in the lock file: who looks next may see somebody else's lock.
func (t turn) end() {
	if t.locked {
		_ = t.file.Truncate(0)
	}
	_ = t.file.Close()
}

// buildWithRoom tries once more when a build failed for want of room and room could be made.
func (s *Store) buildWithRoom(ctx context.Context, j job) (*Env, error) {
	env, err := s.buildOnce(ctx, j)
	if err != nil && s.makeRoom(ctx, err) {
		j.report(Progress{Phase: "building again", Line: "the disk was full; what nobody uses was removed"})
		env, err = s.buildOnce(ctx, j)
	}
	return env, err
}

// roomError is a build that ran out of disk, and what it had used by then.
type roomError struct {
	used room
	err  error
}

func (e *roomError) Error() string { return e.err.Error() }
func (e *roomError) Unwrap() error { return e.err }

// buildOnce builds in a fresh directory and publishes it. On an error nothing of it is left.
func (s *Store) buildOnce(ctx context.Context, j job) (env *Env, err error) {
	g, b, path := generation{store: s, entry: j.entry, name: s.nameGeneration(j.entry)}, j.builder, j.interpreter.Path
	if err := g.make(); err != nil {
		return nil, &StoreError{Path: s.root, Err: err}
	}
	defer func() {
		if env == nil || env.Dir != g.dir() {
			_ = g.use.Close()
			s.discard(j.entry, g.name)
		}
	}()
	s.at("made")
	if _, err := statOf(path); err != nil {
		return nil, &InterpreterError{Path: path, Err: err}
	}
	log := s.newLog(j.entry.id, j.report)
	defer log.close()
	phase := func(name string) {
		writeHolder(j.lock, name, log.path)
		log.setPhase(name)
	}
	phase("building")
	digest := digestLater(path)
	release := s.holdDownloads()
	built, err := b.Build(ctx, Site{Dir: g.dir(), Log: log, Phase: phase, Hold: g.use})
	release()
	if err == nil {
		phase("checking")
		err = b.Check(ctx, g.dir())
	}
	var counts map[string]census
	if err == nil {
		counts, err = g.whole(built)
	}
	if err != nil {
		return nil, s.buildFailed(ctx, g, log, path, err)
	}
	phase("publishing")
	s.at("built")
	r, err := g.describe(j.key, j.interpreter, built, counts, digest)
	if err == nil {
		env, err = g.publish(ctx, r, b)
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		err = &roomError{used: taken(g.dir()), err: err}
	}
	return env, err
}

// digestLater reads the interpreter beside the build.
func digestLater(path string) func() (string, error) {
	type outcome struct {
		digest string
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		digest, err := digestOf(path)
		done <- outcome{digest, err}
	}()
	return func() (string, error) {
		o := <-done
		return o.digest, o.err
	}
}

// buildFailed gives a builder's error its place: a canceled build is no failure, a full disk is
// the store's, and what is worth it is remembered.
func (s *Store) buildFailed(ctx context.Context, g generation, log *buildLog, interpreter string, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if _, gone := statOf(interpreter); gone != nil {
		return &InterpreterError{Path: interpreter, Err: gone}
	}
	failed := &BuildError{ID: g.entry.id, Log: log.path, Tail: log.tail(), Err: err}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || full(s.root) {
		return &roomError{used: taken(g.dir()), err: &StoreError{Path: s.root, Err: fmt.Errorf("%w: %w", syscall.ENOSPC, failed)}}
	}
	s.rememberFailure(g.entry, failed)
	return failed
}

// generation is one directory of an entry while it is made.
type generation struct {
	store *Store
	entry entry
	name  string
	use   *os.File // shared lock
}

func (g *generation) dir() string { return g.entry.generation(g.name) }

const generationBytes = 5

// newGeneration is a name that was never used before: 40 random bits, short for the sake of #! lines.
func newGeneration() string {
	var random [generationBytes]byte
	_, _ = rand.Read(random[:]) // never fails (crypto/rand)
	return encode(random[:])
}

// nameGeneration names the next generation of an entry.
func (s *Store) nameGeneration(e entry) string {
	if s.reproducible {
		return e.id[:generationBytes*8/5]
	}
	return newGeneration()
}

// isGeneration tells a generation's name from the other names of an entry, and keeps a ready.json that was tampered with from
// naming another place.
func isGeneration(name string) bool {
	return len(name) == generationBytes*8/5 && strings.Trim(name, idAlphabet) == ""
}

// make locks the generation before it exists: at no time is it a directory that nobody holds.
func (g *generation) make() error {
	use, err := g.store.create(g.entry.useFile(g.name), os.O_EXCL)
	if err != nil {
		return err
	}
	g.use = use
	_, _ = g.store.lock(use, unix.LOCK_SH) // nobody else knows the file yet
	if err = os.Mkdir(g.dir(), 0o700); err == nil && g.store.shared() {
		err = os.Chmod(g.dir(), sharedMode) // so that another member can move it away, should this one be killed
	}
	if err != nil {
		_ = use.Close()
		g.store.discard(g.entry, g.name)
	}
	return err
}

// whole makes the checks of a hit before there is something to hit, and counts the entries of the directories to watch.
func (g *generation) whole(built Built) (counts map[string]census, err error) {
	for _, name := range built.Sentinels {
		if err := exists(filepath.Join(g.dir(), name)); err != nil {
			return nil, fmt.Errorf("the finished environment is not whole: %w", err)
		}
	}
	counts = map[string]census{}
	for _, name := range built.Complete {
		if counts[name], err = takeCensus(filepath.Join(g.dir(), name)); err != nil {
			return nil, fmt.Errorf("the finished environment is not whole: %w", err)
		}
	}
	return counts, nil
}

// describe looks at what was built.
func (g *generation) describe(key Key, interpreter Interpreter, built Built, counts map[string]census, digest func() (string, error)) (ready, error) {
	s := g.store
	sum, err := digest()
	if err != nil {
		return ready{}, &InterpreterError{Path: interpreter.Path, Err: err}
	}
	stat, err := statOf(interpreter.Path)
	if err != nil {
		return ready{}, &InterpreterError{Path: interpreter.Path, Err: err}
	}
	tree, err := s.survey(g.dir())
	if err != nil {
		return ready{}, &StoreError{Path: s.root, Err: err}
	}
	if err := s.writeList(g.entry.listFile(g.name), tree); err != nil {
		return ready{}, &StoreError{Path: s.root, Err: err}
	}
	inputs := key.Inputs(s.root)
	r := ready{
		Schema: readySchema, ID: g.entry.id, Generation: g.name, CreatedAt: s.now().UTC(), Size: tree.size(), Files: len(tree),
		Interpreter: interpreter, Stat: stat, Digest: sum, Sentinels: built.Sentinels, Complete: counts,
		Kind: valueOf(inputs, RecipeInput), Locked: built.Locked, Resolved: resolvedDigest(built.Resolved),
	}
	if key.pathBound {
		r.Root = s.root
	}
	r.second, err = json.Marshal(details{Inputs: inputs, Resolved: built.Resolved})
	return r, err
}

// publish writes everything to disk and then makes ready.json point to the generation: from there on it
// exists, and before that it does not.
func (g *generation) publish(ctx context.Context, r ready, b Builder) (*Env, error) {
	s := g.store
	data, err := r.encode()
	if err != nil {
		return nil, err
	}
	pending := g.entry.pendingFile(g.name)
	if err := s.write(pending, data); err != nil {
		return nil, &StoreError{Path: s.root, Err: err}
	}
	if err := g.sync(); err != nil {
		return nil, &StoreError{Path: s.root, Err: err}
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	s.at("synced")
	env, err := g.point(ctx, r, b)
	if err != nil {
		return nil, err
	}
	s.at("published")
	_ = os.Remove(pending)
	s.noteAsked(r)
	if err := g.entry.intact(env.ready); err != nil { // where locks lie somebody may have taken it for abandoned
		_ = env.Close()
		return nil, &StoreError{Path: s.root, Err: err}
	}
	return env, nil
}

// point makes ready.json the pending file. link(2) replaces nothing: who finds a good ready.json after all (locks do
// not hold on every network file system) takes that environment. A broken one is replaced.
func (g *generation) point(ctx context.Context, r ready, b Builder) (*Env, error) {
	s, pending, target := g.store, g.entry.pendingFile(g.name), g.entry.readyFile()
	err := s.sys.link(pending, target)
	if err != nil && linked(pending) {
		err = nil // NFS repeats a call whose answer was lost, and then finds its own work (open(2), O_EXCL)
	}
	if errors.Is(err, fs.ErrExist) {
		if env, reason := s.hit(ctx, g.entry, b, true); reason == nil {
			return env, nil
		}
		err = os.Rename(pending, target)
	}
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EMLINK) || errors.Is(err, errors.ErrUnsupported) { // no hard links here
		err = os.Rename(pending, target)
	}
	if err != nil {
		return nil, &StoreError{Path: s.root, Err: err}
	}
	s.touch(g.use)
	return newEnv(s, g.entry, r, g.use), nil
}

// linked tells by the link count whether link(2) did its work.
func linked(path string) bool {
	var st syscall.Stat_t
	return syscall.Stat(path, &st) == nil && st.Nlink == 2
}
