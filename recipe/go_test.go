package recipe

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/dirhash"

	"github.com/attune-run/attune/envcache"
)

// goPack is a pack whose actions the real go compiles, with nothing of this machine's but its compile cache.
func goPack(t *testing.T, script string, files map[string]string, env ...string) Input {
	t.Helper()
	path, found := lookPath(os.Getenv("PATH"), "go")
	require.True(t, found, "go is missing")
	in := input(t, "go", nil)
	in.PackDir = filepath.Join(t.TempDir(), "a [pack] with blanks")
	for name, text := range files {
		file := filepath.Join(in.PackDir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
	}
	in.Script = filepath.Join(in.PackDir, script)
	in.Interpreter.Path = path
	version, err := exec.Command(path, "env", "GOVERSION", "GOCACHE").Output()
	require.NoError(t, err)
	words := strings.Fields(string(version))
	in.Interpreter.Version = strings.TrimPrefix(words[0], "go")
	in.Downloads = filepath.Join(t.TempDir(), "downloads")
	require.NoError(t, os.MkdirAll(in.Downloads, 0o755))
	require.NoError(t, os.Symlink(words[1], filepath.Join(in.Downloads, "go-build"))) // the standard library takes half a minute
	in.HostEnv = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "GOPROXY=off"}, env...)
	return in
}

// attempt builds through a store.
func attempt(t *testing.T, in Input) (*envcache.Env, error) {
	t.Helper()
	store, err := envcache.Open(filepath.Join(filepath.Dir(in.Downloads), "cache"), envcache.Options{})
	require.NoError(t, err)
	r, err := For(in.Spec)
	require.NoError(t, err)
	k, needed, err := Key(context.Background(), r, in)
	if err != nil {
		return nil, err
	}
	require.True(t, needed)
	env, err := store.Acquire(context.Background(), k, Builder(r, in), envcache.AcquireOptions{RetryFailed: true})
	if err == nil {
		t.Cleanup(func() { _ = env.Close() })
	}
	return env, err
}

// refused is a build that fails for good, and the whole of its error.
func refused(t *testing.T, in Input) string {
	t.Helper()
	_, err := attempt(t, in)
	require.Error(t, err)
	assert.Equal(t, envcache.Permanent, classOf(t, err), "%v", err)
	return err.Error()
}

func classOf(t *testing.T, err error) envcache.Class {
	t.Helper()
	var classified envcache.Classified
	require.True(t, errors.As(err, &classified), "%v", err)
	return classified.Class()
}

// printed is what the built action prints.
func printed(t *testing.T, in Input) string {
	t.Helper()
	env, err := attempt(t, in)
	require.NoError(t, err)
	return ran(t, in, env)
}

func ran(t *testing.T, in Input, env *envcache.Env) string {
	t.Helper()
	r, err := For(in.Spec)
	require.NoError(t, err)
	command, err := r.Command(in, env)
	require.NoError(t, err)
	c := exec.Command(command.Argv[0], command.Argv[1:]...)
	c.Dir = t.TempDir()
	out, err := c.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

// moduleProxy serves modules as https://go.dev/ref/mod#goproxy-protocol says, to who knows the password.
type moduleProxy struct {
	*httptest.Server
	modules map[string]map[string]string // "path@version" → files
	certs   string                       // file
	asked   int
}

const proxyPassword = "hunter2-of-the-proxy"

func newModuleProxy(t *testing.T, modules map[string]map[string]string) *moduleProxy {
	t.Helper()
	p := &moduleProxy{modules: modules, certs: filepath.Join(t.TempDir(), "certs.pem")}
	p.Server = httptest.NewTLSServer(http.HandlerFunc(p.serve))
	t.Cleanup(p.Close)
	require.NoError(t, os.WriteFile(p.certs, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw}), 0o600))
	return p
}

