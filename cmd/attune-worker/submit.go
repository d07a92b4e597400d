package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/requestflags"
	"github.com/attune-run/attune/internal/show"
	"github.com/attune-run/attune/queue"
	"github.com/attune-run/attune/worker"
)

// placementFlags say how the pool runs a request.
type placementFlags struct {
	Priority int               `placeholder:"N" help:"Above 0 before others, below 0 after them."`
	Retries  int               `default:"-1" placeholder:"N" help:"Run it again after a failure, so often at most; else as the action says."`
	Backoff  executor.Duration `placeholder:"D" help:"Pause before the first retry, doubled each time; 1s unless said."`
	OnLost   string            `enum:",fail,retry" default:"" placeholder:"W" help:"fail (default) or retry: what a lost worker means once the action had started."`
	Selector []string          `placeholder:"K=V" sep:"none" help:"Label that the worker must have (repeatable)."`
	Tolerate []string          `placeholder:"K=V" sep:"none" help:"Taint that the worker may have (repeatable); K alone means any value."`
	Prefer   []string          `placeholder:"K=V:W" sep:"none" help:"Label that the worker should have, with a weight from -100 to 100 (repeatable)."`
}

func (f *placementFlags) fill(req *executor.Request) error {
	req.Priority, req.OnLost = f.Priority, f.OnLost
	if f.Retries >= 0 {
		req.Retries = &executor.Retries{Max: f.Retries, Backoff: f.Backoff}
	} else if f.Backoff != 0 {
		return errors.New("--backoff: say --retries as well")
	}
	for _, text := range f.Selector {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return fmt.Errorf("--selector %s: write it as name=value", text)
		}
		if req.Selector == nil {
			req.Selector = map[string]any{}
		}
		req.Selector[name] = value
	}
	for _, text := range f.Tolerate {
		name, value, ok := strings.Cut(text, "=")
		toleration := map[string]any{"key": name, "operator": "Exists"}
		if ok {
			toleration = map[string]any{"key": name, "value": value}
		}
		req.Tolerations = append(req.Tolerations, toleration)
	}
	for _, text := range f.Prefer {
		label, weight, _ := cutLast(text, ":")
		name, value, ok := strings.Cut(label, "=")
		number, err := strconv.Atoi(weight)
		if !ok || err != nil {
			return fmt.Errorf("--prefer %s: write it as name=value:weight", text)
		}
		req.Affinity = append(req.Affinity, map[string]any{"weight": json.Number(strconv.Itoa(number)), "labels": map[string]any{name: value}})
	}
	return nil
}

func cutLast(text, separator string) (before, after string, found bool) {
	at := strings.LastIndex(text, separator)
	if at < 0 {
		return text, "", false
	}
	return text[:at], text[at+len(separator):], true
}

type submitCmd struct {
	Target string   `arg:"" optional:"" name:"action|script" predictor:"action" help:"An action (pack.action) or a script's path; left out, or -: requests (attune.request/v1) from stdin, one on each line."`
	Args   []string `arg:"" optional:"" help:"The script's own arguments, behind --."`

	requestflags.Flags `embed:""`
	placementFlags     `embed:""`
	signFlag           `embed:""`

	IdempotencyKey string            `placeholder:"KEY" help:"What is submitted twice with it runs once: a UUID, or any text that one is made from."`
	At             string            `placeholder:"TIME" xor:"when" help:"Not before this time (RFC 3339)."`
	In             time.Duration     `placeholder:"D" xor:"when" help:"Not before so long from now."`
	Deadline       executor.Duration `placeholder:"D" help:"Not at all unless it has started so long from now; 24h when it is signed."`

	Wait       bool   `help:"Show its output as it comes, and exit as it did; Ctrl-C cancels it."`
	Output     string `short:"o" enum:"text,json" default:"text" help:"text: the id, or with --wait the action's own output; json: a document."`
	ResultFile string `placeholder:"FILE" type:"path" help:"With --wait: write the result document here as well."`
	Quiet      bool   `short:"q" help:"No word about where it stands while waiting."`
}

// Help shows examples under `submit --help`.
func (submitCmd) Help() string {
	return `Examples:
  attune-worker submit core.echo -p message=hello --wait
  attune-worker submit ops.deploy --idempotency-key "deploy $GIT_COMMIT" --retries 3
  attune-worker submit reports.daily --at 2026-01-31T03:00:00Z
  attune-worker submit ./backup.sh --wait -- --full       (where workers take scripts: serve --allow-scripts)
  jq -c '{action: "core.echo", parameters: {message: .}}' < lines.json | attune-worker submit`
}

// Run submits one request, or those of stdin.
func (c *submitCmd) Run(a *app) error {
	many := c.Target == "" || c.Target == "-"
	client, closer, err := a.client(c.signFlag, len(a.cli.Packs) > 0 || !many && (requestflags.IsScript(c.Target) || c.Runtime != "") || many)
	if err != nil {
		return err
	}
	defer closer()
	if many {
		return c.many(a, client)
	}
	order, err := c.order(a)
	if err != nil {
		return err
	}
	accepted, err := a.submitTraced(client, order)
	if err != nil {
		return err
	}
	if c.Wait {
		return c.follow(a, client, accepted)
	}
	if c.Output == "json" {
		return show.Line(a.std.out, accepted)
	}
	_, err = fmt.Fprintln(a.std.out, accepted.ID)
	return err
}

