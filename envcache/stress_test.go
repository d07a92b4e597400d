package envcache

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// make stress runs this for longer, with more processes.
var (
	stressFor       = flag.Duration("stress", 5*time.Second, "how long TestStress lasts")
	stressProcesses = flag.Int("stress-processes", 16, "how many processes it runs")
	stressSeed      = flag.Uint64("stress-seed", 0, "0: a new one")
)

const stressKeys = 10

// Processes acquire, prune, remove, verify and give up the environments of a few keys, and are killed and stopped at random.
// Nobody is ever given an environment that is not whole, nor loses one that he holds, and afterwards nothing is left behind.
func TestStress(t *testing.T) {
	seed := *stressSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	defer func() {
		if t.Failed() {
			t.Logf("again: make stress SEED=%d FOR=%s PROCESSES=%d", seed, *stressFor, *stressProcesses)
		}
	}()
	run := &stressRun{t: t, s: openStore(t, memoryDir(t)), random: rand.New(rand.NewPCG(seed, 0)), counts: map[string]int{}, seed: seed}
	run.chaos()
	run.checkAfterwards()
	run.report()
}

// stressRun is the test's side: it starts workers, and kills them.
type stressRun struct {
	t       *testing.T
	s       *Store
	random  *rand.Rand
	seed    uint64
	workers []*stressed
	readers sync.WaitGroup

	mu         sync.Mutex
	counts     map[string]int // what the workers said they did
	violations []string
}

// stressed is one worker.
type stressed struct {
	*process
	killed, stopped bool
}

func (r *stressRun) chaos() {
	for i := range *stressProcesses {
		r.workers = append(r.workers, r.start(i))
	}
	for until := time.Now().Add(*stressFor); time.Now().Before(until); time.Sleep(time.Duration(r.random.IntN(100)) * time.Millisecond) {
		i := r.random.IntN(len(r.workers))
		w := r.workers[i]
		switch {
		case w.stopped:
			w.stopped = false
			require.NoError(r.t, w.cmd.Process.Signal(syscall.SIGCONT))
		case r.random.IntN(5) == 0:
			w.stopped = true
			r.count("stopped")
			require.NoError(r.t, w.cmd.Process.Signal(syscall.SIGSTOP))
		default:
			r.count("killed")
			w.killed = true
			require.NoError(r.t, w.cmd.Process.Kill())
			r.end(w)
			r.workers[i] = r.start(i)
		}
	}
	for _, w := range r.workers {
		if w.stopped {
			require.NoError(r.t, w.cmd.Process.Signal(syscall.SIGCONT))
		}
		require.NoError(r.t, w.stdin.Close())
	}
	for _, w := range r.workers {
		r.end(w)
	}
	r.readers.Wait()
}

func (r *stressRun) start(i int) *stressed {
	r.seed++
	w := &stressed{process: start(r.t, order{Root: r.s.Root(), Do: "stress", Seed: r.seed})}
	r.count("started")
	r.readers.Go(func() {
		for w.lines.Scan() {
			if what, bad := strings.CutPrefix(w.lines.Text(), "violation "); bad {
				r.mu.Lock()
				r.violations = append(r.violations, what)
				r.mu.Unlock()
			} else {
				r.count(w.lines.Text())
			}
		}
	})
	return w
}

func (r *stressRun) count(what string) {
	r.mu.Lock()
	r.counts[what]++
	r.mu.Unlock()
}

// end waits for a worker: only a killed one ends otherwise than well. Its output has been read when it is gone.
func (r *stressRun) end(w *stressed) {
	if state, err := w.cmd.Process.Wait(); err != nil || !w.killed && state.ExitCode() != 0 {
		assert.Fail(r.t, "a worker ended badly", "%v %v", state, err)
	}
}