func (p *moduleProxy) serve(w http.ResponseWriter, r *http.Request) {
	if _, password, _ := r.BasicAuth(); password != proxyPassword {
		w.Header().Set("WWW-Authenticate", "Basic")
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}
	p.asked++
	path, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/@v/")
	extension := filepath.Ext(rest)
	name := path + "@" + strings.TrimSuffix(rest, extension)
	files, found := p.modules[name]
	switch {
	case !found:
		http.NotFound(w, r)
	case extension == ".info":
		_ = json.NewEncoder(w).Encode(map[string]string{"Version": strings.TrimSuffix(rest, extension)})
	case extension == ".mod":
		_, _ = w.Write([]byte(files["go.mod"]))
	case extension == ".zip":
		_, _ = w.Write(moduleZip(name, files))
	}
}

func moduleZip(name string, files map[string]string) []byte {
	var buffer bytes.Buffer
	archive := zip.NewWriter(&buffer)
	for file, text := range files {
		w, _ := archive.Create(name + "/" + file)
		_, _ = w.Write([]byte(text))
	}
	_ = archive.Close()
	return buffer.Bytes()
}

// sums is the go.sum of all modules.
func (p *moduleProxy) sums(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	for name, files := range p.modules {
		file := filepath.Join(t.TempDir(), "module.zip")
		require.NoError(t, os.WriteFile(file, moduleZip(name, files), 0o600))
		sum, err := dirhash.HashZip(file, dirhash.Hash1)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(file, []byte(files["go.mod"]), 0o600))
		mod, err := dirhash.Hash1([]string{"go.mod"}, openFile(file))
		require.NoError(t, err)
		path, version, _ := strings.Cut(name, "@")
		fmt.Fprintf(&text, "%s %s %s\n%s %s/go.mod %s\n", path, version, sum, path, version, mod)
	}
	return text.String()
}

// env are the host's variables that lead to the proxy, and to nothing else.
func (p *moduleProxy) env(t *testing.T) []string {
	t.Helper()
	netrc := filepath.Join(t.TempDir(), "netrc")
	require.NoError(t, os.WriteFile(netrc, []byte("machine "+p.Listener.Addr().String()+" login ci password "+proxyPassword+"\n"), 0o600))
	return []string{"GOPROXY=" + p.URL, "NETRC=" + netrc, "SSL_CERT_FILE=" + p.certs, "HTTPS_PROXY=http://127.0.0.1:1", "HTTP_PROXY=http://127.0.0.1:1"}
}

var greet = map[string]map[string]string{
	"example.com/greet@v1.2.3": {"go.mod": "module example.com/greet\n\ngo 1.21\n", "greet.go": "package greet\n\nfunc Hello() string { return \"hello\" }\n"},
}

func greeting(p *moduleProxy, t *testing.T) map[string]string {
	return map[string]string{
		"go.mod":          "module pack\n\ngo 1.21\n\nrequire example.com/greet v1.2.3\n",
		"go.sum":          p.sums(t),
		"actions/main.go": "package main\n\nimport (\n\t\"fmt\"\n\n\t\"example.com/greet\"\n)\n\nfunc main() { fmt.Println(greet.Hello()) }\n",
	}
}

