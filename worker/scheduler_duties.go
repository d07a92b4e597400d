package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
)

// width is how many executions a scheduler moves at the same time.
const width = 16

// each does one thing to each run, several at the same time, and joins what went wrong.
func (t *term) each(runs []*run, do func(*run) error) error {
	var group errgroup.Group
	group.SetLimit(width)
	var mu sync.Mutex
	var failed error // the first of many that are alike
	for _, r := range runs {
		group.Go(func() error {
			if err := t.fenced(r, do); err != nil {
				mu.Lock()
				defer mu.Unlock()
				if failed == nil {
					failed = fmt.Errorf("execution %s: %w", r.id, err)
				}
			}
			return nil
		})
	}
	_ = group.Wait() // failed has the error
	return failed
}

func (t *term) fenced(r *run, do func(*run) error) error {
	if !t.lease.valid() {
		return errNotElected
	}
	return do(r)
}

// admitDue queues what was parked until now.
func (t *term) admitDue(ctx context.Context) error {
	return t.each(t.view.takeDue(t.cfg.Now()), func(r *run) error {
		err := t.admit(ctx, r)
		if err != nil {
			t.view.later(r, t.cfg.Now().Add(t.cfg.Timing.Scheduler))
		}
		return err
	})
}

// admit queues a parked execution, and wakes a worker. One that has moved on is left alone.
func (t *term) admit(ctx context.Context, r *run) error {
	record, revision, err := t.client.record(ctx, r.id)
	var refused *RefusedError
	if errors.As(err, &refused) || err == nil && record.State != queue.Parked {
		return nil
	}
	if err != nil {
		return err
	}
	if record.NotBefore.After(t.cfg.Now()) { // the clock was put back, if it has not moved on
		t.view.later(r, record.NotBefore)
		return nil
	}
	admitted, err := record.Admit()
	if err != nil {
		return err
	}
	if !admitted.Unroutable.IsZero() {
		admitted.Unroutable = t.cfg.Now().Add(t.cfg.Timing.Unroutable).UTC()
	}
	value, err := encode(admitted)
	if err != nil {
		return err
	}
	revision, err = t.cfg.Broker.Table(queue.Runs).Update(ctx, r.id, value, revision)
	if errors.Is(err, queue.ErrConflict) {
		return nil // the change will be seen
	}
	if err != nil {
		return err
	}
	return publish(ctx, t.client, &admitted, queue.Copy{Value: value, Revision: revision}) // reconcile does it again if this fails
}

// givePlaces queues executions of limited actions, as many as have a place.
func (t *term) givePlaces(ctx context.Context) error {
	var failed error
	for _, l := range t.view.takeDirty() {
		if !t.lease.valid() {
			return errNotElected
		}
		if err := t.givePlacesOf(ctx, l); err != nil {
			failed = fmt.Errorf("limit of %s: %w", l.action, err)
			t.view.makeDirty(l)
		}
	}
	return failed
}

// givePlacesOf frees the places of those that are over, and gives them to those that wait, by compare-and-set on the LimitEntry: it
// never holds more than the limit, whoever else does the same.
func (t *term) givePlacesOf(ctx context.Context, l *limit) error {
	table, key := t.cfg.Broker.Table(queue.Limits), queue.LimitKey(l.action)
	entry, err := table.Get(ctx, key)
	var places queue.LimitEntry
	switch {
	case errors.Is(err, queue.ErrNotFound):
	case err != nil:
		return err
	default:
		if err := json.Unmarshal(entry.Value, &places); err != nil {
			return err
		}
	}
	before := len(places.Holders)
	if places.Holders, err = t.stillHeld(ctx, places.Holders); err != nil {
		return err
	}
	chosen, resumed, most := t.view.choose(l, places.Holders)
	for _, r := range chosen {
		places.Holders = append(places.Holders, holder(r))
	}
	if len(chosen) > 0 || len(places.Holders) != before {
		places.Max = most
		value, err := encode(places)
		if err == nil && entry.Revision == 0 {
			_, err = table.Create(ctx, key, value)
		} else if err == nil {
			_, err = table.Update(ctx, key, value, entry.Revision)
		}
		if err != nil {
			t.view.putBack(l, chosen)
			return err
		}
	}
	return t.each(append(resumed, chosen...), func(r *run) error { return t.admit(ctx, r) })
}

