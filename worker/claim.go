package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
)

// handle takes a message to its end: what it wakes for is run here, or needs nothing more.
func (w *Worker) handle(ctx context.Context, d queue.Delivery, slot *seat) {
	id := d.Message().ID
	if w.draining.Load() {
		_ = d.Release(ctx)
		return
	}
	a, err := w.claim(ctx, d)
	if err != nil {
		w.log.Warn("not claimed", "execution", id, "error", err)
		_ = sleep(ctx, 100*time.Millisecond) // what fails here fails again at once
		if err := d.Release(ctx); err != nil {
			w.log.Info("not given back: it comes again after the ack wait", "execution", id, "error", err)
		}
		return
	}
	if a == nil {
		return
	}
	hold, fence := context.WithCancelCause(ctx)
	child, cancel := context.WithCancelCause(hold)
	defer fence(nil)
	defer cancel(nil)
	a.fence, a.cancel, a.force, a.slot = fence, cancel, make(chan struct{}), slot
	w.add(a)
	defer w.remove(a)
	a.run(hold, child)
	if a.logs != nil && a.logs.cut {
		w.tails.Go(func() { a.logs.finish(ctx) })
	}
}

// claim takes over the record that a message wakes for. Nil without an error: there is nothing to run, and the message is seen to.
// With an error the message is still to be given back.
func (w *Worker) claim(ctx context.Context, d queue.Delivery) (*attempt, error) {
	id := d.Message().ID
	if r := copied(d); r != nil {
		a, err := w.takeOver(ctx, d, r, d.Message().Copy.Revision)
		if !errors.Is(err, queue.ErrConflict) {
			return a, err
		}
	}
	for {
		entry, err := w.runs.Get(ctx, id)
		if errors.Is(err, queue.ErrNotFound) {
			return nil, w.bury(ctx, d, "a message without a record", nil)
		}
		if err != nil {
			return nil, err
		}
		r, err := readRecord(entry.Value)
		var newer *queue.NewerError
		if errors.As(err, &newer) {
			return nil, w.leave(id, newer)
		}
		if err != nil || r.ID != id {
			return nil, w.bury(ctx, d, fmt.Sprintf("the record cannot be read: %v", err), entry.Value)
		}
		switch r.State {
		case queue.Done:
			return nil, w.settle(ctx, d, r)
		case queue.Parked:
			return nil, d.Ack(ctx) // the scheduler publishes it again
		case queue.Running:
			if w.adopt(d, r) || w.isHeld(ctx, r) {
				return nil, nil // its holder extends and acknowledges it
			}
		}
		a, err := w.takeOver(ctx, d, r, entry.Revision)
		if errors.Is(err, queue.ErrConflict) {
			continue // canceled, say: see what it is now
		}
		return a, err
	}
}

// copied is the record as it was when the message was published; nil where no copy came along, or the record has surely changed since.
func copied(d queue.Delivery) *queue.Record {
	m := d.Message()
	if m.Copy.Revision == 0 || d.Delivered() > 1 {
		return nil
	}
	r, err := readRecord(m.Copy.Value)
	if err != nil || r.ID != m.ID || r.State != queue.Queued {
		return nil
	}
	return r
}

// leave neither acknowledges a message nor gives it back: it comes again after the ack wait, by then to a worker that understands it
// perhaps, and stands in nobody's way until then.
func (w *Worker) leave(id string, why error) error {
	w.log.Warn("left for a newer worker", "execution", id, "reason", why)
	return nil
}

