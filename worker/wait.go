package worker

import (
	"context"
	"encoding/json"
	"iter"
	"sync/atomic"
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
// preceded by a gap has a Number that jumps; where the gap is the last of it, that is a chunk of Stream "end".
func (c *Client) Logs(ctx context.Context, id string, follow bool) iter.Seq2[queue.LogChunk, error] {
	return func(yield func(queue.LogChunk, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		ended := make(chan uint64, 16) // epochs whose output has been given; written by this loop, read by endWith
		var steps atomic.Int64         // odd while a chunk is with the reader
		if follow {
			go c.endWith(ctx, cancel, id, ended, &steps)
		}
		last := map[uint64]uint64{} // epoch → number
		for text, err := range c.broker.Logs().Read(ctx, id, follow) {
			if err != nil {
				yield(queue.LogChunk{}, err)
				return
			}
			var chunk queue.LogChunk
			if json.Unmarshal(text, &chunk) != nil {
				continue // a newer attune may have written it
			}
			end, gap := chunk.Stream == "end", chunk.Number > last[chunk.Epoch]+1
			last[chunk.Epoch] = chunk.Number
			if !end || gap {
				steps.Add(1)
				more := yield(chunk, nil)
				steps.Add(1)
				if !more {
					return
				}
			}
			if end {
				select {
				case ended <- chunk.Epoch:
				default:
				}
			}
		}
	}
}

// linger is how long each of the last chunks may take after the execution is done; the end of its output may be lost.
const linger = time.Second

// endWith ends the following of logs when nothing more can come.
func (c *Client) endWith(ctx context.Context, cancel context.CancelFunc, id string, ended <-chan uint64, steps *atomic.Int64) {
	defer cancel()
	r, err := c.Wait(ctx, id)
	if err != nil || r.Epoch == 0 { // it never ran
		return
	}
	late := time.NewTicker(linger)
	defer late.Stop()
	for seen := int64(-1); ; {
		select {
		case epoch := <-ended:
			if epoch >= r.Epoch {
				return
			}
		case <-late.C:
			now := steps.Load()
			if now == seen && now%2 == 0 {
				return
			}
			seen = now
		case <-ctx.Done():
			return
		}
	}
}
