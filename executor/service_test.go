package executor

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/attune-run/attune/runtime"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// packs makes a packs directory of the given files.
func packs(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o755))
	}
	return dir
}

func service(t *testing.T, cfg Config) *Service {
	t.Helper()
	cfg.CacheDir, cfg.TempDir = filepath.Join(t.TempDir(), "cache"), filepath.Join(t.TempDir(), "private")
	s, err := New(cfg)
	require.NoError(t, err)
	require.NoError(t, s.Start(context.Background()))
	return s
}

var shellPack = map[string]string{
	"p/pack.yaml":         "ref: p\nversion: 1.0.0\n",
	"p/actions/ok.yaml":   "ref: p.ok\nentry_point: ok.sh\noutput_format: json\nparameters: {n: {type: integer, default: 1}}\n",
	"p/actions/ok.sh":     "cat\n",
	"p/actions/slow.yaml": "ref: p.slow\nentry_point: slow.sh\n",
	"p/actions/slow.sh":   "echo started\nsleep 1000 &\nwait\n",
	"p/actions/off.yaml":  "ref: p.off\nentry_point: ok.sh\nenabled: false\n",
	"p/actions/ruby.yaml": "ref: p.missing\nentry_point: ok.sh\n",
	"p/actions/go.yaml":   "ref: p.go\nrunner_type: go\nentry_point: main.go\n",
	"p/actions/main.go":   "package main\n\nfunc main() { println(\"compiled\") }\n",
	"p/actions/bad.yaml":  "ref: p.bad\nrunner_type: go\nentry_point: bad.go\n",
	"p/actions/bad.go":    "package main\n\nfunc main() { no }\n",
}

func TestWorkerModePreparesEverythingAndGoesOn(t *testing.T) {
	s := service(t, Config{Mode: Worker(), Packs: []string{packs(t, shellPack)}})
	rows := map[string]Prepared{}
	for _, row := range s.Prepared() {
		rows[strings.Join(row.Actions, " ")] = row
		assert.Equal(t, row.State == PreparedFailed, row.Err != nil, row.Actions)
	}
	assert.Equal(t, "none", rows["p.ok p.slow"].State)
	assert.Equal(t, "built", rows["p.go"].State)
	assert.Equal(t, "failed", rows["p.bad"].State)
	assert.Contains(t, rows["p.bad"].Reason, "undefined: no")
	assert.Equal(t, "skipped", rows["p.off"].State)
	assert.Contains(t, rows["p.off"].Reason, "off.yaml")
	assert.Equal(t, "failed", rows[""].State, "an action that cannot be read")
	assert.Contains(t, rows[""].Reason, "ruby.yaml:1:")

	result := s.Execute(context.Background(), Request{Action: "p.go"}, Observer{})
	assert.Equal(t, Succeeded, result.Status)
	assert.Equal(t, "hit", result.Environment.State)
	assert.Equal(t, "compiled\n", result.Stderr)

	again, err := New(s.cfg)
	require.NoError(t, err)
	require.NoError(t, again.Start(context.Background()))
	assert.Equal(t, "hit", rowOf(t, again.Prepared(), "p.go").State)

	result = s.Execute(context.Background(), Request{Action: "p.bad"}, Observer{})
	assert.Equal(t, Errored, result.Status)
	assert.Equal(t, "environment", result.Error.Kind)
	assert.Contains(t, result.Error.Message, "undefined: no")
}

func TestAgentModeUsesWhatWasDetected(t *testing.T) {
	s := service(t, Config{Mode: Agent([]runtime.Interpreter{{Runtime: "shell", Path: "/bin/sh", Version: "9.9.9"}}), Packs: []string{packs(t, shellPack)}})
	assert.Empty(t, s.Prepared())
	result := s.Execute(context.Background(), Request{Action: "p.ok", RuntimeVersion: ">=9"}, Observer{})
	assert.Equal(t, Succeeded, result.Status)
	assert.Equal(t, "/bin/sh", result.Runtime.Path)
}

