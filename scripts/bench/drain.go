package main

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/attune-run/attune/queue/natsq"
)

// poolDrain is what the protocol costs the processors once executions wait: those of worker and server, without engine and child. It
// says more than executions a second where the machine does other work as well.
func (b *bench) poolDrain() error {
	const n, slots = 3000, 8
	for _, sync := range []string{natsq.SyncAlways, natsq.SyncRelaxed} {
		used, err := b.drain("drain-"+sync, sync, n, slots)
		if err != nil {
			return err
		}
		point("protocol of one execution, sync "+sync, fmt.Sprintf("%.2f ms of processor time", 1000*used.Seconds()/n))
	}
	return nil
}

// drain fills a store, then serves it, and gives the processor time of the second.
func (b *bench) drain(name, sync string, n, slots int) (used time.Duration, err error) {
	full, err := b.newCurvePool(name, natsq.SyncRelaxed)
	if err != nil {
		return 0, err
	}
	if err := errors.Join(full.submitOver(n, 1), full.close()); err != nil {
		return 0, err
	}
	c, err := b.newCurvePool(name, sync)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	before, err := processorTime()
	if err != nil {
		return 0, err
	}
	if err := errors.Join(c.serve(slots, map[string]string{"r0": "1"}), c.drained()); err != nil {
		return 0, err
	}
	after, err := processorTime()
	return after - before, err
}

// processorTime is what this process has used.
func processorTime() (time.Duration, error) {
	var usage syscall.Rusage
	err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), err
}
