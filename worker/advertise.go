package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
)

// entry is what the worker says of itself now.
func (w *Worker) entry() ([]byte, error) {
	host, _ := os.Hostname()
	able := w.routes.capabilities()
	capabilities, err := encode(able)
	if err != nil {
		return nil, err
	}
	taints, err := encode(w.cfg.Taints)
	if err != nil {
		return nil, err
	}
	e := queue.WorkerEntry{
		Schema: queue.WorkerSchema, Name: w.cfg.Name, Instance: w.instance, Version: w.cfg.Version, Host: host, PID: os.Getpid(),
		Mode: w.cfg.Service.Mode(), StartedAt: w.started.UTC(), SeenAt: w.now().UTC(), Draining: w.draining.Load(), Slots: w.cfg.Slots,
		Labels: w.cfg.Labels, Taints: taints, Capabilities: capabilities,
	}
	for _, a := range w.running() {
		e.Running = append(e.Running, a.id)
	}
	slices.Sort(e.Running)
	e.Busy = w.busySlots()
	return encode(e)
}

// register makes the worker known, unless another of its name is alive. While the broker is away it waits.
func (w *Worker) register(ctx context.Context) error {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		err := w.tryRegister(ctx)
		if err == nil || errors.Is(err, ErrNameTaken) || ctx.Err() != nil {
			return err
		}
		w.log.Warn("not registered yet", "error", err)
		if !sleep(ctx, pause) {
			return context.Cause(ctx)
		}
	}
}

func (w *Worker) tryRegister(ctx context.Context) error {
	if err := w.clock.refresh(ctx); err != nil {
		return err
	}
	table := w.broker.Table(queue.Workers)
	before, err := table.Get(ctx, w.cfg.Name)
	if err != nil && !errors.Is(err, queue.ErrNotFound) {
		return err
	}
	if err := w.checkName(ctx, before); err != nil {
		return err
	}
	mine, err := w.entry()
	if err != nil {
		return err
	}
	if before.Revision == 0 {
		_, err = table.Create(ctx, w.cfg.Name, mine)
	} else {
		_, err = table.Update(ctx, w.cfg.Name, mine, before.Revision)
	}
	return err
}

// checkName asks whoever has the name. One that is frozen does not answer, and keeps its name until its entry is forgotten.
func (w *Worker) checkName(ctx context.Context, before queue.Entry) error {
	reply, err := w.inquire(ctx, w.cfg.Name, inquiry{})
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil { // the broker may not have known yet that it is dead
		reply, err = w.inquire(ctx, w.cfg.Name, inquiry{})
	}
	var entry queue.WorkerEntry
	if before.Value != nil {
		_ = json.Unmarshal(before.Value, &entry) // what cannot be read says nothing
	}
	switch {
	case err == nil:
		return fmt.Errorf("%w: %s is alive (instance %s, host %s, process %d); give this one another name", ErrNameTaken, w.cfg.Name, reply.Instance, entry.Host, entry.PID)
	case errors.Is(err, queue.ErrNotFound), before.Value == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		return fmt.Errorf("%w: %s (host %s, process %d) was seen at %s and does not answer; end it, or wait %s", ErrNameTaken, w.cfg.Name, entry.Host, entry.PID,
			entry.SeenAt.Format(time.RFC3339), queue.WorkerTTL)
	}
	return err
}

// heartbeatEntry renews the entry. An error is errEvicted.
func (w *Worker) heartbeatEntry(ctx context.Context) error {
	w.renewing.Lock()
	defer w.renewing.Unlock()
	table := w.broker.Table(queue.Workers)
	mine, err := w.entry()
	if err != nil {
		return err
	}
	before, err := table.Get(ctx, w.cfg.Name)
	switch {
	case errors.Is(err, queue.ErrNotFound):
		_, err = table.Create(ctx, w.cfg.Name, mine)
	case err == nil:
		var entry queue.WorkerEntry
		if json.Unmarshal(before.Value, &entry) == nil && entry.Instance != w.instance {
			return errEvicted
		}
		_, err = table.Update(ctx, w.cfg.Name, mine, before.Revision)
	}
	if err != nil && ctx.Err() == nil {
		w.log.Warn("the worker's entry is not renewed", "error", err)
	}
	return nil
}

// deregister forgets the worker, once all that it printed has arrived or is lost.
func (w *Worker) deregister() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := w.broker.Logs().Flush(ctx); err != nil {
		w.log.Warn("the last output may be lost", "error", err)
	}
	table := w.broker.Table(queue.Workers)
	before, err := table.Get(ctx, w.cfg.Name)
	var entry queue.WorkerEntry
	if err == nil && json.Unmarshal(before.Value, &entry) == nil && entry.Instance == w.instance {
		err = table.Delete(ctx, w.cfg.Name, before.Revision)
	}
	if err != nil && !errors.Is(err, queue.ErrNotFound) {
		w.log.Warn("not deregistered: the entry is forgotten by itself", "error", err)
	}
}

// How many heartbeats lie between two looks at what this worker has, and at the catalog when nothing changed here.
const (
	refreshEvery = 4
	catalogEvery = 20
)

