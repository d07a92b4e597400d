// Command bench measures attune-run. Each figure stands beside a baseline that was measured in turns with it, so that a
// noisy machine is noisy for both.
package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one run of all measurements.
type bench struct {
	attune string
	work   string
	env    []string
}

func run() error {
	if len(os.Args) != 2 {
		return fmt.Errorf("usage: bench PATH-OF-ATTUNE-RUN")
	}
	attune, err := filepath.Abs(os.Args[1])
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "attune-bench")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()
	b := &bench{attune: attune, work: work, env: append(os.Environ(), "ATTUNE_CACHE="+filepath.Join(work, "cache"))}
	fmt.Printf("%-44s %10s %10s %10s   %s\n", "WHAT", "BASELINE", "ATTUNE", "FIGURE", "WANTED")
	for _, measure := range []func() error{b.processes, b.noop, b.startUp, b.python, b.detect, b.firstPython, b.firstPythonUV, b.memory, b.hit} {
		if err := measure(); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) noop() error {
	baseline, attune, err := b.pair(200, b.command("bash", "packs/core/actions/noop.sh"), b.command(b.attune, "run", "core.noop"))
	row("core.noop, warm, against bash noop.sh", baseline, attune, plus(baseline, attune), "<= +5 ms")
	return err
}

func (b *bench) startUp() error {
	bare := filepath.Join(b.work, "barekong")
	build := b.command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bare, "./scripts/bench/barekong")
	build.Env = append(build.Env, "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build barekong: %w: %s", err, out)
	}
	baseline, attune, err := b.pair(300, b.command(bare, "version"), b.command(b.attune, "version"))
	row("start-up, against a bare kong program", baseline, attune, times(attune, baseline), "<= 1.5x")
	return err
}

// python compares with the environment's own interpreter on the same script and document.
func (b *bench) python() error {
	args := []string{"examples.markdown_report", "-p", "markdown=# Title"}
	if out, err := b.command(b.attune, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	dir, err := b.command(b.attune, "env", "path", "examples.markdown_report").Output()
	if err != nil {
		return err
	}
	config := filepath.Join(b.work, "config.json")
	if err := os.WriteFile(config, []byte(`{"team":"platform"}`), 0o600); err != nil {
		return err
	}
	direct := func() *exec.Cmd {
		cmd := b.command(filepath.Join(strings.TrimSpace(string(dir)), "bin", "python"), "packs/examples/actions/markdown_report.py")
		cmd.Env = append(cmd.Env, "ATTUNE_PACK_CONFIG="+config, "ATTUNE_ARTIFACTS_DIR="+b.work, "PYTHONDONTWRITEBYTECODE=1")
		cmd.Stdin = strings.NewReader(`{"markdown":"# Title","title":"Report"}`)
		return cmd
	}
	baseline, attune, err := b.turns(60, direct, func() *exec.Cmd { return b.command(b.attune, args...) })
	row("python action, warm, against its interpreter", baseline, attune, plus(baseline, attune), "<= +6 ms")
	return err
}

func (b *bench) detect() error {
	if out, err := b.command(b.attune, "detect").CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	baseline, attune, err := b.pair(200, b.command(b.attune, "version"), b.command(b.attune, "detect"))
	row("detect, warm, against attune-run version", baseline, attune, plus(baseline, attune), "<= +3 ms")
	return err
}

// firstPython begins without environment and download cache on both sides.
func (b *bench) firstPython() error { return b.coldPython("pip", "") }

func (b *bench) firstPythonUV() error {
	dir := filepath.Join(b.work, "uv")
	if out, err := b.command("python3", "-m", "pip", "install", "-q", "--target", dir, "uv").CombinedOutput(); err != nil {
		return fmt.Errorf("get uv: %w: %s", err, out)
	}
	return b.coldPython("uv", filepath.Join(dir, "bin"))
}

func (b *bench) coldPython(tool, path string) error {
	pack := filepath.Join(b.work, "packs-"+tool)
	if out, err := b.command(b.attune, "pack", "new", "--dir", pack, "cold").CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	if err := os.WriteFile(filepath.Join(pack, "cold", "requirements.txt"), []byte("six==1.17.0\n"), 0o600); err != nil {
		return err
	}
	round := 0
	classic := func() *exec.Cmd {
		round++
		dir := filepath.Join(b.work, fmt.Sprintf("venv-%s-%d", tool, round))
		cmd := b.command("sh", "-c", `python3 -m venv "$0" && "$0/bin/pip" install -q -r "$1" && echo '{"name":"x"}' | "$0/bin/python" "$2"`,
			dir, filepath.Join(pack, "cold/requirements.txt"), filepath.Join(pack, "cold/actions/hello.py"))
		cmd.Env = append(cmd.Env, "PIP_CACHE_DIR="+dir+"-cache")
		return cmd
	}
	attune := func() *exec.Cmd {
		cmd := b.command(b.attune, "run", "-q", "--packs", pack, "cold.hello")
		cmd.Env = append(cmd.Env, "ATTUNE_CACHE="+filepath.Join(b.work, fmt.Sprintf("cold-%s-%d", tool, round)))
		if path != "" {
			cmd.Env = append(cmd.Env, "PATH="+path+":"+os.Getenv("PATH"))
		}
		return cmd
	}
	baseline, took, err := b.turns(5, classic, attune)
	row("first python run with "+tool+", against venv + pip", baseline, took, times(baseline, took), ">= 4x")
	return err
}

// memory is the resident size of attune-run while a child prints 1 GiB without a line end.
func (b *bench) memory() error {
	script := filepath.Join(b.work, "gigabyte.sh")
	if err := os.WriteFile(script, []byte("head -c 1073741824 /dev/zero | tr '\\0' x\n"), 0o600); err != nil {
		return err
	}
	cmd := b.command(b.attune, "run", "--result-file", filepath.Join(b.work, "result.json"), script)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, out)
	if err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil || n != 1<<30 {
		return fmt.Errorf("%d bytes came through: %w", n, err)
	}
	usage, _ := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	fmt.Printf("%-44s %10s %10s %10s   %s\n", "memory while 1 GiB in one line goes through", "-", fmt.Sprintf("%.1f s", time.Since(begun).Seconds()),
		fmt.Sprintf("%.1f MiB", float64(usage.Maxrss)/1024), "< 64 MiB")
	return nil
}

