package queuetest

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/queue"
)

func testPublish(t *testing.T, d Driver) {
	ctx, b := open(t, d)
	_, other := open(t, d)
	m := queue.Message{Route: "r" + fresh()[:8], ID: fresh()}
	require.ErrorIs(t, b.Work().Publish(ctx, m), queue.ErrNotFound, "the route is not open")
	require.NoError(t, other.Work().Open(ctx, m.Route))
	publish(t, ctx, b, m, m, m)
	publish(t, ctx, other, m)
	requireWaiting(t, ctx, b, m, true)

	from := taker(t, b)
	got, err := from.Take(ctx, []string{m.Route}, 5)
	require.NoError(t, err)
	require.Len(t, got, 1)
	require.Equal(t, m, got[0].Message())
	require.Equal(t, 1, got[0].Delivered())
	requireWaiting(t, ctx, b, m, true) // not acknowledged
	publish(t, ctx, b, m)
	require.NoError(t, got[0].Ack(ctx))
	requireGone(t, ctx, b, m)

	m.Copy = queue.Copy{Value: []byte("{\"a\": \"line\\n\"}\n\xff\x00"), Revision: 1<<63 + 7}
	publish(t, ctx, b, m) // a retry of the same id
	again := m
	again.Copy = queue.Copy{Value: []byte("another"), Revision: 8}
	publish(t, ctx, b, again)
	require.Equal(t, []queue.Message{m}, takeAll(t, ctx, from, []string{m.Route}, 1, 1), "the first stays as it is")
	requireGone(t, ctx, b, m)
	long := m
	long.Copy.Value = bytes.Repeat([]byte("long"), 1<<18)
	publish(t, ctx, b, long)
	came := takeAll(t, ctx, from, []string{m.Route}, 1, 1)[0]
	require.Equal(t, m.ID, came.ID)
	if came.Copy.Revision != 0 {
		require.Equal(t, long.Copy, came.Copy)
	}

	require.NoError(t, b.Work().Remove(ctx, m), "none is no error")
	publish(t, ctx, b, m)
	require.NoError(t, b.Work().Remove(ctx, m))
	requireGone(t, ctx, b, m)
	late, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if got, err := from.Take(late, []string{m.Route}, 1); err == nil { // a replica had not heard yet
		require.NoError(t, got[0].Ack(ctx))
		takeNone(t, ctx, from, []string{m.Route}, 300*time.Millisecond)
	}
}

func requireWaiting(t *testing.T, ctx context.Context, b queue.Broker, m queue.Message, want bool) {
	t.Helper()
	waiting, err := b.Work().Waiting(ctx, m)
	require.NoError(t, err)
	require.Equal(t, want, waiting)
}

// requireGone allows for replicas that have not heard yet.
func requireGone(t *testing.T, ctx context.Context, b queue.Broker, m queue.Message) {
	t.Helper()
	require.Eventually(t, func() bool {
		waiting, err := b.Work().Waiting(ctx, m)
		return err == nil && !waiting
	}, time.Second, 5*time.Millisecond)
}

func testPriorities(t *testing.T, d Driver) {
	ctx, b := open(t, d)
	routes := []string{route(t, ctx, b), route(t, ctx, b)}
	for _, priority := range []queue.Priority{queue.Low, queue.Normal, queue.High} {
		for i := range 6 {
			publish(t, ctx, b, queue.Message{Route: routes[i%2], Priority: priority, ID: fresh()})
		}
	}
	requireCounted(t, ctx, b, routes, 18)
	var order []queue.Priority
	for _, m := range takeAll(t, ctx, taker(t, b), routes, 18, 1) {
		order = append(order, m.Priority)
	}
	require.IsNonIncreasing(t, order)
}

// requireCounted waits until takers, and counts, see what was published: a broker may tell them a moment later.
func requireCounted(t *testing.T, ctx context.Context, b queue.Broker, routes []string, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		all, err := b.Work().Backlog(ctx)
		waiting := 0
		for _, route := range routes {
			waiting += int(all[route].Waiting)
		}
		return err == nil && waiting == n
	}, 5*time.Second, 5*time.Millisecond)
}

func testTurns(t *testing.T, d Driver) {
	ctx, b := open(t, d)
	crowded, small, other := route(t, ctx, b), route(t, ctx, b), route(t, ctx, b)
	for range 60 {
		publish(t, ctx, b, queue.Message{Route: crowded, ID: fresh()})
	}
	for range 3 {
		publish(t, ctx, b, queue.Message{Route: small, ID: fresh()}, queue.Message{Route: other, ID: fresh()})
	}
	requireCounted(t, ctx, b, []string{crowded, small, other}, 66)
	for _, atOnce := range []int{1, 4} {
		served := map[string]int{}
		for _, m := range takeAll(t, ctx, taker(t, b), []string{crowded, small, other}, 12, atOnce) {
			served[m.Route]++
		}
		if atOnce == 1 {
			require.GreaterOrEqual(t, served[small], 3, "a crowded route does not starve others: %v", served)
			require.GreaterOrEqual(t, served[other], 3, "%v", served)
		}
	}
}

