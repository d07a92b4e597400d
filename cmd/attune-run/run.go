package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/google/renameio/v2"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/requestflags"
	"github.com/attune-run/attune/recipe"
)

// target is what is to be run and with which choices; run and explain share it.
type target struct {
	Target string   `arg:"" name:"action|script" help:"An action (pack.action) or a script's path." predictor:"action"`
	Args   []string `arg:"" optional:"" help:"The script's own arguments."`

	requestflags.Flags `embed:""`
	identityFlag       `embed:""`
	signedFlag         `embed:""`

	OutputFormat string `enum:",text,json,yaml,jsonl" default:"" placeholder:"F" help:"How a script's stdout is read: text, json, yaml, jsonl."`

	Profile    string `enum:",sealed,host" default:"" placeholder:"P" help:"sealed (default for actions) or host (default for scripts)."`
	Cwd        string `placeholder:"DIR" help:"Working directory: pack, caller, workspace or a path."`
	InheritEnv bool   `help:"Hand the caller's environment over."`

	Locked      bool   `help:"Refuse dependencies without a lock file or hashes."`
	Network     string `enum:",online,prefer-offline,offline" default:"" placeholder:"N" help:"online, prefer-offline or offline: whether builds may reach the network."`
	Offline     bool   `help:"The same as --network offline."`
	RetryFailed bool   `help:"Build although the last build of the environment failed a moment ago."`
}

type runCmd struct {
	target `embed:""`

	Output     string `enum:"stream,json" default:"stream" help:"stream: the action's own output; json: the result document on stdout."`
	ResultFile string `placeholder:"FILE" type:"path" help:"Write the result document here as well."`
	LogDir     string `placeholder:"DIR" type:"path" help:"Keep stdout, stderr and the result here."`
	Artifacts  string `placeholder:"DIR" type:"path" help:"Copy the files of ATTUNE_ARTIFACTS_DIR here."`
	Quiet      bool   `short:"q" help:"No progress and no warnings."`
	ciFlags    `embed:""`

	Grace executor.Duration `placeholder:"D" help:"From SIGTERM to SIGKILL: 10s, in GitHub Actions 5s."`
}

// Help shows examples under `run --help`.
func (runCmd) Help() string {
	return `Examples:
  attune-run core.echo -p message=hello
  attune-run run examples.markdown_report --params-file params.json --output json
  attune-run ./report.py --day 2026-01-01          (everything behind a script is its own)
  attune-run run -p day=2026-01-01 ./report.py
  attune-run ops.deploy --secret token=env:DEPLOY_TOKEN --timeout 5m`
}

// Run runs one execution and exits as the action did.
func (c *runCmd) Run(a *app) error {
	req, err := c.request(a)
	if err != nil {
		return err
	}
	outputs, err := c.openOutputs(a)
	if err != nil {
		return err
	}
	defer outputs.discard()
	service, _, err := a.service()
	if err != nil {
		return err
	}
	reports, err := c.reports(a, c.Output == "json")
	if err != nil {
		return err
	}
	ctx, force := signals(a.ctx)

	req.Local.Force, req.Local.Grace = force, cmp.Or(time.Duration(c.Grace), grace())
	req.Local.Direct = c.Output == "stream" && c.ResultFile == "" && c.LogDir == "" && !reports.wanted()
	req.Local.Artifacts = c.Artifacts
	result := c.execute(ctx, a, service, req, outputs, reports)
	if err := outputs.commit(&result); err != nil {
		return err
	}
	if result.ExitCode != 0 || result.Status != executor.Succeeded {
		return exitCode(result.ExitCode)
	}
	return nil
}

// execute runs the request; its output goes where the flags say, and into a CI system's log as a group.
func (c *runCmd) execute(ctx context.Context, a *app, service *executor.Service, req executor.Request, o *outputs, r *reports) executor.Result {
	stdout, stderr := io.Writer(a.std.out), io.Writer(a.std.err)
	if o.json {
		stdout = a.std.err
	}
	var g *group
	if r.reporter != nil {
		g = r.begin(c.Target, true)
		stderr = g
		if !r.captured {
			stdout = g
		}
	}
	progress := newProgress(stderr, a.name, c.Quiet)
	observer := o.observer(stdout, stderr, progress)
	if !r.wanted() {
		result := service.Execute(ctx, req, observer)
		progress.finish(&result)
		return result
	}
	observer, finish := r.follow(c.Target, observer, g)
	result := service.Execute(ctx, req, observer)
	progress.finish(&result)
	finish(result)
	return result
}

