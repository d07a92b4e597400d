package envcache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// TestMain also is the process that the tests start, kill and stop: one Acquire of a store.
func TestMain(m *testing.M) {
	if dir := os.Getenv("ENVCACHE_CHILD"); dir != "" {
		os.Exit(child(dir))
	}
	goleak.VerifyTestMain(m)
}

// child acquires the key named ENVCACHE_KEY, prints the state and the directory, and holds the
// environment until its stdin ends.
func child(dir string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	store, err := Open(dir, Options{})
	if err != nil {
		fmt.Println("error", err)
		return 1
	}
	b := &testBuilder{count: os.Getenv("ENVCACHE_COUNT"), stopAt: os.Getenv("ENVCACHE_STOP_AT")}
	env, err := store.Acquire(ctx, testKey(os.Getenv("ENVCACHE_KEY")), b, AcquireOptions{Progress: func(p Progress) {
		if p.Phase == "waiting" || p.Phase == b.stopAt {
			fmt.Println("progress", p.Phase, p.Holder)
		}
	}})
	if err != nil {
		fmt.Println("error", err)
		return 1
	}
	fmt.Println("state", env.State, env.Dir)
	_, _ = os.Stdin.Read(make([]byte, 1))
	_ = env.Close()
	return 0
}

func testKey(name string) Key { return NewKey([]KeyInput{{Name: "manifest", Value: name}}, false) }

// testBuilder writes two files; its interpreter is a file that it reads.
type testBuilder struct {
	interpreter string
	count       string // file that gets a line per build
	stopAt      string // phase in which the build never ends: build, check
	fail        error
	wait        chan struct{} // the build goes on when it is closed
	started     chan struct{} // closed by the build
	fill        int           // bytes to write
	probes      int
}

func (b *testBuilder) Interpreter() Interpreter {
	if b.interpreter == "" {
		return Interpreter{}
	}
	i, _ := b.identity(b.interpreter)
	return i
}

func (b *testBuilder) identity(path string) (Interpreter, error) {
	text, err := os.ReadFile(path)
	version, abi, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	return Interpreter{Path: path, Version: version, ABI: abi}, err
}

func (b *testBuilder) Probe(_ context.Context, path string) (Interpreter, error) {
	b.probes++
	return b.identity(path)
}

func (b *testBuilder) Build(ctx context.Context, site Site) (Built, error) {
	if b.count != "" {
		f, err := os.OpenFile(b.count, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return Built{}, err
		}
		_, _ = fmt.Fprintln(f, os.Getpid())
		_ = f.Close()
	}
	if b.started != nil {
		close(b.started)
	}
	if b.wait != nil {
		select {
		case <-b.wait:
		case <-ctx.Done():
			return Built{}, ctx.Err()
		}
	}
	for i := range 30 {
		_, _ = fmt.Fprintf(site.Log, "line %d\n", i)
	}
	if err := os.WriteFile(filepath.Join(site.Dir, "half"), make([]byte, b.fill), 0o600); err != nil {
		return Built{}, err
	}
	if b.stopAt == "build" {
		return b.block(ctx, site.Phase)
	}
	if b.fail != nil {
		return Built{}, b.fail
	}
	if err := os.WriteFile(filepath.Join(site.Dir, "whole"), []byte("done"), 0o600); err != nil {
		return Built{}, err
	}
	return Built{Resolved: []string{"one==1"}, Locked: true, Sentinels: []string{"whole"}}, nil
}

func (b *testBuilder) block(ctx context.Context, phase func(string)) (Built, error) {
	phase("build")
	<-ctx.Done()
	return Built{}, ctx.Err()
}

func (b *testBuilder) Check(ctx context.Context, dir string) error {
	if b.stopAt == "check" {
		fmt.Println("progress check")
		<-ctx.Done()
		return ctx.Err()
	}
	if _, err := os.Stat(filepath.Join(dir, "whole")); err != nil {
		return errors.New("it does not work")
	}
	return nil
}
