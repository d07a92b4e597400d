package detect

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/runtime"
)

func hostFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), HostFile)
	require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
	return file
}

func TestHostFilesInTheirOrder(t *testing.T) {
	assert.Equal(t, []string{"/.attune-runtime.yaml", "/opt/attune/.attune-runtime.yaml", "/work dir/.attune-runtime.yaml"}, HostFiles("/work dir"))
	assert.Equal(t, []string{"/.attune-runtime.yaml", "/opt/attune/.attune-runtime.yaml"}, HostFiles("/"))

	low, high := hostFile(t, "name: a\n---\nname: b\nexecution_config: {interpreter: {binary: ./bin/b}}\n"), hostFile(t, "name: a\n")
	specs, err := HostSpecs([]string{low, filepath.Join(t.TempDir(), "missing"), high})
	require.NoError(t, err)
	require.Len(t, specs, 3)
	assert.Equal(t, filepath.Join(filepath.Dir(low), "bin/b"), specs[1].Interpreter.Binary)
	assert.Equal(t, high, specs[2].Origin)
}

func TestAHostFileOfSomebodyElseIsRefused(t *testing.T) {
	const other = 12345
	for want, change := range map[string]func(file string) error{
		"chmod go-w":               func(file string) error { return os.Chmod(file, 0o666) },
		"mode 0664":                func(file string) error { return os.Chmod(file, 0o664) },
		"belongs to uid 12345":     func(file string) error { return os.Chown(file, other, -1) },
		"is no regular file":       func(file string) error { return replace(file, func() error { return os.Mkdir(file, 0o755) }) },
		"no regular file":          func(file string) error { return replace(file, func() error { return syscall.Mkfifo(file, 0o644) }) },
		":1:7: name is missing":    nil,
		":2:1: unknown key":        nil,
		"neither to you (0) nor":   func(file string) error { return leadHere(file, other) },
		"holds more than":          func(file string) error { return os.Truncate(file, 5<<20) },
		"must be a mapping (key: ": nil,
	} {
		text := map[string]string{":1:7: name is missing": "name: ''\n", ":2:1: unknown key": "name: a\nnmae: b\n", "must be a mapping (key: ": "- a\n"}[want]
		if text == "" {
			text = "name: a\n"
		}
		file := hostFile(t, text)
		if change != nil {
			require.NoError(t, change(file), want)
		}
		_, err := HostSpecs([]string{file})
		require.ErrorContains(t, err, want)
		assert.ErrorContains(t, err, file)
	}
}

func replace(file string, with func() error) error {
	if err := os.Remove(file); err != nil {
		return err
	}
	return with()
}

// leadHere makes file a link of another user's to a file of our own.
func leadHere(file string, uid int) error {
	if err := os.Rename(file, file+".real"); err != nil {
		return err
	}
	if err := os.Symlink(file+".real", file); err != nil {
		return err
	}
	return os.Lchown(file, uid, -1)
}

// hint lays a host's words over the machine's spec.
func (m *machine) hint(text string, args ...any) {
	m.t.Helper()
	over, err := runtime.Parse("host.yaml", fmt.Appendf(nil, text, args...))
	require.NoError(m.t, err)
	m.spec = over.Over(m.spec)
}

func TestAnInterpreterPathIsTheOnlyOne(t *testing.T) {
	m := newMachine(t)
	m.write("bin/lang", "echo lang 9.9.9")
	only := m.write("opt py/bin/lang", "echo lang 1.2.3")
	m.hint("name: lang\nexecution_config: {interpreter: {binary: '%s'}}\n", only)
	found, err := m.find("")
	require.NoError(t, err)
	assert.Equal(t, only, found.Path)
	first, err := m.detector().First(context.Background(), m.spec)
	require.NoError(t, err)
	assert.Equal(t, only, first.Path)
	assert.Equal(t, 1, m.started(), "nothing else is asked")

	_, err = m.find(">=9")
	assert.ErrorContains(t, err, "1.2.3 ("+only)
	require.NoError(t, os.Remove(only))
	_, err = m.find("")
	assert.ErrorContains(t, err, only+" (host.yaml)")
}

func TestAnInterpreterPathBelowHome(t *testing.T) {
	m := newMachine(t)
	only := m.write("py/bin/python", "echo lang 1.2.3")
	m.hint("name: lang\nexecution_config: {interpreter: {binary: ~/py/bin/python}}\n")
	found, err := m.find("")
	require.NoError(t, err)
	assert.Equal(t, only, found.Path)
}

func TestANameThatNoProbeHasIsLookedUp(t *testing.T) {
	m := newMachine(t)
	m.write("bin/lang", "echo lang 9.9.9")
	only := m.write("bin/mylang", "echo lang 1.2.3")
	m.hint("name: lang\nexecution_config: {interpreter: {binary: mylang}}\n")
	found, err := m.find("")
	require.NoError(t, err)
	assert.Equal(t, runtime.Interpreter{Runtime: "lang", Path: only, Version: "1.2.3", OnPath: true}, found)
}

