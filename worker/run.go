package worker

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
)

// run executes and commits. hold ends when the attempt is fenced, child also when the execution is to end.
func (a *attempt) run(hold, child context.Context) {
	r := a.held()
	a.w.cfg.Observer.Claimed(&r, a.w.waited(&r), a.redelivered)
	stop := a.watch(hold)
	defer stop()
	result, err := a.execute(hold, child, &r)
	a.w.vacate(a)
	if err == nil {
		err = a.commit(hold, child, result)
	}
	switch {
	case errors.Is(err, errFenced):
		a.w.log.Warn("fenced: nothing is committed", "execution", a.id, "epoch", r.Epoch)
		a.w.cfg.Observer.Fenced(a.id)
	case err != nil:
		a.w.log.Error("not settled: it comes again after the ack wait", "execution", a.id, "error", err)
	}
}

// waited is how long a record could have been claimed before it was.
func (w *Worker) waited(r *queue.Record) time.Duration {
	since := r.SubmittedAt
	if r.NotBefore.After(since) {
		since = r.NotBefore
	}
	return max(0, r.ClaimedAt.Sub(since))
}

// execute runs the request. An error is errFenced: there is nothing to commit.
func (a *attempt) execute(hold, child context.Context, r *queue.Record) (*executor.Result, error) {
	req := a.request
	local := &executor.Local{Remote: true, Force: a.force, Dir: a.w.empty, Keep: func(f executor.Artifact, content io.Reader) error {
		return a.keep(hold, f, content)
	}}
	if req.Script != nil {
		local.Profile, local.Cwd = executor.Sealed, "workspace"
	} else {
		dirs, unpin, err := a.pack(child, req.Pack)
		if context.Cause(hold) != nil {
			return nil, errFenced
		}
		if err != nil {
			return a.failed(r, child, err), nil
		}
		defer unpin()
		local.Packs = dirs
	}
	req.Local = local
	logs := &logWriter{logs: a.w.broker.Logs(), id: a.id, epoch: r.Epoch, now: a.w.now}
	a.logs = logs
	result := a.w.cfg.Execute(child, req, executor.Observer{
		Stdout: logStream{logs, "stdout"}, Stderr: logStream{logs, "stderr"},
		Event: func(e executor.Event) { a.event(hold, e) },
	})
	logs.close()
	if context.Cause(hold) != nil {
		return nil, errFenced
	}
	result.Worker, result.Attempt = a.w.cfg.Name, r.Attempt
	if result.Error != nil && result.Error.Kind == "pack" {
		a.w.packs.doubt(req.Pack)
	}
	return &result, nil
}

// pack makes sure that the pinned pack is here, however long the broker is away.
func (a *attempt) pack(child context.Context, pin executor.PackPin) (dirs []string, unpin func(), err error) {
	failed := a.insist(child, "pack", func() error {
		if dirs, unpin, err = a.w.packs.ensure(child, pin); isAway(err) {
			return err
		}
		return nil
	})
	return dirs, unpin, cmp.Or(failed, err)
}

// failed is the result of an execution whose pack could not be had.
func (a *attempt) failed(r *queue.Record, child context.Context, err error) *executor.Result {
	result := unstarted(r, a.w.now())
	result.Status, result.Worker = executor.Errored, a.w.cfg.Name
	result.Error = &executor.Error{Kind: "pack", Stage: "load", Message: err.Error(), Hint: "`attune-worker packs ls` shows what the pool has"}
	if child.Err() != nil {
		result.Status, result.Error.Kind = executor.Canceled, "canceled"
	}
	return result
}

// event keeps the record's Started true: a worker that is lost while it builds may be followed by another without harm.
func (a *attempt) event(hold context.Context, e executor.Event) {
	switch {
	case e.Kind == executor.EnvironmentProgress:
		a.begin(hold, false)
	case e.Kind == executor.StageStarted && e.Stage == "run":
		a.begin(hold, true)
		a.mu.Lock()
		a.spawned = true
		a.mu.Unlock()
	}
}

// begin returns once the record says so. Where it does not come to that the attempt is fenced, and no child starts.
func (a *attempt) begin(hold context.Context, started bool) {
	r := a.held()
	if r.Started == started {
		return
	}
	next, err := r.Begin(started)
	if err == nil {
		err = a.persist(hold, next)
	}
	if err != nil {
		a.fence(errFenced)
	}
}

// keep stores one artifact.
func (a *attempt) keep(hold context.Context, f executor.Artifact, content io.Reader) error {
	seeker, _ := content.(io.Seeker)
	return a.insist(hold, "artifact", func() error {
		if seeker != nil {
			if _, err := seeker.Seek(0, io.SeekStart); err != nil {
				return err
			}
		}
		return a.w.broker.Objects().Put(hold, queue.ArtifactObject(a.id, f.Digest), content)
	})
}

