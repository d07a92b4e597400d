package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"

	"github.com/attune-run/attune/executor"
)

// serveLambda takes invocations until the process ends: with SIGTERM, or when the Runtime API cannot be reached any more. It returns
// never.
func serveLambda(f *function) {
	lambda.StartWithOptions(f.invoke, lambda.WithContext(f.base), lambda.WithEnableSIGTERM(f.terminate))
}

// terminate ends what is running, answers it, and exits. Lambda gives 500 ms.
func (f *function) terminate() {
	f.stop(&executor.Cancellation{Signal: syscall.SIGTERM})
	ctx, cancel := context.WithTimeout(context.Background(), 450*time.Millisecond)
	defer cancel()
	_ = f.running.Acquire(ctx, math.MaxInt64) // too late is as good as never
	os.Exit(0)
}

// payload is an event as it came.
type payload []byte

// UnmarshalJSON takes the text as it is.
func (p *payload) UnmarshalJSON(text []byte) error {
	*p = bytes.Clone(text)
	return nil
}

// response is JSON that is ready to be sent. The library closes it when it was.
type response struct {
	*bytes.Reader
	sent func()
}

// MarshalJSON makes the library read a response instead of encoding it.
func (*response) MarshalJSON() ([]byte, error) { return nil, errors.New("is read, not encoded") }

// ContentType is what Lambda is told.
func (*response) ContentType() string { return "application/json" }

// Close marks the invocation as answered.
func (r *response) Close() error {
	r.sent()
	return nil
}

// invoke answers one invocation.
func (f *function) invoke(ctx context.Context, event payload) (*response, error) {
	if !f.running.TryAcquire(1) {
		return nil, lambdaError("Attune.Ending", "the function's environment is being shut down")
	}
	answered := func() { f.running.Release(1) }
	data, err := f.handle(ctx, event)
	if err != nil {
		answered()
		return nil, err
	}
	return &response{bytes.NewReader(data), answered}, nil
}

// handle takes an event to its response. An error is a messages.InvokeResponse_Error.
func (f *function) handle(ctx context.Context, text []byte) ([]byte, error) {
	in := invocationOf(ctx)
	e, err := readEvent(text, f.source)
	if err != nil {
		f.log.Warn("not run", "requestId", in.id, "error", err.Error())
		return nil, functionError(refused(err))
	}
	in.source = e.source
	switch e.source {
	case sourceSQS:
		return batchResponse(e.calls, f.runAll(ctx, in, e.calls))
	case sourceSNS, sourceS3:
		if o := worst(f.runAll(ctx, in, e.calls)); !o.succeeded() {
			return nil, functionError(o)
		}
		return []byte("null"), nil
	}
	return f.respond(ctx, &e, f.run(ctx, in, e.calls[0]))
}

func invocationOf(ctx context.Context) (in invocation) {
	if lc, ok := lambdacontext.FromContext(ctx); ok {
		in.id = lc.AwsRequestID
	}
	if deadline, ok := ctx.Deadline(); ok {
		in.until = deadline.Add(-reserve)
	}
	in.trace, _ = ctx.Value("x-amzn-trace-id").(string) // the library's own key
	return in
}

// batchResponse names the records that SQS shall deliver again. That all of them failed is an error, which slows the poller down.
func batchResponse(calls []call, outcomes []outcome) ([]byte, error) {
	failures := []events.SQSBatchItemFailure{}
	for i := range outcomes {
		if !outcomes[i].succeeded() {
			failures = append(failures, events.SQSBatchItemFailure{ItemIdentifier: calls[i].id})
		}
	}
	if len(failures) == len(calls) {
		first := worst(outcomes)
		return nil, lambdaError("Attune.BatchFailed", fmt.Sprintf("all %d records failed; the first: %s", len(calls), first.reason()))
	}
	return encode(events.SQSEventResponse{BatchItemFailures: failures})
}

// worst is the first that did not succeed, else the first.
func worst(outcomes []outcome) outcome {
	for _, o := range outcomes {
		if !o.succeeded() {
			return o
		}
	}
	return outcomes[0]
}

// reportInit tells Lambda why the function cannot start
// (https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html#runtimes-api-initerror).
func reportInit(api string, cause error) error {
	const kind = "Attune.Configuration"
	body, err := encode(map[string]any{"errorMessage": cause.Error(), "errorType": kind, "stackTrace": []string{}})
	if err != nil {
		return err
	}
	request, err := http.NewRequest(http.MethodPost, "http://"+api+"/2018-06-01/runtime/init/error", bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Lambda-Runtime-Function-Error-Type", kind)
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{}} // never through a proxy
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusAccepted {
		return fmt.Errorf("the Runtime API answered %s", answer.Status)
	}
	return nil
}
