package executor

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// hostFile makes a host's runtime file.
func hostFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), ".attune-runtime.yaml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
	return file
}

var brought = map[string]string{
	"mine/pack.yaml":           "ref: mine\nversion: 1.0.0\n",
	"mine/runtimes/shell.yaml": "name: shell\nexecution_config: {env_vars: {WHO: pack, ALSO: pack}}\n",
	"mine/runtimes/lang.yaml":  "name: lang\naliases: [l]\nexecution_config: {interpreter: {binary: sh}, env_vars: {WHO: lang}}\n",
	"mine/actions/s.yaml":      "ref: mine.s\nentry_point: who.sh\n",
	"mine/actions/b.yaml":      "ref: mine.b\nrunner_type: Bash\nentry_point: who.sh\n",
	"mine/actions/l.yaml":      "ref: mine.l\nrunner_type: lang\nentry_point: who.sh\n",
	"mine/actions/who.sh":      "echo $WHO $ALSO\n",
	"your/pack.yaml":           "ref: your\nversion: 1.0.0\n",
	"your/actions/s.yaml":      "ref: your.s\nentry_point: who.sh\n",
	"your/actions/full.yaml":   "ref: your.full\nrunner_type: mine.shell\nentry_point: who.sh\n",
	"your/actions/alias.yaml":  "ref: your.alias\nrunner_type: mine.l\nentry_point: who.sh\n",
	"your/actions/bare.yaml":   "ref: your.bare\nrunner_type: lang\nentry_point: who.sh\n",
	"your/actions/typo.yaml":   "ref: your.typo\nrunner_type: mine.lnag\nentry_point: who.sh\n",
	"your/actions/who.sh":      "echo $WHO $ALSO\n",
	// What lies in a pack says nothing of the host.
	"mine/.attune-runtime.yaml":         "name: shell\nexecution_config: {env_vars: {ALSO: hostile}}\n",
	"mine/actions/.attune-runtime.yaml": "name: shell\nexecution_config: {env_vars: {ALSO: hostile}}\n",
}

func TestWhoseRuntimeAnActionGets(t *testing.T) {
	dir := packs(t, brought)
	run := func(s *Service, action string) Result {
		return s.Execute(context.Background(), Request{Action: action}, Observer{})
	}
	s := service(t, Config{Packs: []string{dir}})
	for action, want := range map[string][2]string{
		"mine.s": {"pack pack\n", "mine.shell"}, "mine.b": {"pack pack\n", "mine.shell"}, "mine.l": {"lang\n", "mine.lang"},
		"your.s": {"\n", "shell"}, "your.full": {"pack pack\n", "mine.shell"}, "your.alias": {"lang\n", "mine.lang"},
	} {
		result := run(s, action)
		assert.Equal(t, want, [2]string{result.Stdout, result.Runtime.Name}, "%s %+v", action, result.Error)
	}
	result := run(s, "your.bare")
	assert.Equal(t, ExitNoRuntime, result.ExitCode)
	assert.Contains(t, result.Error.Message, `action your.bare: there is no runtime "lang"`)
	assert.Contains(t, run(s, "your.typo").Error.Message, `did you mean "mine.lang"`)

	low, high := hostFile(t, "name: shell\nexecution_config: {env_vars: {WHO: low, ALSO: low}}\n"), hostFile(t, "name: shell\nexecution_config: {env_vars: {ALSO: high}}\n---\nname: your.shell\nexecution_config: {env_vars: {WHO: nobody}}\n---\nname: mine.lang\nexecution_config: {env_vars: {WHO: host}}\n")
	s = service(t, Config{Packs: []string{dir}, RuntimeFiles: []string{low, high, "/missing"}})
	for action, want := range map[string]string{"mine.s": "low high\n", "your.s": "low high\n", "your.full": "low high\n", "mine.l": "host\n"} {
		assert.Equal(t, want, run(s, action).Stdout, action)
	}
	script := filepath.Join(dir, "your/actions/who.sh")
	result = s.Execute(context.Background(), Request{Script: &Script{Path: script, Runtime: "mine.lang"}}, Observer{})
	assert.Equal(t, "host\n", result.Stdout)
	result = s.Execute(context.Background(), Request{Script: &Script{Path: script}}, Observer{})
	assert.Equal(t, "low high\n", result.Stdout)
}

