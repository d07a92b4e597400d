// Package worker is both ends of the pool: Worker takes executions from a queue.Broker and runs them with an
// executor.Service, Client submits and follows them. The protocol between them is the Record's compare-and-set (package queue).
package worker

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
)

// Config is what an operator decides for a Worker. New copies it.
type Config struct {
	Broker  queue.Broker
	Service *executor.Service // Start is the worker's
	// Execute runs a request; nil means Service.Execute. Metrics and traces wrap it.
	Execute func(ctx context.Context, req executor.Request, obs executor.Observer) executor.Result
	Name    string // unique in the pool; empty means the host's name
	Version string
	Slots   int // executions at once; zero means the number of CPUs
	Labels  map[string]string
	Taints  []executor.Taint
	// TrustedKeys, if any, are the only submitters whose requests run here.
	TrustedKeys []Key
	// AllowActions are globs (path.Match) over "pack.action"; none means every action. AllowScripts lets submitters bring code.
	AllowActions []string
	AllowScripts bool
	PackDir      string        // packs fetched from the pool are kept below it; empty means none are fetched
	Grace        time.Duration // of a drain, before what runs is ended; zero means 30 s
	Timing       Timing
	Log          *slog.Logger // nil discards
	Observer     Observer     // nil is told nothing
}

// Timing are the intervals of the protocol; zero fields mean the defaults.
type Timing struct {
	Heartbeat  time.Duration // 15 s: extend the delivery, look whether the record is still held
	Fence      time.Duration // 45 s without a successful heartbeat: the child is killed, nothing is committed
	Scheduler  time.Duration // 1 s: how late what is due may be
	Reconcile  time.Duration // 5 s: how long a queued record may be without a message, where few wait
	Unroutable time.Duration // 10 min: how long a request waits for a worker able to run it
	Lease      time.Duration // 10 s: how long a scheduler that is not heard of keeps its role
}

// WithDefaults fills in what is zero.
func (t Timing) WithDefaults() Timing {
	t.Heartbeat = cmp.Or(t.Heartbeat, 15*time.Second)
	t.Fence = cmp.Or(t.Fence, 45*time.Second)
	t.Scheduler = cmp.Or(t.Scheduler, time.Second)
	t.Reconcile = cmp.Or(t.Reconcile, 5*time.Second)
	t.Unroutable = cmp.Or(t.Unroutable, defaultUnroutable)
	t.Lease = cmp.Or(t.Lease, 10*time.Second)
	return t
}

// Observer is told what happens to executions, for metrics. Its methods must not block.
type Observer interface {
	Claimed(r *queue.Record, waited time.Duration, redelivered bool)
	Committed(r *queue.Record, result *executor.Result)
	Fenced(id string) // the record was taken over: nothing was committed
	Slots(busy, all int)
}
