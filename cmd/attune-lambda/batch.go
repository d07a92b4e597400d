package main

import (
	"context"
	"fmt"
	"net/http"
	"sync"
)

// runAll runs a batch's calls: those of one group in order, until one of them fails, all others beside each other, as many at the same time as
// there are slots. What was not started is refused.
func (f *function) runAll(ctx context.Context, in invocation, calls []call) []outcome {
	outcomes := make([]outcome, len(calls))
	var group sync.WaitGroup
	for _, queue := range queues(calls) {
		group.Go(func() { f.runInOrder(ctx, in, calls, queue, outcomes) })
	}
	group.Wait()
	return outcomes
}

// queues are the indexes of the calls that must run one after the other.
func queues(calls []call) [][]int {
	var all [][]int
	at := map[string]int{}
	for i, c := range calls {
		if c.group == "" {
			all = append(all, []int{i})
			continue
		}
		n, ok := at[c.group]
		if !ok {
			n = len(all)
			at[c.group], all = n, append(all, nil)
		}
		all[n] = append(all[n], i)
	}
	return all
}

func (f *function) runInOrder(ctx context.Context, in invocation, calls []call, queue []int, outcomes []outcome) {
	failed := ""
	for _, i := range queue {
		if failed != "" {
			outcomes[i] = refused(notStarted(fmt.Sprintf("record %s of its group failed before it", failed)))
			continue
		}
		outcomes[i] = f.runInSlot(ctx, in, calls[i])
		if !outcomes[i].succeeded() {
			failed = calls[i].id
		}
	}
}

func (f *function) runInSlot(ctx context.Context, in invocation, c call) outcome {
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
		return f.run(ctx, in, c)
	case <-ctx.Done():
		return refused(notStarted(context.Cause(ctx).Error()))
	}
}

func notStarted(why string) *refusal {
	return &refusal{kind: "canceled", status: http.StatusServiceUnavailable, message: "not started: " + why}
}
