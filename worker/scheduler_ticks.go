package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
)

// tickTolerance is how late a tick may be submitted without having been missed: longer than a change of schedulers takes.
const tickTolerance = time.Minute

// timetable is what a scheduler knows of the schedules.
type timetable struct {
	mu  sync.Mutex
	all map[string]*timed
}

// timed is a schedule and its plan.
type timed struct {
	queue.Schedule
	revision uint64
	text     queue.ScheduleText
	plan     plan
	broken   error // it cannot be read, and was said so
	next     time.Time
}

func newTimetable() *timetable { return &timetable{all: map[string]*timed{}} }

// see takes a change of the table Schedules in.
func (tt *timetable) see(entry queue.Entry) {
	if entry.Op == queue.Current {
		return
	}
	tt.mu.Lock()
	defer tt.mu.Unlock()
	if entry.Op == queue.Deleted {
		delete(tt.all, entry.Key)
		return
	}
	if known := tt.all[entry.Key]; known == nil || known.revision < entry.Revision {
		tt.all[entry.Key] = readTimed(entry)
	}
}

func readTimed(entry queue.Entry) *timed {
	s := &timed{revision: entry.Revision}
	s.broken = json.Unmarshal(entry.Value, &s.Schedule)
	if s.broken == nil {
		s.broken = json.Unmarshal([]byte(s.Text), &s.text)
	}
	if s.broken == nil {
		s.plan, s.broken = parseSchedule(s.text)
	}
	if s.broken == nil {
		s.next = s.plan.next(s.last())
	}
	return s
}

// last is the tick behind which it goes on.
func (s *timed) last() time.Time {
	if s.LastTick.IsZero() {
		return s.CreatedAt
	}
	return s.LastTick
}

// ahead are the schedules that stand at a time that is still to come: the clock was ahead, and was put back.
func (tt *timetable) ahead(now time.Time) []*timed {
	tt.mu.Lock()
	defer tt.mu.Unlock()
	var all []*timed
	for _, s := range tt.all {
		if s.broken == nil && s.last().Sub(now) > tickTolerance {
			all = append(all, s)
		}
	}
	return all
}

// due are the schedules with a tick that has passed.
func (tt *timetable) due(now time.Time) []*timed {
	tt.mu.Lock()
	defer tt.mu.Unlock()
	var all []*timed
	for _, s := range tt.all {
		if s.broken == nil && !s.next.IsZero() && !s.next.After(now) {
			all = append(all, s)
		}
	}
	return all
}

// submitTicks submits the ticks that have passed, and notes the last of them. Whoever comes in between submits the same ids again,
// which submits nothing.
func (t *term) submitTicks(ctx context.Context) error {
	var failed error
	for _, s := range t.ticks.ahead(t.cfg.Now()) { // ticks that come a second time have the same ids
		t.cfg.Log.Warn("the clock was put back: ticks count from now on", "schedule", s.text.Name, "last", s.last())
		if err := t.stand(ctx, s, t.cfg.Now().UTC(), s.Refused); err != nil {
			failed = fmt.Errorf("schedule %s: %w", s.text.Name, err)
		}
	}
	for _, s := range t.ticks.due(t.cfg.Now()) {
		if !t.lease.valid() {
			return errNotElected
		}
		if err := t.submitTicksOf(ctx, s); err != nil {
			failed = fmt.Errorf("schedule %s: %w", s.text.Name, err)
		}
	}
	return failed
}

func (t *term) submitTicksOf(ctx context.Context, s *timed) error {
	ticks, passed := s.plan.due(s.last(), t.cfg.Now(), tickTolerance)
	var refused string // the last one
	for _, at := range ticks {
		refused = ""
		err := t.submitTick(ctx, s, at)
		if refusal(err) { // it will be refused the next time as well
			refused = err.Error()
			t.cfg.Log.Error("a tick was refused", "schedule", s.text.Name, "tick", at, "error", err)
			err = t.client.audit(ctx, queue.AuditLine{What: "schedule.refused", ID: tickID(s.text.Name, at), Detail: s.text.Name + ": " + err.Error()})
		}
		if err != nil {
			return err
		}
	}
	return t.stand(ctx, s, passed, refused)
}

// stand notes the tick behind which a schedule goes on, and why that one was refused.
func (t *term) stand(ctx context.Context, s *timed, last time.Time, refused string) error {
	next := s.Schedule
	next.LastTick, next.Refused = last, refused
	value, err := encode(next)
	if err != nil {
		return err
	}
	_, err = t.cfg.Broker.Table(queue.Schedules).Update(ctx, s.text.Name, value, s.revision)
	if errors.Is(err, queue.ErrConflict) {
		return nil // the change will be seen
	}
	return err
}

// refusal tells whether an error says that the submission is wrong, rather than that it could not be stored.
func refusal(err error) bool {
	var stored *storeError
	var hinted interface{ Hint() string }
	return errors.As(err, &hinted) && !errors.As(err, &stored)
}

// submitTick submits one tick. Who made the schedule is who submits.
func (t *term) submitTick(ctx context.Context, s *timed, at time.Time) error {
	req, err := DecodeRequest(s.text.Request)
	if err != nil {
		return err
	}
	req.ID = tickID(s.text.Name, at)
	if s.text.Pack.Digest != "" {
		req.Pack = executor.PackPin(s.text.Pack)
	}
	target, err := t.client.check(ctx, &req)
	if err != nil {
		return err
	}
	text, err := tickSubmission(s.text, target.pin, at)
	if err != nil {
		return err
	}
	r, err := t.client.newRecord(string(text), req, target)
	if err != nil {
		return err
	}
	r.Signature, r.SubmittedBy = s.Signature, s.CreatedBy
	r.Schedule = &queue.Tick{Name: s.text.Name, At: at.UTC(), Text: s.Text}
	_, err = t.client.accept(ctx, &prepared{text: string(text), record: r, tick: true})
	return err
}
