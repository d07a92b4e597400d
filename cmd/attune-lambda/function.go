package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"
	"golang.org/x/sync/semaphore"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/config"
)

const (
	// reserve is kept back of an invocation's time, to end the action and to answer.
	reserve = 1500 * time.Millisecond
	// leastTime is what a call must have left of it to be started.
	leastTime = 250 * time.Millisecond
	// lambdaGrace lies between SIGTERM and SIGKILL in Lambda, which ends the function itself 500 ms after its SIGTERM when an extension is
	// registered (https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html#runtimes-lifecycle-shutdown).
	lambdaGrace = 200 * time.Millisecond
	// httpGrace is for container platforms, which give about 10 s for everything.
	httpGrace = 2 * time.Second
)

// function runs calls. It is safe for concurrent use.
type function struct {
	settings
	name    string // of the Lambda function; empty elsewhere
	log     *slog.Logger
	service *executor.Service
	disk    *disk
	ledger  *ledger // nil: every call runs
	bucket  *bucket // nil: large results are errors

	slots   chan struct{}           // holds one token for each record or HTTP request that is running
	base    context.Context         // ends with SIGTERM
	stop    context.CancelCauseFunc // ends base
	running *semaphore.Weighted     // holds 1 for each invocation; all of it once the function ends
}

// newFunction makes the function from its environment; it starts no process and builds nothing.
func newFunction(environ []string, overHTTP bool, log *slog.Logger) (*function, error) {
	env := variables(environ)
	s, err := readSettings(env)
	if err != nil {
		return nil, err
	}
	cfg, err := config.Load(config.Flags{}, defaults(env), environ)
	if err != nil {
		return nil, err
	}
	engine := cfg.Executor()
	name := env["AWS_LAMBDA_FUNCTION_NAME"]
	engine.Environ, engine.Log, engine.Masked, engine.Grace, engine.Worker = environ, log, credentialsIn(env), lambdaGrace, name
	if overHTTP {
		engine.Grace = httpGrace
	}
	f := &function{settings: s, name: name, log: log, slots: make(chan struct{}, s.concurrency), running: semaphore.NewWeighted(math.MaxInt64)}
	if f.service, err = executor.New(engine); err != nil {
		return nil, err
	}
	f.disk = newDisk(f.service, s, engine.CacheDir, !overHTTP && env["AWS_LAMBDA_INITIALIZATION_TYPE"] != "")
	if s.table != "" {
		f.ledger = newLedger(s.table, s.ttl, env)
	}
	if s.bucket != "" {
		f.bucket = newBucket(s.bucket, env)
	}
	f.base, f.stop = context.WithCancelCause(context.Background())
	return f, f.service.Start(f.base)
}

// invocation is what calls of one event have in common.
type invocation struct {
	id     string    // of Lambda's or the HTTP request
	source source    // of its event
	until  time.Time // when actions must have ended; zero: whenever they do
	trace  string    // X-Ray's header; may be empty
}

// outcome is how a call ended: with a document, or refused.
type outcome struct {
	document document
	refused  *refusal // nil when document is one
	replayed bool     // the document is that of an earlier delivery
}

// succeeded tells whether the action was run, now or before, with success.
func (o *outcome) succeeded() bool {
	return o.refused == nil && o.document.Status == executor.Succeeded
}

// run takes a call to its outcome.
func (f *function) run(ctx context.Context, in invocation, c call) outcome {
	log := f.log.With("requestId", in.id)
	o := f.runOnce(ctx, in, &c, log)
	f.tell(log, &c, &o)
	return o
}

// runOnce runs a call unless it may not run, or was run before.
func (f *function) runOnce(ctx context.Context, in invocation, c *call, log *slog.Logger) outcome {
	if err := f.prepare(in, c); err != nil {
		return refused(err)
	}
	if err := f.hasTime(in); err != nil {
		return refused(err)
	}
	if f.ledger == nil || c.fresh {
		return f.execute(ctx, in, c, log)
	}
	entry, err := f.ledger.begin(ctx, f.name, c, in.until)
	if err != nil {
		return refused(err)
	}
	if entry.document != nil {
		return outcome{document: *entry.document, replayed: true}
	}
	o := f.execute(ctx, in, c, log)
	if err := f.record(ctx, in, entry, &o); err != nil {
		log.Error("the result could not be stored: the same id may run again", "error", err.Error(), "execution", c.request.ID)
	}
	return o
}

// record stores a result for the second who asks. What the event's source tries again is forgotten instead, and so is what attune itself
// could not do.
func (f *function) record(ctx context.Context, in invocation, entry *ledgerEntry, o *outcome) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	final := o.refused == nil && (o.document.Status == executor.Succeeded || o.document.Status == executor.Failed || o.document.Status == executor.TimedOut)
	retried := !in.source.answered() || f.failAsError && in.source != sourceHTTP
	if !final || retried && !o.succeeded() {
		return f.ledger.forget(ctx, entry)
	}
	return f.ledger.end(ctx, entry, f.storable(ctx, o.document))
}

