package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/attune-run/attune/internal/telemetry"
	"github.com/attune-run/attune/internal/version"
	"github.com/attune-run/attune/worker"
)

// submitTraced submits within a span of its own, where the OTEL_ variables name a collector. The execution's spans lie below it.
func (a *app) submitTraced(client *worker.Client, order worker.Order) (worker.Accepted, error) {
	traces, err := telemetry.NewTraces(a.ctx, "attune-worker", version.String(), slog.New(slog.DiscardHandler))
	if err != nil {
		return worker.Accepted{}, err
	}
	name := order.Request.Action
	if name == "" {
		name = "script"
	}
	within, end := traces.Submit(a.ctx, order.Request.Context.Traceparent, name)
	order.Request.Context.Traceparent = within
	accepted, err := client.Submit(a.ctx, order)
	end(accepted.ID, err)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), 2*time.Second)
	defer cancel()
	_ = traces.Close(ctx) // a collector that is away is no reason to fail what was accepted
	return accepted, err
}
