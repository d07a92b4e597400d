package worker

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
)

// routes are those of the pool, and which of them this worker serves.
type routes struct {
	log *slog.Logger

	mu      sync.Mutex
	known   map[string]executor.Requirement
	able    executor.Capabilities
	ready   func(executor.Requirement) bool // nil: everything is prepared
	yielded map[string]bool                 // left to others for a moment
	current serving
	invalid context.CancelFunc // of current
}

// serving is what is served until valid ends.
type serving struct {
	routes []string
	valid  context.Context //nolint:containedctx // it is the value's own end, none of a call's
}

func newRoutes(log *slog.Logger) *routes {
	r := &routes{log: log, known: map[string]executor.Requirement{}, yielded: map[string]bool{}, ready: func(executor.Requirement) bool { return false }}
	r.current.valid, r.invalid = context.WithCancel(context.Background())
	return r
}

func (r *routes) served() serving {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current
}

// change does something to the routes and finds out which are served then.
func (r *routes) change(do func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	do()
	var served []string
	for route, requirement := range r.known {
		ok, _ := r.able.Satisfies(requirement)
		if ok && !r.yielded[route] && (r.ready == nil || r.ready(requirement)) {
			served = append(served, route)
		}
	}
	slices.Sort(served)
	if slices.Equal(served, r.current.routes) {
		return
	}
	r.invalid()
	r.current.routes = served
	r.current.valid, r.invalid = context.WithCancel(context.Background())
}

func (r *routes) set(able executor.Capabilities) { r.change(func() { r.able = able }) }

func (r *routes) capabilities() executor.Capabilities {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.able
}

// preparing serves only what is ready.
func (r *routes) preparing(ready func(executor.Requirement) bool) {
	r.change(func() {
		if r.ready != nil {
			r.ready = ready
		}
	})
}

// prepared serves everything from now on.
func (r *routes) prepared() { r.change(func() { r.ready = nil }) }

func (r *routes) isPreparing() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ready != nil
}

// yield leaves a route to other workers for a moment.
func (r *routes) yield(route string, moment time.Duration) {
	r.change(func() { r.yielded[route] = true })
	time.AfterFunc(moment, func() { r.change(func() { delete(r.yielded, route) }) })
}

// watchRoutes follows which routes there are. Those that were there from the beginning are one change.
func (w *Worker) watchRoutes(ctx context.Context) error {
	loading := map[string]executor.Requirement{}
	return w.watching(ctx, queue.Routes, func(e queue.Entry) {
		switch e.Op {
		case queue.Current:
			w.routes.change(func() { maps.Copy(w.routes.known, loading) })
			loading = nil
			return
		case queue.Deleted:
			delete(loading, e.Key)
			w.routes.change(func() { delete(w.routes.known, e.Key) })
			return
		}
		requirement, err := readRoute(e.Value)
		switch {
		case err != nil:
			w.log.Warn("route cannot be read", "route", e.Key, "error", err)
		case loading != nil:
			loading[e.Key] = requirement
		default:
			w.routes.change(func() { w.routes.known[e.Key] = requirement })
		}
	})
}

func readRoute(value []byte) (r executor.Requirement, err error) {
	var entry queue.RouteEntry
	if err = json.Unmarshal(value, &entry); err == nil {
		err = json.Unmarshal(entry.Requirement, &r)
	}
	return r, err
}
