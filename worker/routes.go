package worker

import (
	"bytes"
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
	known   map[string]knownRoute
	able    executor.Capabilities
	ready   func(executor.Requirement) bool // nil: everything is prepared
	yielded map[string]bool                 // left to others for a moment
	current serving
	invalid context.CancelFunc // of current
}

// knownRoute is a route's requirement, and how it is written.
type knownRoute struct {
	executor.Requirement
	text json.RawMessage
}

// serving is what is served until valid ends.
type serving struct {
	routes []string
	valid  context.Context //nolint:containedctx // it is the value's own end, none of a call's
}

func newRoutes(log *slog.Logger) *routes {
	r := &routes{log: log, known: map[string]knownRoute{}, yielded: map[string]bool{}, ready: func(executor.Requirement) bool { return false }}
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
	for route, known := range r.known {
		ok, _ := r.able.Satisfies(known.Requirement)
		if ok && !r.yielded[route] && (r.ready == nil || r.ready(known.Requirement)) {
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

// requirement reads that of an execution on a route, which most often is the route's own word by word.
func (r *routes) requirement(route string, text json.RawMessage) (requirement executor.Requirement, err error) {
	r.mu.Lock()
	known := r.known[route]
	r.mu.Unlock()
	if len(text) > 0 && bytes.Equal(known.text, text) {
		return known.Requirement, nil
	}
	err = json.Unmarshal(text, &requirement)
	return requirement, err
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
	loading := map[string]knownRoute{}
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
		route, err := readRoute(e.Value)
		switch {
		case err != nil:
			w.log.Warn("route cannot be read", "route", e.Key, "error", err)
		case loading != nil:
			loading[e.Key] = route
		default:
			w.routes.change(func() { w.routes.known[e.Key] = route })
		}
	})
}

func readRoute(value []byte) (r knownRoute, err error) {
	var entry queue.RouteEntry
	if err = json.Unmarshal(value, &entry); err == nil {
		r.text = entry.Requirement
		err = json.Unmarshal(entry.Requirement, &r.Requirement)
	}
	return r, err
}
