package envcache

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const benchEnvironments = 1000

// benchKey has as many inputs as a language's recipe gives.
func benchKey(i int) Key {
	inputs := []KeyInput{{Name: "manifest", Value: fmt.Sprint(i)}}
	for n := range 12 {
		inputs = append(inputs, KeyInput{Name: fmt.Sprintf("input-%02d", n), Value: "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"})
	}
	return NewKey(inputs, true)
}

// benchBuilder makes an environment of forty packages.
type benchBuilder struct{ *testBuilder }

func (b benchBuilder) Interpreter() Interpreter {
	return Interpreter{Path: os.Args[0], Version: "3.11.2", ABI: "cp311"}
}

func (b benchBuilder) Build(_ context.Context, site Site) (Built, error) {
	built := Built{Sentinels: []string{"bin/python", "packages"}, Complete: []string{"packages"}}
	for i := range 40 {
		built.Resolved = append(built.Resolved, fmt.Sprintf("package-%02d==1.2.%d", i, i))
		if err := os.MkdirAll(filepath.Join(site.Dir, "packages", fmt.Sprint("package-", i)), 0o700); err != nil {
			return Built{}, err
		}
	}
	if err := os.Mkdir(filepath.Join(site.Dir, "bin"), 0o700); err != nil {
		return Built{}, err
	}
	return built, os.Symlink(os.Args[0], filepath.Join(site.Dir, "bin", "python"))
}

func (benchBuilder) Check(context.Context, string) error { return nil }

// benchStore holds a thousand environments, in memory where that is to be had: to make them is not what is measured.
func benchStore(b *testing.B) *Store {
	b.Helper()
	s := openStore(b, memoryDir(b))
	for i := range benchEnvironments {
		env, err := s.Acquire(context.Background(), benchKey(i), benchBuilder{}, AcquireOptions{})
		require.NoError(b, err)
		require.NoError(b, env.Close())
	}
	return s
}

// hits acquires n environments, one after the other, which must be there.
func hits(s *Store, n int) error {
	for i := range n {
		env, err := s.Acquire(context.Background(), benchKey(i%benchEnvironments), benchBuilder{}, AcquireOptions{})
		if err != nil {
			return err
		}
		if env.State != Hit {
			return fmt.Errorf("%s is no hit: %s", env.ID, env.State)
		}
		if err := env.Close(); err != nil {
			return err
		}
	}
	return nil
}

func BenchmarkHit(b *testing.B) {
	s := benchStore(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := hits(s, 1); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkHitProcesses is the throughput of several processes.
func BenchmarkHitProcesses(b *testing.B) {
	const each = 2000
	s := benchStore(b)
	for _, n := range []int{1, 2, 4, 8} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var took time.Duration
			rounds := 0
			for b.Loop() {
				took += together(b, s, n, each)
				rounds++
			}
			b.ReportMetric(float64(rounds*n*each)/took.Seconds(), "hits/s")
		})
	}
}

// together lets n processes that are ready make their hits at the same time, and says how long that takes.
func together(b *testing.B, s *Store, n, each int) time.Duration {
	b.Helper()
	processes := make([]*process, n)
	for i := range processes {
		processes[i] = start(b, order{Root: s.Root(), Do: "hits", Hits: each})
		processes[i].next(b, "ready")
	}
	begun := time.Now()
	for _, p := range processes {
		_, err := p.stdin.Write([]byte("\n"))
		require.NoError(b, err)
	}
	for _, p := range processes {
		p.next(b, "done")
	}
	took := time.Since(begun)
	for _, p := range processes {
		p.end(b)
	}
	return took
}

func BenchmarkList(b *testing.B) {
	s := benchStore(b)
	b.ReportAllocs()
	for b.Loop() {
		list, err := s.List(context.Background(), false)
		if err != nil || len(list) != benchEnvironments {
			b.Fatal(len(list), err)
		}
	}
}
