package envcache

import (
	"context"
	"sync"
	"time"
)

// AcquireOptions are what an Acquire may be told beside what to build.
type AcquireOptions struct {
	// Progress may be nil; it is called by one goroutine at a time, and not after Acquire returned.
	Progress    func(Progress)
	RetryFailed bool // build although a failure is remembered
}

// Acquire makes the environment of a key ready and holds it against removal until Env.Close. Where neither the store nor a layer
// has it, it is built: once, whoever asks, in this process or another.
//
// Errors are *BuildError (which may be a remembered one), *StoreError, or the cause of an ended context. A build goes on for as
// long as anybody in this process waits for it.
func (s *Store) Acquire(ctx context.Context, key Key, b Builder, opt AcquireOptions) (*Env, error) {
	e := s.entry(s.ID(key))
	env, reason := s.hit(ctx, e, b, false)
	if reason == nil {
		return env, nil
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if env := s.hitLayer(ctx, key, b, opt.Progress); env != nil {
		return env, nil
	}
	if failed := s.recallFailure(e); failed != nil && !opt.RetryFailed {
		return nil, failed.asError()
	}
	f, seat := s.join(ctx, e, key, b, opt)
	return f.wait(ctx, seat)
}

// flight is one build (or wait for another process's build) that any number of goroutines wait for.
type flight struct {
	cancel context.CancelCauseFunc
	done   chan struct{}
	env    *Env // held for the waiters until the last of them has left
	state  State
	err    error

	mu    sync.Mutex
	seats map[int]func(Progress) // who waits; emptied for good when the last one leaves
	taken int                    // seats given so far
}

// builderSeat is the seat of who started the flight.
const builderSeat = 0

// join finds or starts the flight of an entry and takes a seat in it.
func (s *Store) join(ctx context.Context, e entry, key Key, b Builder, opt AcquireOptions) (f *flight, seat int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f, ok := s.flights[e.id]; ok {
		if seat, ok := f.enter(opt.Progress); ok {
			return f, seat
		}
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	f = &flight{cancel: cancel, done: make(chan struct{}), seats: map[int]func(Progress){}}
	seat, _ = f.enter(opt.Progress)
	s.flights[e.id] = f
	go func() {
		f.env, f.state, f.err = s.build(ctx, key, b, AcquireOptions{Progress: f.report, RetryFailed: opt.RetryFailed})
		s.mu.Lock()
		if s.flights[e.id] == f {
			delete(s.flights, e.id)
		}
		s.mu.Unlock()
		close(f.done)
	}()
	return f, seat
}

// enter takes a seat, unless the last waiter has left.
func (f *flight) enter(progress func(Progress)) (seat int, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.taken > 0 && len(f.seats) == 0 {
		return 0, false
	}
	begun := time.Now()
	seat = f.taken
	f.taken++
	f.seats[seat] = func(p Progress) {
		if progress != nil {
			p.Elapsed = time.Since(begun)
			progress(p)
		}
	}
	return seat, true
}

// leave gives a seat up; the last one ends the build and lets its environment go.
func (f *flight) leave(seat int, cause error) {
	f.mu.Lock()
	delete(f.seats, seat)
	last := len(f.seats) == 0
	f.mu.Unlock()
	if !last {
		return
	}
	f.cancel(cause)
	<-f.done
	if f.env != nil {
		_ = f.env.Close()
	}
}

// wait follows the flight to its end and takes a hold of its own.
func (f *flight) wait(ctx context.Context, seat int) (*Env, error) {
	select {
	case <-ctx.Done():
		f.leave(seat, context.Cause(ctx))
		return nil, context.Cause(ctx)
	case <-f.done:
	}
	defer f.leave(seat, nil)
	if f.err != nil {
		return nil, f.err
	}
	env, err := f.env.again()
	if err != nil {
		return nil, err
	}
	if env.State = f.state; seat != builderSeat {
		env.State = Waited
	}
	return env, nil
}

func (f *flight) report(p Progress) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, tell := range f.seats {
		tell(p)
	}
}
