package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v4"
)

// shellStep runs one step of a job as its system would: a shell, and the job's variables.
func (a *attune) shellStep(script string, env ...string) (string, error) {
	self, err := exec.LookPath("attune-run")
	require.NoError(a.t, err)
	cmd := exec.Command("sh", "-e", "-c", script)
	cmd.Dir = a.dir
	cmd.Env = append(append(a.env, "PATH="+filepath.Dir(self)+":"+os.Getenv("PATH")), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

type compositeAction struct {
	Inputs map[string]struct{ Default, Description string }
	Runs   struct {
		Steps []struct {
			Name, ID, If, Run, Uses string
			Env                     map[string]string
		}
	}
}

// The steps of action.yml, in order, but for those that only GitHub can take.
func TestTheGitHubActionRunsAnActionAndKeepsItsOutputs(t *testing.T) {
	data, err := os.ReadFile("../../action.yml")
	require.NoError(t, err)
	var action compositeAction
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	require.NoError(t, decoder.Decode(&action))
	a := job(t, "github")
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	given := map[string]string{
		"action": "ops.deploy", "packs": a.dir + "/packs", "secrets": "token=env:TOKEN", "parameters": "fail: false # $(touch injected)", "junit": "out.xml",
		"flags": "--timeout=30s\n--quiet",
	}
	expression := regexp.MustCompile(`\$\{\{ *(inputs\.)?([a-z0-9._-]+) *\}\}`)
	for _, step := range action.Runs.Steps {
		assert.NotContains(t, step.Run, "${{", "inputs reach scripts as variables, where nothing is read as code")
		if step.Uses != "" {
			continue
		}
		env := []string{
			"GITHUB_ACTION_PATH=" + root, "RUNNER_TEMP=" + a.dir, "GITHUB_ENV=" + a.dir + "/env", "GITHUB_PATH=" + a.dir + "/path",
			"ATTUNE_CACHE=" + a.dir + "/cache",
		}
		for name, value := range step.Env {
			env = append(env, name+"="+expression.ReplaceAllStringFunc(value, func(found string) string {
				parts := expression.FindStringSubmatch(found)
				if value, ok := given[parts[2]]; ok && parts[1] != "" {
					return value
				}
				return action.Inputs[parts[2]].Default
			}))
		}
		out, err := a.shellStep(step.Run, env...)
		require.NoError(t, err, "%s: %s", step.Name, out)
		if step.ID == "run" {
			assert.Contains(t, out, "::group::ops.deploy\n")
		}
	}
	output, err := os.ReadFile(a.dir + "/output")
	require.NoError(t, err)
	assert.Regexp(t, `(?s)key=none\nstatus<<(\w+)\nsucceeded\n.*result<<(\w+)\n\{"token":"\*\*\*"`, string(output))
	assert.FileExists(t, a.dir+"/out.xml")
	assert.NoFileExists(t, a.dir+"/injected")
}

func TestTheGitLabComponentRunsAnActionAndWritesItsReports(t *testing.T) {
	data, err := os.ReadFile("../../templates/run.yml")
	require.NoError(t, err)
	a := job(t, "gitlab")
	given := map[string]string{"action": "ops.deploy", "packs": "packs", "secrets": "token=env:TOKEN", "parameters": "fail: true"}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var spec struct {
		Spec struct {
			Inputs map[string]struct{ Default string }
		}
	}
	require.NoError(t, decoder.Decode(&spec))
	var jobs map[string]struct {
		Variables map[string]string
		Script    []string
	}
	require.NoError(t, decoder.Decode(&jobs))
	job := jobs["$[[ inputs.job ]]"]
	var env []string
	for name, value := range job.Variables {
		value = regexp.MustCompile(`\$\[\[ inputs\.(\w+) \]\]`).ReplaceAllStringFunc(value, func(found string) string {
			input := strings.TrimSuffix(strings.TrimPrefix(found, "$[[ inputs."), " ]]")
			require.Contains(t, spec.Spec.Inputs, input)
			return given[input]
		})
		env = append(env, name+"="+strings.ReplaceAll(value, "$CI_PROJECT_DIR", a.dir))
	}
	out, err := a.shellStep(job.Script[0], env...)
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit, out)
	assert.Equal(t, 3, exit.ExitCode())
	assert.Contains(t, out, ":attune_1\r\x1b[0Kops.deploy\n")
	dotenv, err := os.ReadFile(a.dir + "/attune.env")
	require.NoError(t, err)
	assert.Equal(t, "ATTUNE_STATUS=failed\nATTUNE_EXIT_CODE=3\nATTUNE_RESULT=null\n", string(dotenv))
	assert.FileExists(t, a.dir+"/attune.xml")
}

func TestTheBuildkitePluginRunsItsConfiguration(t *testing.T) {
	a := job(t, "buildkite")
	hook, err := filepath.Abs("../../buildkite/hooks/command")
	require.NoError(t, err)
	out, err := a.shellStep(hook, "BUILDKITE_PLUGIN_ATTUNE_PLAN=plan.yaml", "BUILDKITE_PLUGIN_ATTUNE_FLAGS=--quiet", "BUILDKITE_PLUGIN_ATTUNE_PACKS=packs")
	assert.Error(t, err)
	assert.Contains(t, out, "--- good\n")
	assert.Contains(t, out, "+++ bad\n")
	out, err = a.shellStep(hook, "BUILDKITE_PLUGIN_ATTUNE_PLAN=plan.yaml", "BUILDKITE_PLUGIN_ATTUNE_ACTION=core.noop")
	assert.Error(t, err)
	assert.Contains(t, out, "name one action, one script or one plan")
}