// A directory that served before says by its times that an action left nothing in it: what it leaves is found all the same.
func TestWhatIsLeftInADirectoryThatServedBeforeIsFound(t *testing.T) {
	s := service(t, Config{KeepDirs: 1, Packs: []string{packs(t, map[string]string{
		"p/pack.yaml":         "ref: p\nversion: 1.0.0\n",
		"p/actions/does.yaml": "ref: p.does\nentry_point: does.sh\nparameters: {do: {type: string, position: 1, default: 'echo $ATTUNE_ARTIFACTS_DIR'}}\n",
		"p/actions/does.sh":   "eval \"$1\"\n",
	})}})
	does := func(what string) Result {
		request := Request{Action: "p.does"}
		if what != "" {
			request.Parameters = map[string]any{"do": what}
		}
		result := s.Execute(context.Background(), request, Observer{})
		require.Equal(t, Succeeded, result.Status, "%+v", result.Error)
		return result
	}
	settled := func() {
		first := does("").Stdout
		require.Eventually(t, func() bool {
			again := does("").Stdout
			defer func() { first = again }()
			info, err := os.Stat(strings.TrimSpace(again))
			return again == first && err == nil && time.Since(info.ModTime()) > 500*time.Millisecond
		}, 20*time.Second, 50*time.Millisecond)
	}
	for range 2 {
		settled()
		assert.Len(t, does("echo x >$ATTUNE_ARTIFACTS_DIR/x").Artifacts, 1)
		settled()
		assert.Len(t, does("mkdir $ATTUNE_ARTIFACTS_DIR/d; echo x >$ATTUNE_ARTIFACTS_DIR/d/x").Artifacts, 1)
		settled()
		assert.Equal(t, true, does("echo true >$ATTUNE_RESULT_FILE").Result)
	}
}

func TestASealedEnvironmentIsTheSameEverywhere(t *testing.T) {
	dir := packs(t, map[string]string{
		"p/pack.yaml": "ref: p\nversion: 1.0.0\n", "p/actions/env.yaml": "ref: p.env\nentry_point: env.sh\n", "p/actions/env.sh": "env\n",
	})
	for path, want := range map[string]string{os.Getenv("PATH"): os.Getenv("PATH"), "": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"} {
		s := service(t, Config{Packs: []string{dir}, Environ: []string{"PATH=" + path, "SHELL=/bin/zsh", "HOME=/root", "USER=x", "TZ=", "LC_TIME=C", "TOKEN=x"}})
		result := s.Execute(context.Background(), Request{Action: "p.env"}, Observer{})
		require.Equal(t, Succeeded, result.Status, "%+v", result.Error)
		env := environment(strings.Split(result.Stdout, "\n"))
		maps.DeleteFunc(env, func(name, _ string) bool { return strings.HasPrefix(name, "ATTUNE_") })
		for _, name := range []string{"PWD", "OLDPWD", "SHLVL", "_"} { // the shell's own
			delete(env, name)
		}
		assert.Equal(t, []string{"HOME", "LC_TIME", "PATH", "SHELL", "TMPDIR", "TZ"}, slices.Sorted(maps.Keys(env)))
		assert.Equal(t, []string{want, "/bin/sh", ""}, []string{env["PATH"], env["SHELL"], env["TZ"]})
	}
}

func TestExecutionsRunInParallel(t *testing.T) {
	s := service(t, Config{Packs: []string{packs(t, shellPack)}})
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			result := s.Execute(context.Background(), Request{Action: "p.ok", Parameters: map[string]any{"n": 2}}, Observer{})
			assert.Equal(t, Succeeded, result.Status, "%+v", result.Error)
		})
	}
	group.Wait()
}

func TestStagesAreTold(t *testing.T) {
	s := service(t, Config{Packs: []string{packs(t, shellPack)}})
	var stages []string
	pid := 0
	result := s.Execute(context.Background(), Request{Action: "p.ok"}, Observer{Event: func(e Event) {
		switch e.Kind {
		case StageFinished:
			stages = append(stages, e.Stage)
		case ProcessStarted:
			pid = e.PID
		}
	}})
	assert.Equal(t, Succeeded, result.Status)
	assert.Equal(t, []string{"load", "validate", "detect", "environment", "run", "decode"}, stages)
	assert.Positive(t, pid)
}

// Canceled in every stage: always one result, and nothing is left.
func TestCancellationAtEveryStage(t *testing.T) {
	s := service(t, Config{Packs: []string{packs(t, shellPack)}})
	for _, stage := range []string{"load", "validate", "detect", "environment", "run", "decode"} {
		ctx, cancel := context.WithCancelCause(context.Background())
		result := s.Execute(ctx, Request{Action: "p.slow", Local: &Local{Grace: 100 * time.Millisecond}}, Observer{
			Event: func(e Event) {
				if e.Kind == StageStarted && e.Stage == stage && stage != "run" {
					cancel(&Cancellation{Signal: syscall.SIGINT})
				}
			},
			Stdout: writerFunc(func(p []byte) {
				if bytes.Contains(p, []byte("started")) {
					cancel(&Cancellation{Signal: syscall.SIGINT})
				}
			}),
		})
		cancel(nil)
		assert.Equal(t, Canceled, result.Status, stage)
		assert.Equal(t, 130, result.ExitCode, stage)
		assert.Equal(t, "canceled by SIGINT", result.Error.Message, stage)
	}
	left, err := os.ReadDir(s.cfg.TempDir)
	require.NoError(t, err)
	assert.Empty(t, left)
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }

func TestRemoteRequestsReadNothingOfThisMachine(t *testing.T) {
	dir := packs(t, map[string]string{
		"p/pack.yaml":      "ref: p\nversion: 1.0.0\n",
		"p/actions/s.yaml": "ref: p.s\nentry_point: s.sh\nparameters: {token: {type: string, secret: true}}\n",
		"p/actions/s.sh":   "cat\n",
	})
	s := service(t, Config{Packs: []string{dir}})
	result := s.Execute(context.Background(), Request{Action: "p.s", Secrets: map[string]string{"token": "file:/etc/passwd"}}, Observer{})
	assert.Equal(t, "secret", result.Error.Kind)
	assert.Equal(t, "validate", result.Error.Stage)
}

func TestRequestsThatContradictThemselves(t *testing.T) {
	s := service(t, Config{Packs: []string{packs(t, shellPack)}})
	for want, req := range map[string]Request{
		"either an action or a script": {},
		"is not known here":            {Schema: "attune.request/v9", Action: "p.ok"},
		"is not a UUID":                {ID: "7", Action: "p.ok"},
		"reserved":                     {Action: "p.ok", Env: map[string]string{"ATTUNE_X": "1"}},
		"NUL":                          {Action: "p.ok", Env: map[string]string{"X": "a\x00b"}},
		"is not a level":               {Action: "p.ok", Isolation: "total"},
		"needs isolation":              {Action: "p.ok", Isolation: "none", IsolationNetwork: "none"},
		"did you mean":                 {Action: "p.ok", Limits: map[string]any{"memroy": 1}},
		"contradict each other":        {Action: "p.ok", Limits: map[string]any{"disk": "1M", "file_size": "2M"}},
		"negative":                     {Action: "p.ok", Timeout: -1},
	} {
		result := s.Execute(context.Background(), req, Observer{})
		assert.Equal(t, Errored, result.Status, want)
		assert.Equal(t, ExitAttune, result.ExitCode, want)
		assert.Contains(t, result.Error.Message, want)
	}
}

func TestPassEnvNeedsBothSides(t *testing.T) {
	dir := packs(t, map[string]string{
		"p/pack.yaml":      "ref: p\nversion: 1.0.0\n",
		"p/actions/e.yaml": "ref: p.e\nentry_point: e.sh\npass_env: ['AWS_*', 'OTHER']\n",
		"p/actions/e.sh":   "env\n",
	})
	environ := []string{"PATH=" + os.Getenv("PATH"), "AWS_REGION=here", "OTHER=x", "ATTUNE_EXEC_ID=parent", "SECRET=y"}
	s := service(t, Config{Packs: []string{dir}, Environ: environ, AllowEnv: []string{"AWS_*", "SECRET"}})
	result := s.Execute(context.Background(), Request{Action: "p.e"}, Observer{})
	lines := strings.Split(result.Stdout, "\n")
	assert.Contains(t, lines, "AWS_REGION=here")
	assert.Contains(t, lines, "ATTUNE_EXEC_ID="+result.ID)
	for _, line := range lines {
		assert.NotContains(t, line, "OTHER=")
		assert.NotContains(t, line, "SECRET=")
	}
}

func TestTheOperatorsMaximumBoundsTimeouts(t *testing.T) {
	s := service(t, Config{Packs: []string{packs(t, shellPack)}, MaxTimeout: 50 * time.Millisecond})
	result := s.Execute(context.Background(), Request{Action: "p.slow", Timeout: Duration(time.Hour), Local: &Local{Grace: 100 * time.Millisecond}}, Observer{})
	assert.Equal(t, TimedOut, result.Status)
	assert.Equal(t, ExitTimedOut, result.ExitCode)
}

func TestDotenvValuesNeverStartASecondLine(t *testing.T) {
	values := map[string]any{"a": "it's\nB=2\t\x01\u2028", "n": map[string]any{"x": []any{"1"}, "e": map[string]any{}}, "z": nil}
	document, err := encodeParameters("dotenv", values)
	require.NoError(t, err)
	assert.Equal(t, "a=$'it\\'s\\nB=2\\t\\001\\342\\200\\250'\nn.x='[\"1\"]'\nz=''\n", document)
	_, err = encodeParameters("dotenv", map[string]any{"a\nb": "x"})
	assert.Error(t, err)
}

func TestCancellationIsATypedCause(t *testing.T) {
	var c *Cancellation
	assert.True(t, errors.As(error(&Cancellation{Signal: syscall.SIGTERM}), &c))
	assert.Equal(t, "canceled by SIGTERM", c.Error())
}

func TestAnEmptyDirectoryOfAKilledServiceIsRemoved(t *testing.T) {
	temp := t.TempDir()
	s := service(t, Config{TempDir: temp})
	path, remove, err := s.EmptyDir()
	require.NoError(t, err)
	require.NoError(t, service(t, Config{TempDir: temp}).Start(t.Context()))
	assert.DirExists(t, path, "its owner lives")
	require.NoError(t, remove())
	assert.NoDirExists(t, path)
}