// holder is who has a place: an execution for one attempt. An attempt is over for good, so that even somebody with an old view can
// tell which places are free.
func holder(r *run) string { return r.id + "." + strconv.Itoa(r.attempt+1) }

func cutHolder(text string) (id string, attempt int) {
	id, number, _ := strings.Cut(text, ".")
	attempt, _ = strconv.Atoi(number)
	return id, attempt
}

// stillHeld leaves out the holders that are over: done, or parked after their attempt.
func (t *term) stillHeld(ctx context.Context, holders []string) ([]string, error) {
	var held []string
	for _, text := range holders {
		id, attempt := cutHolder(text)
		over, known := t.view.over(id, attempt)
		if !known { // done, or newer than what has been seen
			r, _, err := t.client.record(ctx, id)
			var refused *RefusedError
			if err != nil && !errors.As(err, &refused) {
				return nil, err
			}
			over = err != nil || r.State == queue.Done || r.State == queue.Parked && r.Attempt >= attempt
		}
		if !over {
			held = append(held, text)
		}
	}
	return held, nil
}

func (v *view) over(id string, attempt int) (over, known bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	r := v.runs[id]
	if r == nil {
		return false, false
	}
	return r.state == queue.Parked && r.attempt >= attempt, true
}

func (v *view) takeDirty() []*limit {
	v.mu.Lock()
	defer v.mu.Unlock()
	var all []*limit
	for _, l := range v.limits {
		if l.dirty {
			l.dirty = false
			all = append(all, l)
		}
	}
	return all
}

func (v *view) makeDirty(l *limit) {
	v.mu.Lock()
	defer v.mu.Unlock()
	l.dirty = true
}

// choose takes from the lines as many as there are places, the higher priority first. Those that have a place already, because whoever
// gave it came no further, are resumed. most is the limit.
func (v *view) choose(l *limit, holders []string) (chosen, resumed []*run, most int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	held := map[string]bool{}
	for _, text := range holders {
		held[text] = true
		id, _ := cutHolder(text)
		if r := v.runs[id]; r != nil && r.state == queue.Parked && r.waiting && holder(r) == text {
			resumed = append(resumed, r)
		}
	}
	free := l.max - len(holders)
	for priority := queue.High; priority >= queue.Low; priority-- {
		line := l.line(priority)
		for len(*line) > 0 && free > 0 {
			r := v.runs[(*line)[0]]
			*line = (*line)[1:]
			if r == nil || r.state != queue.Parked || !r.waiting || held[holder(r)] {
				continue // it has moved on
			}
			chosen = append(chosen, r)
			r.waiting = false
			free--
		}
	}
	return chosen, resumed, l.max
}

// putBack puts those that were chosen, and got no place, back to where they waited.
func (v *view) putBack(l *limit, chosen []*run) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, r := range slices.Backward(chosen) {
		line := l.line(r.priority)
		*line, r.waiting = slices.Insert(*line, 0, r.id), true
	}
}

// sweepMost is how many executions are seen to in one go, for nothing else is done meanwhile: not the places of limited actions, nor what is
// due. A thousand every Timing.Scheduler are ahead of the workers, however long the backlog is.
const sweepMost = 1000

// reconcile lays messages again that are missing: of queued executions, whose submitter or scheduler came no further than the
// record, and of running ones whose worker is lost.
func (t *term) reconcile(ctx context.Context) error {
	fresh := t.each(t.view.takeFresh(t.cfg.Timing.Reconcile, sweepMost), func(r *run) error {
		laid, err := t.layAgain(ctx, r)
		if laid || err != nil {
			t.view.again(r)
		}
		return err
	})
	lost := t.each(t.view.takeLost(t.cfg.Timing.Fence), func(r *run) error {
		_, err := t.layAgain(ctx, r)
		return err
	})
	return errors.Join(fresh, lost, t.freeLost(ctx))
}

// longLost is how many times Timing.Fence a worker has not been heard of until its messages are taken from it.
const longLost = 4

