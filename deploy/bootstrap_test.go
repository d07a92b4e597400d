package deploy

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const program = "#!/bin/sh\necho \"this is attune: $*\"\n"

// release is a server that holds the files of one release.
type release struct {
	*httptest.Server

	mu       sync.Mutex
	files    map[string]string
	token    string // asked for when it is not empty
	requests []string
	failures int // requests that are still to be answered with 503
}

func newRelease(t *testing.T) *release {
	t.Helper()
	r := &release{files: map[string]string{}}
	r.hold(program)
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

// with changes or reads what the server's own goroutines use.
func (r *release) with(do func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	do()
}

// sums is what SHA256SUMS holds.
func (r *release) sums() (text string) {
	r.with(func() { text = r.files["SHA256SUMS"] })
	return text
}

// hold makes content this architecture's attune-run.
func (r *release) hold(content string) {
	name := "attune-run-linux-" + runtime.GOARCH
	r.with(func() {
		r.files[name] = content
		r.files["SHA256SUMS"] = fmt.Sprintf("%064d  attune-run-linux-other\n%s  %s\n", 0, digest(content), name)
	})
}

func digest(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }

func (r *release) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = append(r.requests, req.URL.Path)
	name := strings.TrimPrefix(req.URL.Path, "/v1/")
	content, found := r.files[name]
	switch {
	case r.failures > 0:
		r.failures--
		http.Error(w, "busy", http.StatusServiceUnavailable)
	case r.token != "" && req.Header.Get("Authorization") != "Bearer "+r.token:
		http.Error(w, "who are you", http.StatusUnauthorized)
	case !found:
		http.NotFound(w, req)
	default:
		_, _ = w.Write([]byte(content))
	}
}

func (r *release) asked() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.requests
}

// host is a machine's shell and its programs.
type host struct {
	shell   []string
	path    string // the only directory of programs
	dir     string // where programs are installed
	machine string // what uname -m says; empty means the truth
	system  string // what uname -s says then; empty means Linux
}

// hosts are the machines people have: each shell, each downloader.
func hosts(t *testing.T) map[string]host {
	t.Helper()
	tools := []string{"sha256sum", "tail", "mktemp", "mkdir", "chmod", "mv", "rm", "ln", "sleep", "uname", "grep"}
	return map[string]host{
		"dash with curl":     {shell: []string{look(t, "dash")}, path: links(t, append(tools, "curl")...)},
		"dash with GNU wget": {shell: []string{look(t, "dash")}, path: links(t, append(tools, "wget")...)},
		"bash with curl":     {shell: []string{look(t, "bash"), "--posix"}, path: links(t, append(tools, "curl")...)},
		"busybox alone":      {shell: []string{look(t, "busybox"), "sh"}, path: applets(t, append(tools, "wget")...)},
	}
}

func look(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	require.NoError(t, err, "scripts/bootstrap tests installs it")
	return path
}

func links(t *testing.T, names ...string) string {
	dir := t.TempDir()
	for _, name := range names {
		require.NoError(t, os.Symlink(look(t, name), filepath.Join(dir, name)))
	}
	return dir
}

func applets(t *testing.T, names ...string) string {
	dir := t.TempDir()
	for _, name := range names {
		require.NoError(t, os.Symlink(look(t, "busybox"), filepath.Join(dir, name)))
	}
	return dir
}

// bootstrap runs the script and gives what it printed, on both streams.
func (h host) bootstrap(t *testing.T, r *release, env []string, args ...string) (string, error) {
	t.Helper()
	if h.machine != "" {
		if strings.HasSuffix(h.shell[0], "busybox") {
			t.Skip("its shell never asks another uname")
		}
		h.path = fakeUname(t, cmp.Or(h.system, "Linux"), h.machine) + ":" + h.path
	}
	argv := append(append(h.shell[1:len(h.shell):len(h.shell)], "../scripts/attune-bootstrap.sh"), args...)
	cmd := exec.Command(h.shell[0], argv...)
	cmd.Env = append([]string{"PATH=" + h.path, "ATTUNE_URL=" + r.URL + "/v1/", "ATTUNE_DIR=" + h.dir, "ATTUNE_RETRIES=1"}, env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func fakeUname(t *testing.T, system, machine string) string {
	dir := t.TempDir()
	text := fmt.Sprintf("#!/bin/sh\ncase $1 in -m) echo %s;; *) echo %s;; esac\n", machine, system)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "uname"), []byte(text), 0o755))
	return dir
}

func onEveryHost(t *testing.T, test func(t *testing.T, h host, r *release)) {
	for name, h := range hosts(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h.dir = filepath.Join(t.TempDir(), "bin")
			test(t, h, newRelease(t))
			left, _ := filepath.Glob(filepath.Join(h.dir, ".attune-*"))
			assert.Empty(t, left, "something half-made stays behind")
		})
	}
}

func TestBootstrapInstallsAndRuns(t *testing.T) {
	onEveryHost(t, func(t *testing.T, h host, r *release) {
		out, err := h.bootstrap(t, r, nil, "attune-run", "one", "two words")
		require.NoError(t, err, out)
		assert.Contains(t, out, "this is attune: one two words")

		out, err = h.bootstrap(t, r, nil, "attune", "again")
		require.NoError(t, err, out)
		assert.Contains(t, out, "this is attune: again")
		assert.Len(t, r.asked(), 3, "what is there already is not fetched again: %v", r.asked())
	})
}

