package deploy

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// pack writes a pack of one action below the root's default directory of packs.
func (r root) pack(t *testing.T, metadata, entryPoint, content string) {
	t.Helper()
	dir := filepath.Join(string(r), "opt/attune/packs/proof")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "actions"), 0o755))
	for name, text := range map[string]string{
		"pack.yaml":             "ref: proof\nversion: 1.0.0\n",
		"actions/act.yaml":      "ref: proof.act\nentry_point: " + entryPoint + "\n" + metadata,
		"actions/" + entryPoint: content,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755))
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
}

// Nothing but the program: no shell, no /proc, no /dev, no /tmp, no /etc.
func TestRootEmpty(t *testing.T) {
	needRoot(t)
	r := root(t.TempDir())
	r.copy(t, attuneRun(t), "/attune-run")
	program, err := os.ReadFile(attuneRun(t))
	require.NoError(t, err)
	r.pack(t, "runner_type: native\nparameters: {command: {type: string, position: 0, default: version}}\n", "self", string(program))

	out := r.must(t, "/attune-run", "detect")
	assert.Regexp(t, `^RUNTIME`, out)
	assert.NotContains(t, out, "python")
	assert.Contains(t, r.must(t, "/attune-run", "proof.act"), "v"+testVersion)
	assert.Contains(t, r.must(t, "/attune-run", "proof.act", "--output", "json"), `"status":"succeeded"`)
	assert.Contains(t, r.must(t, "/attune-run", "doctor"), "no_new_privs")

	r.pack(t, "runner_type: python\n", "act.py", "print(1)\n")
	out, err = r.run(t, "/attune-run", "proof.act")
	assert.Equal(t, 126, exitCode(err), out)
	assert.Contains(t, out, "python")
}

func TestRootBusybox(t *testing.T) {
	needRoot(t)
	r := busyboxRoot(t)
	r.copy(t, "../scripts/attune-bootstrap.sh", "/attune-bootstrap.sh")
	served := newRelease(t)
	program, err := os.ReadFile(attuneRun(t))
	require.NoError(t, err)
	served.hold(string(program))
	r.pack(t, "parameters: {name: {type: string}}\nparameter_format: dotenv\n", "act.sh", "#!/bin/sh\neval \"$(cat)\"\necho \"hello $name, I am $(id -u)\"\nexit 3\n")

	install := []string{"/bin/sh", "-c", "export ATTUNE_URL=" + served.URL + "/v1; exec sh /attune-bootstrap.sh \"$@\"", "sh"}
	out, err := r.run(t, append(install, "attune", "proof.act", "-p", "name=busybox")...)
	assert.Contains(t, out, "hello busybox, I am 0")
	assert.Equal(t, 3, exitCode(err), "the exit code is the action's own")
	assert.Regexp(t, `shell\s.*/bin/sh`, r.must(t, "/usr/local/bin/attune", "detect"))
}

func TestRootDebianWithoutGo(t *testing.T) {
	r := debian(t)
	r.copy(t, attuneRun(t), "/opt/attune/bin/attune-run")
	t.Cleanup(func() { _ = os.RemoveAll(filepath.Join(string(r), "opt/attune")) })
	r.pack(t, "runner_type: python\noutput_format: json\nparameters: {n: {type: integer, required: true}}\n", "act.py",
		"import sys\nprint('{\"got\": %s, \"python\": %d}' % (sys.stdin.read(), sys.version_info[0]))\n")

	_, err := r.run(t, "which", "go")
	require.Error(t, err)
	assert.Contains(t, r.must(t, "/opt/attune/bin/attune-run", "proof.act", "-p", "n=21", "--output", "json"), `"result":{"got":{"n":21},"python":3}`)
	out, err := r.run(t, "/opt/attune/bin/attune-run", "proof.act", "-p", "n=many")
	assert.Equal(t, 125, exitCode(err))
	assert.Contains(t, out, "n: ")
}

func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}
