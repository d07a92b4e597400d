package recipe

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/detect"
	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/runtime"
)

// A runtime of somebody's own: Tcl, with packages that a script of the pack's installs from a list.
const tclSpec = `
name: tcl
distributions:
  verification:
    commands:
      - {binary: tclsh, args: [verify.tcl], pattern: '^tcl (?P<version>\d+\.\d+)', priority: 1}
execution_config:
  interpreter: {binary: tclsh, file_extension: .tcl}
  environment:
    env_type: commands
    create_command:
      - [mkdir, -p, '{env_dir}/bin', '{env_dir}/lib']
      - [ln, -s, '{interpreter}', '{env_dir}/bin/tclsh']
    interpreter_path: '{env_dir}/bin/tclsh'
  dependencies:
    manifest_file: packages.txt
    lock_files: [packages.lock]
    install_command: [tclsh, '{pack_dir}/tools/install.tcl', '{manifest_path}', '{env_dir}/lib']
  env_vars:
    TCL_PACKAGES: '{env_dir}/lib'
`

// The manifest has a name a line; each becomes a package that says its name.
const tclInstaller = `lassign $argv manifest lib
foreach name [split [string trim [read [open $manifest]]] "\n"] {
  if {$name eq "nowhere"} { puts stderr "no package nowhere"; exit 3 }
  set out [open [file join $lib $name.tcl] w]
  puts $out "package provide $name 1.0\nproc $name {} { return \"$name says hello\" }"
  close $out
}
pkg_mkIndex $lib *.tcl
puts "installed with [info nameofexecutable]"
`

func tclInput(t *testing.T, spec string, files map[string]string) Input {
	t.Helper()
	parsed, err := runtime.Parse("tcl.yaml", []byte(spec))
	require.NoError(t, err)
	in := input(t, "shell", files)
	in.Spec = parsed
	verify := filepath.Join(t.TempDir(), "verify.tcl")
	require.NoError(t, os.WriteFile(verify, []byte("puts \"tcl [info tclversion]\"\n"), 0o644))
	parsed.Verification.Probes[0].Args = []string{verify}
	detector := detect.New(detect.Options{Path: os.Getenv("PATH")})
	in.Interpreter, err = detector.First(context.Background(), parsed)
	require.NoError(t, err)
	in.Probe = detector.Verify
	in.HostEnv = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	return in
}

func TestCommandsOfASpecBuildItsEnvironment(t *testing.T) {
	in := tclInput(t, tclSpec, map[string]string{"packages.txt": "alpha\nbeta\n", "tools/install.tcl": tclInstaller, "other": "x"})
	root := filepath.Join(t.TempDir(), "a cache [of mine]")
	env, err := acquireIn(t, in, root)
	require.NoError(t, err)
	assert.Equal(t, "alpha says hello "+filepath.Join(env.Dir, "bin/tclsh")+"\n", scriptOutput(t, in, env, ".tcl",
		"lappend auto_path $env(TCL_PACKAGES)\npackage require alpha\nputs \"[alpha] [exec sh -c {command -v tclsh}]\"\n"))
	assert.Equal(t, []string{"bin/tclsh"}, env.Built.Sentinels)
	assert.Contains(t, env.Built.Complete, "lib")
	assert.False(t, env.Built.Locked)

	base, _ := key(t, in)
	for name, change := range map[string]func(in *Input){
		"manifest":         func(in *Input) { write(t, in, "packages.txt", "alpha\n") },
		"lock":             func(in *Input) { write(t, in, "packages.lock", "alpha 1\n") },
		"installer":        func(in *Input) { write(t, in, "tools/install.tcl", tclInstaller+"# more\n") },
		"tool's variables": func(in *Input) { in.HostEnv = append(in.HostEnv, "TCLSH_MIRROR=https://mirror.example") },
	} {
		changed := in
		changed.PackDir = t.TempDir()
		require.NoError(t, references{"."}.copy(in.PackDir, changed.PackDir))
		same, _ := key(t, changed)
		require.Equal(t, base.ID(root), same.ID(root), "the pack's path is no input")
		change(&changed)
		other, _ := key(t, changed)
		assert.NotEqual(t, base.ID(root), other.ID(root), name)
	}
	write(t, &in, "other", "changed")
	same, _ := key(t, in)
	assert.Equal(t, base.ID(root), same.ID(root))

	write(t, &in, "packages.txt", "\n")
	_, needed := key(t, in)
	assert.False(t, needed, "an empty manifest")
}

func TestCommandsThatCannotSucceed(t *testing.T) {
	in := tclInput(t, tclSpec, map[string]string{"packages.txt": "nowhere\n", "tools/install.tcl": tclInstaller})
	err := gemError(t, in)
	assert.ErrorContains(t, err, `runtime tcl (tcl.yaml): command ["tclsh" "{pack_dir}/tools/install.tcl"`)
	assert.ErrorContains(t, err, "tclsh exited with 3")
	assert.ErrorContains(t, err, "no package nowhere")
	assertClass(t, envcache.Permanent, err)

	in.Locked = true
	err = gemError(t, in)
	assert.ErrorContains(t, err, "packages.txt is not locked; keep packages.lock beside it")
	in.Locked = false

	in.Spec.Environment.CreateCommands = [][]string{{"no-such-tool", "x"}}
	var missing *ToolError
	require.ErrorAs(t, gemError(t, in), &missing)
	assert.Equal(t, "no-such-tool", missing.Tool)

	in.Spec.Environment.CreateCommands, in.Spec.Dependencies = nil, nil
	assert.ErrorContains(t, gemError(t, in), "runtime tcl (tcl.yaml): an environment of type commands needs create_command or install_command")
}

func TestCommandsWithoutAManifestBuildOneEnvironment(t *testing.T) {
	in := tclInput(t, tclSpec, nil)
	in.Spec.Dependencies = nil
	root := filepath.Join(t.TempDir(), "cache")
	first, err := acquireIn(t, in, root)
	require.NoError(t, err)
	in.PackDir = t.TempDir()
	in.Locked = true
	second, err := acquireIn(t, in, root)
	require.NoError(t, err)
	assert.Equal(t, first.Dir, second.Dir)
	assert.Equal(t, envcache.Hit, second.State)
}

// What a command asks for over HTTP it does not get offline, however it asks.
func TestCommandsOfflineHaveNoNetwork(t *testing.T) {
	asked := make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.URL.Path }))
	t.Cleanup(server.Close)
	in := tclInput(t, tclSpec, nil)
	in.Spec.Dependencies = nil
	in.Spec.Environment.InterpreterPath = ""
	in.Spec.Environment.CreateCommands = [][]string{{"python3", "-c", "import sys, urllib.request as r; r.urlopen(sys.argv[1])", server.URL}}
	in.HostEnv = append(in.HostEnv, "NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1")
	_, err := acquireIn(t, in, filepath.Join(t.TempDir(), "cache"))
	require.NoError(t, err)
	assert.Len(t, asked, 1)
	in.Network = Offline
	assertClass(t, envcache.Passing, gemError(t, in))
	assert.Len(t, asked, 1)
}
