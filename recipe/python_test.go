package recipe

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/runtime"
)

// index is a package index (PEP 503) on the loopback interface.
type index struct {
	*httptest.Server
	user, password string // both empty: open to everybody
	mu             sync.Mutex
	files          map[string][]byte // by name
}

func newIndex(t *testing.T, user, password string) *index {
	t.Helper()
	i := &index{user: user, password: password, files: map[string][]byte{}}
	i.Server = httptest.NewServer(i)
	t.Cleanup(i.Close)
	return i
}

func (i *index) add(name string, data []byte) string {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.files[name] = data
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// url of the index, with credentials when it wants some.
func (i *index) url() string {
	u, _ := url.Parse(i.URL + "/simple/")
	if i.user != "" {
		u.User = url.UserPassword(i.user, i.password)
	}
	return u.String()
}

var separators = regexp.MustCompile(`[-_.]+`)

func (i *index) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if user, password, _ := r.BasicAuth(); user != i.user || password != i.password {
		w.Header().Set("WWW-Authenticate", `Basic realm="index"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if data, ok := i.files[path.Base(r.URL.Path)]; ok {
		_, _ = w.Write(data)
		return
	}
	project, ok := strings.CutPrefix(r.URL.Path, "/simple/")
	if !ok || project == "" {
		http.NotFound(w, r)
		return
	}
	var links bytes.Buffer
	for name, data := range i.files {
		sum := sha256.Sum256(data)
		if stem, _, _ := strings.Cut(name, "-"); separators.ReplaceAllString(stem, "-") == strings.Trim(project, "/") {
			_, _ = fmt.Fprintf(&links, "<a href=\"/files/%s#sha256=%x\">%s</a>\n", name, sum, name)
		}
	}
	if links.Len() == 0 {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/html")
	_, _ = w.Write(links.Bytes())
}

// wheelOf is a wheel with a module that prints its version, and a command that does the same.
func wheelOf(t *testing.T, name, version string, requires ...string) (file string, data []byte) {
	t.Helper()
	info := name + "-" + version + ".dist-info/"
	metadata := "Metadata-Version: 2.1\nName: " + name + "\nVersion: " + version + "\n"
	for _, r := range requires {
		metadata += "Requires-Dist: " + r + "\n"
	}
	files := map[string]string{
		name + "/__init__.py": "version = \"" + version + "\"\n\n\ndef main():\n    print(version)\n",
		name + "/broken.py":   "this is no python\n",
		name + "-" + version + ".data/scripts/" + name + "-x": "#!python\nimport " + name + "\nprint(" + name + ".version)\n",
		name + "-" + version + ".data/data/share/" + name:     "data\n",
		info + "METADATA":         metadata,
		info + "WHEEL":            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
		info + "entry_points.txt": "[console_scripts]\n" + name + " = " + name + ":main\n",
	}
	record := info + "RECORD,,\n"
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for path, text := range files {
		record += path + ",,\n"
		writeZipped(t, w, path, text)
	}
	writeZipped(t, w, info+"RECORD", record)
	require.NoError(t, w.Close())
	return name + "-" + version + "-py3-none-any.whl", b.Bytes()
}

func writeZipped(t *testing.T, w *zip.Writer, path, text string) {
	t.Helper()
	f, err := w.Create(path)
	require.NoError(t, err)
	_, err = f.Write([]byte(text))
	require.NoError(t, err)
}

// ownBackend builds without anything from an index (PEP 517, backend-path); build is what else it does.
func ownBackend(name, version, build string) map[string]string {
	return map[string]string{
		"pyproject.toml": "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n[project]\nname = \"" + name + "\"\nversion = \"" + version + "\"\n",
		"PKG-INFO":       "Metadata-Version: 2.1\nName: " + name + "\nVersion: " + version + "\n",
		name + ".py":     "version = \"" + version + "\"\n",
		"backend.py": `import os, subprocess, zipfile
NAME, VERSION = "` + name + `", "` + version + `"
def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    ` + build + `
    info, file = f"{NAME}-{VERSION}.dist-info", f"{NAME}-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(wheel_directory, file), "w") as z:
        z.write(NAME + ".py")
        z.writestr(info + "/METADATA", f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {VERSION}\n")
        z.writestr(info + "/WHEEL", "Wheel-Version: 1.0\nGenerator: own\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr(info + "/RECORD", f"{NAME}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return file
`,
	}
}

func sdistOf(t *testing.T, name, version, build string) (file string, data []byte) {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for file, text := range ownBackend(name, version, build) {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: name + "-" + version + "/" + file, Mode: 0o644, Size: int64(len(text)), ModTime: time.Now()}))
		_, err := w.Write([]byte(text))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	require.NoError(t, z.Close())
	return name + "-" + version + ".tar.gz", b.Bytes()
}

// basePython is the python3 in PATH, behind all shims.
var basePython = sync.OnceValues(func() (runtime.Interpreter, error) {
	out, err := exec.Command("python3", "-c", "import os,sys; print(os.path.realpath(sys.executable), sys.version.split()[0], sys.implementation.cache_tag)").Output()
	words := strings.Fields(string(out))
	if err != nil || len(words) != 3 {
		return runtime.Interpreter{}, fmt.Errorf("python3: %w: %q", err, out)
	}
	return runtime.Interpreter{Runtime: "python", Path: words[0], Version: words[1], ABI: words[2]}, nil
})

// uvDir holds uv as users get it: from the package index.
var uvDir = sync.OnceValues(func() (string, error) {
	base, err := basePython()
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "attune-test-uv")
	if err != nil {
		return "", err
	}
	atExit = append(atExit, func() { _ = os.RemoveAll(dir) })
	out, err := exec.Command(base.Path, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--target", dir, "uv").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return filepath.Join(dir, "bin"), err
})

// pythonPack is a pack for the real interpreter. Without an index on the loopback interface it cannot reach any.
func pythonPack(t *testing.T, tool string, files map[string]string, env ...string) Input {
	t.Helper()
	in := input(t, "python", files)
	base, err := basePython()
	require.NoError(t, err)
	in.Interpreter = base
	path := "/usr/bin:/bin"
	if tool == "uv" {
		dir, err := uvDir()
		require.NoError(t, err)
		path = dir + ":" + path
	}
	in.HostEnv = append([]string{"PATH=" + path, "HOME=" + t.TempDir(), "HTTP_PROXY=http://127.0.0.1:9", "HTTPS_PROXY=http://127.0.0.1:9",
		"NO_PROXY=127.0.0.1", "PIP_RETRIES=0", "UV_HTTP_RETRIES=0"}, env...)
	in.Downloads = filepath.Join(t.TempDir(), "downloads")
	in.Probe = func(context.Context, *runtime.Spec, string) (runtime.Interpreter, error) {
		return runtime.Interpreter{Version: "9.9.9"}, nil
	}
	return in
}

// acquire is build for what may fail.
func acquire(t *testing.T, in Input) (*envcache.Env, error) {
	t.Helper()
	store, err := envcache.Open(filepath.Join(filepath.Dir(in.Downloads), "cache"), envcache.Options{})
	require.NoError(t, err)
	k, needed, err := Key(context.Background(), python{}, in)
	if err != nil {
		return nil, err
	}
	require.True(t, needed)
	env, err := store.Acquire(context.Background(), k, Builder(python{}, in), envcache.AcquireOptions{RetryFailed: true})
	if err == nil {
		t.Cleanup(func() { _ = env.Close() })
	}
	return env, err
}

// failure is the text that a user sees, and its class.
func failure(t *testing.T, in Input) (string, envcache.Class) {
	t.Helper()
	_, err := acquire(t, in)
	require.Error(t, err)
	text := err.Error()
	var failed *envcache.BuildError
	if errors.As(err, &failed) {
		text += "\n" + strings.Join(failed.Tail, "\n")
	}
	var class envcache.Classified
	require.ErrorAs(t, err, &class, text)
	return text, class.Class()
}

// again forgets the environments, not the downloads.
func again(t *testing.T, in Input) {
	t.Helper()
	require.NoError(t, os.RemoveAll(filepath.Join(filepath.Dir(in.Downloads), "cache")))
}

// says runs Python in the environment.
func says(t *testing.T, env *envcache.Env, code string) string {
	t.Helper()
	out, err := exec.Command(pythonBinary(env.Dir), "-I", "-c", code).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return strings.TrimSpace(string(out))
}

var pythonTools = []string{"uv", "pip"}

func TestPythonEnvironmentsAreComplete(t *testing.T) {
	mirror := newIndex(t, "", "")
	sum := mirror.add(wheelOf(t, "attdemo", "1.0", "attdep>=1"))
	dep := mirror.add(wheelOf(t, "attdep", "1.5"))
	manifest := fmt.Sprintf("attdemo==1.0 --hash=sha256:%s\nattdep==1.5 --hash=sha256:%s\n", sum, dep)
	for _, tool := range []string{"uv", "pip", "ensurepip"} {
		t.Run(tool, func(t *testing.T) {
			in := pythonPack(t, tool, map[string]string{"requirements.txt": manifest}, "PIP_INDEX_URL="+mirror.url())
			in.Locked = true
			name := map[string]string{"uv": "uv 9.9.9", "pip": "pip " + basePipVersion(in), "ensurepip": "ensurepip"}[tool]
			if tool == "ensurepip" { // an interpreter without pip
				base := filepath.Join(t.TempDir(), "base")
				require.NoError(t, writeVirtualenv(in, base))
				in.Interpreter.Path = pythonBinary(base)
			}
			in.Downloads = filepath.Join(t.TempDir(), "with [brackets] and blanks", strings.Repeat("x", 150), "downloads")
			env, err := acquire(t, in)
			require.NoError(t, err)
			assert.Contains(t, env.Inputs, envcache.KeyInput{Name: "installer", Value: name, How: true})
			assert.Equal(t, []string{"attdemo==1.0", "attdep==1.5"}, env.Built.Resolved)
			assert.True(t, env.Built.Locked)
			assert.Equal(t, []string{filepath.Join("lib", pythonName(in), "site-packages")}, env.Built.Complete)
			assert.Equal(t, "1.0 1.5", says(t, env, "import attdemo, attdep; print(attdemo.version, attdep.version)"))
			for command, version := range map[string]string{"attdemo": "1.0\n", "attdep": "1.5\n", "attdemo-x": "1.0\n"} {
				out, err := exec.Command(filepath.Join(env.Dir, "bin", command)).CombinedOutput()
				require.NoError(t, err, "%s", out)
				assert.Equal(t, version, string(out))
			}
			assert.FileExists(t, filepath.Join(env.Dir, "share/attdemo"))
			assert.NoFileExists(t, filepath.Join(env.Dir, "bin/pip"))
			assert.NoDirExists(t, filepath.Join(env.Dir, ".build"))
			// Bytecode is there and good: Python has nothing to write.
			assert.Equal(t, "True", says(t, env, "import attdemo, os; print(os.path.exists(attdemo.__cached__))"))
			assert.Empty(t, says(t, env, `import importlib.metadata as m
print(*[f for d in m.distributions() if d.name.startswith("att") for f in d.files if not f.locate().exists()])`))
		})
	}
}

// A mirror that wants credentials is the only index there is.
func TestPythonMirrorWithCredentials(t *testing.T) {
	const password = "s3cret%40pass" // written; s3cret@pass is meant
	mirror := newIndex(t, "robot", "s3cret@pass")
	mirror.add(wheelOf(t, "attdemo", "1.0"))
	plain := mirror.URL + "/simple/"
	address := strings.Replace(plain, "://", "://robot:"+password+"@", 1)
	host, _, _ := strings.Cut(strings.TrimPrefix(mirror.URL, "http://"), ":")
	netrc := "machine " + host + "\nlogin robot\npassword s3cret@pass\n"
	ways := map[string]func(in *Input){
		"pip.conf": func(in *Input) { writeHome(t, in, ".config/pip/pip.conf", "[global]\nindex-url = "+address+"\n") },
		"install section": func(in *Input) {
			writeHome(t, in, ".pip/pip.conf", "[global]\ntimeout = 20\n[install]\nindex-url =\n    "+address+"\n")
		},
		"netrc": func(in *Input) {
			writeHome(t, in, ".config/pip/pip.conf", "[global]\nindex-url = "+plain+"\n")
			writeHome(t, in, ".netrc", netrc)
		},
		"PIP_CONFIG_FILE": func(in *Input) {
			writeHome(t, in, "elsewhere.conf", "[global]\nindex-url = "+address+"\n")
			in.HostEnv = append(in.HostEnv, "PIP_CONFIG_FILE="+filepath.Join(in.hostVar("HOME"), "elsewhere.conf"))
		},
		"PIP_INDEX_URL":    func(in *Input) { in.HostEnv = append(in.HostEnv, "PIP_INDEX_URL="+address) },
		"UV_DEFAULT_INDEX": func(in *Input) { in.HostEnv = append(in.HostEnv, "UV_DEFAULT_INDEX="+address) },
		"uv.toml": func(in *Input) {
			writeHome(t, in, ".config/uv/uv.toml", "[[index]]\nurl = \""+address+"\"\ndefault = true\n")
		},
		"requirements.txt": func(in *Input) { write(t, in, "requirements.txt", "--index-url "+address+"\nattdemo\n") },
		"a variable": func(in *Input) {
			write(t, in, "requirements.txt", "--index-url "+strings.Replace(address, password, "${ATT_TOKEN}", 1)+"\nattdemo\n")
			in.HostEnv = append(in.HostEnv, "ATT_TOKEN="+password)
		},
	}
	for _, tool := range pythonTools {
		for way, configure := range ways {
			if tool == "pip" && (way == "UV_DEFAULT_INDEX" || way == "uv.toml") {
				continue
			}
			t.Run(tool+" "+way, func(t *testing.T) {
				in := pythonPack(t, tool, map[string]string{"requirements.txt": "attdemo\n"})
				configure(&in)
				env, err := acquire(t, in)
				require.NoError(t, err)
				assert.Equal(t, []string{"attdemo==1.0"}, env.Built.Resolved)
				noSecret(t, filepath.Dir(in.Downloads), "s3cret")
				for _, i := range env.Inputs {
					assert.NotContains(t, i.Value, "s3cret", i.Name)
				}
			})
		}
	}
}

func writeHome(t *testing.T, in *Input, name, text string) {
	t.Helper()
	file := filepath.Join(in.hostVar("HOME"), name)
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
}

// noSecret reads everything below dir: environments, logs, ready.json, downloads.
func noSecret(t *testing.T, dir, secret string) {
	t.Helper()
	seen := 0
	require.NoError(t, filepath.WalkDir(dir, func(path string, item fs.DirEntry, err error) error {
		if err != nil || !item.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(secret)) {
			t.Errorf("%s holds the credential: %q", path, data)
		}
		seen++
		return err
	}))
	assert.NotZero(t, seen)
}

func TestPythonFailures(t *testing.T) {
	mirror := newIndex(t, "robot", "s3cret-pass")
	right := mirror.add(wheelOf(t, "attdemo", "1.0"))
	mirror.add(wheelOf(t, "attfirst", "1.0", "attdemo<1"))
	mirror.add(sdistOf(t, "attnative", "1.0", `subprocess.check_call(["a-compiler-that-is-missing", "-c", "x.c"])`))
	mirror.add("attold-1.0.tar.gz", oldSdist(t))
	wrong := strings.Repeat("ab", 32)
	for name, c := range map[string]struct {
		manifest string
		env      string
		says     []string
		class    envcache.Class
	}{
		"unsolvable":   {manifest: "attdemo==7\n", says: []string{"attdemo==7"}, class: envcache.Permanent},
		"conflict":     {manifest: "attdemo==1.0\nattfirst\n", says: []string{"attdemo", "attfirst"}, class: envcache.Permanent},
		"wrong hash":   {manifest: "attdemo==1.0 --hash=sha256:" + wrong + "\n", says: []string{wrong, right}, class: envcache.Permanent},
		"no hash":      {manifest: "attfirst==1.0 --hash=sha256:" + wrong + "\n", says: []string{"attfirst"}, class: envcache.Permanent},
		"not a name":   {manifest: "no name at all!\n", says: []string{"no name at all!"}, class: envcache.Permanent},
		"no compiler":  {manifest: "attnative\n", says: []string{"a-compiler-that-is-missing"}, class: envcache.Permanent},
		"no backend":   {manifest: "attold\n", says: []string{"setuptools"}, class: envcache.Permanent},
		"index down":   {manifest: "attdemo\n", env: "PIP_INDEX_URL=http://robot:s3cret-pass@127.0.0.1:9/simple/", says: []string{"127.0.0.1:9"}, class: envcache.Transient},
		"wrong secret": {manifest: "attdemo\n", env: "PIP_INDEX_URL=" + strings.Replace(mirror.url(), "s3cret-pass", "s3cret-wrong", 1), says: []string{"401"}, class: envcache.Transient},
		"no secret":    {manifest: "attdemo\n", env: "PIP_INDEX_URL=" + mirror.URL + "/simple/", says: []string{"401"}, class: envcache.Transient},
	} {
		for _, tool := range pythonTools {
			t.Run(name+" "+tool, func(t *testing.T) {
				in := pythonPack(t, tool, map[string]string{"requirements.txt": c.manifest}, "PIP_INDEX_URL="+mirror.url())
				if c.env != "" {
					in.HostEnv = append(in.HostEnv, c.env)
				}
				text, class := failure(t, in)
				for _, want := range c.says {
					assert.Contains(t, text, want)
				}
				assert.Equal(t, c.class, class, text)
				assert.NotContains(t, text, "s3cret")
				noSecret(t, filepath.Dir(in.Downloads), "s3cret")
			})
		}
	}
}

// oldSdist needs setuptools from the index to be built.
func oldSdist(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for file, text := range map[string]string{
		"setup.py": "from setuptools import setup\nsetup(name='attold', version='1.0')\n", "PKG-INFO": "Metadata-Version: 1.0\nName: attold\nVersion: 1.0\n",
	} {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: "attold-1.0/" + file, Mode: 0o644, Size: int64(len(text)), ModTime: time.Now()}))
		_, err := w.Write([]byte(text))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	require.NoError(t, z.Close())
	return b.Bytes()
}

func TestPythonBadManifests(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		says  []string
	}{
		"UTF-16":       {map[string]string{"requirements.txt": "\xff\xfes\x00i\x00x\x00"}, []string{"requirements.txt", "UTF-16", "save it as UTF-8"}},
		"Latin-1":      {map[string]string{"requirements.txt": "six\n# caf\xe9\n"}, []string{"requirements.txt:2", "UTF-8"}},
		"included":     {map[string]string{"requirements.txt": "-r more.txt\n", "more.txt": "# caf\xe9\n"}, []string{"requirements.txt includes", "more.txt:1"}},
		"pyproject":    {map[string]string{"pyproject.toml": "[project]\nname = \"caf\xe9\"\n"}, []string{"pyproject.toml:2"}},
		"no toml":      {map[string]string{"pyproject.toml": "[project\n"}, []string{"pyproject.toml", "line 2"}},
		"missing -r":   {map[string]string{"requirements.txt": "-r gone.txt\n"}, []string{"requirements.txt includes", "gone.txt", "not there"}},
		"missing path": {map[string]string{"requirements.txt": "./gone\n"}, []string{"requirements.txt requires", "gone", "not there"}},
		"remote -r":    {map[string]string{"requirements.txt": "-r https://u:hunter2@x.example/r.txt\n"}, []string{"requirements.txt includes https://x.example/r.txt"}},
		"dynamic":      {map[string]string{"pyproject.toml": "[project]\nname = \"p\"\ndynamic = [\"dependencies\"]\n"}, []string{"pyproject.toml", "dynamic"}},
		"poetry":       {map[string]string{"pyproject.toml": "[tool.poetry.dependencies]\npython = \"^3.9\"\nsix = \"*\"\n"}, []string{"pyproject.toml", "poetry export"}},
		"project path": {map[string]string{"pyproject.toml": "[project]\nname = \"p\"\ndependencies = [\"x @ file:///gone/x.whl\"]\n"}, []string{"/gone/x.whl", "not there"}},
		"uv's own":     {map[string]string{"pyproject.toml": "[project]\nname = \"p\"\ndependencies = [\"x\"]\n[tool.uv.sources]\nx = {path = \"x\"}\n"}, []string{"[tool.uv]", "install uv"}},
		"lock alone":   {map[string]string{"pyproject.toml": "[project]\nname = \"p\"\ndependencies = [\"x\"]\n", "uv.lock": "version = 1\n"}, []string{"uv.lock needs uv", "install uv"}},
	} {
		in := input(t, "python", c.files)
		_, _, err := Key(context.Background(), python{}, in)
		if err == nil { // it matters only to who builds
			_, err = python{}.Build(context.Background(), in, envcache.Site{Dir: t.TempDir(), Log: io.Discard, Phase: func(string) {}})
		}
		for _, want := range c.says {
			assert.ErrorContains(t, err, want, name)
		}
		if err != nil {
			assert.NotContains(t, err.Error(), "hunter2", name)
		}
	}
	// What pip is told must hold for uv as well.
	odd := pythonPack(t, "uv", map[string]string{"pyproject.toml": "[project]\nname = \"p\"\ndependencies = [\"x\"]\n", "uv.lock": "version = 1\n"}, "PIP_PRE=1")
	_, _, err := Key(context.Background(), python{}, odd)
	assert.ErrorContains(t, err, "PIP_PRE")
	// A byte order mark is no text.
	in := input(t, "python", map[string]string{"requirements.txt": "\xef\xbb\xbf# nothing\n"})
	_, needed := key(t, in)
	assert.False(t, needed)
}

func TestPythonNetworkModes(t *testing.T) {
	for _, tool := range pythonTools {
		t.Run(tool, func(t *testing.T) {
			mirror := newIndex(t, "", "")
			mirror.add(wheelOf(t, "attdemo", "1.0", "attdep"))
			mirror.add(wheelOf(t, "attdep", "1.0"))
			mirror.add(sdistOf(t, "attsource", "1.0", "pass"))
			in := pythonPack(t, tool, map[string]string{"requirements.txt": "attdemo\nattsource\n"}, "PIP_INDEX_URL="+mirror.url())
			first, err := acquire(t, in)
			require.NoError(t, err)
			assert.Equal(t, []string{"attdemo==1.0", "attdep==1.0", "attsource==1.0"}, first.Built.Resolved)

			// What was downloaded comes without the network, for these requirements and for others.
			mirror.Config.SetKeepAlivesEnabled(false)
			down := in
			down.HostEnv = append(slices.Clone(in.HostEnv), "PIP_INDEX_URL="+mirror.url())
			mirror.add(wheelOf(t, "attdemo", "2.0"))
			down.Network = Offline
			again(t, in)
			env, err := acquire(t, down)
			require.NoError(t, err)
			assert.Equal(t, first.Built.Resolved, env.Built.Resolved)
			write(t, &in, "requirements.txt", "attdep\n")
			env, err = acquire(t, down)
			require.NoError(t, err)
			assert.Equal(t, []string{"attdep==1.0"}, env.Built.Resolved)

			// What was not is named, and is no lasting failure.
			write(t, &in, "requirements.txt", "attdemo\nattmissing\n")
			text, class := failure(t, down)
			assert.Contains(t, text, "attmissing")
			assert.Contains(t, text, "--offline")
			assert.Equal(t, envcache.Passing, class)
			write(t, &in, "requirements.txt", "attdirect @ "+mirror.URL+"/files/attdirect-1.0-py3-none-any.whl\n")
			text, class = failure(t, down)
			assert.Contains(t, text, "attdirect")
			assert.Equal(t, envcache.Passing, class)

			// Other mistakes are said to be what they are.
			write(t, &in, "requirements.txt", "not a name!\n")
			text, class = failure(t, down)
			assert.NotContains(t, text, "--offline")
			assert.Equal(t, envcache.Permanent, class)

			// What is there wins over what is new, the rest is fetched.
			prefer := in
			prefer.Network = PreferOffline
			write(t, &in, "requirements.txt", "# again\nattdemo\n")
			env, err = acquire(t, prefer)
			require.NoError(t, err)
			assert.Contains(t, env.Built.Resolved, "attdemo==1.0")
			mirror.add(wheelOf(t, "attmissing", "1.0"))
			write(t, &in, "requirements.txt", "attmissing\n")
			env, err = acquire(t, prefer)
			require.NoError(t, err)
			assert.Equal(t, []string{"attmissing==1.0"}, env.Built.Resolved)

			write(t, &in, "requirements.txt", "attdemo # online\n")
			env, err = acquire(t, in)
			require.NoError(t, err)
			assert.Equal(t, []string{"attdemo==2.0"}, env.Built.Resolved)
		})
	}
}

// Local packages are copied in, and are as new as the pack.
func TestPythonLocalPackages(t *testing.T) {
	for _, tool := range pythonTools {
		t.Run(tool, func(t *testing.T) {
			files := map[string]string{"requirements.txt": "-r more/other.txt\n", "more/other.txt": "-e ./attlocal\nattsecond @ file:second\n"}
			for name, text := range ownBackend("attlocal", "1.0", "open('beside', 'w').close()") {
				files["attlocal/"+name] = text
			}
			for name, text := range ownBackend("attsecond", "2.0", "pass") {
				files["second/"+name] = text
			}
			mirror := newIndex(t, "", "")
			mirror.add(wheelOf(t, "attdemo", "1.0"))
			in := pythonPack(t, tool, files, "PIP_INDEX_URL="+mirror.url())
			write(t, &in, "more/other.txt", "-e ./attlocal\nattdemo\nattsecond @ file://"+in.PackDir+"/second\n")
			env, err := acquire(t, in)
			require.NoError(t, err)
			assert.Equal(t, "1.0", says(t, env, "import attlocal; print(attlocal.version)"))
			assert.Equal(t, []string{"attdemo==1.0", "attlocal==1.0", "attsecond==2.0"}, env.Built.Resolved)
			assert.NoFileExists(t, filepath.Join(in.PackDir, "attlocal/beside"), "a pack is only ever read")
			write(t, &in, "attlocal/attlocal.py", "version = 'changed'\n")
			changed, err := acquire(t, in)
			require.NoError(t, err)
			assert.Equal(t, "changed", says(t, changed, "import attlocal; print(attlocal.version)"))

			// A changed local package needs no network for the others.
			mirror.Close()
			write(t, &in, "attlocal/attlocal.py", "version = 'changed again'\n")
			in.Network = Offline
			changed, err = acquire(t, in)
			require.NoError(t, err)
			assert.Equal(t, "changed again", says(t, changed, "import attlocal; print(attlocal.version)"))
			assert.Equal(t, "1.0", says(t, env, "import attlocal; print(attlocal.version)"))
		})
	}
}

func TestUnpackedWheelsSurviveDamage(t *testing.T) {
	mirror := newIndex(t, "", "")
	mirror.add(wheelOf(t, "attdemo", "1.0"))
	in := pythonPack(t, "pip", map[string]string{"requirements.txt": "attdemo\n"}, "PIP_INDEX_URL="+mirror.url())
	_, err := acquire(t, in)
	require.NoError(t, err)
	found, err := filepath.Glob(filepath.Join(in.Downloads, "unpacked/*/*/site/attdemo/__init__.py"))
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.NoError(t, os.Truncate(found[0], 0)) // as a crash of the machine may leave it
	again(t, in)
	env, err := acquire(t, in)
	require.NoError(t, err)
	assert.Equal(t, "1.0", says(t, env, "import attdemo; print(attdemo.version)"))
}

func TestWheelsThatAreRefused(t *testing.T) {
	for want, files := range map[string]map[string]string{
		"leads out":       {"x-1.dist-info/WHEEL": "Wheel-Version: 1.0\n", "../evil.py": ""},
		"wheel version":   {"x-1.dist-info/WHEEL": "Wheel-Version: 2.0\n"},
		"no wheel":        {"x.py": ""},
		"unknown kind":    {"x-1.dist-info/WHEEL": "Wheel-Version: 1.0\n", "x-1.data/other/x": ""},
		"not a valid zip": nil,
	} {
		file := filepath.Join(t.TempDir(), "x-1-py3-none-any.whl")
		var b bytes.Buffer
		if files != nil {
			w := zip.NewWriter(&b)
			for name, text := range files {
				writeZipped(t, w, name, text)
			}
			require.NoError(t, w.Close())
		}
		require.NoError(t, os.WriteFile(file, b.Bytes(), 0o600))
		_, err := unpackWheel(file, t.TempDir())
		require.ErrorContains(t, err, want)
		assert.ErrorContains(t, err, filepath.Base(file))
	}
}

func TestUVLock(t *testing.T) {
	made := newIndex(t, "", "")
	mirror := newIndex(t, "robot", "s3cret-pass")
	for _, version := range []string{"1.0", "2.0"} {
		name, data := wheelOf(t, "attdemo", version)
		made.add(name, data)
		mirror.add(name, data)
	}
	project := "[project]\nname = \"p\"\nversion = \"1\"\nrequires-python = \">=3.8\"\ndependencies = [\"attdemo<2\"]\n"
	in := pythonPack(t, "uv", map[string]string{"pyproject.toml": project}, "UV_DEFAULT_INDEX="+made.url())
	uv, found := lookPath(in.hostVar("PATH"), "uv")
	require.True(t, found)
	lock := exec.Command(uv, "lock", "-q")
	lock.Dir, lock.Env = in.PackDir, in.HostEnv
	out, err := lock.CombinedOutput()
	require.NoError(t, err, "%s", out)
	in.Locked = true
	env, err := acquire(t, in)
	require.NoError(t, err)
	assert.Equal(t, []string{"attdemo==1.0"}, env.Built.Resolved)
	assert.True(t, env.Built.Locked)

	// A mirror is never left, whatever addresses the lock names.
	made.Close()
	in.HostEnv = append(slices.DeleteFunc(slices.Clone(in.HostEnv), func(e string) bool { return strings.HasPrefix(e, "UV_DEFAULT_INDEX") }), "PIP_INDEX_URL="+mirror.url())
	in.Downloads = filepath.Join(t.TempDir(), "downloads")
	env, err = acquire(t, in)
	require.NoError(t, err)
	assert.Equal(t, []string{"attdemo==1.0"}, env.Built.Resolved)
	noSecret(t, filepath.Dir(in.Downloads), "s3cret")

	write(t, &in, "pyproject.toml", strings.Replace(project, "<2", ">=2", 1))
	text, class := failure(t, in)
	assert.Contains(t, text, "uv.lock does not match "+filepath.Join(in.PackDir, "pyproject.toml")+"; run `uv lock`")
	assert.Equal(t, envcache.Permanent, class)
}

func TestScriptsBringTheirDependencies(t *testing.T) {
	mirror := newIndex(t, "", "")
	mirror.add(wheelOf(t, "attdemo", "1.0"))
	mirror.add(wheelOf(t, "attdemo", "2.0"))
	const plain = "# /// script\n# dependencies = [\"attdemo\"]\n# ///\nimport attdemo\n"
	for _, tool := range pythonTools {
		in := pythonPack(t, tool, map[string]string{"s.py": plain}, "PIP_INDEX_URL="+mirror.url())
		in.Script, in.AdHoc = filepath.Join(in.PackDir, "s.py"), true
		env, err := acquire(t, in)
		require.NoError(t, err)
		assert.Equal(t, []string{"attdemo==2.0"}, env.Built.Resolved)

		write(t, &in, "s.py", strings.Replace(plain, "# ///\n", "# [tool.uv]\n# resolution = \"lowest\"\n# ///\n", 1))
		env, err = acquire(t, in)
		if tool == "pip" {
			var missing *ToolError
			require.ErrorAs(t, err, &missing)
			continue
		}
		require.NoError(t, err)
		assert.Equal(t, []string{"attdemo==1.0"}, env.Built.Resolved)
	}
}

// The public index, as most users have it.
func TestPythonFromThePublicIndex(t *testing.T) {
	const hashed = "six==1.17.0 \\\n    --hash=sha256:4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274 \\\n    --hash=sha256:ff70335d468e7eb6ec65b95b99d3a2836546063f63acc5171de367e834932a81\n"
	for _, tool := range pythonTools {
		in := pythonPack(t, tool, map[string]string{"requirements.txt": hashed, "s.py": "import six"})
		path := in.hostVar("PATH")
		in.HostEnv = append(os.Environ(), "PATH="+path)
		in.Script = filepath.Join(in.PackDir, "s.py")
		env, err := acquire(t, in)
		require.NoError(t, err)
		assert.Equal(t, []string{"six==1.17.0"}, env.Built.Resolved)
		command, err := python{}.Command(in, env)
		require.NoError(t, err)
		assert.Equal(t, filepath.Join(env.Dir, "bin/python"), command.Argv[0])
	}
}

func TestInterpretersSideBySide(t *testing.T) {
	mirror := newIndex(t, "", "")
	mirror.add(wheelOf(t, "attdemo", "1.0"))
	in := pythonPack(t, "pip", map[string]string{"requirements.txt": "attdemo\n"}, "PIP_INDEX_URL="+mirror.url())
	one, err := acquire(t, in)
	require.NoError(t, err)
	in.Interpreter.Path = filepath.Join(t.TempDir(), "bin", filepath.Base(in.Interpreter.Path))
	require.NoError(t, os.Mkdir(filepath.Dir(in.Interpreter.Path), 0o755))
	base, err := basePython()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(base.Path, in.Interpreter.Path))
	two, err := acquire(t, in)
	require.NoError(t, err)
	assert.NotEqual(t, one.ID, two.ID)
	for env, home := range map[*envcache.Env]string{one: base.Path, two: in.Interpreter.Path} {
		target, err := os.Readlink(pythonBinary(env.Dir))
		require.NoError(t, err)
		assert.Equal(t, home, target)
		assert.Equal(t, "1.0", says(t, env, "import attdemo; print(attdemo.version)"))
	}
}

func TestPipSettingsReachUVOrPipIsUsed(t *testing.T) {
	translated, odd := pipConfig{"PIP_INDEX_URL": "https://m/simple", "PIP_EXTRA_INDEX_URL": "https://n/simple", "PIP_NO_COLOR": "1"}.forUV(Input{})
	assert.Empty(t, odd)
	assert.Equal(t, map[string]string{"UV_DEFAULT_INDEX": "https://m/simple", "UV_INDEX": "https://n/simple", "UV_INDEX_STRATEGY": "unsafe-best-match"}, translated)
	_, odd = pipConfig{"PIP_CONFIG_SETTINGS": "x=y"}.forUV(Input{})
	assert.Equal(t, "PIP_CONFIG_SETTINGS", odd)
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
