package executor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/internal/redact"
	"github.com/attune-run/attune/proc"
	"github.com/attune-run/attune/recipe"
	"github.com/attune-run/attune/runtime"
)

// Execute takes a request to its result. It always returns a complete one: a
// non-zero exit, a timeout and a cancellation are results like any other, and
// attune's own failures are results of status Errored with kind and stage.
//
// A context that ends cancels the execution; its cause may be a *Cancellation. One whose deadline passes is a timeout.
func (s *Service) Execute(ctx context.Context, req Request, obs Observer) Result {
	x := s.newExecution(req, obs)
	defer x.release()
	for _, stage := range []struct {
		name string
		do   func(context.Context) error
	}{
		{stageLoad, x.load},               // request → job: what to run and how
		{stageValidate, x.validate},       // parameters, secrets, variables
		{stageDetect, x.detect},           // → interpreter
		{stageEnvironment, x.environment}, // → environment, held until release
		{stageRun, x.run},                 // → exit
		{stageDecode, x.decode},           // exit, output → result
	} {
		if err := x.timed(ctx, stage.name, stage.do); err != nil {
			x.fail(ctx, err)
			break
		}
	}
	return x.finish()
}

// The stages, named as in Result.Timings.
const (
	stageLoad        = "load"
	stageValidate    = "validate"
	stageDetect      = "detect"
	stageEnvironment = "environment"
	stageSpawn       = "spawn"
	stageRun         = "run"
	stageDecode      = "decode"
)

// execution is the state of one Execute; each stage fills its part.
type execution struct {
	svc   *Service
	req   Request
	local Local
	obs   Observer
	res   Result

	stage   string
	started time.Time // monotonic

	job         job                 // load
	values      map[string]any      // validate: parameters with secrets merged over them
	secrets     map[string]string   // validate: resolved references
	redact      *redact.Set         // the service's, until validate finds secrets of this execution
	protected   map[string]bool     // validate: the values it added to redact
	digest      chan digest         // load starts it, finish joins it; nil for a bare script
	interpreter runtime.Interpreter // detect
	command     recipe.Command      // environment
	env         *envcache.Env       // environment; nil when none is needed
	held        *os.File            // run: the child's own hold of env
	private     *proc.PrivateDir    // run
	streams     streams             // run
	exit        proc.Exit           // run
}

type digest struct {
	text string
	err  error
}

func (s *Service) newExecution(req Request, obs Observer) *execution {
	x := &execution{svc: s, req: req, obs: obs, started: time.Now(), redact: s.masked}
	if req.Local != nil {
		x.local = *req.Local
	}
	id := req.ID
	if id == "" {
		id = uuid.Must(uuid.NewV7()).String()
	}
	x.res = Result{
		Schema: ResultSchema, ID: id, Action: req.name(), Worker: s.cfg.Worker, Attempt: 1,
		StartedAt: x.started.UTC(), Environment: EnvironmentInfo{State: "none"},
		Isolation: IsolationInfo{Applied: "none", Guarantees: map[string]string{}, Missing: []string{}},
		Limits:    []LimitInfo{}, Artifacts: []Artifact{},
	}
	return x
}

