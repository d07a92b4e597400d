package recipe

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/runtime"
)

// atExit is what the tests of one run share and clean up.
var atExit []func()

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		for _, f := range atExit {
			f()
		}
		os.Exit(code)
	}))
}

func spec(t *testing.T, name string) *runtime.Spec {
	t.Helper()
	catalog, err := runtime.Builtin()
	require.NoError(t, err)
	s, ok := catalog.Lookup(name)
	require.True(t, ok)
	return s
}

// input is a pack of the given files for an interpreter that is only named.
func input(t *testing.T, name string, files map[string]string, env ...string) Input {
	t.Helper()
	dir := t.TempDir()
	for file, text := range files {
		path := filepath.Join(dir, file)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	return Input{
		Spec: spec(t, name), Interpreter: runtime.Interpreter{Runtime: name, Path: "/opt/x/bin/" + name, Version: "3.11.2", ABI: "abi"},
		PackDir: dir, Downloads: filepath.Join(dir, "downloads"), HostEnv: append([]string{"HOME=" + dir}, env...),
	}
}

func key(t *testing.T, in Input) (envcache.Key, bool) {
	t.Helper()
	r, err := For(in.Spec)
	require.NoError(t, err)
	k, needed, err := Key(context.Background(), r, in)
	require.NoError(t, err)
	return k, needed
}

func TestNoManifestNoEnvironment(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"python": {"requirements.txt": "# nothing\n\n"}, "node": {"package.json": `{"name":"x"}`}, "perl": {}, "shell": {}, "ruby": {},
	} {
		_, needed := key(t, input(t, name, files))
		assert.False(t, needed, name)
		_, needed = key(t, input(t, name, nil))
		assert.False(t, needed, name)
	}
}

func TestTheKeyKnowsWhatDecides(t *testing.T) {
	files := map[string]string{"requirements.txt": "-r more.txt\n./local\nsix\n", "more.txt": "attrs\n", "local/setup.py": "pass\n"}
	base, needed := key(t, input(t, "python", files))
	require.True(t, needed)
	same, _ := key(t, input(t, "python", files))
	assert.Equal(t, base.ID("/store"), same.ID("/store"), "the pack's path is no input")
	other, _ := key(t, input(t, "python", files, "LANG=C", "TERM=x"))
	assert.Equal(t, base.ID("/store"), other.ID("/store"))

	for name, change := range map[string]func(in *Input){
		"manifest":    func(in *Input) { write(t, in, "requirements.txt", "-r more.txt\n./local\nsix==1.16\n") },
		"included":    func(in *Input) { write(t, in, "more.txt", "attrs==23.1\n") },
		"local":       func(in *Input) { write(t, in, "local/setup.py", "pass # changed\n") },
		"version":     func(in *Input) { in.Interpreter.Version = "3.11.3" },
		"interpreter": func(in *Input) { in.Interpreter.Path = "/opt/y/bin/python" },
		"abi":         func(in *Input) { in.Interpreter.ABI = "other" },
		"index":       func(in *Input) { in.HostEnv = append(in.HostEnv, "PIP_INDEX_URL=https://mirror.example/simple") },
	} {
		in := input(t, "python", files)
		change(&in)
		changed, _ := key(t, in)
		assert.NotEqual(t, base.ID("/store"), changed.ID("/store"), name)
	}
}

func write(t *testing.T, in *Input, name, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(in.PackDir, name), []byte(text), 0o644))
}

func TestCredentialsAreInNoKey(t *testing.T) {
	python := input(t, "python", map[string]string{
		"requirements.txt":     "six\n",
		".config/pip/pip.conf": "[global]\nindex-url = https://user:hunter2@mirror.example/simple\n",
	}, "PIP_EXTRA_INDEX_URL=https://token-hunter2@other.example/simple")
	node := input(t, "node", map[string]string{
		"package.json": `{"dependencies":{"semver":"7.6.3"}}`,
		".npmrc":       "registry=https://user:hunter2@mirror.example/\n//mirror.example/:_authToken=hunter2\n",
	}, "NPM_CONFIG_REGISTRY=https://user:hunter2@mirror.example/")
	for _, in := range []Input{python, node} {
		k, needed := key(t, in)
		require.True(t, needed)
		for _, i := range k.Inputs("/store") {
			assert.NotContains(t, i.Value, "hunter2", i.Name)
		}
	}
	k, _ := key(t, python)
	assert.Contains(t, k.Inputs("/store"), envcache.KeyInput{Name: "setting:PIP_INDEX_URL", Value: "https://mirror.example/simple"})
}

func TestBuildersGetTheirOwnEnvironment(t *testing.T) {
	in := input(t, "python", nil, "PATH=/bin", "PIP_INDEX_URL=https://u:secret-password@mirror.example/simple", "PIP_TARGET=/elsewhere",
		"PYTHONPATH=/x", "AWS_SECRET_ACCESS_KEY=no", "HTTPS_PROXY=http://proxy.example:3128", "UV_INDEX=other")
	i := newInstaller(in, "pip", "PIP_")
	assert.Equal(t, []string{"HOME=" + in.PackDir, "HTTPS_PROXY=http://proxy.example:3128", "PATH=/bin",
		"PIP_INDEX_URL=https://u:secret-password@mirror.example/simple"}, i.environ())
	assert.Equal(t, "*** at ***", i.credentials().String("secret-password at secret-password"))
}