func testLimit(t *testing.T, d Driver) {
	ctx, b := open(t, d)
	_, other := open(t, d)
	var routes []string
	for range 5 {
		routes = append(routes, route(t, ctx, b))
	}
	for i := range 20 {
		publish(t, ctx, b, queue.Message{Route: routes[i%5], ID: fresh()})
	}
	first, err := taker(t, b).Take(ctx, routes, 3)
	require.NoError(t, err)
	require.NotEmpty(t, first)
	require.LessOrEqual(t, len(first), 3)
	start := time.Now()
	takeAll(t, ctx, taker(t, other), routes, 20-len(first), 4)
	require.Less(t, time.Since(start), d.AckWait, "what was beyond the limit went back at once")
}

func testManyTakers(t *testing.T, d Driver) {
	ctx, b := open(t, d)
	_, other := open(t, d)
	routes := []string{route(t, ctx, b), route(t, ctx, b), route(t, ctx, b)}
	const messages = 300
	ctx, done := context.WithCancel(ctx)
	defer done()
	var mu sync.Mutex
	seen := map[string]int{}
	var takers sync.WaitGroup
	for i := range 6 {
		from := taker(t, []queue.Broker{b, other}[i%2])
		takers.Go(func() {
			for {
				got, err := from.Take(ctx, routes, 1+i)
				if err != nil {
					assert.ErrorIs(t, err, context.Canceled)
					return
				}
				mu.Lock()
				for _, d := range got {
					seen[d.Message().ID]++
				}
				enough := len(seen) == messages
				mu.Unlock()
				for _, d := range got {
					assert.NoError(t, d.Ack(context.WithoutCancel(ctx)))
				}
				if enough {
					done()
				}
			}
		})
	}
	for i := range messages {
		require.NoError(t, b.Work().Publish(context.WithoutCancel(ctx), queue.Message{Route: routes[i%3], Priority: queue.Priority(i%2 - 1), ID: fmt.Sprint(i)}))
	}
	takers.Wait()
	require.Len(t, seen, messages)
	for id, n := range seen {
		require.Equal(t, 1, n, "%s was in two hands", id)
	}
}

func testTakeWaits(t *testing.T, d Driver) {
	ctx, b := open(t, d)
	_, other := open(t, d)
	routes := []string{route(t, ctx, b), route(t, ctx, b)}
	from := taker(t, b)
	for _, priority := range []queue.Priority{queue.Low, queue.High} {
		type answer struct {
			got []queue.Delivery
			err error
		}
		answers := make(chan answer)
		go func() {
			got, err := from.Take(ctx, routes, 4)
			answers <- answer{got, err}
		}()
		select {
		case <-answers:
			require.Fail(t, "took what is not there")
		case <-time.After(300 * time.Millisecond):
		}
		m := queue.Message{Route: routes[1], Priority: priority, ID: fresh()}
		publish(t, ctx, other, m)
		select {
		case a := <-answers:
			require.NoError(t, a.err)
			require.Len(t, a.got, 1)
			require.Equal(t, m, a.got[0].Message())
			require.NoError(t, a.got[0].Ack(ctx))
		case <-time.After(d.AckWait):
			require.Fail(t, "an idle taker is not woken")
		}
	}
	takeNone(t, ctx, from, routes, 100*time.Millisecond)
	m := queue.Message{Route: routes[0], ID: fresh()}
	publish(t, ctx, b, m)
	start := time.Now()
	require.Equal(t, []queue.Message{m}, takeAll(t, ctx, taker(t, other), routes, 1, 1))
	require.Less(t, time.Since(start), d.AckWait*3/4, "a taker that gave up does not swallow what comes")
}

// testBusyTaker has a worker without free slots: what it asked for while it was idle must not get stuck in its hands.
func testBusyTaker(t *testing.T, d Driver) {
	ctx, b := open(t, d)
	_, other := open(t, d)
	routes := []string{route(t, ctx, b), route(t, ctx, b), route(t, ctx, b)}
	busy := taker(t, b)
	takeNone(t, ctx, busy, routes, 100*time.Millisecond)
	for _, r := range routes {
		publish(t, ctx, b, queue.Message{Route: r, ID: fresh()})
	}
	start := time.Now()
	takeAll(t, ctx, taker(t, other), routes, 3, 1)
	require.Less(t, time.Since(start), d.AckWait*3/4)

	closed := other.Work().Taker()
	takeNone(t, ctx, closed, routes, 100*time.Millisecond)
	closed.Close()
	closed.Close()
	publish(t, ctx, b, queue.Message{Route: routes[0], ID: fresh()})
	start = time.Now()
	takeAll(t, ctx, busy, routes, 1, 1)
	require.Less(t, time.Since(start), d.AckWait*3/4)
}

