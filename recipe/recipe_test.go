package recipe

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
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
	assert.Contains(t, k.Inputs("/store"), envcache.KeyInput{Name: "setting:PIP_INDEX_URL", Value: "https://mirror.example/simple", How: true})
}

func TestBuildersGetTheirOwnEnvironment(t *testing.T) {
	in := input(t, "python", nil, "PATH=/bin", "PIP_INDEX_URL=https://u:secret-password@mirror.example/simple", "PIP_TARGET=/elsewhere",
		"PYTHONPATH=/x", "AWS_SECRET_ACCESS_KEY=no", "HTTPS_PROXY=http://proxy.example:3128", "UV_INDEX=other")
	i := newInstaller(in, "pip", "PIP_")
	assert.Equal(t, []string{"HOME=" + in.PackDir, "HTTPS_PROXY=http://proxy.example:3128", "PATH=/bin",
		"PIP_INDEX_URL=https://u:secret-password@mirror.example/simple"}, i.environ())
	assert.Equal(t, "*** at ***", i.credentials().String("secret-password at secret-password"))
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
		"pom.xml":       {"java", map[string]string{"pom.xml": pomOf(dependency("g", "a", "1", "")), "A.java": "class A {}"}, false},
		"empty pom.xml": {"java", map[string]string{"pom.xml": "<project/>", "A.java": "class A {}"}, true},
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

// Real interpreters and real installs; the packages are small.

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

// mirrorWithLogin serves a folder to the reader hunter2. It has a loopback address of its own, so that nobody else is there once it is closed.
func mirrorWithLogin(t *testing.T, site string) *httptest.Server {
	t.Helper()
	files := http.FileServer(http.Dir(site))
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "reader" || password != "hunter2" {
			w.Header().Set("WWW-Authenticate", `Basic realm="mirror"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		files.ServeHTTP(w, r)
	}))
	own, err := net.Listen("tcp", "127.0.0.2:0")
	require.NoError(t, err)
	require.NoError(t, server.Listener.Close())
	server.Listener = own
	server.Start()
	t.Cleanup(server.Close)
	return server
}
