package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	api "go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
)

// scope names attune's spans.
const scope = "github.com/attune-run/attune"

// Traces make spans of executions and hand their trace on to the child. The zero value makes none, and hands on what came.
type Traces struct{ provider *trace.TracerProvider }

// NewTraces exports over OTLP (HTTP, protobuf) where the OTEL_ variables of the specification name an endpoint. service is the
// default of OTEL_SERVICE_NAME. What cannot be exported is logged and costs no execution.
func NewTraces(ctx context.Context, service, version string, log *slog.Logger) (*Traces, error) {
	if os.Getenv("OTEL_SDK_DISABLED") == "true" || os.Getenv("OTEL_TRACES_EXPORTER") == "none" ||
		os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "" {
		return &Traces{}, nil
	}
	for _, name := range []string{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"} {
		if protocol := os.Getenv(name); protocol != "" && protocol != "http/protobuf" {
			return nil, fmt.Errorf("%s=%s: attune-worker speaks http/protobuf only (port 4318 of most collectors)", name, protocol)
		}
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("traces: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("traces", "error", err) }))
	about, err := resource.New(ctx, resource.WithAttributes(attribute.String("service.name", service), attribute.String("service.version", version)),
		resource.WithFromEnv(), resource.WithHost(), resource.WithProcessPID(), resource.WithTelemetrySDK())
	if err != nil {
		log.Warn("traces: resource", "error", err)
	}
	return &Traces{trace.NewTracerProvider(trace.WithBatcher(exporter), trace.WithResource(about))}, nil
}

// Close sends what was not sent yet.
func (t *Traces) Close(ctx context.Context) error {
	if t.provider == nil {
		return nil
	}
	return t.provider.Shutdown(ctx)
}

func (t *Traces) tracer() api.Tracer {
	if t.provider == nil {
		return noop.NewTracerProvider().Tracer(scope)
	}
	return t.provider.Tracer(scope)
}

// Submit begins the span of one submission, below the trace of a traceparent if there is one. The traceparent that comes back is
// what the request is to carry; end takes the error, if any.
func (t *Traces) Submit(ctx context.Context, traceparent, action string) (within string, end func(id string, err error)) {
	ctx, span := t.tracer().Start(extract(ctx, traceparent), "submit "+action, api.WithSpanKind(api.SpanKindProducer))
	within = inject(ctx)
	if within == "" {
		within = traceparent
	}
	return within, func(id string, err error) {
		span.SetAttributes(attribute.String("attune.execution.id", id), attribute.String("attune.action", action))
		endWith(span, err)
	}
}

// Claimed makes a span of the time an execution waited. It is called by worker.Observer's method of that name.
func (t *Traces) Claimed(r *queue.Record, waited time.Duration) {
	if t.provider == nil {
		return
	}
	_, span := t.tracer().Start(extract(context.Background(), r.Traceparent), "queue "+r.Action,
		api.WithTimestamp(r.ClaimedAt.Add(-waited)), api.WithSpanKind(api.SpanKindConsumer),
		api.WithAttributes(attribute.String("attune.execution.id", r.ID), attribute.Int("attune.attempt", r.Attempt)))
	span.End(api.WithTimestamp(r.ClaimedAt))
}

// Execute runs an execution.
type Execute = func(ctx context.Context, req executor.Request, obs executor.Observer) executor.Result

// Around makes one span of an execution and one of each of its stages. The child gets the trace as its TRACEPARENT.
func (t *Traces) Around(execute Execute) Execute {
	if t.provider == nil {
		return execute
	}
	return func(ctx context.Context, req executor.Request, obs executor.Observer) executor.Result {
		name := req.Action
		if name == "" {
			name = "script"
		}
		ctx, span := t.tracer().Start(extract(ctx, req.Context.Traceparent), "execute "+name, api.WithSpanKind(api.SpanKindInternal))
		req.Context.Traceparent = inject(ctx)
		stages := &stageSpans{ctx: ctx, tracer: t.tracer(), next: obs.Event}
		obs.Event = stages.event
		result := execute(ctx, req, obs)
		stages.end()
		span.SetAttributes(
			attribute.String("attune.execution.id", result.ID), attribute.String("attune.status", string(result.Status)),
			attribute.String("attune.runtime", result.Runtime.Name), attribute.String("attune.runtime.version", result.Runtime.Version),
			attribute.String("attune.environment", result.Environment.State), attribute.Int("attune.exit_code", result.ExitCode))
		if result.Status != executor.Succeeded {
			span.SetStatus(codes.Error, string(result.Status))
		}
		span.End()
		return result
	}
}

// stageSpans follow the events of one execution, which come one after the other.
type stageSpans struct {
	ctx    context.Context //nolint:containedctx // of this one execution
	tracer api.Tracer
	next   func(executor.Event)
	open   api.Span
}

func (s *stageSpans) event(e executor.Event) {
	switch e.Kind {
	case executor.StageStarted:
		s.end()
		_, s.open = s.tracer.Start(s.ctx, e.Stage)
	case executor.StageFinished:
		s.end()
	case executor.EnvironmentProgress:
		if s.open != nil && e.Progress != nil {
			s.open.AddEvent("progress", api.WithAttributes(
				attribute.String("attune.build.phase", e.Progress.Phase), attribute.String("attune.build.line", e.Progress.Line)))
		}
	case executor.ProcessStarted:
		if s.open != nil {
			s.open.AddEvent("process started", api.WithAttributes(attribute.Int("process.pid", e.PID)))
		}
	case executor.Warning:
		if s.open != nil {
			s.open.AddEvent("warning", api.WithAttributes(attribute.String("message", e.Message)))
		}
	}
	if s.next != nil {
		s.next(e)
	}
}

func (s *stageSpans) end() {
	if s.open != nil {
		s.open.End()
		s.open = nil
	}
}

func endWith(span api.Span, err error) {
	if err != nil {
		span.RecordError(err)
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}

func extract(ctx context.Context, traceparent string) context.Context {
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": traceparent})
}

func inject(ctx context.Context) string {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier["traceparent"]
}
