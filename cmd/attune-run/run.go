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
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/pack"
	"github.com/attune-run/attune/recipe"
)

// target is what is to be run and with which choices; run and explain share it.
type target struct {
	Target string   `arg:"" name:"action|script" help:"An action (pack.action) or a script's path." predictor:"action"`
	Args   []string `arg:"" optional:"" help:"The script's own arguments."`

	Param      []string `short:"p" placeholder:"K=V" sep:"none" help:"Parameter, read by its declared type; K:=JSON for a JSON value. Repeat for more, or for the items of an array."`
	ParamsFile string   `placeholder:"FILE" help:"JSON or YAML file of parameters; - is stdin."`
	SecretEnv  []string `placeholder:"NAME" help:"Hand the secret NAME over as a variable."`
	Env        []string `placeholder:"K=V" sep:"none" help:"Variable for the action."`

	secretFlags `embed:""`
	signedFlag  `embed:""`

	Timeout        executor.Duration `placeholder:"D" help:"Longest run: 90, 30s, 5m."`
	Runtime        string            `placeholder:"NAME" help:"Runtime of a script, in place of its first line and extension."`
	RuntimeVersion string            `placeholder:"C" help:"Version constraint: 3.12, >=20, ^18."`
	OutputFormat   string            `enum:",text,json,yaml,jsonl" default:"" placeholder:"F" help:"How a script's stdout is read: text, json, yaml, jsonl."`

	Profile       string `enum:",sealed,host" default:"" placeholder:"P" help:"sealed (default for actions) or host (default for scripts)."`
	Cwd           string `placeholder:"DIR" help:"Working directory: pack, caller, workspace or a path."`
	InheritEnv    bool   `help:"Hand the caller's environment over."`
	Isolation     string `placeholder:"LEVEL" help:"none, basic or strict."`
	IsolationMode string `enum:",best-effort" default:"" placeholder:"MODE" help:"best-effort runs with what can be had."`

	IsolationNetwork string   `enum:",host,none" default:"" placeholder:"N" help:"host (default) or none: the action's own network."`
	Limit            []string `placeholder:"L=V" sep:"none" help:"Bound the action: memory=512M, pids=100, cpu=1.5, cpu_time=60, file_size, open_files, disk."`

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
	service, cfg, err := a.service()
	if err != nil {
		return err
	}
	reports, err := c.reports(a, c.Output == "json")
	if err != nil {
		return err
	}
	ctx, force := signals(a.ctx)

	req.Local.Force, req.Local.Grace = force, cmp.Or(time.Duration(c.Grace), cfg.grace())
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
	req := executor.Request{
		Args: t.Args, SecretEnv: t.SecretEnv, Timeout: t.Timeout, RuntimeVersion: t.RuntimeVersion,
		Isolation: t.Isolation, IsolationMode: t.IsolationMode, IsolationNetwork: t.IsolationNetwork,
		Local: &executor.Local{
			Profile: executor.Profile(t.Profile), Cwd: t.Cwd, InheritEnv: t.InheritEnv, Stdin: a.std.in,
			OutputFormat: t.OutputFormat, Locked: t.Locked, Network: t.network(), RetryFailed: t.RetryFailed,
		},
	}
	req.Local.AgeIdentity, req.Local.RequireSignature = t.AgeIdentity, t.RequireSignature
	if isScript(t.Target) || t.Runtime != "" {
		req.Script = &executor.Script{Path: t.Target, Runtime: t.Runtime}
	} else {
		req.Action = t.Target
	}
	var err error
	if req.Secrets, err = pairs("--secret", t.Secret); err != nil {
		return req, err
	}
	if req.Env, err = pairs("--env", t.Env); err != nil {
		return req, err
	}
	if req.Limits, err = limitFlags(t.Limit); err != nil {
		return req, err
	}
	for _, text := range t.Param {
		argument, err := parseArgument(text)
		if err != nil {
			return req, err
		}
		req.Local.Arguments = append(req.Local.Arguments, argument)
	}
	req.Parameters, err = t.paramsFile(a.std.in)
	if t.ParamsFile == "-" {
		req.Local.Stdin = nil // it has been read
	}
	return req, err
}

func (t *target) network() recipe.Network {
	if t.Offline {
		return recipe.Offline
	}
	return recipe.Network(t.Network)
}

func parseArgument(text string) (executor.Argument, error) {
	name, value, ok := strings.Cut(text, "=")
	if !ok || name == "" || name == ":" {
		return executor.Argument{}, fmt.Errorf("-p %s: write it as name=value, or name:=JSON", strings.TrimSuffix(name, ":"))
	}
	if trimmed, isJSON := strings.CutSuffix(name, ":"); isJSON {
		return executor.Argument{Name: trimmed, Text: value, JSON: true}, nil
	}
	return executor.Argument{Name: name, Text: value}, nil
}

// pairs reads K=V flags. A value may be secret, so errors show the name alone.
func pairs(flag string, texts []string) (map[string]string, error) {
	if len(texts) == 0 {
		return nil, nil
	}
	all := make(map[string]string, len(texts))
	for i, text := range texts {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("%s number %d: write it as name=value", flag, i+1)
		}
		all[name] = value
	}
	return all, nil
}

// paramsFile reads --params-file: JSON when it starts like it, else YAML.
func (t *target) paramsFile(stdin io.Reader) (map[string]any, error) {
	if t.ParamsFile == "" {
		return nil, nil
	}
	data, err := readInput(t.ParamsFile, stdin)
	if err != nil {
		return nil, fmt.Errorf("--params-file: %w", err)
	}
	decode := pack.DecodeYAML
	if strings.HasPrefix(strings.TrimSpace(string(data[:min(len(data), 64)])), "{") {
		decode = pack.DecodeJSON
	}
	value, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("--params-file %s: %w", t.ParamsFile, err)
	}
	object, ok := value.(map[string]any)
	if !ok && value != nil {
		return nil, fmt.Errorf("--params-file %s: holds no object of parameters", t.ParamsFile)
	}
	return object, nil
}

const paramsMax = 64 << 20

func readInput(name string, stdin io.Reader) ([]byte, error) {
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		stdin = f
	}
	data, err := io.ReadAll(io.LimitReader(stdin, paramsMax+1))
	if err == nil && len(data) > paramsMax {
		err = fmt.Errorf("%s holds more than %d bytes", name, paramsMax)
	}
	return data, err
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
func (c config) grace() time.Duration {
	if c.env["GITHUB_ACTIONS"] == "true" {
		return 5 * time.Second
	}
	return 10 * time.Second
}