func TestGoModulesComeFromACompanysProxy(t *testing.T) {
	proxy := newModuleProxy(t, greet)
	in := goPack(t, "actions/main.go", greeting(proxy, t), proxy.env(t)...)
	in.Locked = true
	env, err := attempt(t, in)
	require.NoError(t, err)
	assert.Equal(t, "hello\n", ran(t, in, env))
	assert.Equal(t, []string{"example.com/greet==v1.2.3"}, env.Built.Resolved)
	assert.True(t, env.Built.Locked)
	binary := mustRead(t, filepath.Join(env.Dir, goBinary))
	assert.NotContains(t, string(binary), env.Root, "a program carries no path of the store")
	assert.NotContains(t, string(binary), in.PackDir)
	for file, data := range everyFile(t, env.Root) {
		assert.NotContains(t, data, proxyPassword, file)
	}

	// Everything was downloaded: the network is not asked again, in a new store.
	asked := proxy.asked
	for _, network := range []Network{Offline, PreferOffline, Online} {
		in.Network = network
		again := in
		again.Downloads = filepath.Join(t.TempDir(), "x")
		require.NoError(t, os.Symlink(in.Downloads, again.Downloads))
		assert.Equal(t, "hello\n", printed(t, again), network)
	}
	assert.Equal(t, asked, proxy.asked)
	require.NoError(t, filepath.Walk(filepath.Join(in.Downloads, "go-mod"), func(path string, info os.FileInfo, err error) error {
		if err == nil && info.IsDir() {
			assert.NotZero(t, info.Mode()&0o200, "%s cannot be deleted by its owner", path)
		}
		return err
	}))
}

// everyFile are the files below dir, as text.
func everyFile(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	require.NoError(t, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			all[path] = string(mustRead(t, path))
		}
		return err
	}))
	return all
}

func TestGoTakesWhatTheUserDownloadedBefore(t *testing.T) {
	proxy := newModuleProxy(t, greet)
	in := goPack(t, "actions/main.go", greeting(proxy, t), proxy.env(t)...)
	users := filepath.Join(in.hostVar("HOME"), "go/pkg/mod")
	download := exec.Command(in.Interpreter.Path, "mod", "download", "-modcacherw")
	download.Dir, download.Env = in.PackDir, in.HostEnv
	out, err := download.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.DirExists(t, users)
	asked := proxy.asked
	for _, network := range []Network{Offline, PreferOffline} {
		in.Network = network
		in.HostEnv = append(in.HostEnv, "GOPRIVATE=example.com") // offline is offline for private modules, too
		if network == PreferOffline {
			in.HostEnv = append(in.HostEnv, "GOPRIVATE=")
		}
		again := in
		again.Downloads = filepath.Join(t.TempDir(), "downloads")
		require.NoError(t, os.MkdirAll(again.Downloads, 0o755))
		require.NoError(t, os.Symlink(filepath.Join(in.Downloads, "go-build"), filepath.Join(again.Downloads, "go-build")))
		assert.Equal(t, "hello\n", printed(t, again), network)
	}
	assert.Equal(t, asked, proxy.asked)
}