// prepare completes a request and refuses what the operator does not allow. An error is a *refusal.
func (f *function) prepare(in invocation, c *call) error {
	if c.err != nil {
		return c.err
	}
	r := &c.request
	if err := f.allowed(c); err != nil {
		return err
	}
	if c.direct && r.ID != "" {
		if _, err := uuid.Parse(r.ID); err != nil {
			return malformed("id %q is not a UUID", r.ID)
		}
	}
	r.ID = executionID(cmp.Or(c.id, in.id))
	r.Context.Trigger = strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return -1
		}
		return c
	}, r.Context.Trigger)
	if trace := cmp.Or(c.trace, in.trace); printable(trace) {
		env := map[string]string{}
		maps.Copy(env, r.Env)
		env[traceVariable] = trace
		r.Env = env
		r.Context.Traceparent = cmp.Or(r.Context.Traceparent, traceparent(trace))
	}
	return nil
}

// allowed checks the action against the allow-list. Callers never choose scripts, nor variables that could bring some along.
func (f *function) allowed(c *call) error {
	r := &c.request
	if !c.direct {
		if r.Action = f.action; r.Action == "" {
			return forbidden("no action runs for this kind of event", "ATTUNE_LAMBDA_ACTION names one")
		}
		return nil
	}
	switch {
	case r.NotBefore != "":
		return malformed("not_before is for a pool of workers: a function runs what it gets at once")
	case r.Script != nil:
		return forbidden("a request names an action here, never a script", "")
	}
	r.Action = cmp.Or(r.Action, f.action)
	name, _, _ := strings.Cut(r.Action, "@")
	if r.Action != f.action && !matches(f.allow, name) {
		return forbidden(fmt.Sprintf("action %q is not allowed", r.Action), "ATTUNE_LAMBDA_ALLOW lists the allowed ones")
	}
	for _, variable := range slices.Concat(r.SecretEnv, slices.Sorted(maps.Keys(r.Env))) {
		if !matches(f.requestEnv, variable) {
			return forbidden(fmt.Sprintf("a request may not set the variable %q", variable), "ATTUNE_LAMBDA_REQUEST_ENV lists those it may")
		}
	}
	return nil
}

// executionID is a UUID of what identifies a request: itself where it is one, else always the same for the same.
func executionID(id string) string {
	if parsed, err := uuid.Parse(id); err == nil {
		return parsed.String()
	}
	if id == "" {
		return uuid.Must(uuid.NewV7()).String()
	}
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte(id)).String()
}

func (f *function) hasTime(in invocation) error {
	if in.until.IsZero() || time.Until(in.until) >= leastTime {
		return nil
	}
	return &refusal{kind: "timeout", status: http.StatusGatewayTimeout,
		message: fmt.Sprintf("not started: under %s are left of the function's time, %s of it being kept back to answer", leastTime, reserve),
		hint:    "a longer timeout of the function, or a smaller batch, gives it time"}
}

// execute runs a call on this machine.
func (f *function) execute(ctx context.Context, in invocation, c *call, log *slog.Logger) outcome {
	if err := f.disk.enter(ctx); err != nil {
		return refused(err)
	}
	defer f.disk.leave()
	if !in.until.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, in.until)
		defer cancel()
	}
	log = log.With("execution", c.request.ID, "action", c.request.Action)
	stderr := &lines{log: log, stream: "stderr"}
	observer := executor.Observer{Stderr: stderr}
	stdout := &lines{log: log, stream: "stdout"}
	if !in.source.answered() { // nobody sees the result, so the log has what it printed
		observer.Stdout = stdout
	}
	result := f.service.Execute(ctx, c.request, observer)
	stdout.flush()
	stderr.flush()
	if result.Environment.State == "built" {
		f.disk.prune(ctx)
	}
	return outcome{document: document{Result: result}}
}

// tell logs how a call ended.
func (f *function) tell(log *slog.Logger, c *call, o *outcome) {
	if o.refused != nil {
		log.Warn("not run", "execution", c.request.ID, "action", c.request.Action, "kind", o.refused.kind, "error", o.refused.Error())
		return
	}
	d := &o.document
	attrs := []any{"execution", d.ID, "action", d.Action, "status", string(d.Status), "exit_code", d.ExitCode, "duration_ms", d.DurationMS}
	if o.replayed {
		attrs = append(attrs, "replayed", true)
	}
	if d.Error != nil {
		log.Warn("execution ended", append(attrs, "kind", d.Error.Kind, "error", d.Error.Message)...)
		return
	}
	log.Info("execution ended", attrs...)
}

func refused(err error) outcome {
	var r *refusal
	if !errors.As(err, &r) {
		r = &refusal{kind: "internal", status: http.StatusInternalServerError, message: err.Error()}
	}
	return outcome{refused: r}
}

func forbidden(message, hint string) *refusal {
	return &refusal{kind: "request", status: http.StatusForbidden, message: message, hint: hint}
}