// timed runs one stage between its two events and notes how long it took.
func (x *execution) timed(ctx context.Context, name string, do func(context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	x.stage = name
	x.event(Event{Kind: StageStarted, Stage: name})
	begun := time.Now()
	err := do(ctx)
	elapsed := time.Since(begun)
	switch t := &x.res.Timings; name {
	case stageLoad:
		t.Load = milliseconds(elapsed)
	case stageValidate:
		t.Validate = milliseconds(elapsed)
	case stageDetect:
		t.Detect = milliseconds(elapsed)
	case stageEnvironment:
		t.Environment = milliseconds(elapsed)
	case stageRun:
		t.Spawn = milliseconds(x.exit.Spawn)
		t.Run = milliseconds(elapsed - x.exit.Spawn)
	case stageDecode:
		t.Decode = milliseconds(elapsed)
	}
	x.event(Event{Kind: StageFinished, Stage: name, Elapsed: elapsed})
	return err
}

// detect finds the interpreter that fits the job.
func (x *execution) detect(ctx context.Context) error {
	found, err := x.svc.find(ctx, &x.job)
	if err != nil {
		return noRuntime(err)
	}
	x.interpreter = found
	x.res.Runtime = RuntimeInfo{Name: x.job.spec.Name, Version: found.Version, Path: found.Path}
	return nil
}

// environment makes sure that the job's environment exists, holds it, and asks
// its recipe for the command. Before that a pinned pack is compared: building runs the pack's code.
func (x *execution) environment(ctx context.Context) error {
	if err := x.awaitPin(); err != nil {
		return err
	}
	if err := x.inlineFile(); err != nil {
		return err
	}
	err := x.makeReady(ctx)
	var gone *envcache.InterpreterError
	if errors.As(err, &gone) { // it vanished since it was detected: there may be another
		if err := x.detect(ctx); err != nil {
			return err
		}
		err = x.makeReady(ctx)
	}
	if err != nil {
		return environmentFailure(err)
	}
	return nil
}

// makeReady takes the interpreter to the command that runs the job.
func (x *execution) makeReady(ctx context.Context) error {
	plan, err := x.svc.plan(ctx, &x.job, x.interpreter, x.local)
	if err != nil {
		return err
	}
	if plan.needed {
		x.env, err = x.svc.acquire(ctx, plan, x.local, func(p envcache.Progress) {
			x.event(Event{Kind: EnvironmentProgress, Stage: stageEnvironment, Progress: &p})
		})
		if err != nil {
			return err
		}
		x.res.Environment = EnvironmentInfo{
			Key: x.env.ID, State: string(x.env.State), Path: x.env.Dir,
			Locked: x.env.Built.Locked, Resolved: x.env.Resolved,
		}
	}
	x.command, err = plan.recipe.Command(plan.input, x.env)
	return err
}

// fail turns a stage's error into the result's.
func (x *execution) fail(ctx context.Context, err error) {
	var f *failure
	var canceled *Cancellation
	if errors.As(err, &f) && (x.stage == stageEnvironment || f.kind == kindSpawn) {
		err = vanished(x.interpreter, err)
	}
	switch {
	case errors.As(context.Cause(ctx), &canceled) || errors.Is(err, context.Canceled):
		x.cancel(ctx)
		return
	case errors.Is(context.Cause(ctx), context.DeadlineExceeded):
		f = x.pastDeadline()
	case errors.As(err, &f):
	default:
		f = &failure{kind: "internal", err: err}
	}
	x.res.Status, x.res.ExitCode = Errored, ExitAttune
	if f.status != "" {
		x.res.Status = f.status
	}
	if f.exit != 0 {
		x.res.ExitCode = f.exit
	}
	stage := x.stage
	if f.kind == kindSpawn {
		stage = stageSpawn
	}
	x.res.Error = &Error{Kind: f.kind, Stage: stage, Message: x.redact.String(f.Error()), Hint: x.redact.String(f.hint)}
}

// cancel marks an execution that a signal or its caller ended.
func (x *execution) cancel(ctx context.Context) {
	x.res.Status, x.res.ExitCode = Canceled, 128+int(syscall.SIGTERM)
	message := "canceled"
	var c *Cancellation
	if errors.As(context.Cause(ctx), &c) {
		x.res.ExitCode = 128 + int(c.Signal)
		message = c.Error()
	}
	x.res.Error = &Error{Kind: "canceled", Stage: x.stage, Message: message}
}

// release lets go of everything the execution held on this machine. It may be
// called twice.
func (x *execution) release() {
	x.releaseEnvironment()
	if x.private != nil {
		if err := x.private.Release(x.unspoilt()); err != nil {
			x.warn("remove the private directory: %v", err)
		}
		x.private = nil
	}
}

func (x *execution) releaseEnvironment() {
	if x.held != nil {
		_ = x.held.Close()
		x.held = nil
	}
	if x.env != nil {
		if err := x.env.Close(); err != nil {
			x.warn("release environment %s: %v", x.env.ID, err)
		}
		x.env = nil
	}
}

// finish completes the result after the last stage.
func (x *execution) finish() Result {
	x.release()
	if x.digest != nil {
		d := <-x.digest
		x.res.Pack.Digest = d.text
		if d.err != nil {
			x.warn("digest of pack %s: %v", x.res.Pack.Ref, d.err)
		}
	}
	x.streams.fill(&x.res)
	x.res.FinishedAt = x.res.StartedAt.Add(time.Since(x.started))
	x.res.DurationMS = milliseconds(time.Since(x.started))
	return x.res
}

func (x *execution) event(e Event) {
	if x.obs.Event != nil {
		x.obs.Event(e)
	}
}

func (x *execution) warn(format string, args ...any) {
	message := x.redact.String(fmt.Sprintf(format, args...))
	x.svc.cfg.Log.Warn(message, "execution", x.res.ID)
	x.event(Event{Kind: Warning, Stage: x.stage, Message: message})
}

// Cancellation is the cause of a context that a signal canceled.
type Cancellation struct{ Signal syscall.Signal }

// Error names the signal.
func (c *Cancellation) Error() string { return "canceled by " + signalName(c.Signal) }

// callerDir is where relative paths of the request are looked up.
func (x *execution) callerDir() (string, error) {
	if x.local.Dir != "" {
		return x.local.Dir, nil
	}
	return os.Getwd()
}
