package executor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/attune-run/attune/proc"
)

// errTimedOut is the cause of a context whose execution ran out of time.
var errTimedOut = errors.New("timed out")

// run starts the child, supervises it until nothing of it is left, and collects what it left behind.
func (x *execution) run(ctx context.Context) error {
	if ctx.Err() != nil { // whoever heard that the child is about to start has ended it
		return context.Cause(ctx)
	}
	if err := x.makePrivateDir(); err != nil {
		return err
	}
	x.tellSecrets()
	if timeout := x.job.settings.timeout; timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, errTimedOut)
		defer cancel()
	}
	err := x.start(ctx)
	if x.damagedBy(err) {
		if err = x.rebuild(ctx, err); err == nil {
			err = x.start(ctx)
		}
	}
	if err != nil {
		return spawnFailure(err)
	}
	x.res.LeftoverProcesses, x.res.OOMKilled = x.exit.Leftovers, x.exit.OOMKilled
	x.reportIsolation()
	x.res.Usage = UsageInfo{
		MaxRSSBytes: x.exit.Usage.MaxRSS,
		UserMS:      milliseconds(x.exit.Usage.User), SystemMS: milliseconds(x.exit.Usage.System),
	}
	return x.collectArtifacts()
}

// start runs the child to its end. An error means that there was none.
func (x *execution) start(ctx context.Context) error {
	spec, err := x.childSpec()
	if err == nil {
		x.exit, err = proc.Run(ctx, spec)
	}
	return err
}

// childSpec is the process that runs the job.
func (x *execution) childSpec() (proc.Spec, error) {
	argv, err := x.argv()
	if err != nil {
		return proc.Spec{}, err
	}
	env, err := x.childEnv()
	if err != nil {
		return proc.Spec{}, err
	}
	dir, err := x.workingDir()
	if err != nil {
		return proc.Spec{}, err
	}
	stdin, err := x.stdin()
	if err != nil {
		return proc.Spec{}, err
	}
	spec := proc.Spec{
		Argv: argv, Env: env, Dir: dir, Stdin: stdin,
		Foreground: x.job.settings.profile == Host,
		Grace:      cmp.Or(x.local.Grace, x.svc.cfg.Grace), Force: x.local.Force, Secrets: x.redact,
		Started: func(pid int) { x.event(Event{Kind: ProcessStarted, Stage: stageRun, PID: pid}) },
	}
	spec.Isolation, spec.Limits = x.isolation(dir), x.job.bounds
	if x.job.settings.private {
		umask := 0o077
		spec.Umask = &umask
	}
	if x.env != nil {
		hold, err := x.env.Hold()
		if err != nil {
			return proc.Spec{}, environmentFailure(err)
		}
		if hold != nil { // a layer's environment needs no hold
			x.held = hold
			spec.Hold = []*os.File{hold}
		}
	}
	x.streams = x.newStreams()
	spec.Stdout, spec.Stderr, spec.Direct = x.streams.stdoutSink, x.streams.stderrSink, x.streams.direct
	if x.streams.spool != nil {
		spec.Raw = x.streams.spool
	}
	return spec, nil
}

// argv is the recipe's command with what the script's first line adds and the script's own arguments.
func (x *execution) argv() ([]string, error) {
	argv := x.command.Argv
	script := argv[len(argv)-1]
	head := append([]string{argv[0]}, x.job.interpreterArgs...)
	if len(argv) > 1 {
		head = append(head, argv[1:len(argv)-1]...)
	}
	switch {
	case x.job.inline != "" && x.inlineDirect():
		head = append(append(head, x.spec().Inline.Args...), x.job.inline)
	case len(argv) > 1:
		head = append(head, script)
	}
	for _, name := range x.positional() {
		if value, ok := x.values[name]; ok && value != nil {
			head = append(head, scalarText(value))
		}
	}
	return append(head, x.req.Args...), nil
}

func (x *execution) positional() []string {
	if x.job.schema == nil {
		return nil
	}
	return x.job.schema.Positional()
}

func (x *execution) workingDir() (string, error) {
	switch cwd := x.job.settings.cwd; cwd {
	case "pack":
		return x.job.dir, nil
	case "workspace":
		return x.privatePath("workspace"), nil
	case "caller":
		return x.callerDir()
	default:
		if info, err := os.Stat(cwd); err != nil {
			return "", badRequest("", "working directory: %w", err)
		} else if !info.IsDir() {
			return "", badRequest("", "working directory %s is no directory", cwd)
		}
		return cwd, nil
	}
}

