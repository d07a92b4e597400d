package main

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	stdruntime "runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/bundle"
)

// bootstraps are attune-lambda as `make lambda` builds it, beside attune-run, by architecture.
var bootstraps = map[string]func() (string, error){"amd64": builtOnce("amd64"), "arm64": builtOnce("arm64")}

func builtOnce(arch string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		program, err := exec.LookPath("attune-run")
		if err != nil {
			return "", err
		}
		path := filepath.Join(filepath.Dir(program), "attune-lambda-"+bundle.LambdaArch(arch)) // testscript removes this directory
		cmd := exec.Command("go", "build", "-tags", "lambda.norpc,nethttpomithttp2", "-trimpath", "-ldflags", "-s -w", "-o", path, "../attune-lambda")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = errors.New(err.Error() + ": " + string(out))
		}
		return path, err
	})
}

// machines are how programs of an architecture are marked.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// own is this machine's architecture, other is one that it is not.
var own, other = stdruntime.GOARCH, map[string]string{"amd64": "arm64", "arm64": "amd64"}[stdruntime.GOARCH]

func bootstrap(t *testing.T, arch string) string {
	t.Helper()
	path, err := bootstraps[arch]()
	require.NoError(t, err)
	return path
}

// fakeBootstrap is as much of a program as attune bundle looks at, and takes no time to pack.
func (a *attune) fakeBootstrap(arch string) string {
	header := elf.Header64{
		Ident:   [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:    uint16(elf.ET_EXEC),
		Machine: uint16(machines[arch]), Version: uint32(elf.EV_CURRENT), Ehsize: 64,
	}
	var b bytes.Buffer
	require.NoError(a.t, binary.Write(&b, binary.LittleEndian, header))
	return a.write("attune-lambda-"+arch, b.String())
}

// bundler is attune for the tests of bundles: with interpreters that every user can reach, and packs with dependencies of their own.
func bundler(t *testing.T) *attune {
	a := newAttune(t)
	a.env = append(a.env, "PATH="+filepath.Dir(programPath(t))+":/usr/bin:/bin", "HOME=/nonexistent")
	for name, text := range map[string]string{
		"pack.yaml": "ref: deps\nversion: 1.0.0\n", "requirements.txt": "six==1.17.0\n",
		"package.json":        `{"name": "deps", "private": true, "dependencies": {"semver": "7.6.3"}}`,
		"actions/python.yaml": "ref: deps.python\nrunner_type: python\nentry_point: p.py\nparameters:\n  fail: {type: boolean, default: false}\n",
		"actions/p.py":        "import json, sys, six\nprint(six.__version__, six.__cached__ is not None)\nsys.exit(3 if json.load(sys.stdin)['fail'] else 0)\n",
		"actions/node.yaml":   "ref: deps.node\nrunner_type: node\nentry_point: n.mjs\n",
		"actions/n.mjs":       "import semver from 'semver'\nconsole.log(semver.inc('1.2.3', 'minor'))\n",
		"actions/shell.yaml":  "ref: deps.shell\nentry_point: s.sh\n",
		"actions/s.sh":        "echo from a shell\n",
		"lib/helper.py":       "x = 1\n",
	} {
		path := filepath.Join(a.dir, "packs", "deps", name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	return a
}

func programPath(t *testing.T) string {
	program, err := exec.LookPath("attune-run")
	require.NoError(t, err)
	return program
}

func (a *attune) bundle(target, output string, more ...string) bundle.Report {
	a.t.Helper()
	bootstrap(a.t, own)
	args := append([]string{"bundle", "--json", "--for", target, "-o", output, "--packs", "packs"}, more...)
	var report bundle.Report
	require.NoError(a.t, json.Unmarshal([]byte(a.output(args...)), &report))
	return report
}

// request is the event of a direct request.
func (a *attune) request(action, parameters string) string {
	return a.write(action+".json", `{"schema": "attune.request/v1", "action": "`+action+`", "parameters": `+parameters+`}`)
}

// invoke runs a bundle with events and returns the results.
func (a *attune) invoke(of string, events ...string) []executor.Result {
	a.t.Helper()
	args := []string{"lambda", "invoke", "--local", of, "-e", "ATTUNE_LAMBDA_ALLOW=*", "-e", "ATTUNE_NETWORK=offline"}
	for _, event := range events {
		args = append(args, "--event", event)
	}
	var results []executor.Result
	for answers := json.NewDecoder(strings.NewReader(a.output(args...))); ; {
		var result executor.Result
		err := answers.Decode(&result)
		if errors.Is(err, io.EOF) {
			return results
		}
		require.NoError(a.t, err)
		results = append(results, result)
	}
}

// states are the environments of a report, by action.
func states(report bundle.Report) map[string]bundle.Environment {
	all := map[string]bundle.Environment{}
	for _, e := range slices.Concat(report.Environments, report.Others) {
		for _, action := range e.Actions {
			all[action] = e
		}
	}
	return all
}

func TestABundleRunsWithTheEnvironmentsInIt(t *testing.T) {
	a := bundler(t)
	report := a.bundle("lambda:image", "fn", "--actions", "deps.*")
	for action, state := range map[string]string{"deps.python": bundle.Bundled, "deps.node": bundle.Bundled, "deps.shell": bundle.None} {
		assert.Equal(t, state, states(report)[action].State, action)
	}
	require.Len(t, report.Packs, 1, "the other packs were not asked for")
	assert.NoDirExists(t, "/var/task", "it was built at this path, in a place of its own")

	// After a failed action its environment is compared with how it was built: copying it was no damage.
	results := a.invoke("fn", a.request("deps.python", `{"fail": true}`), a.request("deps.node", "{}"), a.request("deps.shell", "{}"),
		a.write("again.json", `{"schema": "attune.request/v1", "action": "deps.python", "parameters": {}}`))
	require.Len(t, results, 4)
	for i, want := range []string{"1.17.0 True\n", "1.3.0\n", "from a shell\n", "1.17.0 True\n"} {
		assert.Equal(t, want, results[i].Stdout)
	}
	assert.Equal(t, executor.Failed, results[0].Status)
	assert.Equal(t, 3, results[0].ExitCode)
	for _, i := range []int{0, 1, 3} {
		assert.Equal(t, "hit", results[i].Environment.State)
		assert.True(t, strings.HasPrefix(results[i].Environment.Path, "/var/task/cache/v1/envs/"), results[i].Environment.Path)
	}
}

func TestTheSameBytesThoughEverythingIsBuiltAgain(t *testing.T) {
	a := bundler(t)
	var archives [2][]byte
	for i := range archives {
		a.bundle("lambda:image", "fn.zip", "--actions", "deps.*", "--require-environments", "--bootstrap", a.fakeBootstrap(own))
		var err error
		archives[i], err = os.ReadFile(filepath.Join(a.dir, "fn.zip"))
		require.NoError(t, err)
	}
	assert.True(t, bytes.Equal(archives[0], archives[1]))
}

func TestALayerIsFoundBelowOpt(t *testing.T) {
	a := bundler(t)
	a.bundle("lambda:image", "layer", "--as", "layer", "--actions", "deps.python")
	assert.FileExists(t, filepath.Join(a.dir, "layer", "bootstrap"))
	assert.FileExists(t, filepath.Join(a.dir, "layer", "attune", "packs", "deps", "pack.yaml"))
	results := a.invoke("layer", a.request("deps.python", "{}"))
	assert.Equal(t, "1.17.0 True\n", results[0].Stdout)
	assert.True(t, strings.HasPrefix(results[0].Environment.Path, "/opt/attune/cache/"), results[0].Environment.Path)
}

// names lists an archive, with modes.
func names(t *testing.T, file string) map[string]fs.FileMode {
	archive, err := zip.OpenReader(file)
	require.NoError(t, err)
	defer func() { _ = archive.Close() }()
	all := map[string]fs.FileMode{}
	for _, f := range archive.File {
		all[f.Name] = f.Mode()
		assert.Equal(t, 1980, f.Modified.UTC().Year(), f.Name)
	}
	return all
}

func TestWhatCannotBeBuiltForTheTargetIsSaid(t *testing.T) {
	a := bundler(t)
	mine, far := a.fakeBootstrap(own), a.fakeBootstrap(other)
	here, there := bundle.LambdaArch(own), bundle.LambdaArch(other)
	report := a.bundle("lambda:provided.al2023-"+there, "arm.zip", "--actions", "deps.*", "--bootstrap", far)
	got := states(report)
	assert.Equal(t, bundle.NoUse, got["deps.python"].State)
	assert.Equal(t, "lambda:provided.al2023-"+there+" brings no python", got["deps.python"].Reason)
	assert.Equal(t, bundle.None, got["deps.shell"].State)
	assert.NotContains(t, names(t, a.dir+"/arm.zip"), "attune-exec")
	assert.Contains(t, a.fails(125, "lambda", "invoke", "--local", "arm.zip", "--event", a.request("deps.shell", "{}")), "the bundle is for "+there+", and this machine is "+here)

	report = a.bundle("lambda:python3.13-"+there, "arm.zip", "--actions", "deps.python", "--bootstrap", far)
	why := states(report)["deps.python"]
	assert.Equal(t, bundle.LeftOut, why.State)
	for _, reason := range []string{"the target's architecture is " + there + ", this machine's " + here, "the target's C library is glibc 2.34, this machine's ", "the target's python is 3.13 in /var/lang/bin, the one here is "} {
		assert.Contains(t, why.Reason, reason)
	}
	said := a.fails(125, "bundle", "--for", "lambda:python3.13", "-o", "none.zip", "--packs", "packs", "--actions", "deps.python", "--bootstrap", mine, "--require-environments")
	assert.Contains(t, said, "deps.python: the target's C library is")
	assert.Contains(t, said, "hint: ")
	assert.NoFileExists(t, a.dir+"/none.zip")
}

func TestAFunctionForArm64IsMadeAnywhere(t *testing.T) {
	a := bundler(t)
	bootstrap(t, "arm64")
	a.bundle("lambda:provided.al2023-arm64", "fn", "--actions", "deps.shell")
	program, err := elf.Open(a.dir + "/fn/bootstrap")
	require.NoError(t, err)
	defer func() { _ = program.Close() }()
	assert.Equal(t, elf.EM_AARCH64, program.Machine)
}

// quickArchive makes an archive of a bundle that is a directory, without the time that compressing takes under the race detector.
func (a *attune) quickArchive(dir string) string {
	var b bytes.Buffer
	archive := zip.NewWriter(&b)
	archive.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) { return flate.NewWriter(w, flate.NoCompression) })
	require.NoError(a.t, archive.AddFS(os.DirFS(filepath.Join(a.dir, dir))))
	require.NoError(a.t, archive.Close())
	return a.write(dir+"-quick.zip", b.String())
}

func TestAManagedRuntimeHandsOverToAttune(t *testing.T) {
	a := bundler(t)
	a.bundle("lambda:python3.13", "fn.zip", "--actions", "deps.shell", "--bootstrap", a.fakeBootstrap(own))
	all := names(t, a.dir+"/fn.zip")
	assert.Equal(t, fs.FileMode(0o755), all["attune-exec"])
	assert.Equal(t, fs.FileMode(0o755), all["bootstrap"])
	assert.Equal(t, fs.FileMode(0o644), all["packs/deps/lib/helper.py"])
	a.bundle("lambda:python3.13", "fn", "--actions", "deps.shell")
	results := a.invoke(a.quickArchive("fn"), a.request("deps.shell", "{}"))
	assert.Equal(t, "from a shell\n", results[0].Stdout)
}

// Without root the cache gets its place in a user namespace; without that, only what does not carry its path comes along.
func TestBundlingWithoutRoot(t *testing.T) {
	require.Zero(t, os.Geteuid(), "becoming another user takes root")
	a := bundler(t)
	for up := a.dir; up != os.TempDir() && up != "/"; up = filepath.Dir(up) {
		require.NoError(t, os.Chmod(up, 0o755))
	}
	require.NoError(t, os.Chmod(a.dir, 0o777))
	program := filepath.Join(a.dir, "attune-run")
	copyProgram(t, program)
	lambda := filepath.Join(a.dir, "lambda")
	copyFile(t, bootstrap(t, own), lambda)
	run := func(more ...string) string {
		args := []string{"bundle", "-q", "--for", "lambda:image", "--packs", "packs", "--actions", "deps.python", "--actions", "deps.node", "--bootstrap", lambda}
		cmd := exec.Command(program, append(args, more...)...)
		cmd.Dir, cmd.Env = a.dir, a.env
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	taken := func(dir string) string { // what runs in a function belongs to root, or to whom it runs as
		out, err := exec.Command("cp", "-r", filepath.Join(a.dir, dir), filepath.Join(a.dir, dir+"-taken")).CombinedOutput()
		require.NoError(t, err, "%s", out)
		return dir + "-taken"
	}
	run("-o", "namespaces", "--require-environments")
	results := a.invoke(taken("namespaces"), a.request("deps.python", "{}"))
	assert.Equal(t, "hit", results[0].Environment.State)

	said := run("-o", "without", "--here", "--json")
	assert.Contains(t, said, "it carries its path, and /var/task/cache cannot be made on this machine: permission denied")
	results = a.invoke(taken("without"), a.request("deps.node", "{}"))
	assert.Equal(t, "hit", results[0].Environment.State)
}

// In a container that may make no namespaces the cache gets its path by being made there, for a while.
func TestBundlingAndInvokingWithoutNamespaces(t *testing.T) {
	require.Zero(t, os.Geteuid(), "/var/task is root's to make")
	a := bundler(t)
	jailed := func(args ...string) (stdout, stderr string) {
		cmd := a.command()
		jail, err := exec.LookPath("attune-jail")
		require.NoError(t, err)
		cmd.Path, cmd.Args = jail, append([]string{"attune-jail", programPath(t)}, args...)
		var out, said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &said
		require.NoError(t, cmd.Run(), "%s%s", &out, &said)
		return out.String(), said.String()
	}
	jailed("bundle", "-q", "--for", "lambda:image", "-o", "fn", "--packs", "packs", "--actions", "deps.*", "--bootstrap", bootstrap(t, own), "--require-environments")
	assert.NoDirExists(t, "/var/task", "what was made is gone")
	assert.Equal(t, "hit", a.invoke("fn", a.request("deps.python", "{}"))[0].Environment.State)

	out, said := jailed("lambda", "invoke", "--local", "fn", "-e", "ATTUNE_LAMBDA_ALLOW=*", "--event", a.request("deps.node", "{}"))
	var result executor.Result
	require.NoError(t, json.Unmarshal([]byte(out), &result))
	assert.Equal(t, "hit", result.Environment.State)
	assert.Equal(t, "1.3.0\n", result.Stdout)
	assert.Contains(t, said, "the bundle cannot be put at /var/task on this machine, and environments that carry their path are passed over")
}

func TestBundlesThatAreRefused(t *testing.T) {
	a := bundler(t)
	lambda := a.fakeBootstrap(own)
	require.NoError(t, os.MkdirAll(a.dir+"/full/of", 0o755))
	a.write("text", "no program\n")
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"--for", "azure:python", "-o", "x.zip"}, `target "azure:python" is not known; write lambda:provided.al2023`},
		{[]string{"--for", "lambda:python3.13-mips", "-o", "x.zip"}, `the architecture is x86_64 or arm64, not "mips"`},
		{[]string{"--for", "lambda:image", "-o", "x.zip", "--bootstrap", lambda, "--actions", "nope.*"}, "is named nope.*"},
		{[]string{"--for", "lambda:image", "-o", "x.zip", "--bootstrap", lambda, "--actions", "[", "--actions", "deps.*"}, `"[" is no pattern of action names`},
		{[]string{"--for", "lambda:image", "-o", "full", "--bootstrap", lambda, "--actions", "deps.shell"}, "full is not empty"},
		{[]string{"--for", "lambda:image", "-o", "nowhere/x.zip", "--bootstrap", lambda, "--actions", "deps.shell"}, "nowhere"},
		{[]string{"--for", "lambda:image", "-o", "x.zip", "--bootstrap", "text"}, "text is no program for Linux"},
		{[]string{"--for", "lambda:image", "-o", "x.zip", "--bootstrap", a.fakeBootstrap(other)}, "is for another machine (" + machines[other].String() + ")"},
	} {
		assert.Contains(t, a.fails(125, append([]string{"bundle", "--packs", "packs"}, c.args...)...), c.says)
	}
	alone := filepath.Join(a.dir, "attune-run")
	copyProgram(t, alone)
	cmd := exec.Command(alone, "bundle", "--packs", "packs", "--for", "lambda:image", "-o", "x.zip")
	cmd.Dir, cmd.Env = a.dir, a.env
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	assert.Contains(t, string(out), "there is none in "+a.dir+"\n  hint: `make lambda` builds attune-lambda-")
	require.NoError(t, os.Symlink("/etc/passwd", a.dir+"/packs/deps/lib/passwd"))
	assert.Contains(t, a.fails(125, "bundle", "--packs", "packs", "--for", "lambda:image", "-o", "x.zip", "--bootstrap", lambda), "the link lib/passwd leads out of the pack")
	assert.NoFileExists(t, a.dir+"/x.zip")
}