func TestPipSettingsReachUVOrPipIsUsed(t *testing.T) {
	translated, odd := pipConfig{"PIP_INDEX_URL": "https://m/simple", "PIP_EXTRA_INDEX_URL": "https://n/simple", "PIP_NO_COLOR": "1"}.forUV()
	assert.Empty(t, odd)
	assert.Equal(t, map[string]string{"UV_DEFAULT_INDEX": "https://m/simple", "UV_INDEX": "https://n/simple", "UV_INDEX_STRATEGY": "unsafe-best-match"}, translated)
	_, odd = pipConfig{"PIP_CONFIG_SETTINGS": "x=y"}.forUV()
	assert.Equal(t, "PIP_CONFIG_SETTINGS", odd)
}

func TestLocked(t *testing.T) {
	for name, c := range map[string]struct {
		runtime string
		files   map[string]string
		ok      bool
	}{
		"no hash":       {"python", map[string]string{"requirements.txt": "six==1.17.0\n"}, false},
		"some hashes":   {"python", map[string]string{"requirements.txt": "six==1.17.0 --hash=sha256:ab\nattrs\n"}, false},
		"all hashes":    {"python", map[string]string{"requirements.txt": "six==1.17.0 \\\n  --hash=sha256:ab\n"}, true},
		"no npm lock":   {"node", map[string]string{"package.json": `{"dependencies":{"semver":"7.6.3"}}`}, false},
		"npm lock":      {"node", map[string]string{"package.json": `{"dependencies":{"semver":"7.6.3"}}`, "package-lock.json": "{}"}, true},
		"pom.xml":       {"java", map[string]string{"pom.xml": "<project/>", "A.java": "class A {}"}, false},
		"cpanfile only": {"perl", map[string]string{"cpanfile": "requires 'JSON';"}, false},
	} {
		in := input(t, c.runtime, c.files)
		in.Locked = true
		if c.runtime == "java" {
			in.Script = filepath.Join(in.PackDir, "A.java")
		}
		r, err := For(in.Spec)
		require.NoError(t, err)
		_, _, err = Key(context.Background(), r, in)
		var refused *NotLockedError
		if c.ok {
			assert.NoError(t, err, name)
		} else {
			assert.ErrorAs(t, err, &refused, name)
		}
	}
}

func TestScriptMetadata(t *testing.T) {
	file := filepath.Join(t.TempDir(), "s.py")
	read := func(text string) (string, []string, bool, error) {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
		return ScriptMetadata(file)
	}
	constraint, deps, ok, err := read("#!/usr/bin/env python\n# /// script\n# requires-python = \">=3.11,<4\"\n# dependencies = [\n#   \"six\",\n# ]\n# ///\nprint()\n")
	require.NoError(t, err)
	assert.True(t, ok)
	assert.Equal(t, ">=3.11,<4", constraint)
	assert.Equal(t, []string{"six"}, deps)
	_, _, ok, err = read("print('# /// script')\n")
	require.NoError(t, err)
	assert.False(t, ok)
	_, _, _, err = read("# /// script\n# dependencies = [\n# ///\n")
	assert.ErrorContains(t, err, file+":2")
	_, _, _, err = read("# /// script\n# x = 1\n")
	assert.ErrorContains(t, err, "never closed")
	for specifier, want := range map[string]string{"~=3.9": ">=3.9,3", "~=3.9.2": ">=3.9.2,3.9", "==3.12.*": "3.12", "== 3.12.1": "=3.12.1", "": ""} {
		got, err := convertSpecifiers(specifier)
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
	_, err = convertSpecifiers("!=3.10")
	assert.Error(t, err)
}

// Real interpreters and real installs; the packages are small.

func realInterpreter(t *testing.T, name, path string) Input {
	t.Helper()
	in := input(t, name, nil)
	in.HostEnv = os.Environ()
	in.Interpreter.Path = path
	in.Downloads = filepath.Join(t.TempDir(), "downloads")
	return in
}

// build makes the environment through a store.
func build(t *testing.T, in Input) (*envcache.Env, Command) {
	t.Helper()
	store, err := envcache.Open(filepath.Join(filepath.Dir(in.Downloads), "cache"), envcache.Options{})
	require.NoError(t, err)
	r, err := For(in.Spec)
	require.NoError(t, err)
	k, needed, err := Key(context.Background(), r, in)
	require.NoError(t, err)
	require.True(t, needed)
	env, err := store.Acquire(context.Background(), k, Builder(r, in), envcache.AcquireOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = env.Close() })
	command, err := r.Command(in, env)
	require.NoError(t, err)
	return env, command
}

