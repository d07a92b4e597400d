package worker

import (
	"bytes"
	"container/heap"
	"encoding/json"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/gjson"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
)

// view is what a scheduler knows of all executions that are not over, and of the workers. It lags behind the tables; what is done
// about it is done by compare-and-set.
type view struct {
	begun time.Time // monotonic: when the term began

	mu       sync.Mutex
	loaded   map[queue.TableName]bool
	runs     map[string]*run
	routes   map[string]*route
	limits   map[string]*limit  // by action
	running  map[string]*run    // the part of runs that workers hold, by id
	due      dueHeap            // parked until a time
	fresh    []check            // queued and not seen claimed, oldest first
	workers  map[string]*worker // the live ones, and those lost while they held something
	stranded bool               // routes are to be compared with the workers again
}

// run is an execution that is not over: what the scheduler needs of its Record. There may be hundreds of thousands, so that it is
// small; each change makes another.
type run struct {
	id         string
	revision   uint64
	state      queue.State
	priority   queue.Priority
	attempt    int
	route      *route
	limit      *limit // nil: of no limited action
	worker     string
	waiting    bool  // in its limit's line
	unroutable int64 // in Unix milliseconds, as is written; 0 is never
	written    int64 // by the broker's clock
}

func (r *run) message() queue.Message {
	return queue.Message{Route: r.route.name, Priority: r.priority, ID: r.id}
}

// route is one requirement, and whether a live worker satisfies it.
type route struct {
	name        string
	requirement json.RawMessage
	queued      int
	able        bool
	wasAble     bool      // in this term
	since       time.Time // monotonic: when it was last found to be able, or the term began
}

// limit is an action that may run a number of times at once.
type limit struct {
	action string
	max    int
	lines  [3][]string // ids that wait for a place, by priority, low first
	dirty  bool        // places may be free, or asked for
}

func (l *limit) line(p queue.Priority) *[]string { return &l.lines[min(max(int(p), -1), 1)+1] }

// worker is one that was heard of.
type worker struct {
	able executor.Capabilities
	live bool
	gone time.Time // monotonic, when not live
	idle bool      // draining: it takes nothing more
}

// milliseconds is a time of a run.
func milliseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// check is a queued execution whose message is to be looked for, unless it has moved on.
type check struct {
	run *run
	at  time.Duration // since the term began
}

func newView() *view {
	return &view{
		begun: time.Now(), loaded: map[queue.TableName]bool{}, runs: map[string]*run{}, routes: map[string]*route{},
		limits: map[string]*limit{}, running: map[string]*run{}, workers: map[string]*worker{},
	}
}

// complete tells whether all that was there when the term began has been seen.
func (v *view) complete() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.loaded[queue.Runs] && v.loaded[queue.Workers]
}

// glance is the part of a Record that is read at each change.
type glance struct {
	Schema      string
	State       queue.State
	Attempt     int
	Worker      string
	Action      string
	Route       string
	Priority    queue.Priority
	Requirement string
	NotBefore   time.Time
	Limit       int
	Unroutable  time.Time
}

// readGlance takes the fields out without decoding the others, for there is a change at every turn of every execution. ok is false for
// what is no JSON. Its texts are parts of the document: what is kept of them is cloned, but for the state.
func readGlance(document string) (g glance, ok bool) {
	if !gjson.Valid(document) {
		return g, false
	}
	gjson.Parse(document).ForEach(func(name, value gjson.Result) bool {
		switch name.Str {
		case "schema":
			g.Schema = value.Str
		case "state":
			g.State = stateOf(value.Str)
		case "attempt":
			g.Attempt = int(value.Int())
		case "worker":
			g.Worker = value.Str
		case "action":
			g.Action = value.Str
		case "route":
			g.Route = value.Str
		case "priority":
			g.Priority = queue.Priority(value.Int())
		case "requirement":
			g.Requirement = value.Raw
		case "not_before":
			g.NotBefore = value.Time()
		case "limit":
			g.Limit = int(value.Int())
		case "unroutable":
			g.Unroutable = value.Time()
		}
		return true
	})
	return g, true
}

func stateOf(text string) queue.State {
	for _, known := range []queue.State{queue.Queued, queue.Parked, queue.Running, queue.Done} {
		if text == string(known) {
			return known
		}
	}
	return queue.State(strings.Clone(text))
}

// readHead reads what stands in a Record before what is long: all of a glance that a claim or an end changes. Of a record in another order
// it may miss something.
func readHead(value []byte) (g glance, ok bool) {
	if i := bytes.Index(value, []byte(`,"submission`)); i >= 0 { // no string holds that: its quotes would be escaped
		return readGlance(string(value[:i]) + "}")
	}
	return readGlance(string(value))
}

