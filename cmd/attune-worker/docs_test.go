package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestDocsAreTrue serves as the page says, runs the commands of its console blocks, in order, in one shell, and compares what they
// print; "..." stands for anything.
func TestDocsAreTrue(t *testing.T) {
	page, err := os.ReadFile("../../docs/worker.md")
	require.NoError(t, err)
	port := freePort(t)
	text := strings.ReplaceAll(string(page), "9464", port)
	env := docsEnv(t)
	serveForDocs(t, env, port)

	var script strings.Builder
	var steps [][2]string // command, output
	for _, block := range regexp.MustCompile("(?s)```console\n(.*?)```").FindAllStringSubmatch(text, -1) {
		for _, step := range strings.Split("\n"+block[1], "\n$ ")[1:] {
			command, output, _ := strings.Cut(strings.TrimRight(step, "\n"), "\n")
			script.WriteString(command + "\necho --end-of-step--\n")
			steps = append(steps, [2]string{command, output})
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	shell := exec.CommandContext(ctx, "bash", "-c", "exec 2>&1\n"+script.String())
	shell.Dir, shell.Env = t.TempDir(), env
	out, err := shell.CombinedOutput()
	require.NoError(t, err, "%s", out)
	printed := strings.Split(string(out), "--end-of-step--\n")
	require.Len(t, printed, len(steps)+1)
	for i, step := range steps {
		pattern := "(?s)^" + strings.ReplaceAll(regexp.QuoteMeta(step[1]), `\.\.\.`, ".*") + "$"
		assert.Regexp(t, pattern, strings.TrimRight(printed[i], "\n"), "$ %s", step[0])
	}
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
