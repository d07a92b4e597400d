package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue/natsq"
	"github.com/attune-run/attune/worker"
)

// curvePool is a broker, a client and a worker in this process, whose executions take no time of their own.
type curvePool struct {
	*poolServer
	service *executor.Service
	take    context.CancelFunc
	done    chan error
	first   atomic.Int64 // when the first execution was in the worker's hands, in nanoseconds
}

func (b *bench) newCurvePool(name, sync string) (*curvePool, error) {
	broker, err := natsq.Open(context.Background(), natsq.Options{Store: filepath.Join(b.work, name), Sync: sync})
	if err != nil {
		return nil, err
	}
	service, err := b.engine()
	if err != nil {
		return nil, errors.Join(err, broker.Close())
	}
	client := worker.NewClient(worker.ClientConfig{Broker: broker, Service: service, Who: "bench", Unroutable: time.Hour})
	return &curvePool{poolServer: &poolServer{broker: broker, client: client}, service: service}, nil
}

// serve starts the worker.
func (c *curvePool) serve(slots int, labels map[string]string) error {
	w, err := worker.New(worker.Config{Broker: c.broker, Service: c.service, Name: "bench", Slots: slots, Labels: labels,
		Execute: func(_ context.Context, req executor.Request, _ executor.Observer) executor.Result {
			c.first.CompareAndSwap(0, time.Now().UnixNano())
			return executor.Result{Schema: executor.ResultSchema, ID: req.ID, Action: req.Action, Status: executor.Succeeded}
		}})
	if err != nil {
		return err
	}
	take, end := context.WithCancel(context.Background())
	c.take, c.done = end, make(chan error, 1)
	go func() { c.done <- w.Run(take, context.Background()) }()
	for w.Ready() != nil {
		time.Sleep(time.Millisecond)
	}
	return nil
}

func (c *curvePool) close() error {
	var err error
	if c.take != nil {
		c.take()
		err = <-c.done
	}
	return errors.Join(err, c.broker.Close())
}

// poolCurve is what docs/scaling.md shows: the protocol alone with sync always, over slots, routes and backlog.
func (b *bench) poolCurve() error {
	for _, slots := range []int{1, 2, 4, 8, 16, 32, 64} {
		rate, err := b.curve(fmt.Sprintf("slots-%d", slots), 1000, slots, 1)
		if err != nil {
			return err
		}
		point(fmt.Sprintf("1 route, slots: %d", slots), fmt.Sprintf("%.0f /s", rate))
	}
	for _, routes := range []int{1, 10, 100, 500} {
		rate, err := b.curve(fmt.Sprintf("routes-%d", routes), 1000, 32, routes)
		if err != nil {
			return err
		}
		point(fmt.Sprintf("32 slots, routes: %d", routes), fmt.Sprintf("%.0f /s", rate))
	}
	for _, backlog := range []int{1_000, 10_000, 100_000} {
		if err := b.backlogPoint(backlog); err != nil {
			return err
		}
	}
	return nil
}

// curve queues n requests evenly over routes, and gives how many a second are served then.
func (b *bench) curve(name string, n, slots, routes int) (rate float64, err error) {
	c, err := b.newCurvePool(name, natsq.SyncAlways)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	labels := map[string]string{}
	for i := range routes {
		labels[fmt.Sprintf("r%d", i)] = "1"
	}
	if err := c.submitOver(n, routes); err != nil {
		return 0, err
	}
	begun := time.Now()
	if err := c.serve(slots, labels); err != nil {
		return 0, err
	}
	if err := c.drained(); err != nil {
		return 0, err
	}
	started := time.Unix(0, c.first.Load())
	if started.Before(begun) {
		return 0, errors.New("something was served before it began")
	}
	return float64(n) / time.Since(started).Seconds(), nil
}

func (b *bench) backlogPoint(n int) (err error) {
	c, err := b.newCurvePool(fmt.Sprintf("curve-backlog-%d", n), natsq.SyncRelaxed)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	begun := time.Now()
	if err := c.submitOver(n, 1); err != nil {
		return err
	}
	submitted := time.Since(begun)
	before := heap()
	begun = time.Now()
	if err := c.serve(32, map[string]string{"r0": "1"}); err != nil {
		return err
	}
	for c.first.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	first := time.Unix(0, c.first.Load()).Sub(begun)
	most := before
	watched := time.Now()
	for time.Since(watched) < 5*time.Second {
		most = max(most, heap())
		time.Sleep(500 * time.Millisecond)
	}
	point(fmt.Sprintf("backlog: %d", n), fmt.Sprintf("submitted at %.0f /s; first claim after %s; heap %s → %s",
		float64(n)/submitted.Seconds(), milliseconds(first), mebibytes(before), mebibytes(most)))
	return nil
}

// submitOver spreads n requests over routes.
func (c *curvePool) submitOver(n, routes int) error {
	return c.submitEach(n, func(i int) executor.Request {
		req := noopRequest()
		req.Selector = map[string]any{fmt.Sprintf("r%d", i%routes): "1"}
		return req
	})
}

// heap is what this process has in use, in MiB: worker, client and server together.
func heap() float64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return float64(stats.HeapAlloc+stats.StackInuse) / (1 << 20)
}

func point(what, figure string) { fmt.Printf("%-44s %s\n", what, figure) }