// request is what the flags ask for.
func (t *target) request(a *app) (executor.Request, error) {
	req, err := t.Request(t.Target, t.Args, a.std.in)
	if err != nil {
		return req, err
	}
	local := req.Local
	local.Profile, local.Cwd, local.InheritEnv, local.OutputFormat = executor.Profile(t.Profile), t.Cwd, t.InheritEnv, t.OutputFormat
	local.Locked, local.Network, local.RetryFailed = t.Locked, t.network(), t.RetryFailed
	local.AgeIdentity, local.RequireSignature = t.AgeIdentity, t.RequireSignature
	if t.ParamsFile != "-" { // it has been read
		local.Stdin = a.std.in
	}
	return req, nil
}

func (t *target) network() recipe.Network {
	if t.Offline {
		return recipe.Offline
	}
	return recipe.Network(t.Network)
}

// signals turns the first SIGINT, SIGTERM or SIGHUP into a cancellation and the second into force, for as long as the
// process lives: to stop listening takes longer than to end.
func signals(parent context.Context) (ctx context.Context, force <-chan struct{}) {
	ctx, cancel := context.WithCancelCause(parent)
	received := make(chan os.Signal, 2)
	// A reader of stdout that went away is an error of a write, not the end of attune: SIGPIPE is caught, not ignored, for
	// the child must find the default.
	signal.Notify(received, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	now := make(chan struct{})
	go func() {
		canceled := false
		for sig := range received {
			number, _ := sig.(syscall.Signal)
			switch {
			case number == syscall.SIGPIPE:
			case canceled:
				close(now)
				return
			default:
				canceled = true
				cancel(&executor.Cancellation{Signal: number})
			}
		}
	}()
	return ctx, now
}

// outputs are the places a result goes to. They are opened before anything runs, so that a path that
// cannot be written costs no execution.
type outputs struct {
	std    stdio
	json   bool
	result *renameio.PendingFile
	logDir string
	logs   []*os.File // stdout, stderr
}

func (c *runCmd) openOutputs(a *app) (*outputs, error) {
	o := &outputs{std: a.std, json: c.Output == "json", logDir: c.LogDir}
	if c.ResultFile != "" {
		f, err := renameio.NewPendingFile(c.ResultFile, renameio.WithPermissions(0o644))
		if err != nil {
			return nil, fmt.Errorf("--result-file: %w", err)
		}
		o.result = f
	}
	if c.LogDir == "" {
		return o, nil
	}
	if err := os.MkdirAll(c.LogDir, 0o755); err != nil {
		o.discard()
		return nil, fmt.Errorf("--log-dir: %w", err)
	}
	for _, name := range []string{"stdout.log", "stderr.log"} {
		f, err := os.OpenFile(filepath.Join(c.LogDir, name), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
		if err != nil {
			o.discard()
			return nil, fmt.Errorf("--log-dir: %w", err)
		}
		o.logs = append(o.logs, f)
	}
	return o, nil
}

// observer streams the action's output, into the logs as well.
func (o *outputs) observer(stdout, stderr io.Writer, p *progress) executor.Observer {
	if len(o.logs) == 2 {
		stdout, stderr = both{o.logs[0], stdout}, both{o.logs[1], stderr}
	}
	return executor.Observer{Stdout: stdout, Stderr: stderr, Event: p.event}
}

// both writes to a log and to a live writer; only the live one's failure ends the writing.
type both struct{ log, live io.Writer }

func (b both) Write(p []byte) (int, error) {
	_, _ = b.log.Write(p) // a full disk does not end the action
	_, _ = b.live.Write(p)
	return len(p), nil
}

func (o *outputs) commit(result *executor.Result) error {
	if !o.json && o.logDir == "" && o.result == nil {
		return nil
	}
	document, err := result.JSON()
	if err != nil {
		return fmt.Errorf("encode the result: %w", err)
	}
	var failures []error
	if o.json {
		if _, err := io.Copy(o.std.out, bytes.NewReader(document)); err != nil && !errors.Is(err, syscall.EPIPE) {
			failures = append(failures, err)
		}
	}
	if o.logDir != "" {
		failures = append(failures, os.WriteFile(filepath.Join(o.logDir, "result.json"), document, 0o644))
	}
	if o.result != nil {
		if _, err := o.result.Write(document); err != nil {
			return fmt.Errorf("--result-file: %w", err)
		}
		failures = append(failures, o.result.CloseAtomicallyReplace())
	}
	return errors.Join(failures...)
}

func (o *outputs) discard() {
	if o.result != nil {
		_ = o.result.Cleanup()
	}
	for _, f := range o.logs {
		_ = f.Close()
	}
}

// grace is how long a child may take to end after SIGTERM: a CI job that is canceled in
// GitHub Actions gets 7.5 s before it is killed (GitHub's documentation of cancellation), so 5 s there.
func grace() time.Duration {
	if os.Getenv("GITHUB_ACTIONS") == "true" {
		return 5 * time.Second
	}
	return 10 * time.Second
}