func TestDebianPythonWithPip(t *testing.T) {
	const path = "/usr/bin/python3"
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		t.Skipf("there is no %s here", path)
	}
	in := realInterpreter(t, "python", resolved)
	in.Interpreter.Version = strings.TrimPrefix(filepath.Base(resolved), "python") + ".0"
	in.HostEnv = []string{"PATH=/usr/bin:/bin", "HOME=" + t.TempDir(), "PIP_CERT=" + os.Getenv("PIP_CERT"), "PIP_INDEX_URL=" + os.Getenv("PIP_INDEX_URL")}
	write(t, &in, "requirements.txt", "six==1.17.0\n")
	write(t, &in, "s.py", "import six")
	in.Script = filepath.Join(in.PackDir, "s.py")
	env, command := build(t, in)
	assert.Equal(t, []string{"six==1.17.0"}, env.Built.Resolved)
	assert.Equal(t, filepath.Join(env.Dir, "bin/python"), command.Argv[0])
	assert.NoFileExists(t, filepath.Join(env.Dir, "bin/pip"))
}

// uv comes from PyPI, as users get it.
func TestUVBuildsRequirementsAndItsOwnLock(t *testing.T) {
	python, found := lookPath(os.Getenv("PATH"), "python3")
	require.True(t, found, "python3 is missing")
	tools := t.TempDir()
	out, err := exec.Command(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--target", tools, "uv").CombinedOutput()
	require.NoError(t, err, "%s", out)
	target, err := exec.Command(python, "-c", "import sys; print(sys.executable, sys.version.split()[0])").Output()
	require.NoError(t, err)
	words := strings.Fields(string(target))
	path, err := filepath.EvalSymlinks(words[0])
	require.NoError(t, err)

	in := realInterpreter(t, "python", path)
	in.Interpreter.Version = words[1]
	in.HostEnv = append(os.Environ(), "PATH="+filepath.Join(tools, "bin")+":"+os.Getenv("PATH"))
	in.Probe = func(context.Context, *runtime.Spec, string) (runtime.Interpreter, error) {
		return runtime.Interpreter{Version: "9.9.9"}, nil
	}
	write(t, &in, "requirements.txt", "six==1.17.0\n")
	env, _ := build(t, in)
	assert.Equal(t, []string{"six==1.17.0"}, env.Built.Resolved)
	assert.False(t, env.Built.Locked)
	assert.Contains(t, env.Inputs, envcache.KeyInput{Name: "installer", Value: "uv 9.9.9"})

	require.NoError(t, os.Remove(filepath.Join(in.PackDir, "requirements.txt")))
	write(t, &in, "pyproject.toml", "[project]\nname = \"p\"\nversion = \"1\"\nrequires-python = \">=3.8\"\ndependencies = [\"six==1.16.0\"]\n")
	lock := exec.Command(filepath.Join(tools, "bin", "uv"), "lock", "-q")
	lock.Dir = in.PackDir
	out, err = lock.CombinedOutput()
	require.NoError(t, err, "%s", out)
	in.Locked = true
	env, _ = build(t, in)
	assert.Equal(t, []string{"six==1.16.0"}, env.Built.Resolved)
	assert.True(t, env.Built.Locked)

	in.HostEnv = []string{"PATH=/nowhere"}
	r, err := For(in.Spec)
	require.NoError(t, err)
	_, _, err = Key(context.Background(), r, in)
	var missing *ToolError
	require.ErrorAs(t, err, &missing)
}

func TestGoIsCompiledOnce(t *testing.T) {
	path, found := lookPath(os.Getenv("PATH"), "go")
	require.True(t, found, "go is missing")
	in := realInterpreter(t, "go", path)
	write(t, &in, "one.go", "package main\n\nfunc main() { println(\"one\") }\n")
	write(t, &in, "two.go", "package main\n\nfunc main() { println(\"two\") }\n")
	in.Script = filepath.Join(in.PackDir, "one.go")
	env, command := build(t, in)
	assert.Equal(t, []string{filepath.Join(env.Dir, "bin/action")}, command.Argv)
	write(t, &in, "two.go", "package main\n\nfunc main() { println(\"changed\") }\n")
	again, _ := build(t, in)
	assert.Equal(t, envcache.Hit, again.State, "another single file is no input")
	write(t, &in, "one.go", "package main\n\nfunc main() { println(\"1\") }\n")
	changed, _ := build(t, in)
	assert.NotEqual(t, env.Dir, changed.Dir)
}

func TestPrograms(t *testing.T) {
	in := input(t, "native", map[string]string{"run": "x"})
	in.Interpreter = runtime.Interpreter{}
	in.Script = filepath.Join(in.PackDir, "run")
	_, err := plain{}.Command(in, nil)
	var refused *NotExecutableError
	require.ErrorAs(t, err, &refused)
	require.NoError(t, os.Chmod(in.Script, 0o755))
	command, err := plain{}.Command(in, nil)
	require.NoError(t, err)
	assert.Equal(t, []string{in.Script}, command.Argv)
}