// stdin is the parameter document, or the caller's own stdin where the profile hands it over
// and there is nothing to say.
func (x *execution) stdin() (io.Reader, error) {
	callers := func() io.Reader {
		if x.job.settings.callerStdin && x.local.Stdin != nil {
			return x.local.Stdin
		}
		return nil
	}
	if x.job.delivery == "file" {
		return callers(), nil
	}
	if x.job.settings.callerStdin && len(x.values) == 0 && x.local.Stdin != nil {
		return callers(), nil
	}
	document, err := encodeParameters(x.job.parameterFormat, x.values)
	if err != nil {
		return nil, &failure{kind: kindParameters, err: err}
	}
	return strings.NewReader(document), nil
}

// makePrivateDir makes the directory of this execution and what the child finds in it, once.
func (x *execution) makePrivateDir() error {
	if x.private != nil {
		return nil
	}
	layout := proc.PrivateLayout{Dirs: []string{"artifacts"}}
	if x.job.settings.private {
		layout.Dirs = append(layout.Dirs, "home", "tmp")
	}
	if x.job.settings.cwd == "workspace" {
		layout.Dirs = append(layout.Dirs, "workspace")
	}
	var err error
	if layout.Files, err = x.privateFiles(); err != nil {
		return err
	}
	if x.private, err = x.svc.private.Take(layout); err != nil {
		return &failure{kind: kindSpawn, err: fmt.Errorf("private directory: %w", err),
			hint: "TMPDIR names a directory that can be written"}
	}
	return nil
}

func (x *execution) privateFiles() (map[string]string, error) {
	files := map[string]string{}
	if x.job.pack != nil {
		config, err := x.job.pack.Config(x.svc.cfg.PackConfig[x.job.pack.Ref])
		if err != nil {
			return nil, &failure{kind: kindPack, err: fmt.Errorf("configuration of pack %s: %w", x.job.pack.Ref, err),
				hint: "pack_config." + x.job.pack.Ref + " in the configuration file overlays the pack's defaults"}
		}
		if files["config.json"], err = encodeJSON(config); err != nil {
			return nil, err
		}
	}
	if x.job.delivery == "file" {
		document, err := encodeParameters(x.job.parameterFormat, x.values)
		if err != nil {
			return nil, &failure{kind: kindParameters, err: err}
		}
		files["parameters"] = document
	}
	return files, nil
}

// unspoilt tells whether the private directory could serve another execution: nothing can still be at work in it, and what stays there
// tells nobody anything.
func (x *execution) unspoilt() bool {
	return proc.Isolates && x.exit.Leftovers == 0 && x.exit.Cause == nil && x.job.delivery != "file" && !x.job.level.Least(proc.Strict)
}

func (x *execution) privatePath(name string) string {
	return filepath.Join(x.private.Path, name)
}

// pastDeadline is the end of an execution whose caller had no more time.
func (x *execution) pastDeadline() *failure {
	if x.exit.Signal != 0 {
		x.res.Signal = signalName(x.exit.Signal)
	}
	return &failure{kind: kindTimeout, status: TimedOut, exit: ExitTimedOut,
		err: fmt.Errorf("%s had not ended when its caller's time was over", x.res.Action)}
}

// ended says how the child's end becomes the result's status; nil when it exited with 0.
func (x *execution) ended() *failure {
	x.res.ExitCode = x.exit.Code
	if x.exit.Signal != 0 {
		x.res.Signal = signalName(x.exit.Signal)
	}
	if f := x.limitFailure(); f != nil {
		return f
	}
	switch {
	case errors.Is(x.exit.Cause, errTimedOut):
		return &failure{kind: kindTimeout, status: TimedOut, exit: ExitTimedOut,
			err:  fmt.Errorf("%s ran longer than %s", x.job.ref, x.job.settings.timeout),
			hint: "--timeout, or timeout in the action's metadata, gives it more time"}
	case x.exit.Signal != 0:
		return &failure{kind: kindSignal, status: Failed, exit: x.exit.Code,
			err: fmt.Errorf("%s was ended by %s", x.job.ref, x.res.Signal)}
	case x.exit.Code != 0:
		return &failure{kind: kindExit, status: Failed, exit: x.exit.Code, hint: x.damage(),
			err: fmt.Errorf("%s exited with %d", x.job.ref, x.exit.Code)}
	}
	return nil
}
