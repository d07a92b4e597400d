package executor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/runtime"
)

// rowOf is the row that an action is in.
func rowOf(t *testing.T, rows []Prepared, action string) Prepared {
	t.Helper()
	for _, row := range rows {
		for _, a := range row.Actions {
			if a == action {
				return row
			}
		}
	}
	t.Fatalf("no row of %s in %+v", action, rows)
	return Prepared{}
}

func pythonPack(ref string) map[string]string {
	return map[string]string{
		ref + "/pack.yaml":        "ref: " + ref + "\nversion: 1.0.0\n",
		ref + "/requirements.txt": "six==1.17.0\n",
		ref + "/actions/six.yaml": "ref: " + ref + ".six\nrunner_type: python\nentry_point: main.py\n",
		ref + "/actions/main.py":  "import six; print(six.__version__)\n",
	}
}

// onlyShell is shellPack without what has to be compiled.
func onlyShell() map[string]string {
	files := maps.Clone(shellPack)
	delete(files, "p/actions/go.yaml")
	delete(files, "p/actions/bad.yaml")
	return files
}

func together(all ...map[string]string) map[string]string {
	files := map[string]string{}
	for _, one := range all {
		maps.Copy(files, one)
	}
	return files
}

func TestASecondStartFindsEverything(t *testing.T) {
	files := together(onlyShell(), pythonPack("one"), pythonPack("two"), map[string]string{
		"broken/pack.yaml":      "ref: other\nversion: 1.0.0\n",
		"one/actions/far.yaml":  "ref: one.far\nrunner_type: python\nruntime_version: '>=99'\nentry_point: main.py\n",
		"one/actions/perl.yaml": "ref: one.perl\nrunner_type: perl\nentry_point: main.py\n",
		"one/actions/unk.yaml":  "ref: one.unk\nrunner_type: pyhton\nentry_point: main.py\n",
	})
	cfg := Config{Mode: Worker(), Packs: []string{packs(t, files)}, CacheDir: filepath.Join(t.TempDir(), "cache"), TempDir: filepath.Join(t.TempDir(), "private"), Runtimes: "shell,python"}
	var first []Prepared
	for _, want := range []string{"built", "hit"} {
		s, err := New(cfg)
		require.NoError(t, err)
		require.NoError(t, s.Start(context.Background()))
		rows := s.Prepared()
		python := rowOf(t, rows, "one.six")
		assert.Equal(t, want, python.State, python.Reason)
		assert.Equal(t, []string{"one.six", "two.six"}, python.Actions, "one environment for one manifest")
		assert.Equal(t, "one, two", python.Pack)
		assert.Equal(t, "python", python.Runtime)
		assert.Equal(t, python.Interpreter.Version, python.Version)
		assert.NotEmpty(t, python.Key)
		assert.Equal(t, []string{"p.ok", "p.slow"}, rowOf(t, rows, "p.ok").Actions)
		assert.Equal(t, PreparedNone, rowOf(t, rows, "p.ok").State)

		far := rowOf(t, rows, "one.far")
		assert.Equal(t, PreparedSkipped, far.State)
		assert.Contains(t, far.Reason, `no python here satisfies ">=99"`)
		off := rowOf(t, rows, "one.perl")
		assert.Equal(t, PreparedSkipped, off.State)
		assert.Contains(t, off.Reason, "switched off by ATTUNE_WORKER_RUNTIMES")
		unknown := rowOf(t, rows, "one.unk")
		assert.Equal(t, PreparedFailed, unknown.State)
		assert.Contains(t, unknown.Reason, `did you mean "python"`)
		assert.Contains(t, rows[0].Reason, `broken/pack.yaml:1:6: ref "other"`)
		assert.Equal(t, PreparedFailed, rows[0].State)

		result := s.Execute(context.Background(), Request{Action: "two.six"}, Observer{})
		assert.Equal(t, "hit", result.Environment.State)
		assert.Equal(t, "1.17.0\n", result.Stdout, "%+v %s", result.Error, result.Stderr)
		if first == nil {
			first = rows
			continue
		}
		require.Len(t, rows, len(first))
		for i := range rows {
			assert.Equal(t, first[i].Key, rows[i].Key)
			assert.NotEqual(t, "built", rows[i].State)
		}
	}
}

// tool is a pack whose runtime makes environments with a shell script; {work} is a directory of the test.
func tool(create, more string) map[string]string {
	return map[string]string{
		"tool/pack.yaml": "ref: tool\nversion: 1.0.0\n",
		"tool/runtimes/tool.yaml": `
name: tool
distributions: {verification: {commands: [{binary: bash, args: [--version], pattern: 'version (?P<version>\d+\.\d+\.\d+)'}]}}
execution_config:
  interpreter: {binary: bash}
  environment: {env_type: commands, create_command: [[sh, -c, '` + create + `']]}
  dependencies: {manifest_file: needs.txt}
` + more,
	}
}