func (r *stressRun) checkAfterwards() {
	t, s, ctx := r.t, r.s, context.Background()
	assert.Empty(t, r.violations)
	list, err := s.List(ctx, false)
	require.NoError(t, err)
	for _, info := range list {
		assert.NotEqual(t, Building, info.State, "nobody has a lock any more: %s", info.ID)
		if info.State == Ready {
			v, err := s.Verify(ctx, info.ID)
			require.NoError(t, err)
			assert.Empty(t, v.Problems)
		}
	}
	for name := range stressKeys {
		b := stressBuilder{name: fmt.Sprint(name), random: r.random}
		env, err := s.Acquire(ctx, testKey(b.name), b, AcquireOptions{RetryFailed: true})
		require.NoError(t, err)
		require.NoError(t, b.check(env.Dir))
		require.NoError(t, env.Close())
	}
	for !r.idle() { // the children of workers that were killed end by themselves
		time.Sleep(10 * time.Millisecond)
	}
	_, err = s.Prune(ctx, Policy{})
	require.NoError(t, err)
	for name := range stressKeys {
		e := s.entry(s.ID(testKey(fmt.Sprint(name))))
		ready, _, err := e.read()
		require.NoError(t, err)
		g := ready.Generation
		assert.ElementsMatch(t, []string{"lock", "ready.json", g, g + ".list", g + ".use"}, remains(t, s, testKey(fmt.Sprint(name))))
		assert.False(t, s.isLocked(e.lockFile()))
	}
	assert.False(t, s.isLocked(s.downloadsLock()))
	assert.Empty(t, s.processesIn([]string{s.Root()}))
}

func (r *stressRun) idle() bool {
	uses, err := filepath.Glob(filepath.Join(globQuote(r.s.envs()), "*", "*", "*.use"))
	require.NoError(r.t, err)
	return !slices.ContainsFunc(uses, r.s.isLocked)
}

func (r *stressRun) report() {
	var b strings.Builder
	for _, what := range slices.Sorted(maps.Keys(r.counts)) {
		_, _ = fmt.Fprintf(&b, "\n%8d  %s", r.counts[what], what)
	}
	r.t.Logf("%d processes, %d keys, %s, seed %d%s", *stressProcesses, stressKeys, *stressFor, r.seed-uint64(r.counts["started"]), b.String())
}

// stressWorker does something at random until its stdin ends, a line each.
func stressWorker(ctx context.Context, s *Store, o order) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1))
		stop()
	}()
	w := worker{s: s, random: rand.New(rand.NewPCG(o.Seed, 1))}
	for ctx.Err() == nil {
		if err := w.step(); err != nil {
			fmt.Println("violation", err)
		}
	}
	return nil
}

type worker struct {
	s      *Store
	random *rand.Rand
}

func (w worker) step() error {
	ctx := context.Background()
	name := fmt.Sprint(w.random.IntN(stressKeys))
	id := w.s.ID(testKey(name))
	switch n := w.random.IntN(100); {
	case n < 3:
		report, err := w.s.Prune(ctx, Policy{MaxSize: int64(1 + w.random.IntN(4000)), Downloads: n == 0})
		fmt.Println("prune, removed", min(len(report.Removed), 1))
		return err
	case n < 8:
		return w.expect("remove", w.s.Remove(ctx, id))
	case n < 12:
		_, err := w.s.Verify(ctx, id)
		return w.expect("verify", err)
	case n < 14:
		_, err := w.s.List(ctx, false)
		return w.expect("list", err)
	default:
		return w.acquire(ctx, name)
	}
}

