package worker

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
)

// Cancel ends an execution: one that does not run never starts, one that runs is told to its worker. It returns the record as it
// then is. What is done already stays as it is and is no error.
func (c *Client) Cancel(ctx context.Context, id string) (*queue.Record, error) {
	for {
		r, revision, err := c.record(ctx, id)
		if err != nil {
			return nil, err
		}
		switch r.State {
		case queue.Done:
			return r, nil
		case queue.Running:
			return r, c.cancelRunning(ctx, r)
		}
		c.lookAtClock(ctx)
		result := unstarted(r, c.cfg.Now())
		result.Status, result.ExitCode = executor.Canceled, 128+int(syscall.SIGTERM)
		result.Error = &executor.Error{Kind: "canceled", Message: "canceled by " + c.who() + " before it started"}
		err = finishUnstarted(ctx, c.broker, r, revision, result)
		if errors.Is(err, queue.ErrConflict) {
			continue // a worker was faster
		}
		if err != nil {
			return nil, fmt.Errorf("cancel %s: %w", id, err)
		}
		return r, c.audit(ctx, queue.AuditLine{What: "cancel", ID: id, Action: r.Action, Digest: r.Digest, Epoch: r.Epoch, Outcome: r.Outcome})
	}
}

// cancelRunning leaves word for the worker, and wakes it.
func (c *Client) cancelRunning(ctx context.Context, r *queue.Record) error {
	value, err := encode(queue.Cancel{By: c.who(), At: c.cfg.Now().UTC()})
	if err != nil {
		return err
	}
	if _, err := c.broker.Table(queue.Cancels).Put(ctx, r.ID, value); err != nil {
		return fmt.Errorf("cancel %s: %w", r.ID, err)
	}
	_ = c.broker.Signals().Send(ctx, queue.CancelTopic(r.ID), nil) // the worker looks at every heartbeat as well
	return c.audit(ctx, queue.AuditLine{What: "cancel", ID: r.ID, Action: r.Action, Digest: r.Digest, Epoch: r.Epoch})
}

// isAway tells whether an error passes once the broker is there again.
func isAway(err error) bool { return errors.Is(err, queue.ErrUnavailable) }
