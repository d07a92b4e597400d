package worker

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
)

// peers are the other workers, as they were a moment ago. They are looked up when an execution prefers some of them, not
// watched: every worker hearing of every other would be too much for a large pool.
type peers struct {
	mu  sync.Mutex
	at  time.Time // monotonic
	all []peer
}

type peer struct {
	entry queue.WorkerEntry
	able  executor.Capabilities
}

// peersFor is how long what is known of the others is believed.
const peersFor = 5 * time.Second

func (w *Worker) others(ctx context.Context) []peer {
	p := &w.peers
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.at.IsZero() && time.Since(p.at) < peersFor {
		return p.all
	}
	var all []peer
	for e, err := range w.broker.Table(queue.Workers).List(ctx, "") {
		if err != nil {
			w.log.Warn("the other workers cannot be listed", "error", err)
			return p.all
		}
		var seen peer
		if e.Key != w.cfg.Name && json.Unmarshal(e.Value, &seen.entry) == nil && json.Unmarshal(seen.entry.Capabilities, &seen.able) == nil {
			all = append(all, seen)
		}
	}
	p.at, p.all = time.Now(), all
	return all
}

// askAtMost is how many preferred workers are asked whether they have a free slot.
const askAtMost = 3

// better tells whether a worker with a higher score is able and has a free slot: it is asked.
func (w *Worker) better(ctx context.Context, prefs []executor.Preference, r executor.Requirement) bool {
	mine := w.routes.capabilities().Affinity(prefs)
	var candidates []peer
	for _, other := range w.others(ctx) {
		if other.entry.Draining || other.able.Affinity(prefs) <= mine {
			continue
		}
		if ok, _ := other.able.Satisfies(r); ok {
			candidates = append(candidates, other)
		}
	}
	slices.SortFunc(candidates, func(a, b peer) int { return b.able.Affinity(prefs) - a.able.Affinity(prefs) })
	for _, other := range candidates[:min(len(candidates), askAtMost)] {
		if reply, err := w.inquire(ctx, other.entry.Name, inquiry{}); err == nil && reply.Free > 0 {
			return true
		}
	}
	return false
}

// inquiry asks a worker whether it is there, and whether it holds an execution.
type inquiry struct {
	ID    string `json:"id,omitempty"`
	Epoch uint64 `json:"epoch,omitempty"`
}

type inquiryReply struct {
	Instance string `json:"instance"`
	Holds    bool   `json:"holds"`
	Free     int    `json:"free"` // slots; none while it drains
}

// inquiryTimeout is how long a worker that lives takes to answer, at most.
const inquiryTimeout = time.Second

func inquiryTopic(worker string) string { return "worker." + worker }

// inquire asks a worker. ErrNotFound: nobody of that name is connected; DeadlineExceeded: it does not answer.
func (w *Worker) inquire(ctx context.Context, name string, q inquiry) (reply inquiryReply, err error) {
	ctx, cancel := context.WithTimeout(ctx, inquiryTimeout)
	defer cancel()
	question, err := encode(q)
	if err != nil {
		return reply, err
	}
	text, err := w.broker.Signals().Ask(ctx, inquiryTopic(name), question)
	if err != nil {
		return reply, err
	}
	return reply, json.Unmarshal(text, &reply)
}

// answer answers other workers' inquiries, and the submissions of those who have no client of their own, until stop.
func (w *Worker) answer() (stop func(), err error) {
	first, err := w.broker.Signals().Answer(inquiryTopic(w.cfg.Name), w.reply)
	if err != nil {
		return nil, err
	}
	second, err := NewClient(ClientConfig{Broker: w.broker, Service: w.cfg.Service, Unroutable: w.cfg.Timing.Unroutable}).AnswerSubmissions()
	if err != nil {
		first()
		return nil, err
	}
	return func() { first(); second() }, nil
}

func (w *Worker) reply(_ context.Context, question []byte) []byte {
	var q inquiry
	if json.Unmarshal(question, &q) != nil {
		return nil
	}
	reply := inquiryReply{Instance: w.instance}
	w.mu.Lock()
	a := w.attempts[q.ID]
	if !w.draining.Load() {
		reply.Free = w.cfg.Slots - w.busy
	}
	w.mu.Unlock()
	reply.Holds = a != nil && a.held().Epoch == q.Epoch
	text, _ := encode(reply)
	return text
}

// isHeld asks the holder of a record whose message came again. A broker may forget who has what when it is killed; a worker that
// answers still has it, and its heartbeats go on. One that does not answer is lost.
func (w *Worker) isHeld(ctx context.Context, r *queue.Record) bool {
	if r.Worker == w.cfg.Name {
		return false // adopt knows
	}
	reply, err := w.inquire(ctx, r.Worker, inquiry{r.ID, r.Epoch})
	if err != nil && !errors.Is(err, queue.ErrNotFound) {
		w.log.Info("the holder does not answer", "execution", r.ID, "holder", r.Worker, "error", err)
	}
	return err == nil && reply.Holds
}
