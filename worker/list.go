package worker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
)

// Filter chooses executions; a zero field chooses all.
type Filter struct {
	State      queue.State
	Action     string // a glob (path.Match) over "pack.action"
	Worker     string
	Outcome    string    // a result's status
	Since      time.Time // submitted then or later
	Unroutable bool      // queued, and no live worker is able to run it
	Limit      int       // the newest that many; zero means all
}

// Status is an execution as people look at it.
type Status struct {
	*queue.Record
	// Why no live worker is able to run it, one reason for each; empty when one is, or it is not queued. Without workers: "there is
	// no worker".
	Unroutable []string `json:"unroutable_because,omitempty"`
}

// MarshalJSON is the record with one field more.
func (s Status) MarshalJSON() ([]byte, error) {
	r := *s.Record
	if len(s.Unroutable) > 0 {
		why, err := json.Marshal(s.Unroutable)
		if err != nil {
			return nil, err
		}
		if r.Unknown = maps.Clone(r.Unknown); r.Unknown == nil {
			r.Unknown = queue.Unknown{}
		}
		r.Unknown["unroutable_because"] = why
	}
	return json.Marshal(r)
}

// List gives the executions that a filter chooses, the newest first.
func (c *Client) List(ctx context.Context, f Filter) ([]Status, error) {
	if _, err := path.Match(f.Action, ""); err != nil {
		return nil, refuse("it is like core.* or *.deploy", "action %q is no pattern", f.Action)
	}
	router, err := c.router(ctx)
	if err != nil {
		return nil, err
	}
	var all []Status
	for entry, err := range c.broker.Table(queue.Runs).List(ctx, "") {
		if err != nil {
			return nil, err
		}
		r, err := readRecord(entry.Value)
		var newer *queue.NewerError
		if err != nil && !errors.As(err, &newer) || !f.chooses(r) {
			continue
		}
		s := Status{Record: r, Unroutable: router.why(r)}
		if newer != nil {
			s.Unroutable = []string{newer.Error()}
		}
		if f.Unroutable && len(s.Unroutable) == 0 {
			continue
		}
		r.Submission, r.Result = "", nil // what is listed is not looked into
		if all = append(all, s); f.Limit > 0 && len(all) > 4*f.Limit {
			all = newest(all, f.Limit)
		}
	}
	return newest(all, f.Limit), nil
}

func newest(all []Status, limit int) []Status {
	slices.SortStableFunc(all, func(a, b Status) int {
		return cmp.Or(b.SubmittedAt.Compare(a.SubmittedAt), cmp.Compare(b.ID, a.ID))
	})
	if limit > 0 && len(all) > limit {
		all = slices.Clone(all[:limit])
	}
	return all
}

func (f Filter) chooses(r *queue.Record) bool {
	matches := f.Action == "" || r.Action == f.Action
	if !matches {
		matches, _ = path.Match(f.Action, r.Action)
	}
	return matches && (f.State == "" || f.State == r.State) && (f.Worker == "" || f.Worker == r.Worker) &&
		(f.Outcome == "" || f.Outcome == r.Outcome) && (f.Since.IsZero() || !r.SubmittedAt.Before(f.Since))
}

// Status is how one execution stands.
func (c *Client) Status(ctx context.Context, id string) (Status, error) {
	r, err := c.Record(ctx, id)
	if err != nil {
		return Status{}, err
	}
	s := Status{Record: r}
	if r.State == queue.Queued {
		router, err := c.router(ctx)
		if err != nil {
			return s, err
		}
		s.Unroutable = router.why(r)
	}
	return s, nil
}