func TestBootstrapRefusesAWrongChecksum(t *testing.T) {
	onEveryHost(t, func(t *testing.T, h host, r *release) {
		r.with(func() { r.files["attune-run-linux-"+runtime.GOARCH] += "echo evil\n" })
		out, err := h.bootstrap(t, r, nil, "attune-run")
		require.Error(t, err)
		assert.Contains(t, out, "not "+digest(program)+": refused")
		assert.NoFileExists(t, filepath.Join(h.dir, "attune-run"))
	})
}

func TestBootstrapHoldsToThePinnedSums(t *testing.T) {
	onEveryHost(t, func(t *testing.T, h host, r *release) {
		pin := "ATTUNE_SUMS_SHA256=" + digest(r.sums())
		out, err := h.bootstrap(t, r, []string{pin}, "attune-run")
		require.NoError(t, err, out)

		r.with(func() { r.files["SHA256SUMS"] += "\n" })
		out, err = h.bootstrap(t, r, []string{pin}, "attune-run")
		require.Error(t, err)
		assert.Contains(t, out, "SHA256SUMS has the SHA-256")
	})
}

func TestBootstrapSendsTheTokenAndShowsItToNobody(t *testing.T) {
	onEveryHost(t, func(t *testing.T, h host, r *release) {
		const token = "s3cr3t-t0ken"
		r.with(func() { r.token = token })
		out, err := h.bootstrap(t, r, nil)
		require.Error(t, err)
		assert.Contains(t, out, "SHA256SUMS: ")
		assert.Len(t, r.asked(), 1, "a refusal is not asked again")

		out, err = h.bootstrap(t, r, []string{"ATTUNE_TOKEN=" + token}, append(h.shell, "-c", "echo token=$ATTUNE_TOKEN.")...)
		require.NoError(t, err, out)
		assert.Contains(t, out, "token=.")
		assert.NotContains(t, out, token)
	})
}

func TestBootstrapTriesAgain(t *testing.T) {
	onEveryHost(t, func(t *testing.T, h host, r *release) {
		r.with(func() { r.failures = 1 })
		out, err := h.bootstrap(t, r, nil, "attune-run", "at last")
		require.NoError(t, err, out)
		assert.Contains(t, out, "trying again in 1 s")
		assert.Contains(t, out, "this is attune: at last")
	})
}

func TestBootstrapSaysWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		change func(h *host, r *release) (env []string)
		want   string
	}{
		"an architecture without a program": {func(h *host, _ *release) []string { h.machine = "riscv64"; return nil }, "there is no attune for riscv64; there is one for x86_64 and aarch64"},
		"a system without a program":        {func(h *host, _ *release) []string { h.system, h.machine = "FreeBSD", "amd64"; return nil }, "there is no attune for FreeBSD"},
		"no address":                        {func(*host, *release) []string { return []string{"ATTUNE_URL="} }, "ATTUNE_URL is not set"},
		"a server that is gone":             {func(_ *host, r *release) []string { r.Close(); return []string{"ATTUNE_RETRIES=0"} }, "SHA256SUMS: "},
		"a program the release has not":     {func(*host, *release) []string { return []string{"ATTUNE_PROGRAMS=attune-tea"} }, "does not name attune-tea-linux-" + runtime.GOARCH},
		"a directory that cannot be made":   {func(h *host, _ *release) []string { h.dir = "/proc/attune"; return nil }, "set ATTUNE_DIR"},
		"a token that ends its header":      {func(*host, *release) []string { return []string{"ATTUNE_TOKEN=a\nX-Evil: b"} }, "characters that no bearer token has"},
		"no number of retries":              {func(*host, *release) []string { return []string{"ATTUNE_RETRIES=many"} }, "ATTUNE_RETRIES is a number, not many"},
	} {
		t.Run(name, func(t *testing.T) {
			onEveryHost(t, func(t *testing.T, h host, r *release) {
				env := c.change(&h, r)
				out, err := h.bootstrap(t, r, env)
				require.Error(t, err)
				assert.Contains(t, out, "attune-bootstrap: error: ")
				assert.Contains(t, out, c.want)
			})
		})
	}
}

func TestBootstrapTakesTheOtherArchitecture(t *testing.T) {
	onEveryHost(t, func(t *testing.T, h host, r *release) {
		h.machine = map[string]string{"amd64": "aarch64", "arm64": "x86_64"}[runtime.GOARCH]
		other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
		out, err := h.bootstrap(t, r, nil)
		require.Error(t, err)
		assert.Contains(t, out, "does not name attune-run-linux-"+other)
	})
}

func TestBootstrapTakesTheProgramForMacOS(t *testing.T) {
	onEveryHost(t, func(t *testing.T, h host, r *release) {
		h.system, h.machine = "Darwin", "arm64"
		const file = "attune-run-darwin-arm64"
		r.with(func() {
			r.files[file] = program
			r.files["SHA256SUMS"] += digest(program) + "  " + file + "\n"
		})
		out, err := h.bootstrap(t, r, nil, "attune-run", "on a Mac")
		require.NoError(t, err, out)
		assert.Contains(t, out, "this is attune: on a Mac")
		assert.Contains(t, r.asked(), "/v1/"+file)
	})
}
