package worker

import (
	"context"
	"encoding/json"
	"iter"
	"time"

	"github.com/attune-run/attune/queue"
)

// lookAgain is how often Wait looks at a record although it heard nothing: signals may be lost.
const lookAgain = 2 * time.Second

// Wait returns the record of an execution once it is done.
func (c *Client) Wait(ctx context.Context, id string) (*queue.Record, error) {
	done := make(chan struct{}, 1) // written by the signal's listener, which drops what nobody waits for
	stop, err := c.broker.Signals().Listen(queue.DoneTopic(id), func([]byte) {
		select {
		case done <- struct{}{}:
		default:
		}
	})
	if err != nil {
		return nil, err
	}
	defer stop()
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	for {
		r, err := c.Record(ctx, id)
		if err == nil && r.State == queue.Done {
			return r, nil
		}
		if err != nil && !isAway(err) {
			return nil, err
		}
		select {
		case <-done:
		case <-again.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Logs gives what an execution prints, oldest first; with follow until it is done and all of it has been given. A chunk that is
// preceded by a gap has a Number that jumps.
func (c *Client) Logs(ctx context.Context, id string, follow bool) iter.Seq2[queue.LogChunk, error] {
	return func(yield func(queue.LogChunk, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		if follow {
			go c.endWith(ctx, cancel, id)
		}
		for text, err := range c.broker.Logs().Read(ctx, id, follow) {
			if err != nil {
				yield(queue.LogChunk{}, err)
				return
			}
			var chunk queue.LogChunk
			if json.Unmarshal(text, &chunk) != nil {
				continue // a newer attune may have written it
			}
			if chunk.Stream == "end" {
				if follow && c.isLast(ctx, id, chunk.Epoch) {
					return
				}
				continue
			}
			if !yield(chunk, nil) {
				return
			}
		}
	}
}

// isLast tells whether nothing comes behind the end of that epoch's output. An epoch that is not committed yet is asked for again
// by endWith.
func (c *Client) isLast(ctx context.Context, id string, epoch uint64) bool {
	r, err := c.Record(ctx, id)
	return err == nil && r.State == queue.Done && r.Epoch <= epoch
}

// linger is how long the last chunks may take after the execution is done; the end of its output may be lost.
const linger = time.Second

// endWith ends the following of logs when nothing more can come.
func (c *Client) endWith(ctx context.Context, cancel context.CancelFunc, id string) {
	r, err := c.Wait(ctx, id)
	if err != nil {
		return
	}
	var printed struct{ Stdout, Stderr string }
	if len(r.Result) == 0 || json.Unmarshal(r.Result, &printed) != nil || printed.Stdout+printed.Stderr != "" {
		_ = sleep(ctx, linger)
	}
	cancel()
}