// Workers are those that were heard of lately, by name.
func (c *Client) Workers(ctx context.Context) ([]queue.WorkerEntry, error) {
	var all []queue.WorkerEntry
	for entry, err := range c.broker.Table(queue.Workers).List(ctx, "") {
		if err != nil {
			return nil, err
		}
		var w queue.WorkerEntry
		if json.Unmarshal(entry.Value, &w) == nil && w.Schema == queue.WorkerSchema {
			all = append(all, w)
		}
	}
	slices.SortFunc(all, func(a, b queue.WorkerEntry) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

// router knows which requirements the live workers satisfy.
type router struct {
	workers []able
	known   map[string][]string // route → why not
}

type able struct {
	name string
	executor.Capabilities
}

func (c *Client) router(ctx context.Context) (*router, error) {
	workers, err := c.Workers(ctx)
	if err != nil {
		return nil, err
	}
	r := &router{known: map[string][]string{}}
	for _, w := range workers {
		r.add(w)
	}
	return r, nil
}

// add takes a worker in unless it is draining: it takes nothing more.
func (r *router) add(w queue.WorkerEntry) {
	a := able{name: w.Name}
	if !w.Draining && json.Unmarshal(w.Capabilities, &a.Capabilities) == nil {
		r.workers = append(r.workers, a)
	}
}

// why says of a queued execution why each worker cannot run it; nothing when one can.
func (r *router) why(record *queue.Record) []string {
	if record.State != queue.Queued {
		return nil
	}
	if err := understood(record.Submission); err != nil {
		return []string{err.Error()}
	}
	reasons, known := r.known[record.Route]
	if !known {
		reasons = r.reasons(record.Requirement)
		r.known[record.Route] = reasons
	}
	return reasons
}

// readable tells whether this version understands a requirement. One that it does not may be satisfied by a newer worker.
func readable(requirement json.RawMessage) bool {
	var wanted executor.Requirement
	return json.Unmarshal(requirement, &wanted) == nil
}

func (r *router) reasons(requirement json.RawMessage) []string {
	var wanted executor.Requirement
	if err := json.Unmarshal(requirement, &wanted); err != nil {
		return []string{fmt.Sprintf("its requirement cannot be read: %v", err)}
	}
	if len(r.workers) == 0 {
		return []string{"there is no worker"}
	}
	var reasons []string
	for _, w := range r.workers {
		ok, why := w.Satisfies(wanted)
		if ok {
			return nil
		}
		reasons = append(reasons, w.name+": "+why)
	}
	return reasons
}

// QueueInfo is what waits in a pool.
type QueueInfo struct {
	Scheduler queue.Lease `json:"scheduler"` // zero: nobody is elected
	Routes    []RouteInfo `json:"routes"`
}

// RouteInfo is what waits on one route.
type RouteInfo struct {
	Route string `json:"route"`
	Needs string `json:"needs"` // for people
	queue.Backlog
	Workers int `json:"workers"` // live ones that are able to run what waits
}

// QueueInfo counts what waits, by route; routes on which nothing waits are left out.
func (c *Client) QueueInfo(ctx context.Context) (QueueInfo, error) {
	info := QueueInfo{Routes: []RouteInfo{}}
	if entry, err := c.broker.Table(queue.Leases).Get(ctx, schedulerRole); err == nil {
		_ = json.Unmarshal(entry.Value, &info.Scheduler) // a newer attune's words: nobody that is known
	}
	router, err := c.router(ctx)
	if err != nil {
		return info, err
	}
	backlog, err := c.broker.Work().Backlog(ctx)
	if err != nil {
		return info, err
	}
	for entry, err := range c.broker.Table(queue.Routes).List(ctx, "") {
		if err != nil {
			return info, err
		}
		waiting := backlog[entry.Key]
		if waiting.Waiting+waiting.Taken == 0 {
			continue
		}
		var r queue.RouteEntry
		var needs executor.Requirement
		if json.Unmarshal(entry.Value, &r) != nil || json.Unmarshal(r.Requirement, &needs) != nil {
			continue
		}
		info.Routes = append(info.Routes, RouteInfo{Route: entry.Key, Needs: describe(needs), Backlog: waiting, Workers: router.able(needs)})
	}
	slices.SortFunc(info.Routes, func(a, b RouteInfo) int {
		return cmp.Or(cmp.Compare(b.Waiting, a.Waiting), cmp.Compare(a.Route, b.Route))
	})
	return info, nil
}

func (r *router) able(wanted executor.Requirement) int {
	n := 0
	for _, w := range r.workers {
		if ok, _ := w.Satisfies(wanted); ok {
			n++
		}
	}
	return n
}

// describe is a requirement in a few words.
func describe(r executor.Requirement) string {
	words := []string{strings.TrimSpace(r.Runtime + " " + r.Version)}
	if r.Pack.Ref != "" {
		words = append([]string{r.Pack.Ref + " " + r.Pack.Version}, words...)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Labels)) {
		words = append(words, name+"="+r.Labels[name])
	}
	if r.Isolation != "" {
		words = append(words, "isolation "+r.Isolation)
	}
	if r.Network != "" {
		words = append(words, "network "+r.Network)
	}
	for _, name := range r.Limits {
		words = append(words, "limit "+name)
	}
	return strings.Join(words, ", ")
}
