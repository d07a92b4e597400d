// Command bench measures attune-run. Each figure stands beside a baseline that was measured in turns with it, so that a
// noisy machine is noisy for both.
package main

import (
	"bytes"
	"cmp"
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
	if len(os.Args) < 2 {
		return fmt.Errorf("usage: bench PATH-OF-ATTUNE-RUN [ROW…]")
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
	for _, m := range []struct {
		name    string
		measure func() error
	}{
		{"processes", b.processes}, {"noop", b.noop}, {"start-up", b.startUp}, {"python", b.python}, {"detect", b.detect},
		{"first-python", b.firstPython}, {"first-python-uv", b.firstPythonUV}, {"ten-python", b.tenPython}, {"ten-python-uv", b.tenPythonUV},
		{"cold-node", b.coldNode}, {"memory", b.memory}, {"redaction", b.redaction}, {"store", b.store}, {"list", b.list}, {"fifty", b.fifty}, {"lambda", b.lambda},
		{"pool-latency", b.poolLatency}, {"pool-throughput", b.poolThroughput}, {"pool-protocol", b.poolProtocol},
		{"pool-drain", b.poolDrain}, {"pool-backlog", b.poolBacklog}, {"pool-idle", b.poolIdle}, {"pool-curve", b.poolCurve},
	} {
		if only := os.Args[2:]; len(only) > 0 && !slices.Contains(only, m.name) {
			continue
		}
		if err := m.measure(); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
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
	path, err := b.uv()
	if err != nil {
		return err
	}
	return b.coldPython("uv", path)
}

// uv is the directory of a uv from the package index.
func (b *bench) uv() (string, error) {
	dir := filepath.Join(b.work, "uv")
	if out, err := b.command("python3", "-m", "pip", "install", "-q", "--upgrade", "--target", dir, "uv").CombinedOutput(); err != nil {
		return "", fmt.Errorf("get uv: %w: %s", err, out)
	}
	return filepath.Join(dir, "bin"), nil
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

// ten is a mix of what real packs need.
const ten = "requests\nflask\npyyaml\njinja2\nrich\nclick\nattrs\npydantic\nhttpx\nnumpy\n"

// tenPython begins without environment, but everything was downloaded before on both sides.
func (b *bench) tenPython() error {
	return b.coldTen("pip", b.env, ">= 2.5x", `python3 -m venv "$0" && "$0/bin/pip" install -q -r "$1"`)
}

func (b *bench) tenPythonUV() error {
	path, err := b.uv()
	if err != nil {
		return err
	}
	env := append(slices.Clone(b.env), "PATH="+path+":"+os.Getenv("PATH"))
	if links := os.Getenv("PIP_FIND_LINKS"); links != "" { // attune tells uv; uv alone would look in fewer places and be faster
		env = append(env, "UV_FIND_LINKS="+links)
	}
	return b.coldTen("uv", env, "<= 1.15x",
		`uv venv -q "$0" && uv pip install -q --python "$0/bin/python" --compile-bytecode -r "$1"`)
}

func (b *bench) coldTen(tool string, env []string, wanted, script string) error {
	packs, cache := filepath.Join(b.work, "ten-"+tool), filepath.Join(b.work, "ten-"+tool+"-cache")
	if out, err := b.command(b.attune, "pack", "new", "--dir", packs, "ten").CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	manifest, action := filepath.Join(packs, "ten/requirements.txt"), filepath.Join(packs, "ten/actions/hello.py")
	if err := os.WriteFile(manifest, []byte(ten), 0o600); err != nil {
		return err
	}
	round := 0
	classic := func() *exec.Cmd {
		round++
		dir := filepath.Join(b.work, fmt.Sprintf("ten-%s-%d", tool, round))
		cmd := b.command("sh", "-c", script+` && echo '{"name":"x"}' | "$0/bin/python" "$2"`, dir, manifest, action)
		cmd.Env = append(slices.Clone(env), "PIP_CACHE_DIR="+cache+"-classic", "UV_CACHE_DIR="+cache+"-classic")
		return cmd
	}
	attune := func() *exec.Cmd {
		// Another key each time. What removing the last one's files costs the disk would be paid by attune alone.
		_ = os.WriteFile(manifest, fmt.Appendf(nil, "%s# %d\n", ten, round), 0o600)
		cmd := b.command(b.attune, "run", "-q", "--packs", packs, "ten.hello")
		cmd.Env = append(slices.Clone(env), "ATTUNE_CACHE="+cache)
		return cmd
	}
	baseline, took, err := b.turns(5, classic, attune)
	figure, against := times(baseline, took), "venv + pip"
	if tool == "uv" {
		figure, against = times(took, baseline), "uv itself"
	}
	row("ten python packages, against "+against, baseline, took, figure, wanted)
	return err
}

// coldNode installs a lock file's packages and runs a script that imports one; npm has downloaded them before on both sides.
func (b *bench) coldNode() error {
	pack := filepath.Join(b.work, "packs-node", "cold")
	files := map[string]string{
		"pack.yaml":          "ref: cold\nversion: 1.0.0\n",
		"package.json":       `{"name":"cold","version":"1.0.0","private":true,"dependencies":{"express":"4.21.2"}}`,
		"actions/hello.yaml": "ref: cold.hello\nrunner_type: node\nentry_point: hello.cjs\n",
		"actions/hello.cjs":  "console.log(typeof require('express'))\n",
	}
	for name, text := range files {
		path := filepath.Join(pack, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
	}
	downloads := "npm_config_cache=" + filepath.Join(b.work, "npm-downloads")
	lock := b.command("npm", "install", "--package-lock-only", "--no-audit", "--no-fund")
	lock.Dir, lock.Env = pack, append(lock.Env, downloads)
	if out, err := lock.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	round := 0
	classic := func() *exec.Cmd {
		round++
		dir := filepath.Join(b.work, fmt.Sprintf("npm-%d", round))
		cmd := b.command("sh", "-c", `mkdir "$0" && cp "$1"/package*.json "$0" && cd "$0" &&
			npm ci --omit=dev --no-audit --no-fund --no-progress --no-update-notifier --logs-max=0 --ignore-scripts --prefer-offline &&
			NODE_PATH="$0/node_modules" node "$1/actions/hello.cjs"`, dir, pack)
		cmd.Env = append(cmd.Env, downloads)
		return cmd
	}
	cache := filepath.Join(b.work, "cold-node")
	attune := func() *exec.Cmd {
		_ = os.RemoveAll(filepath.Join(cache, "v1", "envs")) // the downloads stay
		cmd := b.command(b.attune, "run", "-q", "--packs", filepath.Dir(pack), "cold.hello")
		cmd.Env = append(cmd.Env, "ATTUNE_CACHE="+cache)
		return cmd
	}
	baseline, took, err := b.turns(5, classic, attune)
	row("first node run with a lock file, against npm ci", baseline, took, times(took, baseline), "<= 1.1x")
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

func median[T cmp.Ordered](all []T) T {
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
