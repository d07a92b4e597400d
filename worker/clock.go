package worker

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/attune-run/attune/queue"
)

// clock is the broker's, which everything in a pool is timed by: no time of this machine's clock is compared with one of another's.
// Between two looks at it it goes on with this machine's monotonic clock, so that setting the wall clock changes nothing.
type clock struct {
	broker queue.Broker
	asking singleflight.Group

	mu   sync.Mutex
	at   time.Time // what the broker said; zero while it has said nothing
	seen time.Time // when it said so (monotonic)
}

// clockFor is how long what the broker said is gone by; clocks drift by some milliseconds in that time.
const clockFor = time.Minute

// now is this machine's wall clock as long as the broker said nothing.
func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at.IsZero() {
		return time.Now()
	}
	return c.at.Add(time.Since(c.seen))
}

// ask is now, after a look at the broker's clock if the last one is long ago. While the broker is away it goes by what it has.
func (c *clock) ask(ctx context.Context) time.Time {
	c.mu.Lock()
	fresh := !c.at.IsZero() && time.Since(c.seen) < clockFor
	c.mu.Unlock()
	if !fresh {
		select {
		case <-c.asking.DoChan("", func() (any, error) { return nil, c.refresh(context.WithoutCancel(ctx)) }):
		case <-ctx.Done():
		}
	}
	return c.now()
}

// refresh looks at the broker's clock.
func (c *clock) refresh(ctx context.Context) error {
	at, err := c.broker.Now(ctx)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at, c.seen = at.Round(0), time.Now()
	return nil
}
