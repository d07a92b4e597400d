package worker

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/attune-run/attune/queue"
)

// schedulerRole is the key of the scheduler's Lease.
const schedulerRole = "scheduler"

// errNotElected ends a term: another has the role, or may have it by now.
var errNotElected = errors.New("the lease is lost")

// lease is one candidate's view of the scheduler's Lease. No clock is compared with another machine's: whoever sees the lease
// unchanged for ttl, by its own clock, may take it, and whoever holds it stops believing so before.
type lease struct {
	table queue.Table
	self  queue.Lease
	ttl   time.Duration

	mu       sync.Mutex
	revision uint64    // of the own entry; 0: not held
	renewed  time.Time // monotonic: when the last renewal that succeeded was begun
}

func newLease(table queue.Table, self queue.Lease, ttl time.Duration) *lease {
	return &lease{table: table, self: self, ttl: ttl}
}

// acquire waits until the role is this candidate's.
func (l *lease) acquire(ctx context.Context, now func() time.Time) error {
	var seen uint64 // the revision of another's lease
	var since time.Time
	for {
		begun := time.Now()
		entry, err := l.table.Get(ctx, schedulerRole)
		switch {
		case errors.Is(err, queue.ErrNotFound):
			l.self.Since = now().UTC()
			if held, err := l.take(begun, func(value []byte) (uint64, error) { return l.table.Create(ctx, schedulerRole, value) }); held || err != nil {
				return err
			}
		case err != nil:
			return err
		case entry.Revision != seen && !l.own(entry):
			seen, since = entry.Revision, begun
		case l.own(entry) || begun.Sub(since) >= l.ttl:
			l.self.Since = now().UTC()
			if held, err := l.take(begun, func(value []byte) (uint64, error) {
				return l.table.Update(ctx, schedulerRole, value, entry.Revision)
			}); held || err != nil {
				return err
			}
		}
		select {
		case <-time.After(l.ttl / 2):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// own tells whether the lease is this process's, from a term that ended early.
func (l *lease) own(entry queue.Entry) bool {
	var held queue.Lease
	return json.Unmarshal(entry.Value, &held) == nil && held.Instance == l.self.Instance
}

// take writes the lease. It is not held, and that is no error, when somebody was faster.
func (l *lease) take(begun time.Time, write func(value []byte) (uint64, error)) (held bool, err error) {
	value, err := encode(l.self)
	if err != nil {
		return false, err
	}
	revision, err := write(value)
	switch {
	case errors.Is(err, queue.ErrExists), errors.Is(err, queue.ErrConflict), errors.Is(err, queue.ErrUncertain):
		return false, nil
	case err != nil:
		return false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.revision, l.renewed = revision, begun
	return true, nil
}

// keep renews the lease until it is lost or the context ends.
func (l *lease) keep(ctx context.Context) error {
	renewal := time.NewTicker(l.ttl / 4)
	defer renewal.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-renewal.C:
		}
		l.mu.Lock()
		revision := l.revision
		l.mu.Unlock()
		once, cancel := context.WithTimeout(ctx, l.ttl/4)
		_, err := l.take(time.Now(), func(value []byte) (uint64, error) {
			next, err := l.table.Update(once, schedulerRole, value, revision)
			if errors.Is(err, queue.ErrConflict) {
				return 0, errNotElected
			}
			return next, err
		})
		cancel()
		if errors.Is(err, errNotElected) || !l.valid() {
			return errNotElected
		}
	}
}

// valid tells whether nobody else can have the role yet.
func (l *lease) valid() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.revision != 0 && time.Since(l.renewed) < l.ttl*3/4
}

// release gives the role back, so that the next need not wait for its end.
func (l *lease) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.revision == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = l.table.Delete(ctx, schedulerRole, l.revision) // it ends by itself otherwise
	l.revision = 0
}
