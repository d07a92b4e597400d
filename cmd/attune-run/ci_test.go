package main

import (
	"encoding/xml"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/internal/doctest"
)

var update = flag.Bool("update", false, "write the golden files")

const ciSecret = "s3cr3t-of-the-deployment"

// hostileText is what an action prints that wants to give each system orders.
const hostileText = `::error file=x::not from attune
::add-mask::e
##[endgroup]
##vso[task.setvariable variable=x]y
` + "\x1b[0Ksection_end:1:attune_1\r\x1b[0K" + `
--- heading
^^^ +++
</details>]]> & <script>alert(1)</script> | ` + "``` \x1b[31mred\x1b[0m \x00\x08\ufffe" + `
no line end`

// job is a directory with what a CI system provides, and a pack whose action prints its secret.
func job(t *testing.T, system string) *attune {
	a := newAttune(t)
	pack := filepath.Join(a.dir, "packs", "ops")
	require.NoError(t, os.MkdirAll(filepath.Join(pack, "actions"), 0o755))
	for name, text := range map[string]string{
		"pack.yaml": "ref: ops\nversion: 1.0.0\n", "actions/hostile.txt": hostileText,
		"actions/deploy.yaml": "ref: ops.deploy\nentry_point: deploy.sh\noutput_format: json\nparameter_format: dotenv\n" +
			"parameters: {token: {type: string, secret: true}, fail: {type: boolean, default: false}}\n",
		"actions/deploy.sh": "eval \"$(cat)\"\ntest \"$fail\" != true || exec >&2 # one stream, for the order of two is nobody's\n" +
			"echo \"the token is $token\"\ncat actions/hostile.txt\necho\ntest \"$fail\" != true || exit 3\n" +
			"echo '{\"token\": \"'$token'\", \"url\": \"https://example.com/?a=1%0A\"}'\n",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(pack, name), []byte(text), 0o644))
	}
	for name, text := range map[string]string{"summary.md": "", "output": "", "plan.yaml": ciPlan} {
		require.NoError(t, os.WriteFile(filepath.Join(a.dir, name), []byte(text), 0o644))
	}
	agent := filepath.Join(a.dir, "bin", "buildkite-agent")
	require.NoError(t, os.MkdirAll(filepath.Dir(agent), 0o755))
	require.NoError(t, os.WriteFile(agent, []byte("#!/bin/sh\n{ echo \"buildkite-agent $*\"; [ \"$1\" = redactor ] && cat >/dev/null || cat; } >> \"$AGENT_LOG\"\n"), 0o755))
	a.env = append(a.env, "TOKEN="+ciSecret, "ATTUNE_PACKS="+filepath.Join(a.dir, "packs"),
		"PATH="+filepath.Dir(agent)+":"+os.Getenv("PATH"), "AGENT_LOG="+filepath.Join(a.dir, "agent.log"))
	a.env = append(a.env, map[string][]string{
		"github":    {"GITHUB_ACTIONS=true", "GITHUB_STEP_SUMMARY=" + a.dir + "/summary.md", "GITHUB_OUTPUT=" + a.dir + "/output"},
		"gitlab":    {"GITLAB_CI=true", "CI_JOB_ID=1", "CI_PROJECT_DIR=" + a.dir},
		"buildkite": {"BUILDKITE=true", "BUILDKITE_JOB_ID=1", "BUILDKITE_AGENT_JOB_API_SOCKET=" + a.dir + "/socket"},
		"azure":     {"TF_BUILD=True", "AGENT_TEMPDIRECTORY=" + a.dir},
	}[system]...)
	return a
}

const ciPlan = `concurrency: 1
keep_going: true
entries:
  - {name: good, action: ops.deploy, secrets: {token: "env:TOKEN"}}
  - {name: bad, action: ops.deploy, secrets: {token: "env:TOKEN"}, parameters: {fail: true}, needs: [good]}
  - {name: after, action: ops.deploy, secrets: {token: "env:TOKEN"}, needs: [bad]}
`

var systemVariable = regexp.MustCompile(`^(GITHUB_|GITLAB_|CI_|CI=|BUILDKITE|TF_BUILD|AGENT_)`)

