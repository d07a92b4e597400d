package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"
	"regexp"
	stdruntime "runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
)

// Worker takes executions from the pool and runs them.
type Worker struct {
	cfg      Config
	broker   queue.Broker
	runs     queue.Table
	instance string
	started  time.Time

	audit  *auditor
	packs  *packStore
	routes *routes
	peers  peers
	slots  *slots
	log    *slog.Logger

	clock    clock
	draining atomic.Bool
	serving  atomic.Bool
	empty    string // a directory with nothing in it, where scripts without a pack are at home

	renewing sync.Mutex // one write of the own entry at a time

	tails sync.WaitGroup // ends of logs that were not taken yet

	mu       sync.Mutex
	attempts map[string]*attempt // by execution id
	busy     int                 // slots that attempts run in
}

// ErrNameTaken is a worker whose name another one in the pool has; it comes wrapped.
var ErrNameTaken = errors.New("another worker in the pool has this name")

// errEvicted ends a worker whose entry another one took.
var errEvicted = errors.New("another worker took this worker's name while it was not heard of")

var workerName = regexp.MustCompile(`^[A-Za-z0-9_=-]+(\.[A-Za-z0-9_=-]+)*$`)

// New checks a configuration and makes a worker of it; it touches neither disk nor broker.
func New(cfg Config) (*Worker, error) {
	if cfg.Broker == nil || cfg.Service == nil {
		return nil, errors.New("worker: it needs a broker and a service")
	}
	if cfg.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("worker: name the worker: %w", err)
		}
		cfg.Name = host
	}
	if !workerName.MatchString(cfg.Name) {
		return nil, fmt.Errorf("worker name %q: it is letters, digits, _, = and -, in parts joined by dots", cfg.Name)
	}
	for _, glob := range cfg.AllowActions {
		if _, err := path.Match(glob, ""); err != nil {
			return nil, fmt.Errorf("%q is no pattern of action names: %w", glob, err)
		}
	}
	cfg.Slots = cmp.Or(cfg.Slots, stdruntime.NumCPU())
	cfg.Grace = cmp.Or(cfg.Grace, 30*time.Second)
	cfg.Timing = cfg.Timing.WithDefaults()
	if cfg.Execute == nil {
		cfg.Execute = cfg.Service.Execute
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if cfg.Observer == nil {
		cfg.Observer = silent{}
	}
	w := &Worker{
		cfg: cfg, broker: cfg.Broker, runs: cfg.Broker.Table(queue.Runs), instance: uuid.NewString(),
		clock: clock{broker: cfg.Broker}, audit: newAuditor(cfg.Broker.Audit(), cfg.Name, auditDelay), slots: newSlots(cfg.Slots), attempts: map[string]*attempt{},
		log: cfg.Log.With("worker", cfg.Name),
	}
	w.routes, w.packs = newRoutes(w.log), newPackStore(cfg, w.log)
	return w, nil
}

type silent struct{}

func (silent) Claimed(*queue.Record, time.Duration, bool) {}
func (silent) Committed(*queue.Record, *executor.Result)  {}
func (silent) Fenced(string)                              {}
func (silent) Slots(int, int)                             {}

// Run registers the worker and takes executions until take ends. Then it drains: what runs may finish within Config.Grace, or until
// work ends; what is left gets SIGTERM, then SIGKILL, and is committed as interrupted, or given back where nothing of it had
// started. Run returns when nothing runs any more and the worker is deregistered. A context that ended is no error; ErrNameTaken is.
func (w *Worker) Run(take, work context.Context) error {
	w.started = time.Now()
	if err := w.register(take); err != nil {
		if take.Err() != nil {
			return nil
		}
		return err
	}
	defer w.deregister()
	empty, remove, err := w.cfg.Service.EmptyDir()
	if err != nil {
		return err
	}
	defer func() { _ = remove() }()
	w.empty = empty
	stop, err := w.answer()
	if err != nil {
		return err
	}
	defer stop()

	// What serves the executions goes on until the last of them is over.
	background, end := context.WithCancel(context.WithoutCancel(work))
	defer end()
	take, leave := context.WithCancel(take)
	defer leave()
	tasks := w.start(background, take, leave)
	w.take(take, background)
	w.drain(work, background)
	end()
	return tasks.Wait()
}

// start begins what goes on beside the executions. A failure makes the worker leave.
func (w *Worker) start(background, take context.Context, leave func()) *errgroup.Group {
	scheduler := NewScheduler(SchedulerConfig{
		Broker: w.broker, Worker: w.cfg.Name, Instance: w.instance, Service: w.cfg.Service, Timing: w.cfg.Timing, Now: w.now, Log: w.cfg.Log,
	})
	var tasks errgroup.Group
	for _, do := range []func(context.Context) error{
		w.advertise, w.watchRoutes, w.watchPacks,
		func(ctx context.Context) error { scheduler.Run(ctx); return nil },
		func(ctx context.Context) error { return w.prepare(ctx, take) },
	} {
		tasks.Go(func() error {
			err := do(background)
			if background.Err() != nil {
				return nil
			}
			if err != nil {
				leave()
			}
			return err
		})
	}
	return &tasks
}

// errNotServing is a worker that does not take executions yet, or no more.
var errNotServing = errors.New("the worker does not take executions")

// Ready is nil while the worker takes executions and the pool knows what it has.
func (w *Worker) Ready() error {
	if !w.serving.Load() || w.draining.Load() {
		return errNotServing
	}
	return nil
}

// now is the broker's clock, as far as it is known.
func (w *Worker) now() time.Time { return w.clock.now() }

// prepare makes environments ready in worker mode; what needs none of those that are missing is taken meanwhile.
func (w *Worker) prepare(ctx, take context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(take, cancel)()
	err := w.cfg.Service.Start(ctx)
	if ctx.Err() != nil {
		return nil
	}
	w.routes.prepared()
	return err
}

// watching repeats a watch that ends although nobody asked it to.
func (w *Worker) watching(ctx context.Context, name queue.TableName, do func(queue.Entry)) error {
	for pause := time.Duration(0); ; pause = min(2*pause+100*time.Millisecond, 5*time.Second) {
		if !sleep(ctx, pause) {
			return nil
		}
		for entry, err := range w.broker.Table(name).Watch(ctx, "") {
			if err != nil {
				w.log.Warn("watch ended", "table", name, "error", err)
				break
			}
			pause = 0
			do(entry)
		}
	}
}

// sleep is false when the context ended.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
