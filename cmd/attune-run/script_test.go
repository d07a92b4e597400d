package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/proc"
)

// exitStatus is "exit CODE PROGRAM ARGS…": runs the program and wants that very exit code; its output is in the files stdout and
// stderr.
func exitStatus(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		got = failed.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// interrupt is "interrupt SIGNAL CODE LINE ARGS…": runs attune-run, sends the signal as soon as it prints a line that contains
// LINE, and wants that exit code.
func interrupt(ts *testscript.TestScript, _ bool, args []string) {
	number := map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM}[args[0]]
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	program, err := exec.LookPath("attune-run")
	ts.Check(err)
	cmd := exec.Command(program, args[3:]...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = os.Environ()
	for _, name := range []string{"HOME", "ATTUNE_CACHE", "ATTUNE_PACKS", "TMPDIR", "GORACE", "PATH"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	reader, writer, err := os.Pipe()
	ts.Check(err)
	cmd.Stdout, cmd.Stderr = writer, writer
	ts.Check(cmd.Start())
	_ = writer.Close()
	sent := false
	var seen strings.Builder
	for lines := bufio.NewScanner(reader); lines.Scan(); {
		seen.WriteString(lines.Text() + "\n")
		if !sent && strings.Contains(lines.Text(), args[2]) {
			sent = true
			ts.Check(cmd.Process.Signal(number))
		}
	}
	_ = cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); !sent || got != want {
		ts.Fatalf("exit code %d, want %d; it said:\n%s", got, want, seen.String())
	}
}

// attune runs attune-run as a user would, in a directory of its own.
type attune struct {
	t   *testing.T
	dir string
	env []string
}

func newAttune(t *testing.T) *attune {
	t.Helper()
	dir := t.TempDir()
	packs, err := filepath.Abs("../../packs")
	require.NoError(t, err)
	return &attune{t: t, dir: dir, env: append(withoutCI(os.Environ()), "ATTUNE_CACHE="+dir+"/cache", "ATTUNE_PACKS="+packs, "TMPDIR="+dir, "GORACE=atexit_sleep_ms=0")}
}

func (a *attune) command(args ...string) *exec.Cmd {
	program, err := exec.LookPath("attune-run")
	require.NoError(a.t, err)
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Env = a.dir, a.env
	return cmd
}

func (a *attune) write(name, text string) string {
	path := filepath.Join(a.dir, name)
	require.NoError(a.t, os.WriteFile(path, []byte(text), 0o700))
	return path
}

// output runs a command that must succeed.
func (a *attune) output(args ...string) string {
	a.t.Helper()
	cmd := a.command(args...)
	var errors bytes.Buffer
	cmd.Stderr = &errors
	out, err := cmd.Output()
	require.NoError(a.t, err, "%s%s", out, errors.String())
	return string(out)
}

// fails runs a command that must exit with code, and returns what it said.
func (a *attune) fails(code int, args ...string) string {
	a.t.Helper()
	out, err := a.command(args...).CombinedOutput()
	var exit *exec.ExitError
	require.ErrorAs(a.t, err, &exit, "%s", out)
	require.Equal(a.t, code, exit.ExitCode(), "%s", out)
	return string(out)
}

// json runs and reads the result document.
func (a *attune) json(args ...string) executor.Result {
	a.t.Helper()
	out, err := a.command(append([]string{"run", "--output", "json"}, args...)...).Output()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		require.NoError(a.t, err)
	}
	var result executor.Result
	require.NoError(a.t, json.Unmarshal(out, &result), "%s", out)
	return result
}

func TestAGigabyteInOneLineNeedsLittleMemory(t *testing.T) {
	a := newAttune(t)
	script := a.write("big.sh", "head -c 1073741824 /dev/zero\n")
	cmd := a.command("run", "--result-file", a.dir+"/result.json", script)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	n, err := io.Copy(io.Discard, out)
	require.NoError(t, err)
	require.NoError(t, cmd.Wait())
	assert.Equal(t, int64(1<<30), n)
	data, err := os.ReadFile(a.dir + "/result.json")
	require.NoError(t, err)
	var result executor.Result
	require.NoError(t, json.Unmarshal(data, &result))
	assert.True(t, result.StdoutTruncated)
	assert.Positive(t, result.StdoutBytesTruncated)
}

func TestAReaderThatLeavesDoesNotEndTheAction(t *testing.T) {
	a := newAttune(t)
	script := a.write("long.sh", "trap '' PIPE\nfor i in $(seq 2000); do echo 0123456789012345678901234567890123456789; done\ntouch \"$(dirname \"$0\")/finished\"\n")
	cmd := a.command("run", "--result-file", a.dir+"/result.json", script)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = out.Read(make([]byte, 10))
	require.NoError(t, err)
	require.NoError(t, out.Close())
	require.NoError(t, cmd.Wait())
	assert.FileExists(t, a.dir+"/finished")
}

func TestNumbersKeepTheirDigits(t *testing.T) {
	a := newAttune(t)
	result := a.json("--output-format", "json", "-p", "n:=12345678901234567890123", "-p", "d:=0.10", a.write("cat.sh", "cat\n"))
	assert.Equal(t, executor.Succeeded, result.Status)
	assert.Contains(t, result.Stdout, `{"d":0.10,"n":12345678901234567890123}`)
}

func TestResultDocumentIsComplete(t *testing.T) {
	result := newAttune(t).json("core.echo", "-p", "message=hi")
	assert.Equal(t, "attune.result/v1", result.Schema)
	assert.Regexp(t, `^[0-9a-f]{8}-[0-9a-f]{4}-7`, result.ID)
	assert.Equal(t, "hi\n", result.Stdout)
	assert.Equal(t, "core", result.Pack.Ref)
	assert.Regexp(t, "^sha256:", result.Pack.Digest)
	assert.Equal(t, "shell", result.Runtime.Name)
	assert.NotEmpty(t, result.Runtime.Version)
	assert.Equal(t, "none", result.Environment.State)
	assert.Equal(t, "basic", result.Isolation.Requested)
	if proc.Isolates {
		assert.Equal(t, "basic", result.Isolation.Applied)
		assert.Equal(t, "seccomp", result.Isolation.Guarantees["syscalls"])
	} else {
		assert.Equal(t, "none", result.Isolation.Applied)
		assert.Equal(t, "best-effort", result.Isolation.Mode)
		assert.Contains(t, result.Isolation.Missing, "syscalls")
	}
	assert.Positive(t, result.Timings.Run)
	assert.Positive(t, result.Usage.MaxRSSBytes)
	assert.False(t, result.FinishedAt.Before(result.StartedAt))
}

func TestNothingOfAChildIsLeft(t *testing.T) {
	if !proc.Isolates {
		t.Skip("only on Linux: what leaves its session is found")
	}
	a := newAttune(t)
	result := a.json(a.write("orphan.sh", "sleep 1000 & setsid sleep 1001 & echo $!\n"))
	assert.Equal(t, 2, result.LeftoverProcesses)
	pid := strings.TrimSpace(result.Stdout)
	assert.NoFileExists(t, "/proc/"+pid+"/stat")
	left, err := filepath.Glob(a.dir + "/attune-*/*")
	require.NoError(t, err)
	assert.Empty(t, left, "private directories")
}
