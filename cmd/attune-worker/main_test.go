package main

import (
	"bufio"
	"context"
	"errors"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	nats "github.com/nats-io/nats-server/v2/server"
	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets the tests start this very binary as attune-worker, and as a NATS server of a configuration file.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"nats-server":   func() { serveNATS(os.Args[1]) },
		"attune-worker": func() { os.Exit(run(context.Background(), os.Args, stdio{os.Stdin, os.Stdout, os.Stderr})) },
	})
}

func serveNATS(file string) {
	options, err := nats.ProcessConfigFile(file)
	if err != nil {
		log.Fatal(err)
	}
	s, err := nats.NewServer(options)
	if err != nil {
		log.Fatal(err)
	}
	s.ConfigureLogger()
	s.Start()
	s.WaitForShutdown()
}

func TestScripts(t *testing.T) {
	packs, err := filepath.Abs("../../packs")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", filepath.Join(env.WorkDir, "home"))
			env.Setenv("ATTUNE_CACHE", filepath.Join(env.WorkDir, "cache"))
			env.Setenv("ATTUNE_STORE", filepath.Join(env.WorkDir, "store"))
			env.Setenv("CORE_PACKS", packs)
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			env.Setenv("TMPDIR", env.WorkDir)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"serve": serve, "unserve": unserve, "nats": natsServer, "exit": exitStatus, "interrupt": interrupt, "eventually": eventually, "capture": capture,
		},
	})
}

// scriptCommand is attune-worker as a script's process.
func scriptCommand(ts *testscript.TestScript, args []string) *exec.Cmd {
	program, err := exec.LookPath("attune-worker")
	ts.Check(err)
	cmd := exec.Command(program, args...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = os.Environ()
	for _, name := range []string{"HOME", "ATTUNE_CACHE", "ATTUNE_STORE", "ATTUNE_NATS_URL", "ATTUNE_PACKS", "TMPDIR", "GORACE", "PATH"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	return cmd
}

// serve is "serve ARGS…": a worker that serves until the end of the script, and then must drain well.
func serve(ts *testscript.TestScript, _ bool, args []string) {
	cmd := scriptCommand(ts, append([]string{"serve", "--mode", "agent", "--log-format", "json"}, args...))
	log, writer, err := os.Pipe()
	ts.Check(err)
	cmd.Stderr = writer
	ts.Check(cmd.Start())
	_ = writer.Close()
	ready, ended := make(chan bool, 1), make(chan string, 1)
	go func() {
		var seen strings.Builder
		for lines := bufio.NewScanner(log); lines.Scan(); {
			seen.WriteString(lines.Text() + "\n")
			if strings.Contains(lines.Text(), `"msg":"ready"`) {
				ready <- true
			}
		}
		ended <- seen.String()
	}()
	stop := sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		text := <-ended
		if err := cmd.Wait(); err != nil {
			ts.Fatalf("serve: %v\n%s", err, text)
		}
	})
	serving.Store(ts, stop)
	ts.Defer(stop)
	select {
	case <-ready:
	case text := <-ended:
		ended <- text
		ts.Fatalf("serve ended:\n%s", text)
	case <-time.After(30 * time.Second):
		ts.Fatalf("serve is not ready")
	}
}

// serving are the last workers of the scripts, to be stopped by unserve.
var serving sync.Map

// unserve is "unserve": the last worker drains and ends.
func unserve(ts *testscript.TestScript, _ bool, _ []string) {
	stop, _ := serving.Load(ts)
	stop.(func())()
}

// natsServer is "nats [PASSWORD]": a NATS server of its own; NATS_URL names it, without the password of its user ops.
func natsServer(ts *testscript.TestScript, _ bool, args []string) {
	options := &nats.Options{Host: "127.0.0.1", Port: nats.RANDOM_PORT, JetStream: true, StoreDir: ts.MkAbs("nats"), NoSigs: true}
	if len(args) > 0 {
		options.Username, options.Password = "ops", args[0]
	}
	s, err := nats.NewServer(options)
	ts.Check(err)
	go s.Start()
	ts.Defer(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		ts.Fatalf("the NATS server does not start")
	}
	ts.Setenv("NATS_URL", "nats://"+s.Addr().String())
	ts.Setenv("NATS_ADDRESS", s.Addr().String())
}

// exitStatus is "exit CODE PROGRAM ARGS…": runs the program and wants that very exit code.
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

// interrupt is "interrupt SIGNAL CODE LINE ARGS…": runs attune-worker, sends the signal as soon as it prints a line that contains
// LINE, and wants that exit code.
func interrupt(ts *testscript.TestScript, _ bool, args []string) {
	number := map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM}[args[0]]
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	cmd := scriptCommand(ts, args[3:])
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

// eventually is "eventually TEXT ARGS…": runs attune-worker until its stdout contains the text.
func eventually(ts *testscript.TestScript, _ bool, args []string) {
	var out []byte
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		out, _ = scriptCommand(ts, args[1:]).Output()
		if strings.Contains(string(out), args[0]) {
			return
		}
	}
	ts.Fatalf("it never said %q, but:\n%s", args[0], out)
}

// capture is "capture NAME": the variable becomes what the last command printed.
func capture(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}