// advertise keeps what the pool knows of this worker fresh: its entry, its capabilities and its actions. What the operator installs
// or takes away later is found.
func (w *Worker) advertise(ctx context.Context) error {
	ticker := time.NewTicker(w.cfg.Timing.Heartbeat)
	defer ticker.Stop()
	var offered []byte // as the catalog has it
	for round := 0; ; round++ {
		if round%refreshEvery == 0 || w.routes.isPreparing() {
			w.refresh(ctx)
			offered = w.advertiseOffers(ctx, offered, round%catalogEvery == 0)
		}
		if err := w.clock.refresh(ctx); err != nil && ctx.Err() == nil {
			w.log.Warn("the broker's clock is not known", "error", err)
		}
		if err := w.heartbeatEntry(ctx); err != nil {
			return err
		}
		w.serving.Store(true)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// advertiseOffers brings the catalog up to date, if what is offered changed or it is time to look. It returns what the catalog has then.
func (w *Worker) advertiseOffers(ctx context.Context, offered []byte, look bool) []byte {
	offers, text := w.offers(ctx)
	if offers == nil || !look && bytes.Equal(text, offered) {
		return offered
	}
	if err := w.publishOffers(ctx, offers); err != nil {
		if ctx.Err() == nil {
			w.log.Warn("the catalog is not up to date", "error", err)
		}
		return nil
	}
	return text
}

// refresh finds out what this worker has.
func (w *Worker) refresh(ctx context.Context) {
	able, err := w.cfg.Service.Capabilities(ctx)
	if err != nil {
		if ctx.Err() == nil {
			w.log.Error("capabilities cannot be found out", "error", err)
		}
		return
	}
	w.packs.setLocal(able.Packs)
	able.Packs = w.packs.pins()
	able.Labels, able.Taints, able.Scripts = w.cfg.Labels, w.cfg.Taints, w.cfg.AllowScripts
	w.routes.set(able)
	if w.routes.isPreparing() {
		w.refreshReady(ctx)
	}
}

// refreshReady finds out what can be taken while worker mode still prepares: actions of which nothing has to be built any more.
func (w *Worker) refreshReady(ctx context.Context) {
	offers, err := w.cfg.Service.Offers(ctx)
	if err != nil {
		return
	}
	type environment struct {
		pack             executor.PackPin
		runtime, version string
	}
	ready := map[environment]bool{}
	for _, o := range offers {
		key := environment{o.Requirement.Pack, o.Requirement.Runtime, o.Requirement.Version}
		before, seen := ready[key]
		if seen && !before {
			continue
		}
		e, err := w.cfg.Service.Explain(ctx, executor.Request{Action: o.Action + "@=" + o.Requirement.Pack.Version})
		ready[key] = err == nil && e.Environment.State != "miss"
	}
	w.routes.preparing(func(r executor.Requirement) bool { return ready[environment{r.Pack, r.Runtime, r.Version}] })
}

// offers are the actions of the local packs, and their text, by which a change is seen.
func (w *Worker) offers(ctx context.Context) ([]queue.CatalogEntry, []byte) {
	all, err := w.cfg.Service.Offers(ctx)
	if err != nil {
		return nil, nil
	}
	entries := make([]queue.CatalogEntry, 0, len(all))
	for _, o := range all {
		e, err := catalogEntry(o)
		if err != nil {
			w.log.Error("action cannot be offered", "action", o.Action, "error", err)
			continue
		}
		entries = append(entries, e)
	}
	text, err := encode(entries)
	if err != nil {
		return nil, nil
	}
	return entries, text
}

// catalogEntry is what the catalog says of an action; UpdatedAt is left to whoever stores it.
func catalogEntry(o executor.Offer) (queue.CatalogEntry, error) {
	e := queue.CatalogEntry{
		Schema: queue.CatalogSchema, Action: o.Action, Pack: queue.Pin(o.Requirement.Pack),
		Retries: o.Defaults.Retries, BackoffMS: o.Defaults.Backoff.Milliseconds(), Limit: o.Defaults.Limit,
	}
	var err, failed error
	if e.Requirement, err = encode(o.Requirement); err != nil {
		failed = err
	}
	if len(o.Defaults.Affinity) > 0 {
		if e.Affinity, err = encode(o.Defaults.Affinity); err != nil {
			failed = err
		}
	}
	if e.Parameters, err = encode(o.Parameters); err != nil {
		failed = err
	}
	return e, failed
}

// publishOffers stores what is not there as it is.
func (w *Worker) publishOffers(ctx context.Context, offers []queue.CatalogEntry) error {
	table := w.broker.Table(queue.Catalog)
	for _, e := range offers {
		key := queue.CatalogKey(e.Pack, e.Action)
		stored, err := table.Get(ctx, key)
		if err != nil && !errors.Is(err, queue.ErrNotFound) {
			return err
		}
		var before queue.CatalogEntry
		if err == nil && json.Unmarshal(stored.Value, &before) == nil {
			e.UpdatedAt = before.UpdatedAt
			mine, _ := encode(e)
			theirs, _ := encode(before) // without what a newer attune says beside it
			if bytes.Equal(mine, theirs) || !readable(before.Requirement) {
				continue
			}
		}
		e.UpdatedAt = w.now().UTC()
		text, err := encode(e)
		if err != nil {
			return err
		}
		if _, err := table.Put(ctx, key, text); err != nil {
			return err
		}
	}
	return nil
}