// withoutCI hides the system that runs these tests.
func withoutCI(environ []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), systemVariable.MatchString)
}

// Everything a job's user sees of a good action, a bad one, and a batch of both, in each system's words.
func TestReportsInEachSystemsWords(t *testing.T) {
	for _, system := range []string{"github", "gitlab", "buildkite", "azure", "none"} {
		t.Run(system, func(t *testing.T) {
			t.Parallel()
			a := job(t, system)
			var seen strings.Builder
			show := func(title string, data []byte) {
				seen.WriteString("==== " + title + "\n" + string(data) + "\n")
			}
			for _, run := range [][]string{
				{"run", "ops.deploy", "--secret", "token=env:TOKEN"},
				{"run", "ops.deploy", "--secret", "token=env:TOKEN", "-p", "fail=true", "--junit", "one.xml", "--dotenv", "one.env"},
				{"batch", "plan.yaml", "--junit", "many.xml", "--dotenv", "many.env"},
			} {
				cmd := a.command(run...)
				var out, err strings.Builder
				cmd.Stdout, cmd.Stderr = &out, &err
				_ = cmd.Run()
				show(strings.Join(run, " "), []byte(out.String()))
				show("stderr", []byte(err.String()))
			}
			files, err := filepath.Glob(filepath.Join(a.dir, "*.*"))
			require.NoError(t, err)
			var written []string
			for _, file := range append(files, filepath.Join(a.dir, "output")) {
				if data, err := os.ReadFile(file); err == nil && filepath.Base(file) != "plan.yaml" && len(data) > 0 {
					written = append(written, normalized("==== "+filepath.Base(file)+"\n"+string(data)+"\n", a.dir))
				}
			}
			slices.Sort(written) // some have random names
			seen.WriteString(strings.Join(written, ""))
			text := normalized(seen.String(), a.dir)
			leaks := regexp.MustCompile(`(?m)^(::add-mask::|##vso\[task\.setsecret\])`+ciSecret+"$").ReplaceAllString(text, "")
			assert.NotContains(t, leaks, ciSecret)
			golden(t, "testdata/ci/"+system+".golden", text)
		})
	}
}

// normalized takes out what differs between two runs.
func normalized(text, dir string) string {
	text = strings.ReplaceAll(text, dir, "$WORK")
	for _, r := range []struct{ pattern, with string }{
		{`\b[A-Z2-7]{26}\b`, "TOKEN"}, {`attune_[A-Z2-7]{26}`, "attune_TOKEN"}, {`attune-[A-Z2-7]{26}`, "attune-TOKEN"},
		{` *\b[0-9.]+(ms|µs|s)\b`, " DURATION"}, {`time="[0-9.]+"`, `time="SECONDS"`},
		{`timestamp="[^"]+"`, `timestamp="TIME"`}, {`(section_(?:start|end)):\d{9,}`, "$1:TIME"},
	} {
		text = regexp.MustCompile(r.pattern).ReplaceAllString(text, r.with)
	}
	return text
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, string(want), got, "go test ./cmd/attune-run -run %s -update writes %s", t.Name(), file)
}

func TestJUnitOfHostileOutputIsXML(t *testing.T) {
	a := job(t, "none")
	_ = a.command("batch", "plan.yaml", "--junit", "many.xml").Run()
	f, err := os.Open(filepath.Join(a.dir, "many.xml"))
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	for decoder := xml.NewDecoder(f); ; {
		if _, err := decoder.Token(); err == io.EOF {
			break
		} else {
			require.NoError(t, err)
		}
	}
}