func testRedelivery(t *testing.T, d Driver) {
	ctx, b := open(t, d)
	r := route(t, ctx, b)
	lost, held := queue.Message{Route: r, ID: fresh()}, queue.Message{Route: r, ID: fresh()}
	publish(t, ctx, b, lost, held)
	from := taker(t, b)
	var deliveries []queue.Delivery
	for len(deliveries) < 2 {
		got, err := from.Take(ctx, []string{r}, 2)
		require.NoError(t, err)
		deliveries = append(deliveries, got...)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var extending sync.WaitGroup
	for _, delivery := range deliveries {
		if delivery.Message().ID == held.ID {
			extending.Go(func() {
				for ctx.Err() == nil {
					if err := delivery.Extend(ctx); ctx.Err() == nil {
						assert.NoError(t, err)
					}
					select {
					case <-time.After(d.AckWait / 4):
					case <-ctx.Done():
					}
				}
			})
		}
	}
	taken := time.Now()
	again, err := from.Take(ctx, []string{r}, 2)
	require.NoError(t, err)
	require.Len(t, again, 1)
	require.Equal(t, lost, again[0].Message())
	require.Equal(t, 2, again[0].Delivered())
	require.Greater(t, time.Since(taken), d.AckWait/2)
	require.NoError(t, again[0].Ack(ctx))
	takeNone(t, ctx, from, []string{r}, d.AckWait*3/2) // the other one is still extended
	stop()
	extending.Wait()
}

func testRelease(t *testing.T, d Driver) {
	ctx, b := open(t, d)
	_, other := open(t, d)
	r := route(t, ctx, b)
	publish(t, ctx, b, queue.Message{Route: r, ID: fresh()})
	got, err := taker(t, b).Take(ctx, []string{r}, 1)
	require.NoError(t, err)
	start := time.Now()
	require.NoError(t, got[0].Release(ctx))
	got, err = taker(t, other).Take(ctx, []string{r}, 1)
	require.NoError(t, err)
	require.Less(t, time.Since(start), d.AckWait/2)
	require.Equal(t, 2, got[0].Delivered())
	require.NoError(t, got[0].Ack(ctx))
}

func testBacklog(t *testing.T, d Driver) {
	ctx, b := open(t, d)
	r, idle := route(t, ctx, b), route(t, ctx, b)
	start := time.Now()
	for _, priority := range []queue.Priority{queue.Low, queue.Normal, queue.High} {
		publish(t, ctx, b, queue.Message{Route: r, Priority: priority, ID: fresh()}, queue.Message{Route: r, Priority: priority, ID: fresh()})
	}
	requireCounted(t, ctx, b, []string{r}, 6)
	got, err := taker(t, b).Take(ctx, []string{r}, 2)
	require.NoError(t, err)
	backlog, err := b.Work().Backlog(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 6-len(got), backlog[r].Waiting)
	require.EqualValues(t, len(got), backlog[r].Taken)
	if !backlog[r].Oldest.IsZero() {
		require.WithinDuration(t, start, backlog[r].Oldest, time.Minute)
	}
	require.Contains(t, backlog, idle)
	require.Zero(t, backlog[idle])
}

func testTakeInterrupted(t *testing.T, d Driver) {
	if d.Interrupt == nil {
		t.Skip("the broker cannot be taken away")
	}
	ctx, b := open(t, d)
	r := route(t, ctx, b)
	publish(t, ctx, b, queue.Message{Route: r, ID: "before"})
	from := taker(t, b)
	got, err := from.Take(ctx, []string{r}, 1)
	require.NoError(t, err)
	takeNone(t, ctx, from, []string{r}, 100*time.Millisecond)
	d.Interrupt(t)
	require.Eventually(t, func() bool { return b.Work().Publish(ctx, queue.Message{Route: r, ID: "after"}) == nil }, 2*patience, 50*time.Millisecond)
	seen := map[string]bool{}
	require.Eventually(t, func() bool {
		got, err := from.Take(ctx, []string{r}, 2)
		if err != nil {
			require.ErrorIs(t, err, queue.ErrUnavailable)
			return false
		}
		for _, d := range got {
			seen[d.Message().ID] = true
			_ = d.Ack(ctx)
		}
		return seen["after"]
	}, 2*patience, time.Millisecond)
	require.Eventually(t, func() bool { return got[0].Ack(ctx) == nil }, patience, 50*time.Millisecond)
}
