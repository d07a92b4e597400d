package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// store runs the benchmarks of the store itself, with 1,000 environments.
func (b *bench) store() error {
	cmd := b.command("go", "test", "-run", "^$", "-bench", "^Benchmark(Hit|HitProcesses|List)$", "-benchmem", "./envcache")
	cmd.Env = append(cmd.Env, "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	baseline := 0.0
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		if len(words) < 4 || !strings.HasPrefix(line, "Benchmark") {
			continue
		}
		name, _, _ := strings.Cut(words[0], "-")
		nanoseconds := time.Duration(figure(words, "ns/op"))
		switch {
		case name == "BenchmarkHit":
			storeRow("resolve one of 1,000 environments", "-", milliseconds(nanoseconds), fmt.Sprintf("%.0f allocs", figure(words, "allocs/op")), "<= 1 ms")
		case name == "BenchmarkList":
			storeRow("list 1,000 environments", "-", milliseconds(nanoseconds), fmt.Sprintf("%.0f allocs", figure(words, "allocs/op")), "<= 50 ms")
		case strings.HasPrefix(name, "BenchmarkHitProcesses/"):
			perSecond := figure(words, "hits/s")
			if baseline == 0 {
				baseline = perSecond
			}
			storeRow("hits from "+strings.TrimPrefix(name, "BenchmarkHitProcesses/")+" processes", fmt.Sprintf("%.0f/s", baseline),
				fmt.Sprintf("%.0f/s", perSecond), fmt.Sprintf("%.2fx", perSecond/baseline), "grows to the cores")
		}
	}
	return nil
}

// figure is the number before a unit in a line of `go test -bench`; 0 when it is not there.
func figure(words []string, unit string) float64 {
	at := slices.Index(words, unit)
	if at < 1 {
		return 0
	}
	value, _ := strconv.ParseFloat(words[at-1], 64)
	return value
}

func storeRow(what, baseline, attune, figure, wanted string) {
	fmt.Printf("%-44s %10s %10s %10s   %s\n", what, baseline, attune, figure, wanted)
}

// list asks for a store that the other measurements have filled a little; what 1,000 cost is measured in store.
func (b *bench) list() error {
	baseline, attune, err := b.pair(100, b.command(b.attune, "version"), b.command(b.attune, "env", "list"))
	row("env list, against attune-run version", baseline, attune, plus(baseline, attune), "<= +50 ms")
	return err
}

const firstUsers = 50

// fifty compares that many first users of one environment at once with one first user and then the others at once: what is
// more was spent waiting for each other.
func (b *bench) fifty() error {
	pack := filepath.Join(b.work, "packs-fifty")
	if out, err := b.command(b.attune, "pack", "new", "--dir", pack, "fifty").CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	if err := os.WriteFile(filepath.Join(pack, "fifty", "requirements.txt"), []byte("six==1.17.0\n"), 0o600); err != nil {
		return err
	}
	var baseline, attune []time.Duration
	for round := range 3 {
		use := func(cache string) func() *exec.Cmd {
			return func() *exec.Cmd {
				cmd := b.command(b.attune, "run", "-q", "--packs", pack, "fifty.hello")
				cmd.Env = append(cmd.Env, "ATTUNE_CACHE="+filepath.Join(b.work, fmt.Sprintf("%s-%d", cache, round)))
				return cmd
			}
		}
		begun := time.Now()
		if err := errors.Join(atOnce(1, use("one")), atOnce(firstUsers-1, use("one"))); err != nil {
			return err
		}
		baseline = append(baseline, time.Since(begun))
		begun = time.Now()
		if err := atOnce(firstUsers, use("fifty")); err != nil {
			return err
		}
		attune = append(attune, time.Since(begun))
	}
	row("50 first users, against one and then 49", median(baseline), median(attune), times(median(attune), median(baseline)), "<= 1.2x")
	return nil
}

// atOnce runs n commands at the same time, to their ends.
func atOnce(n int, command func() *exec.Cmd) error {
	failed := make([]error, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() { _, failed[i] = clock(command()) })
	}
	group.Wait()
	return errors.Join(failed...)
}