// order is what the flags ask for.
func (c *submitCmd) order(a *app) (worker.Order, error) {
	req, err := c.Request(c.Target, c.Args, a.std.in)
	if err != nil {
		return worker.Order{}, err
	}
	if err := c.fill(&req); err != nil {
		return worker.Order{}, err
	}
	if c.IdempotencyKey != "" {
		req.ID = worker.IDOf(c.IdempotencyKey)
	}
	req.NotBefore, req.Context.Traceparent = c.At, os.Getenv("TRACEPARENT")
	return worker.Order{Request: req, In: c.In, Deadline: c.deadline()}, nil
}

func (c *submitCmd) deadline() time.Time {
	if c.Deadline == 0 {
		return time.Time{}
	}
	return time.Now().Add(time.Duration(c.Deadline))
}

// follow waits for an execution, showing what it prints, and ends as it did.
func (c *submitCmd) follow(a *app, client *worker.Client, accepted worker.Accepted) error {
	f := &follower{app: a, client: client, id: accepted.ID, out: a.std.out, quiet: c.Quiet}
	if c.Output == "json" {
		f.out = a.std.err
	}
	f.say("execution %s", accepted.ID)
	ctx, stop := f.cancelOnSignal(a.ctx)
	defer stop()
	r, result, err := f.wait(ctx)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		if _, err := a.std.out.Write(append(bytes.TrimRight(result, "\n"), '\n')); err != nil && !errors.Is(err, syscall.EPIPE) {
			return err
		}
	}
	if c.ResultFile != "" {
		if err := os.WriteFile(c.ResultFile, append(bytes.TrimRight(result, "\n"), '\n'), 0o644); err != nil {
			return fmt.Errorf("--result-file: %w", err)
		}
	}
	return f.exit(r, result)
}

// follower shows an execution as it runs.
type follower struct {
	app    *app
	client *worker.Client
	id     string
	out    *os.File // where the action's stdout goes
	quiet  bool
	shown  map[string]int // bytes of each stream
	sent   syscall.Signal // that canceled it
}

// say tells a person who waits something.
func (f *follower) say(format string, args ...any) {
	if !f.quiet {
		f.app.say(format, args...)
	}
}

var errGaveUp = errors.New("interrupted twice: the execution may still run")

// cancelOnSignal cancels the execution at the first SIGINT, SIGTERM or SIGHUP, and gives up waiting at the second.
func (f *follower) cancelOnSignal(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	received := make(chan os.Signal, 2)
	signal.Notify(received, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		for {
			select {
			case sig := <-received:
				if f.sent != 0 {
					cancel(errGaveUp)
					return
				}
				f.sent, _ = sig.(syscall.Signal)
				if _, err := f.client.Cancel(ctx, f.id); err != nil {
					f.say("cancel: %v", err)
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return ctx, func() { signal.Stop(received); cancel(nil) }
}

// wait returns the record and the result once the execution is done and its output has been shown.
func (f *follower) wait(ctx context.Context) (*queue.Record, json.RawMessage, error) {
	f.shown = map[string]int{}
	logs := make(chan error, 1)
	go func() { logs <- f.logs(ctx) }()
	r, err := f.client.Wait(ctx, f.id)
	if err != nil {
		return nil, nil, err
	}
	if err := <-logs; err != nil && ctx.Err() == nil {
		f.say("output: %v", err)
	}
	result, err := f.client.Result(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	return r, result, f.showRest(result)
}

// logs shows what comes until the execution is done.
func (f *follower) logs(ctx context.Context) error {
	return showLogs(ctx, f.client, f.id, true, func(c queue.LogChunk) error {
		f.shown[c.Stream] += len(c.Data)
		_, err := f.stream(c.Stream).Write(c.Data)
		return err
	}, f.say)
}

func (f *follower) stream(name string) *os.File {
	if name == "stderr" {
		return f.app.std.err
	}
	return f.out
}

// showRest shows the output that is in the result alone, where no log of it was kept.
func (f *follower) showRest(document json.RawMessage) error {
	var result struct{ Stdout, Stderr string }
	if err := json.Unmarshal(document, &result); err != nil {
		return fmt.Errorf("result of %s: %w", f.id, err)
	}
	for name, text := range map[string]string{"stdout": result.Stdout, "stderr": result.Stderr} {
		if f.shown[name] == 0 && text != "" {
			_, _ = f.stream(name).WriteString(text)
		}
	}
	return nil
}

// exit ends as the action did.
func (f *follower) exit(r *queue.Record, document json.RawMessage) error {
	var result executor.Result
	if err := json.Unmarshal(document, &result); err != nil {
		return fmt.Errorf("result of %s: %w", f.id, err)
	}
	if result.Error != nil {
		f.say("%s: %s", r.Outcome, result.Error.Message)
		if result.Error.Hint != "" {
			f.say("  hint: %s", result.Error.Hint)
		}
	}
	switch {
	case result.Status == executor.Canceled && f.sent != 0:
		return exitCode(128 + int(f.sent))
	case result.ExitCode != 0:
		return exitCode(result.ExitCode)
	case result.Status != executor.Succeeded:
		return exitCode(executor.ExitAttune)
	}
	return nil
}

// showLogs hands what an execution prints to a writer, and says where something is missing.
func showLogs(ctx context.Context, client *worker.Client, id string, follow bool, write func(queue.LogChunk) error, say func(string, ...any)) error {
	var epoch, number uint64
	for chunk, err := range client.Logs(ctx, id, follow) {
		if err != nil {
			return err
		}
		if chunk.Epoch != epoch {
			if epoch != 0 {
				say("another attempt begins here")
			}
			epoch, number = chunk.Epoch, 0
		}
		if chunk.Number > number+1 {
			say("%d pieces of the output are missing here", chunk.Number-number-1)
		}
		number = chunk.Number
		if err := write(chunk); err != nil {
			return err
		}
	}
	return nil
}