// hit is a benchmark of the store itself.
func (b *bench) hit() error {
	out, err := b.command("go", "test", "-run", "^$", "-bench", "BenchmarkHit", "./envcache").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if words := strings.Fields(line); strings.HasPrefix(line, "BenchmarkHit") && len(words) > 2 {
			fmt.Printf("%-44s %10s %10s %10s   %s\n", "resolve one of 1,000 environments", "-", "-", words[2]+" ns", "<= 1 ms")
		}
	}
	return nil
}

func (b *bench) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = slices.Clone(b.env)
	return cmd
}

// pair measures two commands that can be started as they are, again and again.
func (b *bench) pair(rounds int, baseline, attune *exec.Cmd) (time.Duration, time.Duration, error) {
	again := func(cmd *exec.Cmd) func() *exec.Cmd {
		return func() *exec.Cmd {
			fresh := exec.Command(cmd.Path, cmd.Args[1:]...)
			fresh.Env = cmd.Env
			return fresh
		}
	}
	return b.turns(rounds, again(baseline), again(attune))
}

// turns runs both in turns, once unmeasured, and gives the medians.
func (b *bench) turns(rounds int, baseline, attune func() *exec.Cmd) (time.Duration, time.Duration, error) {
	var a, c []time.Duration
	for i := range rounds + 1 {
		first, err := clock(baseline())
		if err != nil {
			return 0, 0, err
		}
		second, err := clock(attune())
		if err != nil {
			return 0, 0, err
		}
		if i > 0 {
			a, c = append(a, first), append(c, second)
		}
	}
	return median(a), median(c), nil
}

func clock(cmd *exec.Cmd) (time.Duration, error) {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	begun := time.Now()
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, stderr.String())
	}
	return time.Since(begun), nil
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

func row(what string, baseline, attune time.Duration, figure, wanted string) {
	fmt.Printf("%-44s %10s %10s %10s   %s\n", what, milliseconds(baseline), milliseconds(attune), figure, wanted)
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1000)
}

func plus(baseline, attune time.Duration) string { return "+" + milliseconds(attune-baseline) }

func times(more, less time.Duration) string { return fmt.Sprintf("%.2fx", float64(more)/float64(less)) }