// takeOver claims a record, or ends it where it cannot or must not run.
func (w *Worker) takeOver(ctx context.Context, d queue.Delivery, r *queue.Record, revision uint64) (*attempt, error) {
	text, err := w.submission(ctx, r)
	if err != nil {
		return nil, err
	}
	a := &attempt{w: w, id: r.ID, delivery: d, revision: revision, redelivered: d.Delivered() > 1, confirmed: time.Now()}
	req, refusal := w.admit(r, text)
	if refusal != nil && refusal.unreadable || req.Schema != executor.RequestSchema {
		if err := understood(text); err != nil {
			return nil, w.leave(r.ID, err)
		}
	}
	if refusal == nil && !w.able(ctx, r, d, req) {
		return nil, d.Release(ctx)
	}
	lost, lostWorker, forGood := r.State == queue.Running, r.Worker, r.LostForGood()
	claimed, err := r.Claim(w.cfg.Name, w.now())
	if err != nil {
		return nil, err
	}
	switch {
	case refusal != nil:
		claimed.Attempt = r.Attempt
		return nil, w.conclude(ctx, a, claimed, refusal)
	case forGood:
		claimed.Attempt = r.Attempt
		return nil, w.conclude(ctx, a, claimed, &verdict{status: executor.Interrupted, err: executor.Error{Kind: "lost", Stage: "run",
			Message: fmt.Sprintf("worker %s was lost while it ran this", lostWorker),
			Hint:    "it may have done its work, or a part of it; on_lost: retry runs such an execution again"}})
	}
	if err := a.store(ctx, claimed); err != nil {
		return nil, err
	}
	if lost {
		a.note("lost", "lost", lostWorker)
	}
	a.note("claim", "", "")
	a.request = req
	return a, nil
}

// submission is the text that was submitted, as the record's digest has it.
func (w *Worker) submission(ctx context.Context, r *queue.Record) (string, error) {
	if r.SubmissionObject == "" {
		return r.Submission, nil
	}
	object, err := w.broker.Objects().Get(ctx, r.SubmissionObject)
	if errors.Is(err, queue.ErrNotFound) {
		return "", nil // admit says so
	}
	if err != nil {
		return "", err
	}
	defer func() { _ = object.Close() }()
	text, err := io.ReadAll(io.LimitReader(object, submissionMax+1))
	return string(text), err
}

// verdict is why an execution ends without having run.
type verdict struct {
	status     executor.Status
	err        executor.Error
	unreadable bool // also a dead letter
}

func refused(kind, hint, format string, args ...any) *verdict {
	return &verdict{status: executor.Errored, err: executor.Error{Kind: kind, Stage: "claim", Message: fmt.Sprintf(format, args...), Hint: hint}}
}

func unreadable(hint, format string, args ...any) *verdict {
	v := refused("request", hint, format, args...)
	v.unreadable = true
	return v
}

// admit reads the request of a record and refuses what must not run here.
func (w *Worker) admit(r *queue.Record, text string) (executor.Request, *verdict) {
	var s queue.Submission
	var req executor.Request
	switch err := json.Unmarshal([]byte(text), &s); {
	case text == "":
		return req, unreadable("submit it again", "the submission is gone")
	case textDigest(text) != r.Digest:
		return req, unreadable("submit it again", "the submission is not the one that was accepted: its digest is %s, not %s", textDigest(text), r.Digest)
	case err != nil:
		return req, unreadable("", "the submission cannot be read: %v", err)
	case s.Schema != queue.SubmissionSchema || s.ID != r.ID:
		return req, unreadable("", "the submission is a %q of execution %q", s.Schema, s.ID)
	}
	decoder := json.NewDecoder(strings.NewReader(string(s.Request)))
	decoder.UseNumber()
	if err := decoder.Decode(&req); err != nil {
		return req, unreadable("", "the request cannot be read: %v", err)
	}
	req.ID, req.Pack = r.ID, executor.PackPin(s.Pack)
	if r.Traceparent != "" {
		req.Context.Traceparent = r.Traceparent
	}
	if len(w.cfg.TrustedKeys) > 0 {
		if _, err := VerifyRecord(r, text, w.cfg.TrustedKeys); err != nil {
			return req, refused("request", "sign it with a key that the worker trusts", "%v", err)
		}
	}
	return req, w.permit(r, &s, &req)
}

// permit is the operator's word, and the clock's.
func (w *Worker) permit(r *queue.Record, s *queue.Submission, req *executor.Request) *verdict {
	action := bareAction(req.Action)
	matches := func(glob string) bool { ok, _ := path.Match(glob, action); return ok }
	switch {
	case req.Script != nil && !w.cfg.AllowScripts:
		return refused("request", "--allow-scripts lets submitters bring code", "worker %s runs no code that requests bring", w.cfg.Name)
	case req.Script == nil && req.Pack == (executor.PackPin{}):
		return refused("request", "", "the submission does not say which version of the pack of %s may run", req.Action)
	case req.Script == nil && len(w.cfg.AllowActions) > 0 && !slices.ContainsFunc(w.cfg.AllowActions, matches):
		return refused("request", "--allow-actions names what may run", "worker %s does not run %s", w.cfg.Name, action)
	case !s.Deadline.IsZero() && r.Attempt == 0 && w.now().After(s.Deadline):
		return refused("deadline", "submit it again with a later deadline", "it was wanted until %s and had not started", s.Deadline.Format(time.RFC3339))
	}
	return nil
}

