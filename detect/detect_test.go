package detect

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/runtime"
)

// machine is a directory tree with interpreters that are shell scripts; each notes when it is started.
type machine struct {
	t    *testing.T
	dir  string
	spec *runtime.Spec
}

const specText = `
name: lang
aliases: [language]
distributions:
  verification:
    commands:
      - {binary: lang, args: [--version], pattern: '^lang (?P<version>\d+\.\d+\.\d+)', priority: 1}
  locations: [~/opt/*/bin/lang]
execution_config:
  interpreter: {binary: lang, file_extension: .lang}
`

func newMachine(t *testing.T) *machine {
	t.Helper()
	spec, err := runtime.Parse("lang.yaml", []byte(specText))
	require.NoError(t, err)
	return &machine{t: t, dir: t.TempDir(), spec: spec}
}

func (m *machine) write(path, script string) string {
	path = filepath.Join(m.dir, path)
	require.NoError(m.t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(m.t, os.WriteFile(path, []byte("#!/bin/sh\necho started >> '"+m.dir+"/started'\n"+script+"\n"), 0o755))
	return path
}

func (m *machine) started() int {
	data, err := os.ReadFile(filepath.Join(m.dir, "started"))
	if os.IsNotExist(err) {
		return 0
	}
	require.NoError(m.t, err)
	return strings.Count(string(data), "\n")
}

// detector is a fresh one, as in a new process; bin is PATH's only directory besides the system's.
func (m *machine) detector() *Detector {
	return New(Options{Path: m.dir + "/bin:/usr/bin:/bin", Home: m.dir, Dir: m.dir, CacheFile: filepath.Join(m.dir, "cache", "detect.json")})
}

func (m *machine) find(constraint string) (runtime.Interpreter, error) {
	return m.detector().Find(context.Background(), m.spec, constraint)
}

func TestWarmDetectionStartsNoProcess(t *testing.T) {
	m := newMachine(t)
	path := m.write("bin/lang", "echo lang 1.2.3")
	found, err := m.find("")
	require.NoError(t, err)
	assert.Equal(t, runtime.Interpreter{Runtime: "lang", Path: path, Version: "1.2.3", OnPath: true}, found)
	assert.Equal(t, 1, m.started())
	again, err := m.find("")
	require.NoError(t, err)
	assert.Equal(t, found, again)
	assert.Equal(t, 1, m.started())

	m.write("bin/lang", "echo lang 1.2.4 # upgraded at the same path")
	upgraded, err := m.find("")
	require.NoError(t, err)
	assert.Equal(t, "1.2.4", upgraded.Version)
	assert.Equal(t, 2, m.started())

	m.spec.Verification.Probes[0].Args = []string{"--version", "--again"}
	_, err = m.find("")
	require.NoError(t, err)
	assert.Equal(t, 3, m.started(), "another probe is another question")
}

func TestADamagedMemoryIsForgotten(t *testing.T) {
	m := newMachine(t)
	m.write("bin/lang", "echo lang 1.2.3")
	_, err := m.find("")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(m.dir, "cache", "detect.json"), []byte(`{"schema":`), 0o600))
	_, err = m.find("")
	require.NoError(t, err)
	assert.Equal(t, 2, m.started())
}

func TestHighestThatSatisfies(t *testing.T) {
	m := newMachine(t)
	m.write("bin/lang", "echo lang 1.2.3")
	m.write("opt/a/bin/lang", "echo lang 2.0.1")
	m.write("opt/b/bin/lang", "echo lang 1.10.0")
	for constraint, want := range map[string]string{"": "2.0.1", "1": "1.10.0", "<1.10": "1.2.3", "^1.2.3": "1.10.0", "2.0": "2.0.1"} {
		found, err := m.find(constraint)
		require.NoError(t, err, constraint)
		assert.Equal(t, want, found.Version, constraint)
	}
	first, err := m.detector().First(context.Background(), m.spec)
	require.NoError(t, err)
	assert.Equal(t, "1.2.3", first.Version, "what PATH names first")

	_, err = m.find(">=3")
	var missing *NotFoundError
	require.ErrorAs(t, err, &missing)
	assert.Len(t, missing.Found, 3)
	assert.ErrorContains(t, err, filepath.Join(m.dir, "opt/a/bin/lang"))
	var wrong *runtime.ConstraintError
	_, err = m.find("latest")
	require.ErrorAs(t, err, &wrong)
}

