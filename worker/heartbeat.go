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
	a.mu.Lock()
	a.fuse = time.AfterFunc(a.w.cfg.Timing.Fence-time.Since(a.confirmed), a.lose) // whatever the broker keeps waiting
	a.mu.Unlock()
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
		a.fuse.Stop()
	}
}

func (a *attempt) beat(ctx context.Context) {
	// First listen, then look: a cancellation in between is heard.
	stop, err := a.w.broker.Signals().Listen(queue.CancelTopic(a.id), func([]byte) { a.obey(ctx) })
	if err == nil {
		defer stop()
	}
	a.obey(ctx)
	heartbeat := a.w.cfg.Timing.Heartbeat
	for wait := heartbeat; sleep(ctx, wait); {
		wait = heartbeat
		if !a.heartbeat(ctx) {
			wait = heartbeat / 5
		}
	}
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
		a.fuse.Reset(a.w.cfg.Timing.Fence - time.Since(begun))
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
