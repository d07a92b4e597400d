package worker

import (
	"context"
	"time"
)

// drain waits for what runs: as long as the grace lasts, then it is ended.
func (w *Worker) drain(work, background context.Context) {
	defer w.tails.Wait()
	w.draining.Store(true)
	if len(w.running()) > 0 {
		w.log.Info("draining", "running", len(w.running()), "grace", w.cfg.Grace)
	}
	_ = w.heartbeatEntry(background) // the pool should know
	ctx, cancel := context.WithTimeout(context.WithoutCancel(background), w.cfg.Grace)
	defer cancel()
	defer context.AfterFunc(work, cancel)()
	if w.slots.idle(ctx) {
		return
	}
	// Executions that are claimed just now are ended as well.
	for !w.idleWithin(background, 50*time.Millisecond) {
		for _, a := range w.running() {
			a.cancel(errDrained)
		}
	}
}

func (w *Worker) idleWithin(ctx context.Context, d time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return w.slots.idle(ctx)
}