func TestWhatWasProbedIsSaid(t *testing.T) {
	m := newMachine(t)
	_, err := m.find("")
	assert.ErrorContains(t, err, "lang in PATH ("+m.dir+"/bin")
	assert.ErrorContains(t, err, "~/opt/*/bin/lang")

	path := m.write("bin/lang", "echo something else; exit 3")
	_, err = m.find("")
	assert.ErrorContains(t, err, path+": ")
}

func TestAHangingProbeIsEnded(t *testing.T) {
	m := newMachine(t)
	m.write("bin/lang", "exec sleep 1000")
	m.write("opt/a/bin/lang", "echo lang 2.0.1")
	d := New(Options{Path: m.dir + "/bin", Home: m.dir, Dir: m.dir, Timeout: 3 * time.Second})
	found, err := d.Find(context.Background(), m.spec, "")
	require.NoError(t, err)
	assert.Equal(t, "2.0.1", found.Version)
}

func TestACanceledDetectionEnds(t *testing.T) {
	m := newMachine(t)
	m.write("bin/lang", "exec sleep 1000")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := New(Options{Path: m.dir + "/bin", Timeout: time.Hour}).Find(ctx, m.spec, "")
	require.ErrorIs(t, err, context.Canceled)
}

// A shim would take 0.1 s and look into the working directory; it leads to the binary itself and is never started.
func TestShimsLeadToTheBinary(t *testing.T) {
	catalog, err := runtime.Builtin()
	require.NoError(t, err)
	for manager, c := range map[string]struct{ runtime, binary, root, installs, output, pin, pinned string }{
		"pyenv":  {"python", "python3", ".pyenv", "versions", "python 3.5.0 cpython-35", ".pyenv/version", "3.5.0"},
		"rbenv":  {"ruby", "ruby", ".rbenv", "versions", "ruby 3.5.0", ".rbenv/version", "3.5.0"},
		"nodenv": {"node", "node", ".nodenv", "versions", "v3.5.0", ".node-version", "3.5.0"},
		"asdf":   {"node", "node", ".asdf", "installs/nodejs", "v3.5.0", ".tool-versions", "nodejs 3.5.0"},
		"mise":   {"ruby", "ruby", ".local/share/mise", "installs/ruby", "ruby 3.5.0", ".tool-versions", "ruby 3.5.0"},
	} {
		t.Run(manager, func(t *testing.T) {
			m := newMachine(t)
			spec, ok := catalog.Lookup(c.runtime)
			require.True(t, ok)
			real := m.write(c.root+"/"+c.installs+"/3.5.0/bin/"+c.binary, "echo "+c.output)
			m.write(c.root+"/shims/"+c.binary, "exit 99\nexec "+manager+" exec "+c.binary)
			require.NoError(t, os.WriteFile(filepath.Join(m.dir, c.pin), []byte(c.pinned+"\n"), 0o644))
			root := filepath.Join(m.dir, c.root)
			d := New(Options{Path: root + "/shims", Home: m.dir, Dir: m.dir, Env: map[string]string{strings.ToUpper(manager) + "_ROOT": root}})
			found, err := d.First(context.Background(), spec)
			require.NoError(t, err)
			assert.Equal(t, real, found.Path)
			assert.Equal(t, "3.5.0", found.Version)
			assert.Equal(t, 1, m.started())
		})
	}
}

func TestRestrict(t *testing.T) {
	catalog, err := runtime.Builtin()
	require.NoError(t, err)
	kept, unknown := Restrict(catalog.All(), "Python3, BASH pyhton")
	names := []string{}
	for _, spec := range kept {
		names = append(names, spec.Name)
	}
	assert.Equal(t, []string{"python", "shell"}, names)
	assert.Equal(t, []string{"pyhton"}, unknown)
	kept, unknown = Restrict(catalog.All(), "")
	assert.Len(t, kept, len(catalog.All()))
	assert.Empty(t, unknown)
}