func TestGoFailures(t *testing.T) {
	proxy := newModuleProxy(t, greet)
	for name, c := range map[string]struct {
		change func(in *Input)
		class  envcache.Class
		words  []string
	}{
		"tampered go.sum": {func(in *Input) {
			write(t, in, "go.sum", strings.Replace(proxy.sums(t), " h1:", " h1:AAAA", 1))
		}, envcache.Permanent, []string{"checksum mismatch", "example.com/greet@v1.2.3"}},
		"missing go.sum entry": {func(in *Input) { write(t, in, "go.sum", "") }, envcache.Permanent, []string{"missing go.sum entry", "example.com/greet"}},
		"-mod=mod is not obeyed": {func(in *Input) {
			write(t, in, "go.sum", "")
			in.HostEnv = append(in.HostEnv, "GOFLAGS=-mod=mod")
		}, envcache.Permanent, []string{"missing go.sum entry"}},
		"newer go": {func(in *Input) {
			write(t, in, "go.mod", "module pack\n\ngo 1.99\n\nrequire example.com/greet v1.2.3\n")
		}, envcache.Permanent,
			[]string{"requires go >= 1.99", "running go 1."}},
		"unknown version": {func(in *Input) {
			write(t, in, "go.mod", "module pack\n\ngo 1.21\n\nrequire example.com/greet v1.9.9\n")
			write(t, in, "go.sum", strings.ReplaceAll(proxy.sums(t), "v1.2.3", "v1.9.9"))
		}, envcache.Permanent, []string{"example.com/greet", "v1.9.9"}},
		"proxy away": {func(in *Input) { in.HostEnv = append(in.HostEnv, "GOPROXY=https://127.0.0.1:1") }, envcache.Transient, []string{"connection refused", "example.com/greet"}},
		"password unknown": {func(in *Input) { in.HostEnv = append(in.HostEnv, "NETRC=/nowhere") }, envcache.Transient,
			[]string{"401 Unauthorized", "example.com/greet"}},
		"password in the address": {func(in *Input) {
			in.HostEnv = append(in.HostEnv, "NETRC=/nowhere", "GOPROXY=https://127.0.0.1:1/x,https://wrong-secret-token@127.0.0.1:1/y|"+strings.Replace(proxy.URL, "://", "://user:wrong-secret-password@", 1))
		}, envcache.Transient, []string{"example.com/greet"}},
		"offline": {func(in *Input) { in.Network = Offline }, envcache.Passing, []string{"example.com/greet v1.2.3", "GOPROXY=off"}},
		"offline, private": {func(in *Input) {
			in.Network = Offline
			in.HostEnv = append(in.HostEnv, "GOPRIVATE=example.com")
		}, envcache.Passing, []string{"example.com/greet v1.2.3", "GOPROXY=off"}},
		"compile error": {func(in *Input) {
			write(t, in, "actions/main.go", "package main\n\nimport \"time\"\n\nfunc main() { var timeout time.Duration = \"connection refused\" }\n")
		}, envcache.Permanent, []string{"main.go:5:", "timeout"}},
	} {
		t.Run(name, func(t *testing.T) {
			in := goPack(t, "actions/main.go", greeting(proxy, t), proxy.env(t)...)
			c.change(&in)
			_, err := attempt(t, in)
			require.Error(t, err)
			assert.Equal(t, c.class, classOf(t, err), "%v", err)
			for _, word := range c.words {
				assert.ErrorContains(t, err, word)
			}
			for file, data := range everyFile(t, filepath.Join(filepath.Dir(in.Downloads), "cache")) {
				assert.NotContains(t, data, "wrong-secret", file)
				assert.NotContains(t, data, proxyPassword, file)
			}
			assert.NotContains(t, err.Error(), "wrong-secret")
		})
	}
}

func TestGoVendor(t *testing.T) {
	proxy := newModuleProxy(t, greet)
	files := greeting(proxy, t)
	delete(files, "go.sum")
	files["vendor/modules.txt"] = "# example.com/greet v1.2.3\n## explicit; go 1.21\nexample.com/greet\n"
	files["vendor/example.com/greet/greet.go"] = "package greet\n\nfunc Hello() string { return \"vendored\" }\n"
	in := goPack(t, "actions/main.go", files)
	in.Locked, in.Network = true, Offline
	assert.Equal(t, "vendored\n", printed(t, in))

	write(t, &in, "go.mod", "module pack\n\ngo 1.21\n\nrequire example.com/greet v1.3.0\n")
	_, err := attempt(t, in)
	assert.ErrorContains(t, err, "inconsistent vendoring")
	assert.Equal(t, envcache.Permanent, classOf(t, err))
}

func TestGoLocked(t *testing.T) {
	proxy := newModuleProxy(t, greet)
	files := greeting(proxy, t)
	delete(files, "go.sum")
	in := goPack(t, "actions/main.go", files)
	in.Locked = true
	_, err := attempt(t, in)
	var missing *NotLockedError
	require.ErrorAs(t, err, &missing)
	assert.ErrorContains(t, err, "go mod tidy")
}

