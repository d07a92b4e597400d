package bundle

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/attune-run/attune/internal/inplace"
	"github.com/attune-run/attune/internal/runtimeapi"
)

// Local is a bundle's function on this machine.
type Local struct {
	Bundle  string        // the archive, or the directory
	Env     []string      // the function's variables: "NAME=value"
	Timeout time.Duration // of one invocation
	Memory  int           // MiB, as the function is told; nothing enforces it

	Log io.Writer // what the function writes
}

// ErrTimeout is an invocation that was not answered in time.
var ErrTimeout = errors.New("the function did not answer in time")

// ExitError is a function whose process ended by itself.
type ExitError struct {
	Init   bool // before it had asked for an event
	Status string
}

// Error tells when.
func (e *ExitError) Error() string {
	if e.Init {
		return "the function ended while it started: " + e.Status
	}
	return "the function ended before it had answered: " + e.Status
}

// Invoke starts the function, hands it the events, one after the other, and gives each answer to answered until that returns an error. The function
// sees the bundle where Lambda would put it, and a /tmp of its own, where this machine allows it; warn is told where not. Errors are
// ErrTimeout, an *ExitError, a *runtimeapi.InitError, the context's cause, and what is wrong with the bundle.
func (l Local) Invoke(ctx context.Context, events [][]byte, answered func(runtimeapi.Answer) error, warn func(string)) error {
	work, err := os.MkdirTemp("", "attune-lambda-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()
	f, err := l.open(work)
	if err != nil {
		return err
	}
	api, err := runtimeapi.Start()
	if err != nil {
		return err
	}
	defer func() { _ = api.Close() }()
	cmd, err := f.command(ctx, api.Addr(), warn)
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the function: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	defer end(cmd, ended)
	for _, event := range events {
		answer, err := l.one(ctx, api, cmd, ended, event)
		if err == nil {
			err = answered(answer)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// one is one invocation.
func (l Local) one(ctx context.Context, api *runtimeapi.Server, cmd *exec.Cmd, ended <-chan struct{}, event []byte) (runtimeapi.Answer, error) {
	alive, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-ended:
			cancel(&ExitError{Init: !isClosed(api.Ready()), Status: cmd.ProcessState.String()})
		case <-alive.Done():
		}
	}()
	select { // the time of an invocation begins when the function is ready for it
	case <-api.Ready():
	case <-alive.Done():
	case <-time.After(l.Timeout):
	}
	timed, stop := context.WithTimeoutCause(alive, l.Timeout, ErrTimeout)
	defer stop()
	return api.Invoke(timed, runtimeapi.Invocation{
		Event: event, Deadline: time.Now().Add(l.Timeout), FunctionARN: "arn:aws:lambda:local:000000000000:function:" + functionName,
	})
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

const functionName = "attune-local"

// grace is what a function has between SIGTERM and SIGKILL
// (https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html, a function with an internal extension).
const grace = 500 * time.Millisecond

// end sees to it that nothing of the function goes on.
func end(cmd *exec.Cmd, ended <-chan struct{}) {
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(grace):
	}
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // the group: the leader may be gone
	<-ended
}

// function is an unpacked bundle.
type function struct {
	Local
	manifest Manifest
	target   Target
	layout   layout
	dir      string // what is unpacked
	work     string // of this run
}

func (l Local) open(work string) (*function, error) {
	f := &function{Local: l, work: work, dir: filepath.Join(work, "bundle")}
	info, err := os.Stat(l.Bundle)
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	if info.IsDir() {
		f.dir, err = filepath.Abs(l.Bundle)
	} else if err = os.Mkdir(f.dir, 0o755); err == nil {
		err = unpack(l.Bundle, f.dir)
	}
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(f.dir, manifestName))
	if err == nil {
		err = json.Unmarshal(data, &f.manifest)
	}
	if err == nil && f.manifest.Schema != manifestSchema {
		err = fmt.Errorf("its schema %q is not known here", f.manifest.Schema)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("there is no %s in it", manifestName)
	}
	if err == nil {
		f.target, err = ParseTarget(f.manifest.Target)
	}
	if err != nil {
		return nil, fmt.Errorf("%s is no bundle: %w", l.Bundle, err)
	}
	if runtime.GOOS != "linux" {
		return nil, fmt.Errorf("a bundle's programs are for Linux, and this machine is %s; run it in a container", runtime.GOOS)
	}
	if f.target.Arch != runtime.GOARCH {
		return nil, fmt.Errorf("the bundle is for %s, and this machine is %s", LambdaArch(f.target.Arch), LambdaArch(runtime.GOARCH))
	}
	f.layout = f.target.layout(f.manifest.Layer)
	return f, nil
}

// command starts the function as Lambda does.
func (f *function) command(ctx context.Context, api string, warn func(string)) (*exec.Cmd, error) {
	places := []inplace.Place{{Dir: f.dir, At: f.layout.root, ReadOnly: true}}
	for name, at := range map[string]string{"tmp": "/tmp", "task": "/var/task"} {
		if at == f.layout.root {
			continue
		}
		dir := filepath.Join(f.work, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, err
		}
		places = append(places, inplace.Place{Dir: dir, At: at, ReadOnly: name != "tmp"})
	}
	problem := inplace.Check(ctx, places)
	at := f.layout.root
	if problem != nil {
		at = f.dir
		warn(fmt.Sprintf("the bundle cannot be put at %s on this machine, and environments that carry their path are passed over: %v", f.layout.root, problem))
	}
	argv := []string{filepath.Join(at, bootstrapName)}
	if f.target.Managed() { // with the arguments that the wrapper gets at Lambda
		argv = []string{filepath.Join(at, wrapperName), interpreters + "/" + f.target.language, "/var/runtime/bootstrap"}
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	if problem == nil {
		cmd = inplace.Command(ctx, places, "/var/task", argv[0], argv...)
	} else {
		cmd.Dir, cmd.SysProcAttr = at, inplace.Dying()
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.Env = append(f.environ(api, at, problem != nil), f.Env...)
	cmd.Stdout, cmd.Stderr = f.Log, f.Log
	cmd.WaitDelay = grace
	return cmd, nil
}

// environ is what Lambda sets (https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html). A bundle that could not be put in its
// place says itself where it is.
func (f *function) environ(api, at string, displaced bool) []string {
	searched := "/var/lang/bin:/usr/local/bin:/usr/bin:/bin:/opt/bin"
	if f.target.image {
		searched = cmp.Or(os.Getenv("PATH"), searched)
	}
	env := []string{
		"AWS_LAMBDA_RUNTIME_API=" + api, "LAMBDA_RUNTIME_DIR=/var/runtime", "LAMBDA_TASK_ROOT=/var/task", "_HANDLER=attune",
		"AWS_LAMBDA_FUNCTION_NAME=" + functionName, "AWS_LAMBDA_FUNCTION_VERSION=$LATEST", "AWS_LAMBDA_INITIALIZATION_TYPE=on-demand",
		fmt.Sprintf("AWS_LAMBDA_FUNCTION_MEMORY_SIZE=%d", f.Memory), "AWS_LAMBDA_LOG_GROUP_NAME=/aws/lambda/" + functionName, "AWS_LAMBDA_LOG_STREAM_NAME=local",
		"AWS_REGION=local", "AWS_DEFAULT_REGION=local", "LANG=en_US.UTF-8", "TZ=:UTC", "PATH=" + searched,
	}
	if displaced {
		base := path.Join(at, f.layout.base)
		env = append(env, "LAMBDA_TASK_ROOT="+at, "TMPDIR="+f.work, "ATTUNE_CACHE="+filepath.Join(f.work, "cache"), "ATTUNE_PACKS="+filepath.Join(base, packsName))
		if _, err := os.Stat(filepath.Join(base, cacheName)); err == nil {
			env = append(env, "ATTUNE_LAYERS="+filepath.Join(base, cacheName))
		}
	}
	return env
}

// Variable reads "NAME=value", or "NAME" for this process's own value, as a variable of the function.
func Variable(text string, lookup func(string) (string, bool)) (string, error) {
	name, _, given := strings.Cut(text, "=")
	if name == "" {
		return "", fmt.Errorf("variable %q: write NAME=value, or NAME for the value it has here", text)
	}
	if given {
		return text, nil
	}
	value, ok := lookup(name)
	if !ok {
		return "", fmt.Errorf("variable %s has no value here; write %s=value", name, name)
	}
	return name + "=" + value, nil
}
