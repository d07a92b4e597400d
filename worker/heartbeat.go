package worker

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/attune-run/attune/queue"
)

// watchAfter is when an execution that still runs begins to be watched: most are over before.
const watchAfter = 50 * time.Millisecond

// watch extends the message and looks whether the record is still held, and whether somebody canceled, until stop.
func (a *attempt) watch(hold context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(hold)
	finished := make(chan struct{})
	timer := time.AfterFunc(min(watchAfter, a.w.cfg.Timing.Heartbeat), func() {
		defer close(finished)
		a.beat(ctx)
	})
	return func() {
		cancel()
		if !timer.Stop() {
			<-finished
		}
	}
}

func (a *attempt) beat(ctx context.Context) {
	// First listen, then look: a cancellation in between is heard.
	stop, err := a.w.broker.Signals().Listen(queue.CancelTopic(a.id), func([]byte) { a.obey(ctx) })
	if err == nil {
		defer stop()
	}
	a.obey(ctx)
	timing := a.w.cfg.Timing
	for wait := timing.Heartbeat; sleep(ctx, wait); {
		wait = timing.Heartbeat
		if !a.heartbeat(ctx) {
			wait = timing.Heartbeat / 5
		}
		left := a.left()
		if left <= 0 {
			a.lose()
			return
		}
		wait = min(wait, left)
	}
}

// left is how long the record may still be taken for held.
func (a *attempt) left() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.w.cfg.Timing.Fence - time.Since(a.confirmed)
}

// lose ends the attempt: its child is killed at once.
func (a *attempt) lose() {
	a.fence(errFenced)
	a.kill()
}

// kill does not wait for the child's own end.
func (a *attempt) kill() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.forced {
		a.forced = true
		close(a.force)
	}
}

// heartbeat is false when it could not be found out that the record is held.
func (a *attempt) heartbeat(ctx context.Context) bool {
	begun := time.Now()
	ctx, cancel := context.WithTimeout(ctx, a.left())
	defer cancel()
	if err := a.message().Extend(ctx); err != nil {
		a.w.log.Warn("heartbeat failed", "execution", a.id, "error", err)
		return false
	}
	entry, err := a.w.runs.Get(ctx, a.id)
	if err != nil && !errors.Is(err, queue.ErrNotFound) {
		a.w.log.Warn("heartbeat failed", "execution", a.id, "error", err)
		return false
	}
	var stored queue.Record
	if err == nil && json.Unmarshal(entry.Value, &stored) == nil && stored.Epoch == a.held().Epoch {
		a.mu.Lock()
		a.confirmed = begun
		a.mu.Unlock()
		a.obey(ctx)
		return true
	}
	a.lose()
	return true
}

// obey ends the execution if somebody canceled it.
func (a *attempt) obey(ctx context.Context) {
	if _, err := a.w.broker.Table(queue.Cancels).Get(ctx, a.id); err == nil {
		a.cancel(errCanceled)
	}
}