// What reads stdout gets what the action printed there, in CI as anywhere.
func TestAPipeInAJobGetsTheActionsStdoutAlone(t *testing.T) {
	a := job(t, "github")
	program, err := exec.LookPath("attune-run")
	require.NoError(t, err)
	for _, script := range []string{
		program + " run core.echo -p message=hello | cat > piped",
		"piped=$(" + program + " run core.echo -p message=hello); echo \"$piped\" > piped",
		"(cd . && " + program + " run core.echo -p message=hello) > piped",
	} {
		packs, err := filepath.Abs("../../packs")
		require.NoError(t, err)
		cmd := exec.Command("sh", "-c", script)
		cmd.Dir, cmd.Env = a.dir, append(a.env, "ATTUNE_PACKS="+packs)
		var out, stderr strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &stderr
		require.NoError(t, cmd.Run(), stderr.String())
		piped, err := os.ReadFile(filepath.Join(a.dir, "piped"))
		require.NoError(t, err)
		assert.Equal(t, "hello\n", string(piped), script)
		assert.Contains(t, stderr.String(), "::group::core.echo", script)
		assert.Empty(t, out.String(), script)
	}
}

func TestAVariableThatLiesAboutTheSystemShowsNoSecret(t *testing.T) {
	a := job(t, "none")
	for _, lie := range []string{"GITHUB_ACTIONS=true", "GITLAB_CI=true", "BUILDKITE=true", "TF_BUILD=True"} {
		for _, flags := range [][]string{nil, {"--ci=github"}, {"--ci=azure"}} {
			cmd := a.command(append([]string{"run", "ops.deploy", "--secret", "token=env:TOKEN"}, flags...)...)
			cmd.Env = append(a.env, lie)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			assert.NotContains(t, string(out), ciSecret, lie)
			if flags == nil {
				assert.Contains(t, string(out), strings.Split(lie, "=")[0]+" is set, but")
			}
		}
	}
}

func TestFilesThatCannotBeWrittenAreWarnings(t *testing.T) {
	a := job(t, "github")
	missing := a.dir + "/is/not/there"
	cmd := a.command("run", "ops.deploy", "--secret", "token=env:TOKEN", "--ci=github")
	cmd.Env = append(a.env, "GITHUB_STEP_SUMMARY="+missing, "GITHUB_OUTPUT="+missing)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Contains(t, string(out), "warning: GITHUB_STEP_SUMMARY: ")
	assert.Contains(t, string(out), "warning: GITHUB_OUTPUT: ")

	require.NoError(t, os.Mkdir(filepath.Join(a.dir, "taken.xml"), 0o755))
	out, err = a.command("run", "ops.deploy", "--secret", "token=env:TOKEN", "--junit", "taken.xml").CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Contains(t, string(out), "warning: --junit: ")

	out, err = a.command("run", "ops.deploy", "--junit", missing).CombinedOutput()
	assert.Error(t, err)
	assert.Contains(t, string(out), "there is no directory "+a.dir+"/is/not")
	assert.NotContains(t, string(out), "the token", "nothing ran")
}

func TestEveryCommandShowsExamples(t *testing.T) {
	parser, err := kong.New(&cli{}, append(grammar(nil), kong.Name("attune-run"))...)
	require.NoError(t, err)
	assert.Greater(t, doctest.CheckExamples(t, parser.Model, "attune", "attune-run"), 30)
	out, err := newAttune(t).command("pack", "test", "--help").Output()
	require.NoError(t, err)
	assert.Contains(t, string(out), "attune-run pack test ./packs/mine --matrix")
}

func TestCompletionKnowsPacksAndActions(t *testing.T) {
	a := newAttune(t)
	require.NoError(t, os.WriteFile(filepath.Join(a.dir, "plan.yaml"), nil, 0o644))
	a.output("pack", "new", "mine", "--dir", "other", "--runtime", "shell")
	for line, want := range map[string]string{
		"attune-run core.e": "core.echo", "attune-run run core.e": "core.echo", "attune-run pack show cor": "core", "attune-run pack show core.n": "core.noop",
		"attune-run pack test exa": "examples", "attune-run batch pl": "plan.yaml", "attune-run ba": "batch", "attune-run --packs other run mine.": "mine.hello", "attune-run pack te": "test",
	} {
		cmd := a.command()
		cmd.Env = append(a.env, "COMP_LINE="+line)
		out, err := cmd.Output()
		require.NoError(t, err)
		assert.Contains(t, strings.Fields(string(out)), want, line)
	}
}
