package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// bootstrap is the real binary, as it is deployed but for the race detector.
var bootstrap string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "attune-lambda-test")
	if err != nil {
		panic(err)
	}
	bootstrap = filepath.Join(dir, "bootstrap")
	build := exec.Command("go", "build", "-tags", "lambda.norpc,nethttpomithttp2", "-o", bootstrap, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if raceEnabled {
		build.Args = append(build.Args[:2:2], append([]string{"-race"}, build.Args[2:]...)...)
		build.Env = append(os.Environ(), "CGO_ENABLED=1")
	}
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("%v: %s", err, out))
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// actions is the pack that the tests run.
var actions = map[string]string{
	"t/pack.yaml":              "ref: t\nversion: 1.0.0\n",
	"t/actions/show.yaml":      "ref: t.show\nentry_point: show.sh\noutput_format: json\nparameters: {type: object, properties: {}}\n",
	"t/actions/show.sh":        `read -r p; echo "{\"parameters\":$p,\"trigger\":\"$ATTUNE_TRIGGER\",\"trace\":\"$_X_AMZN_TRACE_ID\",\"traceparent\":\"$TRACEPARENT\"}"` + "\n",
	"t/actions/env.yaml":       "ref: t.env\nentry_point: env.sh\npass_env: ['AWS_*']\nparameters: {type: object, properties: {}}\n",
	"t/actions/env.sh":         "env; env >&2\n",
	"t/actions/run.yaml":       "ref: t.run\nentry_point: run.sh\nparameters: {script: {type: string, required: true}}\n",
	"t/actions/run.sh":         "eval \"$(python3 -c 'import json,sys; print(json.load(sys.stdin)[\"script\"])')\"\n",
	"t/actions/count.yaml":     "ref: t.count\nentry_point: count.sh\noutput_format: json\nparameters: {type: object, properties: {file: {type: string}, code: {type: integer, default: 0}}}\n",
	"t/actions/count.sh":       "p=$(cat)\nfile=$(echo \"$p\" | sed 's/.*\"file\":\"\\([^\"]*\\)\".*/\\1/'); code=$(echo \"$p\" | sed 's/.*\"code\":\\([0-9]*\\).*/\\1/')\necho \"$p\" >> \"$file\"\necho '{\"ran\":true}'\nexit \"$code\"\n",
	"t/actions/text.yaml":      "ref: t.text\nentry_point: text.sh\nparameters: {bytes: {type: integer, required: true, position: 1}}\n",
	"t/actions/text.sh":        "head -c \"$1\" /dev/zero | tr '\\0' x\n",
	"t/actions/large.yaml":     "ref: t.large\nentry_point: large.sh\noutput_format: json\nparameters: {bytes: {type: integer, required: true, position: 1}}\n",
	"t/actions/large.sh":       "printf '\"'; head -c \"$1\" /dev/zero | tr '\\0' x; printf '\"'\n",
	"t/actions/sleep.yaml":     "ref: t.sleep\nentry_point: sleep.sh\nparameters: {type: object, properties: {}}\n",
	"t/actions/sleep.sh":       "sleep 1000 & echo $! > \"${MARK:-/dev/null}\"\nwait\n",
	"t/actions/meet.yaml":      "ref: t.meet\nentry_point: meet.sh\nparameters: {dir: {type: string, required: true, position: 1}, of: {type: integer, required: true, position: 2}}\n",
	"t/actions/meet.sh":        "touch \"$1/$ATTUNE_EXEC_ID\"\nn=0; while [ \"$(ls \"$1\" | wc -l)\" -lt \"$2\" ]; do sleep 0.02; n=$((n+1)); [ $n -lt 1000 ] || exit 1; done\necho \"$_X_AMZN_TRACE_ID\"\n",
	"t/actions/compiled.yaml":  "ref: t.compiled\nrunner_type: java\nentry_point: Main.java\n",
	"t/actions/Main.java":      "class Main { public static void main(String[] args) { System.err.print(\"compiled\"); } }\n",
	"t/actions/disabled.yaml":  "ref: t.disabled\nentry_point: show.sh\nenabled: false\n",
	"t/actions/required.yaml":  "ref: t.required\nentry_point: show.sh\nparameters: {name: {type: string, required: true}}\n",
	"t/actions/leftovers.yaml": "ref: t.leftovers\nentry_point: leftovers.sh\n",
	"t/actions/leftovers.sh":   "(setsid sleep 1000 &) ; sleep 1000 & mkdir \"${TMP_OF_HOST}/left\"; echo x > \"${TMP_OF_HOST}/left/file\"; cd \"$HOME\"; export LEFT=1; exit 3\n",
}

func packsDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range actions {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o755))
	}
	return dir
}

// process is a bootstrap that runs.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	api  *api
	tmp  string
	logs *output
	done chan struct{}
}

// output is what a process has written so far.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// launch starts the bootstrap with Lambda's variables and those given.
func launch(t *testing.T, a *api, env ...string) *process {
	t.Helper()
	tmp, err := os.MkdirTemp("", "al") // short, and the process's alone
	require.NoError(t, err)
	p := &process{t: t, api: a, tmp: tmp, logs: &output{}, done: make(chan struct{})}
	p.cmd = exec.Command(bootstrap)
	p.cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8", "GORACE=atexit_sleep_ms=0", "TMPDIR=" + tmp, "ATTUNE_CACHE=" + tmp + "/attune", "LAMBDA_TASK_ROOT=" + t.TempDir(),
		"AWS_LAMBDA_FUNCTION_NAME=fn", "AWS_LAMBDA_INITIALIZATION_TYPE=on-demand", "ATTUNE_PACKS=" + packsDir(t), "ATTUNE_LAMBDA_REQUEST_ENV=MARK,TMP_OF_HOST",
	}, env...)
	if a != nil {
		p.cmd.Env = append(p.cmd.Env, "AWS_LAMBDA_RUNTIME_API="+a.addr())
	}
	p.cmd.Stdout, p.cmd.Stderr = p.logs, p.logs
	require.NoError(t, p.cmd.Start())
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		_ = os.RemoveAll(tmp)
		if t.Failed() {
			t.Logf("the function's log:\n%s", p.logs)
		}
		assert.NotContains(t, p.logs.String(), "DATA RACE")
	})
	return p
}

// start launches the bootstrap and waits until it asks for its first event.
func start(t *testing.T, env ...string) *process {
	t.Helper()
	p := launch(t, newAPI(t), env...)
	select {
	case <-p.api.ready:
	case <-p.done:
		t.Fatalf("the function ended:\n%s", p.logs)
	case <-time.After(time.Minute):
		t.Fatalf("the function does not ask for an event:\n%s", p.logs)
	}
	return p
}

// exits waits for the end of the process.
func (p *process) exits() int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(time.Minute):
		require.Fail(p.t, "the function goes on")
		return -1
	}
}

// invoke has an event answered.
func (p *process) invoke(event any, with ...func(*delivery)) answer {
	p.t.Helper()
	d := p.api.deliver(p.t, event, with...)
	select {
	case a := <-d.answer:
		return a
	case <-p.done:
		require.Fail(p.t, "the function ended", "%s", p.logs)
	case <-time.After(time.Minute):
		require.Fail(p.t, "no answer", "%s", p.logs)
	}
	return answer{}
}

// result is an answer's result document.
func (p *process) result(a answer) document {
	p.t.Helper()
	require.Equal(p.t, "response", a.kind, "%s", a.body)
	var d document
	require.NoError(p.t, json.Unmarshal(a.body, &d), "%s", a.body)
	return d
}

// functionError is an answer's error.
func (p *process) functionError(a answer) (kind, message string) {
	p.t.Helper()
	require.Equal(p.t, "error", a.kind, "%s", a.body)
	var e struct{ ErrorType, ErrorMessage string }
	require.NoError(p.t, json.Unmarshal(a.body, &e))
	return e.ErrorType, e.ErrorMessage
}

// request is a direct request.
func request(action string, parameters map[string]any) map[string]any {
	return map[string]any{"schema": "attune.request/v1", "action": action, "parameters": parameters}
}

// alive tells whether a process still is there, zombies not counted.
func alive(pid string) bool {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return false
	}
	rest := string(stat[bytes.LastIndexByte(stat, ')')+1:])
	return !strings.HasPrefix(strings.TrimSpace(rest), "Z")
}

func (p *process) signal(sig syscall.Signal) { require.NoError(p.t, p.cmd.Process.Signal(sig)) }

// descriptors counts what a process has open.
func (p *process) descriptors() int {
	entries, err := os.ReadDir("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/fd")
	require.NoError(p.t, err)
	return len(entries)
}

// children are the processes below it.
func (p *process) children() []string {
	out, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p.cmd.Process.Pid, p.cmd.Process.Pid))
	return strings.Fields(string(out))
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, time.Minute, 5*time.Millisecond, what)
}

func background(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
