package worker

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
)

// SchedulerConfig is what a Scheduler works with.
type SchedulerConfig struct {
	Broker   queue.Broker
	Worker   string // the name of the worker it is part of
	Instance string // of the process
	// Service knows the local packs, for schedules of actions that no worker has offered; nil means none.
	Service *executor.Service
	Timing  Timing
	Now     func() time.Time // the broker's clock; nil means time.Now
	Log     *slog.Logger     // nil discards
}

// Scheduler is the one in the pool, among many candidates, who moves what waits: it queues what is due or has a place, submits the
// ticks of schedules, lays messages again that were lost, and ends what no worker is able to run.
//
// All it does is done by compare-and-set, so that a second one who still believes to be elected does no harm.
type Scheduler struct {
	cfg    SchedulerConfig
	client *Client
	lease  *lease
}

// NewScheduler makes a candidate.
func NewScheduler(cfg SchedulerConfig) *Scheduler {
	cfg.Timing = cfg.Timing.WithDefaults()
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Scheduler{
		cfg:    cfg,
		client: NewClient(ClientConfig{Broker: cfg.Broker, Service: cfg.Service, Who: cfg.Worker, Unroutable: cfg.Timing.Unroutable, Now: cfg.Now}),
		lease:  newLease(cfg.Broker.Table(queue.Leases), queue.Lease{Worker: cfg.Worker, Instance: cfg.Instance}, cfg.Timing.Lease),
	}
}

// Run is a candidate, and while it is elected the scheduler, until the context ends.
func (s *Scheduler) Run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := s.lease.acquire(ctx, s.cfg.Now); err != nil {
			s.pause(ctx, "stand for scheduler", err)
			continue
		}
		s.cfg.Log.Info("elected as scheduler")
		err := s.serve(ctx)
		s.cfg.Log.Info("no longer scheduler", "reason", err)
		if !errors.Is(err, errNotElected) {
			s.pause(ctx, "schedule", err)
		}
	}
	s.lease.release()
}

func (s *Scheduler) pause(ctx context.Context, what string, err error) {
	if ctx.Err() != nil {
		return
	}
	s.cfg.Log.Warn(what, "error", err)
	select {
	case <-time.After(s.cfg.Timing.Scheduler):
	case <-ctx.Done():
	}
}

// serve is one term: what it knows begins anew with it, and ends with it.
func (s *Scheduler) serve(ctx context.Context) error {
	t := &term{Scheduler: s, view: newView(), ticks: newTimetable(), wake: make(chan struct{}, 1)}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.lease.keep(ctx) })
	group.Go(func() error { return t.follow(ctx, queue.Runs, t.view.seeRun) })
	group.Go(func() error { return t.follow(ctx, queue.Workers, always(t.view.seeWorker)) })
	group.Go(func() error { return t.follow(ctx, queue.Schedules, always(t.ticks.see)) })
	group.Go(func() error { return t.loop(ctx) })
	return group.Wait()
}

// term is the time for which one candidate is elected.
type term struct {
	*Scheduler
	view  *view
	ticks *timetable
	wake  chan struct{} // written by those who follow a table, read by loop
	kept  time.Time     // monotonic: when no old record was left to keep
	freed time.Time     // monotonic: when messages were last taken from workers that are lost for long
	swept time.Time     // monotonic: when what need not be looked at with every change was looked at
}

// always says that there may be something to do.
func always(see func(queue.Entry)) func(queue.Entry) bool {
	return func(entry queue.Entry) bool {
		see(entry)
		return true
	}
}

// follow lets see look at everything in a table, and at every change. It tells whether that may be something to act upon now.
func (t *term) follow(ctx context.Context, table queue.TableName, see func(queue.Entry) (todo bool)) error {
	for entry, err := range t.cfg.Broker.Table(table).Watch(ctx, "") {
		if err != nil {
			return err
		}
		if !see(entry) {
			continue
		}
		select {
		case t.wake <- struct{}{}:
		default:
		}
	}
	if ctx.Err() == nil {
		return errors.New("the watch of " + string(table) + " ended")
	}
	return context.Cause(ctx)
}

// loop does what is to be done whenever there is something to act upon, or time has passed.
func (t *term) loop(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-t.wake:
		case <-timer.C:
		}
		if !t.view.complete() {
			continue
		}
		if err := t.step(ctx); err != nil {
			return err
		}
		timer.Reset(t.pause())
	}
}

// pause is until the next thing is due, at most Timing.Scheduler.
func (t *term) pause() time.Duration {
	next, ok := t.view.nextDue()
	if !ok {
		return t.cfg.Timing.Scheduler
	}
	return min(max(next.Sub(t.cfg.Now()), time.Millisecond), t.cfg.Timing.Scheduler)
}

// keepInterval is how often records are looked for that the broker would forget.
const keepInterval = time.Hour

// duty is one thing that a scheduler does.
type duty struct {
	name string
	do   func(context.Context) error
}

// step does all that is due now. What fails because the broker is away is tried again with the next one.
func (t *term) step(ctx context.Context) error {
	duties := []duty{{"queue what is due", t.admitDue}, {"give places", t.givePlaces}, {"submit ticks", t.submitTicks}}
	if time.Since(t.swept) >= t.cfg.Timing.Scheduler {
		t.swept = time.Now()
		duties = append(duties, duty{"lay lost messages again", t.reconcile}, duty{"end what is unroutable", t.endUnroutable})
		if time.Since(t.kept) >= keepInterval {
			duties = append(duties, duty{"keep what waits long", t.keepOld})
		}
	}
	for _, duty := range duties {
		if !t.lease.valid() {
			return errNotElected
		}
		if err := duty.do(ctx); err != nil && ctx.Err() == nil {
			t.cfg.Log.Warn(duty.name, "error", err)
		}
	}
	return nil
}
