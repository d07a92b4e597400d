package main

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// lambda measures attune-lambda, which lies beside attune-run, behind a Runtime API on the loopback.
func (b *bench) lambda() error {
	binary := filepath.Join(filepath.Dir(b.attune), "attune-lambda")
	info, err := os.Stat(binary)
	if err != nil {
		return err
	}
	fmt.Printf("%-44s %10s %10s %10s   %s\n", "size of attune-lambda", "-", "-", fmt.Sprintf("%.2f MB", float64(info.Size())/1e6), "<= 15 MB")
	if err := b.lambdaStart(binary); err != nil {
		return err
	}
	if err := b.lambdaIn(binary, "/dev/shm", "in memory"); err != nil {
		return err
	}
	return b.lambdaIn(binary, b.work, "on this disk")
}

// lambdaIn measures a function whose temporary directory is below base: what executions make and remove there is part of their time.
func (b *bench) lambdaIn(binary, base, where string) error {
	f, err := b.startFunction(binary, base)
	if err != nil {
		return err
	}
	defer f.stop()
	if err := b.lambdaWarm(f, where); err != nil {
		return err
	}
	if base != b.work {
		return nil
	}
	return f.leaks()
}

// lambdaStart compares the time until the first event is asked for with the time that the program takes to say its version.
func (b *bench) lambdaStart(binary string) error {
	const rounds = 60
	var bare, polls []time.Duration
	for round := range rounds + 1 {
		took, err := clock(b.command(binary, "--version"))
		if err != nil {
			return err
		}
		begun := time.Now()
		f, err := b.startFunction(binary, b.work)
		if err != nil {
			return err
		}
		poll := f.api.polled.Sub(begun)
		f.stop()
		if round > 0 {
			bare, polls = append(bare, took), append(polls, poll)
		}
	}
	row("start to first poll, against --version", median(bare), median(polls), milliseconds(median(polls)), "<= 15 ms")
	return nil
}

func (b *bench) lambdaWarm(f *function, where string) error {
	const rounds = 300
	var bare, warm []time.Duration
	for round := range rounds + 1 {
		took, err := clock(b.command("bash", "packs/core/actions/noop.sh"))
		if err != nil {
			return err
		}
		begun := time.Now()
		if err := f.invoke(); err != nil {
			return err
		}
		if round > 0 {
			bare, warm = append(bare, took), append(warm, time.Since(begun))
		}
	}
	row("core.noop, warm, "+where+", against bash", median(bare), median(warm), plus(median(bare), median(warm)), "<= +2 ms")
	return nil
}

// function is a running attune-lambda.
type function struct {
	cmd  *exec.Cmd
	api  *runtimeAPI
	tmp  string
	logs bytes.Buffer
}

func (b *bench) startFunction(binary, base string) (*function, error) {
	api, err := newRuntimeAPI()
	if err != nil {
		return nil, err
	}
	f := &function{api: api}
	if f.tmp, err = os.MkdirTemp(base, "attune-lambda"); err != nil {
		return nil, err
	}
	packs, err := filepath.Abs("packs")
	if err != nil {
		return nil, err
	}
	f.cmd = exec.Command(binary)
	f.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + f.tmp, "ATTUNE_CACHE=" + f.tmp + "/attune", "ATTUNE_PACKS=" + packs, "ATTUNE_LAMBDA_ALLOW=core.*",
		"AWS_LAMBDA_RUNTIME_API=" + api.listener.Addr().String(), "AWS_LAMBDA_FUNCTION_NAME=bench", "AWS_LAMBDA_INITIALIZATION_TYPE=on-demand",
		"AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}
	f.cmd.Stdout, f.cmd.Stderr = &f.logs, &f.logs
	if err := f.cmd.Start(); err != nil {
		return nil, err
	}
	select {
	case <-api.ready:
		return f, nil
	case <-time.After(10 * time.Second):
		f.stop()
		return nil, fmt.Errorf("attune-lambda asks for no event: %s", f.logs.String())
	}
}