func TestEveryInterpreterOfThisMachineIsReal(t *testing.T) {
	catalog, err := runtime.Builtin()
	require.NoError(t, err)
	d := New(Options{Path: os.Getenv("PATH"), Home: os.Getenv("HOME"), Dir: t.TempDir()})
	found, err := d.All(context.Background(), catalog.All())
	require.NoError(t, err)
	runtimes := map[string]bool{}
	for _, i := range found {
		runtimes[i.Runtime] = true
		if i.Path != "" {
			resolved, err := filepath.EvalSymlinks(i.Path)
			require.NoError(t, err)
			assert.NotContains(t, resolved, "/shims/")
		}
	}
	for _, name := range []string{"shell", "python", "node", "go", "perl", "java", "native"} {
		assert.True(t, runtimes[name], name)
	}
}

func TestAnEmptyMachineHasNothing(t *testing.T) {
	catalog, err := runtime.Builtin()
	require.NoError(t, err)
	var specs []*runtime.Spec
	for _, spec := range catalog.All() {
		spec := *spec
		spec.Verification.Locations = nil
		if !spec.Verification.AlwaysAvailable {
			specs = append(specs, &spec)
		}
	}
	found, err := New(Options{Path: t.TempDir()}).All(context.Background(), specs)
	require.NoError(t, err)
	assert.Empty(t, found)
}

func TestBusyboxIsWhatItIsCalledBy(t *testing.T) {
	spec, err := runtime.Parse("sh.yaml", []byte(`name: sh
distributions:
  verification: {commands: [{binary: sh, args: [-c, 'echo posix shell'], pattern: 'posix shell'}]}
execution_config:
  interpreter: {binary: sh, file_extension: .sh}
`))
	require.NoError(t, err)
	m := newMachine(t)
	m.write("bin/busybox", `case ${0##*/} in sh) echo posix shell ;; *) exit 127 ;; esac`)
	require.NoError(t, os.Symlink("busybox", filepath.Join(m.dir, "bin/sh")))
	require.NoError(t, os.Symlink("bin", filepath.Join(m.dir, "linked")))

	found, err := New(Options{Path: filepath.Join(m.dir, "linked"), Home: m.dir, Dir: m.dir}).First(context.Background(), spec)
	require.NoError(t, err)
	assert.Equal(t, filepath.Join(m.dir, "bin/sh"), found.Path)
}

func TestAChoiceIsMadeAgainOnceItsBinaryHasChanged(t *testing.T) {
	m := newMachine(t)
	old := m.write("bin/lang", "echo lang 1.0.0")
	d := m.detector()
	require.Eventually(t, func() bool { // what was changed just now is looked at again
		found, err := d.Find(t.Context(), m.spec, "")
		return err == nil && found.Version == "1.0.0" && len(d.recent.choices) == 1
	}, time.Minute, 50*time.Millisecond)

	require.NoError(t, os.Remove(old))
	m.write("opt/two/bin/lang", "echo lang 2.0.0")
	found, err := d.Find(t.Context(), m.spec, "")
	require.NoError(t, err)
	assert.Equal(t, "2.0.0", found.Version)

	m.write("opt/three/bin/lang", "echo lang 3.0.0")
	require.Eventually(t, func() bool {
		found, err := d.Find(t.Context(), m.spec, "")
		return err == nil && found.Version == "3.0.0"
	}, time.Minute, 50*time.Millisecond)
}

// On macOS /usr/bin/python3 stands for the interpreter of whichever developer tools are chosen.
func TestPythonOfDeveloperTools(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	_, ok := developerTool(root, "", "python3")
	assert.False(t, ok, "without tools there is none")
	place := func(dir string) string {
		path := filepath.Join(root, dir, "usr/bin/python3")
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, nil, 0o755))
		return path
	}
	for _, step := range []struct{ dir, link, chosen string }{
		{dir: "/Library/Developer/CommandLineTools"}, {dir: "/Applications/Xcode.app/Contents/Developer"},
		{dir: "/Applications/Xcode-beta.app", link: "/Applications/Xcode-beta.app"}, {dir: "/opt/tools", chosen: "/opt/tools"},
	} {
		want := place(step.dir)
		if step.link != "" {
			require.NoError(t, os.MkdirAll(filepath.Join(root, "var/db"), 0o755))
			require.NoError(t, os.Symlink(step.link, filepath.Join(root, "var/db/xcode_select_link")))
		}
		got, ok := developerTool(root, step.chosen, "python3")
		assert.True(t, ok)
		assert.Equal(t, want, got)
	}
}