func TestGoReplacedModulesAndEmbeddedFilesAreInputs(t *testing.T) {
	in := goPack(t, "pack/actions/main.go", map[string]string{
		"pack/go.mod":             "module pack\n\ngo 1.21\n\nrequire example.com/greet v0.0.0\n\nreplace example.com/greet => ../greet\n",
		"greet/go.mod":            "module example.com/greet\n",
		"greet/greet.go":          "package greet\n\nconst Text = \"one\"\n",
		"pack/actions/main.go":    "package main\n\nimport (\n\t_ \"embed\"\n\t\"fmt\"\n\n\t\"example.com/greet\"\n)\n\n//go:embed data/x.txt\nvar data string\n\nfunc main() { fmt.Println(greet.Text, data) }\n",
		"pack/actions/data/x.txt": "embedded",
		"go.work":                 "go 1.21\n\nuse ./greet\n", // is not looked at
	})
	root := in.PackDir
	in.PackDir, in.Locked = filepath.Join(root, "pack"), true
	env, err := attempt(t, in)
	require.NoError(t, err)
	assert.Equal(t, "one embedded\n", ran(t, in, env))
	assert.Equal(t, []string{"example.com/greet==local"}, env.Built.Resolved)
	require.NoError(t, os.WriteFile(filepath.Join(root, "greet/greet.go"), []byte("package greet\n\nconst Text = \"two\"\n"), 0o644))
	assert.Equal(t, "two embedded\n", printed(t, in))
	write(t, &in, "actions/data/x.txt", "changed")
	assert.Equal(t, "two changed\n", printed(t, in))
	require.NoError(t, os.RemoveAll(filepath.Join(root, "greet")))
	assert.Contains(t, refused(t, in), "../greet")
}

func TestGoProgramsBesideEachOther(t *testing.T) {
	program := func(text string) string {
		return "package main\n\nfunc main() { print(helper() + \"" + text + "\") }\n"
	}
	files := map[string]string{
		"actions/one.go":         program("one"),
		"actions/two.go":         program("two"),
		"actions/helper.go":      "package main\n\nfunc helper() string { return tag + \"-\" }\n",
		"actions/tagged.go":      "//go:build special\n\npackage main\n\nconst tag = \"special\"\n",
		"actions/plain.go":       "//go:build !special\n\npackage main\n\nconst tag = \"plain\"\n",
		"actions/other_plan9.go": "package main\n\nconst tag = \"plan9\"\n",
		"actions/one_test.go":    "package main\n\nfunc broken(\n",
	}
	for _, module := range []bool{false, true} {
		if module {
			files["go.mod"] = "module pack\n\ngo 1.21\n"
		}
		one := goPack(t, "actions/one.go", files)
		assert.Equal(t, "plain-one", printed(t, one))
		two := one
		two.Script = filepath.Join(one.PackDir, "actions/two.go")
		assert.Equal(t, "plain-two", printed(t, two))
		one.HostEnv = append(one.HostEnv, "GOFLAGS=-tags=special")
		assert.Equal(t, "special-one", printed(t, one))
	}
}

func TestGoScriptsWithoutAModule(t *testing.T) {
	in := goPack(t, "one.go", map[string]string{
		"one.go":        "//go:build ignore\n\npackage main\n\nfunc main() { for i := range 3 { print(i) } }\n",
		"two.go":        "package main\n\nfunc main( {",
		"../go.mod":     "module outer\n\ngo 1.4\n", // does not reach into a pack, nor a script that needs none of it
		"../lib/lib.go": "package lib\n\nconst Text = \"outer\"\n",
	}, "GOFLAGS=-mod=mod")
	assert.Equal(t, "012", printed(t, in))
	write(t, &in, "two.go", "package main\n\nfunc main() {}\n")
	again, err := attempt(t, in)
	require.NoError(t, err)
	assert.Equal(t, envcache.Hit, again.State, "another program is no input")
	in.AdHoc = true
	assert.Equal(t, "012", printed(t, in))

	// A bare script in somebody's module is compiled as `go run` does it.
	write(t, &in, "one.go", "package main\n\nimport \"outer/lib\"\n\nfunc main() { print(lib.Text) }\n")
	assert.Equal(t, "outer", printed(t, in))
	in.AdHoc = false
	assert.Contains(t, refused(t, in), "outer/lib")

	write(t, &in, "one.go", "package main\n\nimport \"example.com/greet\"\n\nfunc main() { greet.Hello() }\n")
	assert.Contains(t, refused(t, in), "example.com/greet")
	write(t, &in, "one.go", "package tool\n")
	assert.Contains(t, refused(t, in), "a program's package is main")
	write(t, &in, "one.go", "not go\n")
	assert.Contains(t, refused(t, in), "one.go")
	write(t, &in, "one.go", "package main\n")
	assert.Contains(t, refused(t, in), "function main is undeclared")
}