// user is a pack with one action of the tool's runtime.
func userOf(ref, more string) map[string]string {
	return map[string]string{
		ref + "/pack.yaml":      "ref: " + ref + "\nversion: 1.0.0\n",
		ref + "/needs.txt":      ref + "\n",
		ref + "/actions/a.yaml": "ref: " + ref + ".a\nrunner_type: tool.tool\nentry_point: a.sh\n" + more,
		ref + "/actions/a.sh":   "echo ran\n",
	}
}

func TestNoMoreBuildsAtOnceThanAllowed(t *testing.T) {
	work := t.TempDir()
	// Each notes how many build; the first two wait for each other.
	files := tool(`cd `+work+` && mkdir active.$$ && ls -d active.* | wc -l >>counts && if [ $(ls -d active.* | wc -l) -ge 2 ]; then touch two; fi;
      while ! [ -e two ]; do sleep 0.01; done; rmdir active.$$`, "")
	for i := range 6 {
		maps.Copy(files, userOf(fmt.Sprintf("u%d", i), ""))
	}
	s := service(t, Config{Packs: []string{packs(t, files)}, Concurrency: 7})
	rows, err := s.Prepare(context.Background(), PrepareOptions{Concurrency: 2})
	require.NoError(t, err)
	require.Len(t, rows, 6)
	for _, row := range rows {
		assert.Equal(t, "built", row.State, row.Reason)
		assert.Positive(t, row.Elapsed)
	}
	data, err := os.ReadFile(filepath.Join(work, "counts"))
	require.NoError(t, err)
	counts := strings.Fields(string(data))
	assert.Len(t, counts, 6)
	for _, text := range counts {
		n, err := strconv.Atoi(text)
		require.NoError(t, err)
		assert.LessOrEqual(t, n, 2)
	}
}

func TestACanceledPreparationEndsItsBuilds(t *testing.T) {
	files := together(tool("exec sleep 1000", ""), userOf("u1", ""), userOf("u2", ""), userOf("u3", ""))
	s := service(t, Config{Packs: []string{packs(t, files)}})
	ctx, cancel := context.WithCancelCause(context.Background())
	enough := errors.New("enough")
	begun := time.Now()
	rows, err := s.Prepare(ctx, PrepareOptions{Concurrency: 2, Progress: func(row Prepared, p envcache.Progress) {
		if strings.Contains(p.Phase, "running") {
			assert.Equal(t, "tool.tool", row.Runtime)
			cancel(enough)
		}
	}})
	assert.ErrorIs(t, err, enough)
	assert.Less(t, time.Since(begun), 30*time.Second)
	for _, row := range rows {
		assert.Equal(t, PreparedFailed, row.State)
	}

	// A worker that is stopped while it prepares does not start.
	s.cfg.Mode = Worker()
	assert.ErrorIs(t, s.Start(ctx), enough)
}

// interpreter is a shell by another name and version.
func interpreter(t *testing.T, path, version string) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	text := "#!/bin/sh\n[ \"$1\" = --version ] && echo version " + version + " && exit\nexec /bin/sh \"$@\"\n"
	require.NoError(t, os.WriteFile(path, []byte(text), 0o755))
	return path
}

func TestEveryVersionThatARuntimeListsIsPrepared(t *testing.T) {
	dir := t.TempDir()
	one, two := interpreter(t, filepath.Join(dir, "one", "tool"), "1.2.0"), interpreter(t, filepath.Join(dir, "two dirs", "tool"), "2.1.0")
	files := together(
		tool("echo $0", `
  env_vars: {WHICH: base, SAME: base}
versions:
  - {version: "1", execution_config: {interpreter: {binary: `+one+`}, env_vars: {WHICH: one}}}
  - {version: "2", is_default: true, execution_config: {interpreter: {binary: '`+two+`'}, env_vars: {WHICH: two}}}
  - {version: "3", execution_config: {interpreter: {binary: /missing/tool}}}
`),
		userOf("any", ""), userOf("old", "runtime_version: <2\n"), userOf("new", "runtime_version: '>=2.0.1,<3'\n"))
	for _, ref := range []string{"any", "old", "new"} {
		files[ref+"/actions/a.sh"] = "echo $WHICH $SAME\n"
	}
	s := service(t, Config{Packs: []string{packs(t, files)}})
	rows, err := s.Prepare(context.Background(), PrepareOptions{})
	require.NoError(t, err)
	got := []string{}
	for _, row := range rows {
		got = append(got, row.Pack+" "+row.Version+" "+row.State+" "+row.Interpreter.Path)
	}
	assert.Equal(t, []string{
		"any 1.2.0 built " + one, "any 2.1.0 built " + two, "any 3 skipped ",
		"new 2.1.0 built " + two, "old 1.2.0 built " + one,
	}, got)
	assert.Contains(t, rows[2].Reason, `satisfies "3"; there are`)

	for constraint, want := range map[string]string{"": "two base\n", "1": "one base\n", "2.1": "two base\n"} {
		result := s.Execute(context.Background(), Request{Action: "any.a", RuntimeVersion: constraint}, Observer{})
		assert.Equal(t, want, result.Stdout, "%s: %+v", constraint, result.Error)
		assert.Equal(t, "hit", result.Environment.State, constraint)
	}
}

