package worker

import (
	"context"
	"errors"
	"time"

	"github.com/attune-run/attune/queue"
)

// slots are what executions run in. A slot is had before anything is asked for, so that nothing waits in a worker's hands. It is
// another's as soon as the child is gone: what is left of an execution is waiting for the broker, several at the same time.
type slots struct {
	free     chan struct{} // one for each free slot
	settling chan struct{} // one for each execution that is being settled without a slot; full when these are too many
}

// settlingMin is how many executions may be settled without a slot at the least: the results of as many are in memory beside those of
// the slots.
const settlingMin = 32

func newSlots(n int) *slots {
	s := &slots{free: make(chan struct{}, n), settling: make(chan struct{}, max(n, settlingMin))}
	s.release(n)
	return s
}

// seat is one slot in the hands of one execution.
type seat struct {
	slots *slots
	left  bool // the slot is another's already
}

// vacate gives the slot back although the execution is not settled, unless there are too many of this kind. It tells whether it did.
func (s *seat) vacate() bool {
	select {
	case s.slots.settling <- struct{}{}:
		s.left = true
		s.slots.release(1)
	default:
	}
	return s.left
}

// leave is the end of it.
func (s *seat) leave() {
	if s.left {
		<-s.slots.settling
	} else {
		s.slots.release(1)
	}
}

// acquire waits for a slot and takes all that are free; 0 when the context ended.
func (s *slots) acquire(ctx context.Context) int {
	select {
	case <-s.free:
	case <-ctx.Done():
		return 0
	}
	for n := 1; ; n++ {
		select {
		case <-s.free:
		default:
			return n
		}
	}
}

// idle waits until every slot is free and nothing is being settled; false when the context ended before.
func (s *slots) idle(ctx context.Context) bool {
	free, settled := 0, 0
	defer func() {
		s.release(free)
		for range settled {
			<-s.settling
		}
	}()
	for free < cap(s.free) || settled < cap(s.settling) {
		select {
		case <-s.free:
			free++
		case s.settling <- struct{}{}:
			settled++
		case <-ctx.Done():
			return false
		}
	}
	return true
}

func (s *slots) release(n int) {
	for range n {
		s.free <- struct{}{}
	}
}

// take asks for work while there are slots, and handles what comes in the life of background.
func (w *Worker) take(ctx, background context.Context) {
	taker := w.broker.Work().Taker()
	defer taker.Close()
	pause := time.Duration(0)
	for sleep(ctx, pause) {
		n := w.slots.acquire(ctx)
		if n == 0 {
			return
		}
		deliveries, err := w.ask(ctx, taker, n)
		w.slots.release(n - len(deliveries))
		for _, d := range deliveries {
			go func() {
				s := &seat{slots: w.slots}
				defer s.leave()
				w.handle(background, d, s)
			}()
		}
		pause = 0
		if err != nil && !errors.Is(err, context.Canceled) {
			pause = time.Second
			w.log.Warn("no work can be taken", "error", err)
		}
	}
}

// ask takes up to n messages of the routes that are served; none where these change meanwhile.
func (w *Worker) ask(ctx context.Context, taker queue.Taker, n int) ([]queue.Delivery, error) {
	served := w.routes.served()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(served.valid, cancel)()
	if len(served.routes) == 0 {
		<-ctx.Done()
		return nil, nil
	}
	return taker.Take(ctx, served.routes, n)
}
