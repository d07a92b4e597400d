package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
)

// attempt is one execution in this worker's hands, from its claim to its acknowledgement.
type attempt struct {
	w           *Worker
	id          string
	redelivered bool
	unreadable  bool // nothing can be done with it: it is a dead letter
	request     executor.Request
	fence       context.CancelCauseFunc // ends everything, with errFenced
	cancel      context.CancelCauseFunc // ends the child, with errDrained or errCanceled
	force       chan struct{}           // closed: SIGKILL at once
	slot        *seat                   // what it runs in
	logs        *logWriter              // what the child prints; nil before there is one

	writing sync.Mutex // one write of the record at a time

	mu        sync.Mutex     // of what follows; never held while the broker is waited for
	delivery  queue.Delivery // the last one: it may come again while it is held
	record    queue.Record   // as it is stored, of revision
	revision  uint64
	spawned   bool // the child was about to start, or did
	forced    bool
	confirmed time.Time         // when it was last known to be held (monotonic)
	fuse      *time.Timer       // fences it when that was too long ago
	lines     []queue.AuditLine // written down before the message is acknowledged
	written   []<-chan error    // what became of them, in the same order
}

// Why an attempt ends early. To executor each is a cancellation by SIGTERM.
var (
	errFenced   = cancellation("the execution was taken over, or its record could not be reached for too long")
	errDrained  = cancellation("the worker is shutting down")
	errCanceled = cancellation("somebody canceled it")
)

func cancellation(why string) error {
	return fmt.Errorf("%s: %w", why, &executor.Cancellation{Signal: syscall.SIGTERM})
}

func (w *Worker) add(a *attempt) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.attempts[a.id] = a
	w.busy++
	w.cfg.Observer.Slots(w.busy, w.cfg.Slots)
}

// vacate gives the slot of an attempt to another.
func (w *Worker) vacate(a *attempt) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a.slot.vacate() {
		w.busy--
		w.cfg.Observer.Slots(w.busy, w.cfg.Slots)
	}
}

func (w *Worker) remove(a *attempt) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.attempts[a.id] == a {
		delete(w.attempts, a.id)
	}
	if !a.slot.left {
		w.busy--
		w.cfg.Observer.Slots(w.busy, w.cfg.Slots)
	}
}

func (w *Worker) busySlots() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.busy
}

// running are the attempts, in no order.
func (w *Worker) running() []*attempt {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make([]*attempt, 0, len(w.attempts))
	for _, a := range w.attempts {
		all = append(all, a)
	}
	return all
}

// adopt hands a message to the attempt that holds its record already, if it is one of ours.
func (w *Worker) adopt(d queue.Delivery, r *queue.Record) bool {
	w.mu.Lock()
	a := w.attempts[r.ID]
	w.mu.Unlock()
	if a == nil || r.Worker != w.cfg.Name {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.record.Epoch != r.Epoch {
		return false
	}
	a.delivery = d
	return true
}

// held is the record as it is stored.
func (a *attempt) held() queue.Record {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.record
}

func (a *attempt) message() queue.Delivery {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.delivery
}

// store changes the record by compare-and-set on the held revision. A write without an answer is read back. ErrConflict: somebody else
// changed it. Any other error: nothing is known to have been stored, and it may be tried again.
func (a *attempt) store(ctx context.Context, next queue.Record) error {
	a.writing.Lock()
	defer a.writing.Unlock()
	a.mu.Lock()
	held := a.revision
	a.mu.Unlock()
	value, err := encode(&next)
	if err != nil {
		return err
	}
	revision, err := a.w.runs.Update(ctx, a.id, value, held)
	if errors.Is(err, queue.ErrUncertain) || errors.Is(err, queue.ErrConflict) {
		revision, err = readBack(ctx, a.w.runs, a.id, value, held, err)
	}
	if err == nil {
		a.mu.Lock()
		a.record, a.revision = next, revision
		a.mu.Unlock()
	}
	return err
}

// readBack finds out what became of a write on the held revision: it may have happened although its answer was lost. An error that is not
// ErrConflict says that nobody knows.
func readBack(ctx context.Context, table queue.Table, id string, value []byte, held uint64, written error) (revision uint64, err error) {
	entry, err := table.Get(ctx, id)
	switch {
	case err != nil && errors.Is(written, queue.ErrConflict):
		return 0, written
	case err != nil:
		return 0, fmt.Errorf("%w; read back: %w", written, err)
	case bytes.Equal(entry.Value, value):
		return entry.Revision, nil
	case entry.Revision != held:
		return 0, queue.ErrConflict
	}
	return 0, written
}

// persist stores until it is stored or the attempt is fenced.
func (a *attempt) persist(ctx context.Context, next queue.Record) error {
	return a.insist(ctx, "record", func() error { return a.store(ctx, next) })
}

// insist does what must be done until it is, the record turns out to be another's, or the attempt is fenced.
func (a *attempt) insist(ctx context.Context, what string, do func() error) error {
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := do()
		switch {
		case err == nil:
			return nil
		case errors.Is(err, queue.ErrConflict):
			return errFenced
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		a.w.log.Warn("not stored yet", "what", what, "execution", a.id, "error", err)
		if !sleep(ctx, pause) {
			return context.Cause(ctx)
		}
	}
}

// detailMax is the size in bytes of an audit line's detail.
const detailMax = 1 << 10

// note writes something down beside the rest of the work.
func (a *attempt) note(what, outcome, detail string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := &a.record
	detail = strings.ToValidUTF8(detail[:min(len(detail), detailMax)], "")
	line := queue.AuditLine{
		What: what, ID: a.id, Action: r.Action, Digest: r.Digest, Epoch: r.Epoch, Attempt: r.Attempt, Outcome: outcome, Detail: detail,
	}
	a.lines = append(a.lines, line)
	a.written = append(a.written, a.w.audit.add(line, a.w.now()))
}

// noted waits until everything is written down. What failed is tried once more.
func (a *attempt) noted() error {
	a.mu.Lock()
	lines, written := a.lines, a.written
	a.lines, a.written = nil, nil
	a.mu.Unlock()
	for i, done := range written {
		err := <-done
		if err != nil {
			err = <-a.w.audit.add(lines[i], a.w.now())
		}
		if err != nil {
			return err
		}
	}
	return nil
}