func TestPreparingSome(t *testing.T) {
	s := service(t, Config{Packs: []string{packs(t, together(onlyShell(), tool("true", ""), userOf("u1", ""), userOf("u2", "")))}})
	rows, err := s.Prepare(context.Background(), PrepareOptions{Actions: []string{"u1.*", "p.o[kx]"}})
	require.NoError(t, err)
	require.Len(t, rows, 2)
	assert.Equal(t, []string{"p.ok"}, rows[0].Actions)
	assert.Equal(t, []string{"u1.a"}, rows[1].Actions)
	_, err = s.Prepare(context.Background(), PrepareOptions{Actions: []string{"u1.*", "nobody.*"}})
	assert.ErrorContains(t, err, "no action is named nobody.*")
	_, err = s.Prepare(context.Background(), PrepareOptions{Actions: []string{"[*"}})
	assert.ErrorContains(t, err, "is no pattern")
}

func TestVersionsOfAPackArePreparedEach(t *testing.T) {
	files := map[string]string{}
	for _, version := range []string{"1.0.0", "2.0.0"} {
		for name, text := range userOf("u", "") {
			files["u@"+version+strings.TrimPrefix(name, "u")] = strings.ReplaceAll(text, "1.0.0", version)
		}
		files["u@"+version+"/needs.txt"] = version
	}
	s := service(t, Config{Packs: []string{packs(t, together(files, tool("true", "")))}})
	rows, err := s.Prepare(context.Background(), PrepareOptions{})
	require.NoError(t, err)
	require.Len(t, rows, 2)
	assert.Equal(t, []string{"u.a@=1.0.0"}, rows[0].Actions)
	assert.Equal(t, []string{"u.a@=2.0.0"}, rows[1].Actions)
	result := s.Execute(context.Background(), Request{Action: rows[0].Actions[0]}, Observer{})
	assert.Equal(t, "hit", result.Environment.State, "%+v", result.Error)
}

func TestWhatIsNotReadyIsLogged(t *testing.T) {
	var log strings.Builder
	service(t, Config{Mode: Worker(), Packs: []string{packs(t, onlyShell())}, Log: slog.New(slog.NewTextHandler(&log, nil)), Runtimes: "shell,cobol"})
	assert.Regexp(t, `level=ERROR msg="not ready" pack=p .*ruby.yaml:1:`, log.String())
	assert.Regexp(t, `level=INFO msg=skipped pack=p actions=\[p.off\]`, log.String())
	assert.Contains(t, log.String(), "failed:1 none:1 skipped:1")
	assert.Contains(t, log.String(), "names=[cobol]")
}

func TestAnInterpreterThatWasDetectedAndIsGoneIsLookedForAnew(t *testing.T) {
	gone := interpreter(t, filepath.Join(t.TempDir(), "sh"), "9.9.9")
	s := service(t, Config{Mode: Agent([]runtime.Interpreter{{Runtime: "shell", Path: gone, Version: "9.9.9"}}), Packs: []string{packs(t, onlyShell())}})
	assert.Equal(t, gone, s.Execute(context.Background(), Request{Action: "p.ok"}, Observer{}).Runtime.Path)
	require.NoError(t, os.Remove(gone))
	result := s.Execute(context.Background(), Request{Action: "p.ok"}, Observer{})
	assert.Equal(t, Succeeded, result.Status)
	assert.NotEqual(t, gone, result.Runtime.Path)
}

func TestAnInterpreterThatVanishesWhileItsEnvironmentIsMade(t *testing.T) {
	path := interpreter(t, filepath.Join(t.TempDir(), "tool"), "1.0.0")
	files := together(tool("rm "+path+"; exit 1", "versions: [{version: '1', execution_config: {interpreter: {binary: "+path+"}}}]\n"), userOf("u", "runtime_version: '1'\n"))
	s := service(t, Config{Packs: []string{packs(t, files)}})
	result := s.Execute(context.Background(), Request{Action: "u.a"}, Observer{})
	assert.Equal(t, ExitNoRuntime, result.ExitCode)
	assert.Equal(t, "runtime", result.Error.Kind)
	assert.Contains(t, result.Error.Message, "the tool.tool at "+path+" vanished after it was found")
}

func TestWhatIsRefusedIsNotBuilt(t *testing.T) {
	cfg := Config{Packs: []string{packs(t, together(onlyShell(), pythonPack("one")))}, CacheDir: filepath.Join(t.TempDir(), "cache")}
	s, err := New(cfg)
	require.NoError(t, err)
	rows, err := s.Prepare(context.Background(), PrepareOptions{Actions: []string{"one.six", "p.*"}, Refuse: func(row Prepared, key envcache.Key) string {
		if row.Key == "" {
			assert.Empty(t, key.Inputs(""))
			return ""
		}
		assert.True(t, key.PathBound())
		return "not today"
	}})
	require.NoError(t, err)
	row := rowOf(t, rows, "one.six")
	assert.Equal(t, PreparedSkipped, row.State)
	assert.Equal(t, "not today", row.Reason)
	assert.NoDirExists(t, filepath.Join(cfg.CacheDir, "v1", "envs"))
}