func TestAllRuntimesOfAService(t *testing.T) {
	dir := packs(t, together(brought, map[string]string{
		"bad/pack.yaml":       "ref: bad\nversion: 1.0.0\n",
		"bad/runtimes/x.yaml": "name: x\nbogus: y\n",
	}))
	file := hostFile(t, "name: shell\n---\nname: odd\nexecution_config: {interpreter: {binary: sh}}\n")
	s := service(t, Config{Packs: []string{dir}, RuntimeFiles: []string{file}, Runtimes: "bash odd mine.lang"})
	states, problems, err := s.ExplainRuntimes(context.Background())
	require.NoError(t, err)
	require.Len(t, problems, 1)
	assert.ErrorContains(t, problems[0], "bad/runtimes/x.yaml:2:1")
	got := map[string][]string{}
	for _, state := range states {
		got[state.Name] = append([]string{state.Origin}, state.Overrides...)
		assert.NotEmpty(t, state.Interpreters, state.Name)
		for _, i := range state.Interpreters {
			assert.Equal(t, state.Name, i.Runtime)
		}
	}
	assert.Equal(t, map[string][]string{
		"odd": {file}, "shell": {file, "built-in"},
		"mine.lang":  {filepath.Join(dir, "mine/runtimes/lang.yaml")},
		"mine.shell": {file, filepath.Join(dir, "mine/runtimes/shell.yaml"), "built-in"},
	}, got)
	result := s.Execute(context.Background(), Request{Action: "mine.s"}, Observer{})
	assert.Equal(t, Succeeded, result.Status, "a pack's shell is a shell for the operator's list")
}

func TestAHostFileThatCannotBeUsedStopsWhatNeedsIt(t *testing.T) {
	dir := packs(t, brought)
	for text, want := range map[string]string{
		"name: shell\nbogus: 1\n": ":2:1: unknown key",
		"name: shell\nexecution_config: {environment: {env_type: virtulenv}}\n":                   `:2:44: runtime shell`,
		"name: shell\nversions: [{version: '1', execution_config: {environment: {env_type: x}}}]": `:2:70: runtime shell`,
	} {
		file := hostFile(t, text)
		s := service(t, Config{Packs: []string{dir}, RuntimeFiles: []string{file}})
		result := s.Execute(context.Background(), Request{Action: "mine.s"}, Observer{})
		assert.Equal(t, "runtime", result.Error.Kind)
		assert.Contains(t, result.Error.Message, file+want)
		_, _, err := s.Detect(context.Background())
		assert.ErrorContains(t, err, want)
		s.cfg.Mode = Worker()
		assert.ErrorContains(t, s.Start(context.Background()), want)
	}
}

func TestALayersInterpretersAreNotProbedAgain(t *testing.T) {
	layer, probes := filepath.Join(t.TempDir(), "layer"), filepath.Join(t.TempDir(), "probes")
	path := filepath.Join(t.TempDir(), "odd")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\necho x >>"+probes+"\necho 1.0.0\n"), 0o755))
	file := hostFile(t, "name: odd\ndistributions: {verification: {commands: [{binary: "+path+", pattern: '(.+)'}]}}\nexecution_config: {interpreter: {binary: "+path+"}}\n")
	for _, cfg := range []Config{{CacheDir: layer}, {CacheDir: filepath.Join(t.TempDir(), "upper"), Layers: []string{layer}}} {
		cfg.RuntimeFiles, cfg.Runtimes = []string{file}, "odd"
		s, err := New(cfg)
		require.NoError(t, err)
		found, _, err := s.Detect(context.Background())
		require.NoError(t, err)
		require.Len(t, found, 1)
		assert.Equal(t, "1.0.0", found[0].Version)
	}
	data, err := os.ReadFile(probes)
	require.NoError(t, err)
	assert.Equal(t, "x\n", string(data))
}
