package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/internal/doctest"
)

// TestDocsAreTrue serves as the pages say, runs their commands and compares what they print.
func TestDocsAreTrue(t *testing.T) {
	for _, page := range doctest.AttuneWorker {
		t.Run(page, func(t *testing.T) {
			t.Parallel()
			port, env := freePort(t), docsEnv(t)
			serveForDocs(t, env, port)
			doctest.Run(t, doctest.Read(t, page), doctest.Setting{Dir: t.TempDir(), Env: env, Replace: []string{"9464", port}})
		})
	}
}

// What pages show and cannot run names commands and flags that there are.
func TestDocsNameWhatThereIs(t *testing.T) {
	parser, err := kong.New(&cli{}, append(grammar(nil), kong.Name("attune-worker"))...)
	require.NoError(t, err)
	assert.Greater(t, doctest.CheckPages(t, parser.Model, "attune-worker"), 30)
}

func TestEveryCommandShowsExamples(t *testing.T) {
	parser, err := kong.New(&cli{}, append(grammar(nil), kong.Name("attune-worker"))...)
	require.NoError(t, err)
	assert.Greater(t, doctest.CheckExamples(t, parser.Model, "attune-worker"), 30)
	out, err := exec.Command("attune-worker", "schedule", "add", "--help").Output()
	require.NoError(t, err)
	assert.Contains(t, string(out), "Europe/Berlin --missed once")
}

func TestCompletionKnowsCommandsFlagsAndActions(t *testing.T) {
	env := docsEnv(t)
	mine := t.TempDir()
	for name, text := range map[string]string{"pack.yaml": "ref: mine\nversion: 1.0.0\n", "actions/hello.yaml": "ref: mine.hello\nentry_point: hello.sh\n", "actions/hello.sh": "echo\n"} {
		path := filepath.Join(mine, "mine", name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	for line, want := range map[string]string{
		"attune-worker sub": "submit", "attune-worker dlq re": "retry", "attune-worker serve --trus": "--trusted-keys", "attune-worker submit core.e": "core.echo",
		"attune-worker schedule add x @hourly core.n": "core.noop", "attune-worker submit --packs " + mine + " mine.": "mine.hello",
		"attune-worker ls --action core.s": "core.sleep",
	} {
		cmd := exec.Command("attune-worker")
		cmd.Env = append(env, "COMP_LINE="+line)
		out, err := cmd.Output()
		require.NoError(t, err)
		assert.Contains(t, strings.Fields(string(out)), want, line)
	}
	for shell, want := range map[string]string{"bash": "complete -o default -C", "zsh": "bashcompinit", "fish": "complete -c attune-worker -f"} {
		out, err := exec.Command("attune-worker", "completion", shell).Output()
		require.NoError(t, err)
		assert.Contains(t, string(out), want)
	}
}

func TestManualHasEveryCommand(t *testing.T) {
	cmd := exec.Command("attune-worker", "man")
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1700000000")
	out, err := cmd.Output()
	require.NoError(t, err)
	for _, want := range []string{`.TH ATTUNE-WORKER 1 "2023-11-14"`, "schedule add", "queue promote", `--trusted-keys`} {
		assert.True(t, strings.Contains(string(out), want), want)
	}
	out, err = exec.Command("attune-worker", "man", "--format", "markdown").Output()
	require.NoError(t, err)
	assert.True(t, strings.Contains(string(out), "\n### attune-worker schedule add\n"))
}

// docsEnv is a user's with attune-worker in PATH and the packs that ship with attune.
func docsEnv(t *testing.T) []string {
	home := t.TempDir()
	packs, err := filepath.Abs("../../packs")
	require.NoError(t, err)
	program, err := exec.LookPath("attune-worker") // testscript put this test's binary there
	require.NoError(t, err)
	return append(os.Environ(), "HOME="+home, "PATH="+filepath.Dir(program)+":"+os.Getenv("PATH"), "XDG_DATA_HOME=", "XDG_CACHE_HOME=", "XDG_CONFIG_HOME=",
		"ATTUNE_PACKS="+packs, "ATTUNE_CONFIG=/dev/null", "ATTUNE_NATS_URL=", "ATTUNE_STORE=", "ATTUNE_CACHE="+filepath.Join(home, "cache"), "GORACE=atexit_sleep_ms=0")
}

// serveForDocs is the page's first command, with a label for the page's placement.
func serveForDocs(t *testing.T, env []string, port string) {
	log, err := os.Create(filepath.Join(t.TempDir(), "serve.log"))
	require.NoError(t, err)
	server := exec.Command("attune-worker", "serve", "--http", port, "--mode", "agent", "--labels", "zone=a")
	server.Env, server.Stderr = env, log
	require.NoError(t, server.Start())
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGTERM)
		err := server.Wait()
		text, _ := os.ReadFile(log.Name())
		assert.NoError(t, err, "%s", text)
		_ = log.Close()
	})
	require.Eventually(t, func() bool {
		response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%s/readyz", port)) //nolint:noctx // a test's
		if err == nil {
			_ = response.Body.Close()
		}
		return err == nil && response.StatusCode == http.StatusOK
	}, 60*time.Second, 50*time.Millisecond)
}

func freePort(t *testing.T) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(t, err)
	return port
}
