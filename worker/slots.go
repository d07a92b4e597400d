package worker

import (
	"context"
	"errors"
	"time"

	"github.com/attune-run/attune/queue"
)

// slots are what executions run in. A slot is had before anything is asked for, so that nothing waits in a worker's hands.
type slots struct {
	free chan struct{} // one for each free slot
}

func newSlots(n int) *slots {
	s := &slots{free: make(chan struct{}, n)}
	s.release(n)
	return s
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
				defer w.slots.release(1)
				w.handle(background, d)
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
