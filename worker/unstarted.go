package worker

import (
	"context"
	"errors"
	"time"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
)

// unstarted is the result of an execution that ends before a worker had it; status and error are the caller's to fill in.
func unstarted(r *queue.Record, now time.Time) *executor.Result {
	now = now.UTC()
	return &executor.Result{
		Schema: executor.ResultSchema, ID: r.ID, Action: r.Action, StartedAt: now, FinishedAt: now, ExitCode: executor.ExitAttune,
		Environment: executor.EnvironmentInfo{State: "none"},
		Isolation:   executor.IsolationInfo{Applied: "none", Guarantees: map[string]string{}, Missing: []string{}},
		Limits:      []executor.LimitInfo{}, Artifacts: []executor.Artifact{}, Worker: r.Worker, Attempt: r.Attempt,
	}
}

// finishUnstarted ends an execution that nobody holds. ErrConflict: somebody took it meanwhile.
func finishUnstarted(ctx context.Context, broker queue.Broker, r *queue.Record, revision uint64, result *executor.Result) error {
	document, err := result.JSON()
	if err != nil {
		return err
	}
	if *r, err = r.Finish(queue.Ending{Outcome: string(result.Status), Result: document}, result.FinishedAt); err != nil {
		return err
	}
	value, err := encode(r)
	if err != nil {
		return err
	}
	if err := replace(ctx, broker.Table(queue.Runs), r.ID, value, revision); err != nil {
		return err
	}
	// Whoever gets the message nevertheless finds that it is done.
	_ = broker.Work().Remove(ctx, queue.Message{Route: r.Route, Priority: r.Priority, ID: r.ID})
	_ = broker.Signals().Send(ctx, queue.DoneTopic(r.ID), nil)
	return nil
}

// replacePatience is for how long a write that had no answer is looked after.
const replacePatience = 30 * time.Second

// replace changes a record by compare-and-set. What became of a write without an answer is found out: whoever made it has to write that down.
func replace(ctx context.Context, table queue.Table, id string, value []byte, revision uint64) error {
	ctx, cancel := context.WithTimeout(ctx, replacePatience)
	defer cancel()
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		_, err := table.Update(ctx, id, value, revision)
		if errors.Is(err, queue.ErrUncertain) || errors.Is(err, queue.ErrConflict) {
			_, err = readBack(ctx, table, id, value, revision, err)
		}
		if !errors.Is(err, queue.ErrUncertain) || !sleep(ctx, pause) {
			return err
		}
	}
}
