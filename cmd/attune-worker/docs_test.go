package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
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