// expect knows the errors that others may cause.
func (w worker) expect(what string, err error) error {
	var inUse *InUseError
	var missing *NotFoundError
	var failed *BuildError
	switch {
	case err == nil:
		fmt.Println(what)
	case errors.As(err, &inUse):
		fmt.Println(what + ": in use")
	case errors.As(err, &missing):
		fmt.Println(what + ": not there")
	case errors.As(err, &failed) && failed.Remembered():
		fmt.Println(what + ": failed before")
	case errors.As(err, &failed):
		fmt.Println(what+": failed,", classOf(failed.Err))
	default:
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func (w worker) acquire(ctx context.Context, name string) error {
	b := stressBuilder{name: name, random: w.random, fails: true, marks: filepath.Join(w.s.Root(), "mark-"+name)}
	env, err := w.s.Acquire(ctx, testKey(name), b, AcquireOptions{RetryFailed: w.random.IntN(2) == 0})
	if err != nil {
		return w.expect("acquire", err)
	}
	defer func() { _ = env.Close() }()
	fmt.Println("acquire:", env.State)
	if err := b.check(env.Dir); err != nil {
		return fmt.Errorf("just acquired (%s): %w", env.State, err)
	}
	held := func() bool { return true }
	switch w.random.IntN(40) {
	case 0:
		if err := w.s.Quarantine(ctx, env, "at random"); err != nil {
			return err
		}
		fmt.Println("quarantine")
	case 1:
		begun := time.Now()
		if err := w.child(env); err != nil {
			return err
		}
		held = func() bool { return time.Since(begun) < childLife } // this process may have been stopped for longer
	}
	time.Sleep(time.Duration(w.random.IntN(10)) * time.Millisecond)
	if err := b.check(env.Dir); err != nil && held() {
		return fmt.Errorf("while it was held: %w", err)
	}
	return nil
}

// childLife is how long a child holds what was left to it.
const childLife = 200 * time.Millisecond

// child leaves the environment to a child alone.
func (w worker) child(env *Env) error {
	hold, err := env.Hold()
	if err != nil {
		return err
	}
	cmd := exec.Command("sleep", fmt.Sprint(childLife.Seconds()))
	cmd.ExtraFiles = []*os.File{hold}
	err = errors.Join(cmd.Start(), hold.Close(), env.Close())
	if err == nil {
		fmt.Println("child")
		go func() { _ = cmd.Wait() }()
	}
	return err
}

// stressBuilder makes files whose content follows from the key, slowly, and fails at times.
type stressBuilder struct {
	name   string
	random *rand.Rand
	fails  bool
	marks  string // file that one builder of the key has at a time; empty: nobody looks
}

const stressFiles = 8

func (b stressBuilder) content(i int) []byte { return bytes.Repeat([]byte(b.name+" "), 10+i) }

func (stressBuilder) Interpreter() Interpreter { return Interpreter{} }

func (stressBuilder) Probe(context.Context, string) (Interpreter, error) { return Interpreter{}, nil }

func (b stressBuilder) Build(_ context.Context, site Site) (Built, error) {
	done, err := b.alone()
	if err != nil {
		return Built{}, err
	}
	defer done()
	for i := range stressFiles {
		time.Sleep(time.Duration(b.random.IntN(10)) * time.Millisecond)
		if err := os.MkdirAll(filepath.Join(site.Dir, "packages"), 0o700); err != nil {
			return Built{}, err
		}
		if err := os.WriteFile(filepath.Join(site.Dir, "packages", fmt.Sprint(i)), b.content(i), 0o600); err != nil {
			return Built{}, err
		}
		if class := b.failure(); class != "" {
			return Built{}, classError(class)
		}
	}
	return Built{Sentinels: []string{"packages/0"}, Complete: []string{"packages"}}, nil
}

func (b stressBuilder) failure() Class {
	switch n := b.random.IntN(800); {
	case !b.fails:
		return ""
	case n == 0:
		return Permanent
	case n < 4:
		return Transient
	case n < 12:
		return Passing
	}
	return ""
}

// alone notices a second builder of the key at the same time: one that waits for the mark and then finds that its holder ended
// well was let in too early. Who was killed did not end well.
func (b stressBuilder) alone() (done func(), err error) {
	if b.marks == "" {
		return func() {}, nil
	}
	f, err := os.OpenFile(b.marks, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			return nil, err
		}
		if info, err := f.Stat(); err == nil && info.Size() == 0 {
			fmt.Println("violation two builders of one key at the same time:", b.name)
		}
	}
	_, _ = f.WriteAt([]byte("building"), 0)
	return func() {
		_ = f.Truncate(0)
		_ = f.Close()
	}, nil
}

func (stressBuilder) Check(context.Context, string) error { return nil }

// check tells whether an environment is whole, byte for byte.
func (b stressBuilder) check(dir string) error {
	for i := range stressFiles {
		data, err := os.ReadFile(filepath.Join(dir, "packages", fmt.Sprint(i)))
		if err != nil {
			return err
		}
		if !bytes.Equal(data, b.content(i)) {
			return fmt.Errorf("%s holds %q", dir, data)
		}
	}
	return nil
}