func TestLocalInvocationsThatFail(t *testing.T) {
	a := bundler(t)
	a.bundle("lambda:image", "fn", "--actions", "deps.shell")
	event := a.request("deps.shell", "{}")
	invoke := func(code int, more ...string) string {
		return a.fails(code, append([]string{"lambda", "invoke", "--event", event}, more...)...)
	}
	assert.Contains(t, invoke(125, "fn"), "--local is missing")
	assert.Contains(t, invoke(125, "--local", "fn"), "ATTUNE_LAMBDA_", "neither an action nor a list is set")
	assert.Contains(t, invoke(125, "--local", "nothing.zip"), "nothing.zip")
	assert.Contains(t, invoke(125, "--local", event), "is no bundle")
	assert.Contains(t, invoke(125, "--local", "packs"), "there is no attune-bundle.json in it")
	assert.Contains(t, invoke(125, "--local", "fn", "-e", "NO_SUCH_VARIABLE"), "variable NO_SUCH_VARIABLE has no value here")
	assert.Contains(t, invoke(125, "--local", "fn", "--event", a.write("bad.json", "{")), "bad.json is not JSON")
	missing := a.request("deps.missing", "{}")
	invoke(1, "--local", "fn", "-e", "ATTUNE_LAMBDA_ALLOW=*", "-e", "ATTUNE_LAMBDA_FAIL=error", "--event", missing)

	// A function that ends, or does not answer.
	unpacked := filepath.Join(a.dir, "dir")
	a.bundle("lambda:image", "dir", "--actions", "deps.shell", "--bootstrap", a.fakeBootstrap(own))
	replaceBootstrap := func(script string) {
		require.NoError(t, os.WriteFile(unpacked+"/bootstrap", []byte("#!/bin/sh\n"+script+"\n"), 0o755))
	}
	replaceBootstrap("exit 7")
	assert.Contains(t, invoke(125, "--local", unpacked), "the function ended while it started: exit status 7")
	next := "python3 -c 'import urllib.request, os; urllib.request.urlopen(\"http://\" + os.environ[\"AWS_LAMBDA_RUNTIME_API\"] + \"/2018-06-01/runtime/invocation/next\").read()'"
	replaceBootstrap(next + "; exit 8")
	assert.Contains(t, invoke(1, "--local", unpacked), "the function ended before it had answered: exit status 8")
	replaceBootstrap(next + "; sleep 1000")
	assert.Contains(t, invoke(1, "--local", unpacked, "--timeout", "100ms"), "the function did not answer in time")
}