func (f *function) stop() {
	_ = f.cmd.Process.Kill()
	_ = f.cmd.Wait()
	_ = f.api.listener.Close()
	_ = os.RemoveAll(f.tmp)
}

// invoke has core.noop run and waits for its result.
func (f *function) invoke() error {
	f.api.events <- `{"schema":"attune.request/v1","action":"core.noop"}`
	select {
	case answer := <-f.api.answers:
		if !strings.Contains(answer, `"status":"succeeded"`) {
			return fmt.Errorf("core.noop: %s", answer)
		}
		return nil
	case <-time.After(10 * time.Second):
		return fmt.Errorf("no answer")
	}
}

// leaks runs 1,000 invocations and prints what the function has after 50 and after all of them.
func (f *function) leaks() error {
	var before, after usage
	peak := 0
	for i := range 1000 {
		if err := f.invoke(); err != nil {
			return err
		}
		if i >= 49 {
			after = f.usage()
			peak = max(peak, after.memory)
		}
		if i == 49 {
			before = after
		}
	}
	for _, r := range []struct {
		what          string
		before, after int
		unit, wanted  string
	}{
		{"descriptors", before.descriptors, after.descriptors, "", "the same"},
		{"child processes", before.children, after.children, "", "the same"},
		{"files below TMPDIR", before.files, after.files, "", "the same"},
		{"resident memory", before.memory, peak, " KiB", "+- 2 MiB"},
	} {
		fmt.Printf("%-44s %10s %10s %10s   %s\n", "1,000 invocations: "+r.what, strconv.Itoa(r.before)+r.unit, strconv.Itoa(r.after)+r.unit, fmt.Sprintf("%+d", r.after-r.before), r.wanted)
	}
	return nil
}

// usage is what a function holds.
type usage struct{ descriptors, children, files, memory int } // memory in KiB, resident

func (f *function) usage() (u usage) {
	proc := "/proc/" + strconv.Itoa(f.cmd.Process.Pid)
	open, _ := os.ReadDir(proc + "/fd")
	u.descriptors = len(open)
	threads, _ := filepath.Glob(proc + "/task/*/children")
	for _, path := range threads {
		text, _ := os.ReadFile(path)
		u.children += len(strings.Fields(string(text)))
	}
	_ = filepath.WalkDir(f.tmp, func(string, fs.DirEntry, error) error { u.files++; return nil })
	status, _ := os.ReadFile(proc + "/status")
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			u.memory, _ = strconv.Atoi(strings.Fields(rest)[0])
		}
	}
	return u
}

// runtimeAPI hands out events one by one.
type runtimeAPI struct {
	listener net.Listener
	ready    chan struct{} // closed at the first poll
	polled   time.Time     // when that was
	events   chan string
	answers  chan string
}

func newRuntimeAPI() (*runtimeAPI, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	a := &runtimeAPI{listener: listener, ready: make(chan struct{}), events: make(chan string), answers: make(chan string, 1)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", a.next)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/{kind}", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.WriteHeader(http.StatusAccepted)
		a.answers <- string(body)
	})
	mux.HandleFunc("POST /2020-01-01/extension/register", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Lambda-Extension-Identifier", "bench")
	})
	mux.HandleFunc("GET /2020-01-01/extension/event/next", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	go func() { _ = http.Serve(listener, mux) }()
	return a, nil
}

func (a *runtimeAPI) next(w http.ResponseWriter, r *http.Request) {
	if a.polled.IsZero() {
		a.polled = time.Now()
		close(a.ready)
	}
	select {
	case event := <-a.events:
		w.Header().Set("Lambda-Runtime-Aws-Request-Id", "8476a536-e9f4-11e8-9739-2dfe598c3fcd")
		w.Header().Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(time.Now().Add(time.Minute).UnixMilli(), 10))
		_, _ = io.WriteString(w, event)
	case <-r.Context().Done():
	}
}