// commit takes the result to the record, and acknowledges the message.
func (a *attempt) commit(hold, child context.Context, result *executor.Result) error {
	r := a.held()
	if result.Status == executor.Canceled && errors.Is(context.Cause(child), errDrained) {
		a.mu.Lock()
		spawned := a.spawned
		a.mu.Unlock()
		if !spawned {
			return a.giveBack(hold, r)
		}
		if r.OnLost == queue.OnLostRetry && r.Attempt < max(r.Retries+1, queue.LostMax) {
			return a.retry(hold, r, a.w.now(), errDrained.Error())
		}
		result.Status = executor.Interrupted
		result.Error.Kind, result.Error.Message = "interrupted", fmt.Sprintf("worker %s was shut down while it ran this", a.w.cfg.Name)
	}
	if r.CanRetry() && worthRetrying(result) {
		return a.retry(hold, r, a.w.now().Add(backoff(&r)), lastError(result))
	}
	end, err := a.ending(hold, &r, result)
	if err != nil {
		return err
	}
	done, err := r.Finish(end, a.w.now())
	if err != nil {
		return err
	}
	if err := a.persist(hold, done); err != nil {
		return err
	}
	a.w.cfg.Observer.Committed(&done, result)
	return a.settle(hold, lastError(result))
}

// ending is the result as the record has it; a large one is an object.
func (a *attempt) ending(hold context.Context, r *queue.Record, result *executor.Result) (queue.Ending, error) {
	document, err := result.JSON()
	if err != nil {
		return queue.Ending{}, err
	}
	end := queue.Ending{Outcome: string(result.Status), Result: bytes.TrimSuffix(document, []byte("\n"))}
	if len(document) < queue.InlineMax {
		return end, nil
	}
	end.Result, end.Object = nil, queue.ResultObject(a.id, r.Epoch)
	return end, a.insist(hold, "result", func() error { return a.w.broker.Objects().Put(hold, end.Object, bytes.NewReader(document)) })
}

// settle does what is left once the record is done: word to who waits, the dead letter, the audit, the acknowledgement. What it
// fails in is done when the message comes again.
func (a *attempt) settle(ctx context.Context, detail string) error {
	r := a.held()
	_ = a.w.broker.Signals().Send(ctx, queue.DoneTopic(a.id), nil)
	a.note("result", r.Outcome, detail)
	if a.unreadable || isDead(&r) {
		if err := a.bury(ctx, &r, detail); err != nil {
			return err
		}
	}
	if err := a.noted(); err != nil {
		return err
	}
	return a.message().Ack(ctx)
}

// bury writes the dead letter of an execution.
func (a *attempt) bury(ctx context.Context, r *queue.Record, detail string) error {
	text, err := encode(r)
	if err != nil {
		return err
	}
	return a.w.deadLetter(ctx, queue.DeadLetter{
		Schema: queue.DeadSchema, ID: a.id, At: a.w.now().UTC(), Record: text,
		Reason: fmt.Sprintf("%s after %d attempts: %s", r.Outcome, r.Attempt, detail),
	})
}

// isDead tells whether an execution used up its attempts.
func isDead(r *queue.Record) bool {
	return r.Attempt > 1 && slices.Contains([]executor.Status{executor.Failed, executor.TimedOut, executor.Errored, executor.Interrupted}, executor.Status(r.Outcome))
}

// giveBack lets another worker have what has not started here. No attempt is spent.
func (a *attempt) giveBack(hold context.Context, r queue.Record) error {
	queued, err := r.Release()
	if err != nil {
		return err
	}
	if err := a.persist(hold, queued); err != nil {
		return err
	}
	a.note("release", "", errDrained.Error())
	if err := a.noted(); err != nil {
		return err
	}
	return a.message().Release(hold)
}

// retry parks the record until due; the scheduler publishes it then.
func (a *attempt) retry(hold context.Context, r queue.Record, due time.Time, why string) error {
	parked, err := r.Retry(due, why)
	if err != nil {
		return err
	}
	if err := a.persist(hold, parked); err != nil {
		return err
	}
	a.note("retry", "", why)
	if err := a.noted(); err != nil {
		return err
	}
	return a.message().Ack(hold)
}

// worthRetrying tells whether another attempt could come to another end. It could not where the request itself is wrong, its
// pack is not there, or this worker cannot isolate as it must; who canceled does not want one.
func worthRetrying(result *executor.Result) bool {
	switch result.Status {
	case executor.Failed, executor.TimedOut:
		return true
	case executor.Errored:
		return slices.Contains([]string{"environment", "spawn", "secret", "internal", "runtime"}, result.Error.Kind)
	}
	return false
}

// Pauses before retries.
const (
	backoffFirst = time.Second
	backoffMax   = 5 * time.Minute
	jitter       = 0.2 // of the pause, to either side
)

// backoff doubles with each attempt.
func backoff(r *queue.Record) time.Duration {
	pause := time.Duration(r.BackoffMS) * time.Millisecond
	if pause <= 0 {
		pause = backoffFirst
	}
	for i := 1; i < r.Attempt && pause < backoffMax; i++ {
		pause *= 2
	}
	return time.Duration(float64(min(pause, backoffMax)) * (1 + jitter*(2*rand.Float64()-1)))
}

func lastError(result *executor.Result) string {
	if result.Error == nil {
		return ""
	}
	return result.Error.Message
}