// freeLost takes the messages of workers that are lost for long from them, and lays them again. The ack wait that should do it goes by the
// broker's wall clock, which may have been put back. A holder that lives is asked by whoever gets the message.
func (t *term) freeLost(ctx context.Context) error {
	patience := longLost * t.cfg.Timing.Fence
	if time.Since(t.freed) < patience {
		return nil
	}
	lost := t.view.takeLost(patience)
	if len(lost) > 0 {
		t.freed = time.Now()
	}
	return t.each(lost, func(r *run) error {
		if err := t.cfg.Broker.Work().Remove(ctx, r.message()); err != nil {
			return err
		}
		_, err := t.layAgain(ctx, r)
		return err
	})
}

// layAgain tells whether the message was missing, and is there now.
func (t *term) layAgain(ctx context.Context, r *run) (laid bool, err error) {
	there, err := t.cfg.Broker.Work().Waiting(ctx, r.message())
	if err != nil && !errors.Is(err, queue.ErrNotFound) || there {
		return false, err
	}
	record, revision, err := t.client.record(ctx, r.id)
	var refused *RefusedError
	if errors.As(err, &refused) || err == nil && revision != r.revision {
		return false, nil // it has moved on, and will be seen
	}
	if err != nil {
		return false, err
	}
	t.cfg.Log.Info("lay a lost message again", "execution", r.id, "state", record.State)
	err = publish(ctx, t.client, record, queue.Copy{})
	return err == nil, err
}

// keepOld writes the records again of what waits so long that the broker would forget them.
func (t *term) keepOld(ctx context.Context) error {
	old := t.view.takeOld(t.cfg.Now(), queue.Retention/2, sweepMost)
	if len(old) < sweepMost {
		t.kept = time.Now()
	}
	return t.each(old, func(r *run) error {
		entry, err := t.cfg.Broker.Table(queue.Runs).Get(ctx, r.id)
		if errors.Is(err, queue.ErrNotFound) || err == nil && entry.Revision != r.revision {
			return nil
		}
		if err == nil {
			_, err = t.cfg.Broker.Table(queue.Runs).Update(ctx, r.id, entry.Value, entry.Revision)
		}
		if errors.Is(err, queue.ErrConflict) {
			return nil
		}
		return err
	})
}

// endUnroutable ends what waited too long for a worker that is able to run it.
func (t *term) endUnroutable(ctx context.Context) error {
	return t.each(t.view.takeUnroutable(t.cfg.Now(), t.cfg.Timing, sweepMost), func(r *run) error {
		record, revision, err := t.client.record(ctx, r.id)
		if err != nil || revision != r.revision {
			return err
		}
		result := unstarted(record, t.cfg.Now())
		result.Status = executor.Errored
		result.Error = &executor.Error{
			Kind: "unroutable", Message: fmt.Sprintf("no worker was able to run it for %s", t.waited(record)) + t.view.reasons(record),
			Hint: "`attune-worker workers` shows what there is; `attune-worker ls --unroutable` what waits",
		}
		err = finishUnstarted(ctx, t.cfg.Broker, record, revision, result)
		if errors.Is(err, queue.ErrConflict) {
			return nil // somebody took it
		}
		if err != nil {
			return err
		}
		return t.client.audit(ctx, queue.AuditLine{
			Who: t.cfg.Worker, What: "result", ID: r.id, Action: record.Action, Digest: record.Digest, Epoch: record.Epoch, Attempt: record.Attempt,
			Outcome: record.Outcome, Detail: "unroutable",
		})
	})
}

func (t *term) waited(r *queue.Record) time.Duration {
	since := r.SubmittedAt
	if r.NotBefore.After(since) {
		since = r.NotBefore
	}
	return t.cfg.Now().Sub(since).Round(time.Second)
}

// reasons are why each worker cannot run it, for people.
func (v *view) reasons(record *queue.Record) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	router := v.router()
	reasons := router.reasons(record.Requirement)
	slices.Sort(reasons)
	if more := len(reasons) - 5; more > 0 {
		reasons = append(reasons[:5], fmt.Sprintf("and %d more", more))
	}
	if len(reasons) == 0 {
		return ""
	}
	return ": " + strings.Join(reasons, "; ")
}

// router is made of the live workers that take work.
func (v *view) router() *router {
	r := &router{}
	for name, w := range v.workers {
		if w.live && !w.idle {
			r.workers = append(r.workers, able{name, w.able})
		}
	}
	return r
}