func TestGoWithC(t *testing.T) {
	in := goPack(t, "main.go", map[string]string{
		"main.go": "package main\n\n// #include \"number.h\"\nimport \"C\"\n\nfunc main() { print(int(C.NUMBER)) }\n", "number.h": "#define NUMBER 41\n",
	})
	assert.Equal(t, "41", printed(t, in))
	write(t, &in, "number.h", "#define NUMBER 42\n")
	env, err := attempt(t, in)
	require.NoError(t, err)
	assert.Equal(t, "42", ran(t, in, env))
	assert.NotContains(t, string(mustRead(t, filepath.Join(env.Dir, goBinary))), env.Root)

	in.HostEnv = append(in.HostEnv, "CGO_ENABLED=0")
	assert.Contains(t, refused(t, in), "imports C, and CGO_ENABLED is 0")
	write(t, &in, "main.go", "package main\n\nimport \"net\"\n\nfunc main() { print(net.IPv4len) }\n")
	env, err = attempt(t, in)
	require.NoError(t, err)
	assert.Empty(t, loader(filepath.Join(env.Dir, goBinary)), "it is static")
}

func TestGoSettingsThatDecideAreInputs(t *testing.T) {
	in := goPack(t, "main.go", map[string]string{"main.go": "package main\n\nfunc main() {}\n"})
	base, _ := key(t, in)
	config := filepath.Join(in.hostVar("HOME"), ".config/go/env")
	require.NoError(t, os.MkdirAll(filepath.Dir(config), 0o755))
	require.NoError(t, os.WriteFile(config, []byte("GOPROXY=https://user:hunter2@mirror.example\nGOFLAGS=-tags=x\n"), 0o644))
	changed, _ := key(t, in)
	assert.NotEqual(t, base.ID("/"), changed.ID("/"))
	assert.Contains(t, changed.Inputs("/"), envcache.KeyInput{Name: "variable:GOFLAGS", Value: "-tags=x"})
	in.HostEnv = append(in.HostEnv, "GOFLAGS=-tags=y")
	over, _ := key(t, in)
	assert.Contains(t, over.Inputs("/"), envcache.KeyInput{Name: "variable:GOFLAGS", Value: "-tags=y"})
	in.HostEnv = append(in.HostEnv, "GOENV=off", "GOFLAGS=")
	for _, i := range over.Inputs("/") {
		assert.NotContains(t, i.Value, "hunter2")
	}
}

func TestGoManifestsThatCannotBeRead(t *testing.T) {
	in := goPack(t, "main.go", map[string]string{"main.go": "package main\n\nfunc main() {}\n", "go.mod": "module pack\n\nrequire (\n"})
	r, err := For(in.Spec)
	require.NoError(t, err)
	_, _, err = Key(t.Context(), r, in)
	assert.ErrorContains(t, err, filepath.Join(in.PackDir, "go.mod"))
	assert.ErrorContains(t, err, "3")
	write(t, &in, "go.mod", "\xff\xfem\x00o\x00d\x00")
	_, _, err = Key(t.Context(), r, in)
	assert.ErrorContains(t, err, filepath.Join(in.PackDir, "go.mod"))
	assert.ErrorContains(t, err, "UTF-8")
}

func openFile(path string) func(string) (io.ReadCloser, error) {
	return func(string) (io.ReadCloser, error) { return os.Open(path) }
}