// able tells whether this worker is to run it: it could have changed since it asked for the route, and an idle one may be
// preferred. A route that must not be served just now is left alone for a moment, so that another worker gets what goes back.
func (w *Worker) able(ctx context.Context, r *queue.Record, d queue.Delivery, req executor.Request) bool {
	requirement, err := w.routes.requirement(d.Message().Route, r.Requirement)
	if err != nil {
		w.log.Warn("not able to run it", "execution", r.ID, "action", r.Action, "reason", err)
		w.routes.yield(d.Message().Route, time.Second)
		return false
	}
	requirement.Pack = req.Pack // what the submission says, not what lies beside it
	if ok, why := w.routes.capabilities().Satisfies(requirement); !ok {
		w.log.Info("not able to run it", "execution", r.ID, "action", r.Action, "reason", why)
		w.routes.yield(d.Message().Route, time.Second)
		return false
	}
	if w.prefersAnother(ctx, r, d, requirement) {
		w.routes.yield(d.Message().Route, yieldFor)
		return false
	}
	return true
}

// How long, and how often, a message is left to a worker that its preferences like better.
const (
	yieldFor   = 100 * time.Millisecond
	yieldTimes = 3
)

func (w *Worker) prefersAnother(ctx context.Context, r *queue.Record, d queue.Delivery, requirement executor.Requirement) bool {
	if len(r.Affinity) == 0 || d.Delivered() > yieldTimes || r.State == queue.Running {
		return false
	}
	var prefs []executor.Preference
	if err := json.Unmarshal(r.Affinity, &prefs); err != nil || len(prefs) == 0 {
		return false
	}
	return w.better(ctx, prefs, requirement)
}

// conclude claims and ends in one step what does not run.
func (w *Worker) conclude(ctx context.Context, a *attempt, claimed queue.Record, v *verdict) error {
	result := unstarted(&claimed, w.now())
	result.Status, result.Error, result.Worker = v.status, &v.err, w.cfg.Name
	document, err := result.JSON()
	if err != nil {
		return err
	}
	done, err := claimed.Finish(queue.Ending{Outcome: string(result.Status), Result: document}, w.now())
	if err != nil {
		return err
	}
	if err := a.store(ctx, done); err != nil {
		return err
	}
	a.unreadable = v.unreadable
	if v.err.Kind == "lost" {
		a.note("lost", "", v.err.Message)
	}
	w.cfg.Observer.Committed(&done, result)
	return a.settle(ctx, v.err.Message)
}

// settle is for a message of an execution that is over: what its worker could not do any more is done, then it is acknowledged.
func (w *Worker) settle(ctx context.Context, d queue.Delivery, r *queue.Record) error {
	a := &attempt{w: w, id: r.ID, delivery: d, record: *r}
	return a.settle(ctx, "")
}

// bury puts what cannot be read where somebody may look at it, once, and goes on.
func (w *Worker) bury(ctx context.Context, d queue.Delivery, reason string, value []byte) error {
	letter := queue.DeadLetter{Schema: queue.DeadSchema, ID: d.Message().ID, Reason: reason, At: w.now().UTC()}
	if json.Valid(value) {
		letter.Record = value
	} else if value != nil {
		letter.Record, _ = json.Marshal(string(value))
	}
	if err := w.deadLetter(ctx, letter); err != nil {
		return err
	}
	w.log.Error("dead letter", "execution", letter.ID, "reason", reason)
	if err := <-w.audit.add(queue.AuditLine{What: "drop", ID: letter.ID, Detail: reason}, w.now()); err != nil {
		return err
	}
	return d.Ack(ctx)
}

func (w *Worker) deadLetter(ctx context.Context, letter queue.DeadLetter) error {
	text, err := encode(letter)
	if err != nil {
		return err
	}
	_, err = w.broker.Table(queue.Dead).Create(ctx, letter.ID, text)
	if errors.Is(err, queue.ErrTooLarge) {
		letter.Record = nil
		return w.deadLetter(ctx, letter)
	}
	if errors.Is(err, queue.ErrExists) {
		return nil
	}
	return err
}