// An image's interpreter may have no option that prints its version.
func TestAVersionCommandAnswersForTheInterpreter(t *testing.T) {
	m := newMachine(t)
	only := m.write("py/lang", "exit 9")
	other := m.write("bin/lang", "echo lang 4.4.4")
	command := m.write("py/release", "echo release=$1.7.1")
	m.hint(`
name: lang
distributions: {verification: {commands: [{binary: %s, args: ["5"], pattern: 'release=(?P<version>\S+)'}]}}
execution_config: {interpreter: {binary: %s}}
`, command, only)
	found, err := m.find("")
	require.NoError(t, err)
	assert.Equal(t, runtime.Interpreter{Runtime: "lang", Path: only, Version: "5.7.1"}, found)
	_, err = m.find("")
	require.NoError(t, err)
	assert.Equal(t, 1, m.started())
	m.write("py/release", "echo release=$1.8.0")
	found, err = m.find("")
	require.NoError(t, err)
	assert.Equal(t, "5.8.0", found.Version, "the command is part of the question")

	_, err = m.detector().Verify(context.Background(), m.spec, other)
	assert.ErrorContains(t, err, "answers for "+only+" alone")
}

func TestWithoutCommandsAnInterpreterIsTakenAsItIs(t *testing.T) {
	m := newMachine(t)
	spec, err := runtime.Parse("host.yaml", []byte("name: odd\nexecution_config: {interpreter: {binary: ~/odd}}\nversions: [{version: '7.1', execution_config: {interpreter: {binary: ~/odd7}}}]\n"))
	require.NoError(t, err)
	m.spec = spec
	plain, versioned := m.write("odd", "exit 1"), m.write("odd7", "exit 1")
	found, err := m.detector().All(context.Background(), []*runtime.Spec{spec})
	require.NoError(t, err)
	assert.ElementsMatch(t, []runtime.Interpreter{{Runtime: "odd", Path: plain}, {Runtime: "odd", Path: versioned, Version: "7.1"}}, found)
	best, err := m.find("7")
	require.NoError(t, err)
	assert.Equal(t, versioned, best.Path)
	assert.Zero(t, m.started())
}

func TestVersionsSideBySide(t *testing.T) {
	m := newMachine(t)
	one, two := m.write("a/lang1", "echo lang 1.4.0"), m.write("b/lang2", "echo two 2.0.0")
	m.write("bin/lang", "echo lang 3.0.0")
	m.write("opt/x/bin/lang", "echo lang 1.9.0")
	m.hint(`
name: lang
versions:
  - version: "1"
    execution_config: {interpreter: {binary: ~/a/lang1}}
  - version: "2"
    is_default: true
    distributions: {verification: {commands: [{binary: lang2, pattern: 'two (?P<version>\S+)'}]}, locations: [~/b/lang2]}
`)
	for constraint, want := range map[string]string{"1": one, "<1.5": one, "2": two, "": two, ">=3": filepath.Join(m.dir, "bin/lang")} {
		found, err := m.find(constraint)
		require.NoError(t, err, constraint)
		assert.Equal(t, want, found.Path, constraint)
	}
	_, err := m.find(">=1.5,<2")
	assert.ErrorContains(t, err, "1.4.0", "1.9.0 lies where no version says it is")

	m.write("a/lang1", "echo lang 3.1.0")
	_, err = m.find("1")
	var missing *NotFoundError
	require.ErrorAs(t, err, &missing)
	for _, found := range missing.Found {
		assert.NotEqual(t, one, found.Path, "it is not of the version it stands for")
	}
}

func TestABinaryCountsOnce(t *testing.T) {
	m := newMachine(t)
	m.write("bin/lang", "echo lang 1.2.3")
	require.NoError(t, os.Symlink("lang", filepath.Join(m.dir, "bin/lg")))
	m.hint(`
name: lang
distributions: {verification: {commands: [{binary: lang, args: [-v], pattern: 'lang (?P<version>\S+)', priority: 1}, {binary: lg, args: [x], pattern: lang, priority: 2}]}}
`)
	found, err := m.detector().All(context.Background(), []*runtime.Spec{m.spec})
	require.NoError(t, err)
	require.Len(t, found, 1)
	assert.Equal(t, "1.2.3", found[0].Version)
}

func TestAnInterpreterThatVanished(t *testing.T) {
	m := newMachine(t)
	path, other := m.write("bin/lang", "echo lang 2.0.0"), m.write("opt/x/bin/lang", "echo lang 1.0.0")
	d := m.detector()
	found, err := d.Find(context.Background(), m.spec, "")
	require.NoError(t, err)
	assert.Equal(t, path, found.Path)
	require.NoError(t, os.Remove(path))

	_, err = d.Verify(context.Background(), m.spec, path)
	var missing *NotFoundError
	require.ErrorAs(t, err, &missing)
	assert.Equal(t, path, missing.Gone)
	assert.EqualError(t, err, "the lang at "+path+" is not there")
	found, err = d.Find(context.Background(), m.spec, "")
	require.NoError(t, err)
	assert.Equal(t, other, found.Path, "looked for anew")
}