// seeRun takes a change of the table Runs in. Most often there is nothing to do about it.
func (v *view) seeRun(entry queue.Entry) (todo bool) {
	if known, limited := v.seeProgress(entry); known {
		return limited
	}
	var g glance
	if entry.Op == queue.Stored {
		var ok bool
		if g, ok = readGlance(string(entry.Value)); !ok {
			return false // reported by whoever takes it out of the queue
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if entry.Op == queue.Current {
		v.loaded[queue.Runs], v.stranded = true, true
		return true
	}
	todo = g.Limit > 0 || g.State == queue.Parked
	before := v.runs[entry.Key]
	if before != nil {
		if entry.Op == queue.Stored && entry.Revision <= before.revision {
			return false
		}
		v.drop(before)
		todo = todo || before.limit != nil
	}
	if entry.Op == queue.Stored && g.State != queue.Done && g.Schema == queue.RecordSchema {
		v.add(entry, &g) // a newer one's are a newer scheduler's
	} else if g.Limit > 0 {
		v.limitOf(g.Action, g.Limit).dirty = true
	}
	return todo
}

// seeProgress takes in that a run which is known was claimed, or is over: of most changes nothing else needs to be read. known is false
// for any other.
func (v *view) seeProgress(entry queue.Entry) (known, limited bool) {
	if entry.Op != queue.Stored {
		return false, false
	}
	head, ok := readHead(entry.Value)
	if !ok || head.State != queue.Running && head.State != queue.Done {
		return false, false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	r := v.runs[entry.Key]
	if r == nil {
		return false, false
	}
	if entry.Revision <= r.revision {
		return true, false
	}
	v.drop(r)
	if head.State == queue.Running {
		next := *r // somebody may be looking at r
		next.state, next.attempt, next.worker = head.State, head.Attempt, strings.Clone(head.Worker)
		next.revision, next.written, next.waiting = entry.Revision, milliseconds(entry.At), false
		v.runs[r.id], v.running[r.id] = &next, &next
	}
	return true, r.limit != nil
}

// drop forgets what a run was.
func (v *view) drop(r *run) {
	delete(v.runs, r.id)
	delete(v.running, r.id)
	if r.state == queue.Queued {
		r.route.queued--
	}
	if r.limit != nil {
		r.limit.dirty = true
	}
}

func (v *view) add(entry queue.Entry, g *glance) {
	r := &run{
		id: entry.Key, revision: entry.Revision, state: g.State, priority: g.Priority, attempt: g.Attempt, worker: strings.Clone(g.Worker),
		unroutable: milliseconds(g.Unroutable), written: milliseconds(entry.At), route: v.routeOf(g.Route, g.Requirement),
	}
	if g.Limit > 0 {
		r.limit = v.limitOf(g.Action, g.Limit)
		r.limit.dirty = true
	}
	v.runs[r.id] = r
	switch g.State {
	case queue.Queued:
		r.route.queued++
		v.stranded = v.stranded || !r.route.able
		v.fresh = append(v.fresh, check{r, time.Since(v.begun)})
	case queue.Running:
		v.running[r.id] = r
	case queue.Parked:
		heap.Push(&v.due, due{g.NotBefore, r.id, r.revision})
	}
}

func (v *view) routeOf(name, requirement string) *route {
	known := v.routes[name]
	if known == nil {
		known = &route{name: strings.Clone(name), requirement: json.RawMessage(requirement), since: v.begun}
		v.routes[known.name] = known
		v.stranded = true
	}
	return known
}

func (v *view) limitOf(action string, places int) *limit {
	known := v.limits[action]
	if known == nil {
		known = &limit{action: strings.Clone(action)}
		v.limits[known.action] = known
	}
	known.max = places
	return known
}

// seeWorker takes a change of the table Workers in.
func (v *view) seeWorker(entry queue.Entry) {
	var w queue.WorkerEntry
	if entry.Op == queue.Stored && json.Unmarshal(entry.Value, &w) != nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch entry.Op {
	case queue.Current:
		v.loaded[queue.Workers], v.stranded = true, true
	case queue.Deleted:
		if known := v.workers[entry.Key]; known != nil {
			known.live, known.gone = false, time.Now()
		}
		v.stranded = true
	case queue.Stored:
		known := v.workers[entry.Key]
		now := &worker{live: true, idle: w.Draining}
		if err := json.Unmarshal(w.Capabilities, &now.able); err != nil {
			now.idle = true // a newer attune's words: it is live all the same
		}
		v.stranded = v.stranded || known == nil || !known.live || known.idle != now.idle || !sameJSON(known.able, now.able)
		v.workers[entry.Key] = now
	}
}

func sameJSON(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

// lost tells whether a worker has not been heard of for that long.
func (v *view) lost(name string, silence time.Duration) bool {
	known := v.workers[name]
	if known == nil {
		return time.Since(v.begun) >= silence
	}
	return !known.live && time.Since(known.gone) >= silence
}

// due is when a parked execution is to be looked at.
type due struct {
	at       time.Time
	id       string
	revision uint64
}

// dueHeap has what is due first on top (package container/heap).
type dueHeap []due

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push is for package heap.
func (h *dueHeap) Push(one any) { *h = append(*h, one.(due)) }

// Pop is for package heap.
func (h *dueHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// nextDue is when the next parked execution is due.
func (v *view) nextDue() (at time.Time, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.due) == 0 {
		return time.Time{}, false
	}
	return v.due[0].at, true
}

// takeDue takes what is due now; what needs a place goes to its line instead.
func (v *view) takeDue(now time.Time) []*run {
	v.mu.Lock()
	defer v.mu.Unlock()
	var all []*run
	for len(v.due) > 0 && !v.due[0].at.After(now) {
		top, _ := heap.Pop(&v.due).(due)
		r := v.runs[top.id]
		if r == nil || r.revision != top.revision {
			continue // it has moved on
		}
		if r.limit == nil {
			all = append(all, r)
		} else if !r.waiting {
			line := r.limit.line(r.priority)
			*line, r.waiting, r.limit.dirty = append(*line, r.id), true, true
		}
	}
	return all
}

// later looks at a run again.
func (v *view) later(r *run, at time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	heap.Push(&v.due, due{at, r.id, r.revision})
}

// takeFresh takes queued executions, the oldest first, whose message should have been delivered by now, and no more than most of them.
func (v *view) takeFresh(age time.Duration, most int) []*run {
	v.mu.Lock()
	defer v.mu.Unlock()
	var all []*run
	n := 0
	for ; n < len(v.fresh) && len(all) < most && time.Since(v.begun)-v.fresh[n].at >= age; n++ {
		if r := v.fresh[n].run; v.runs[r.id] == r {
			all = append(all, r)
		}
	}
	clear(v.fresh[:n]) // of what they hold, too
	if v.fresh = v.fresh[n:]; len(v.fresh) == 0 {
		v.fresh = nil
	}
	return all
}

// again looks for a run's message again.
func (v *view) again(r *run) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fresh = append(v.fresh, check{r, time.Since(v.begun)})
}

// takeOld are executions that were not written for that long, no more than most of them.
func (v *view) takeOld(now time.Time, age time.Duration, most int) []*run {
	v.mu.Lock()
	defer v.mu.Unlock()
	var all []*run
	for _, r := range v.runs {
		if len(all) == most {
			break
		}
		if r.written != 0 && now.UnixMilli()-r.written > age.Milliseconds() {
			all = append(all, r)
		}
	}
	return all
}

// takeLost are the executions whose worker has not been heard of for that long.
func (v *view) takeLost(silence time.Duration) []*run {
	v.mu.Lock()
	defer v.mu.Unlock()
	var all []*run
	for _, r := range v.running {
		if v.lost(r.worker, silence) {
			all = append(all, r)
		}
	}
	return all
}

// compareRoutes finds out which routes are able, when that may have changed.
func (v *view) compareRoutes() {
	if !v.stranded {
		return
	}
	v.stranded = false
	r := v.router()
	for _, known := range v.routes {
		was := known.able
		known.able = !readable(known.requirement) || len(r.reasons(known.requirement)) == 0
		if known.able {
			known.wasAble = true
		} else if was {
			known.since = time.Now()
		}
	}
}

// takeUnroutable are queued executions that waited too long for a worker able to run them, no more than most of them.
func (v *view) takeUnroutable(now time.Time, timing Timing, most int) []*run {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.compareRoutes()
	waiting := 0
	for _, known := range v.routes {
		if !known.able {
			waiting += known.queued
		}
	}
	if waiting == 0 {
		return nil
	}
	var all []*run
	for _, r := range v.runs {
		if len(all) == most {
			break
		}
		if r.state == queue.Queued && !r.route.able && r.late(now, timing) {
			all = append(all, r)
		}
	}
	return all
}

// late tells whether a queued execution that no worker is able to run is to end. A worker that was there counts; so does the time
// that workers need to be heard of again when all of the pool has been away.
func (r *run) late(now time.Time, timing Timing) bool {
	patience := timing.Fence
	if r.route.wasAble {
		patience = timing.Unroutable
	}
	return r.unroutable != 0 && now.UnixMilli() >= r.unroutable && time.Since(r.route.since) >= min(patience, timing.Unroutable)
}
