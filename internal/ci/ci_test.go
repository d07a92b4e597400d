package ci

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/report"
)

// reporter makes one whose log is read afterwards, at the time of GitLab's own example.
func reporter(system string, env map[string]string, warnings *[]string) (Reporter, *bytes.Buffer) {
	var log bytes.Buffer
	return New(system, Options{
		Log: &log, Getenv: func(name string) string { return env[name] }, Now: func() time.Time { return time.Unix(1560896352, 0) },
		Token: func() string { return "TOKEN" }, Warn: func(message string) { *warnings = append(*warnings, message) },
	}), &log
}

func failed(name, message string) *report.Execution {
	return &report.Execution{Name: name, Result: executor.Result{Status: executor.Failed, ExitCode: 1, Error: &executor.Error{Kind: "exit", Message: message}}}
}

// The lines that the vendors' pages show as examples.
func TestWordsAreThoseOfTheVendorsPages(t *testing.T) {
	for _, c := range []struct{ system, name, want string }{
		{GitHub, "My title", "::group::My title\n"},
		{GitLab, "Header of the 1st collapsible section", "\x1b[0Ksection_start:1560896352:attune_1[collapsed=true]\r\x1b[0KHeader of the 1st collapsible section\n"},
		{Buildkite, "A section of the build", "--- A section of the build\n"},
		{Azure, "Beginning of a group", "##[group]Beginning of a group\n"},
	} {
		r, log := reporter(c.system, nil, new([]string))
		r.Begin(c.name, false)
		assert.Equal(t, c.want, log.String(), c.system)
	}
	for _, c := range []struct{ system, want string }{
		{GitHub, "::endgroup::\n::error title=a%3Ab%2Cc: failed::100%25%0D%0A::debug::x\n"},
		{Azure, "##[endgroup]\n##vso[task.logissue type=error]a:b,c: failed: 100%AZP25%0D%0A::debug::x\n"},
	} {
		r, log := reporter(c.system, nil, new([]string))
		r.End(failed("a:b,c", "100%\r\n::debug::x"))
		assert.Equal(t, strings.Replace(c.want, "c: failed::100", "c%3A failed::100", 1), log.String())
	}
}

// What the vendors document as orders means nothing when an action prints it, however it is cut into writes.
func TestNoSystemObeysAnAction(t *testing.T) {
	for _, c := range []struct {
		system, obeyed string
		orders         []string
	}{
		{GitLab, `section_(start|end):`, []string{"\x1b[0Ksection_start:1560896352:my_first_section\r\x1b[0KHeader", "\x1b[0Ksection_end:1560896353:attune_1\r\x1b[0K"}},
		{Buildkite, `(?m)^(---|\+\+\+|~~~)\s(.+)?$|^\^\^\^\s\+\+\+`, []string{"--- A section", "+++ A section", "~~~ An unimportant section", "^^^ +++"}},
		{Azure, `(?i)##(vso)?\[`, []string{"##vso[task.setvariable variable=testvar;]testvalue", "##VSO[task.complete result=Failed;]", "##[error]Error message", "##[endgroup]"}},
		{GitHub, `##\[`, []string{"##[group]x", "##[endgroup]"}},
	} {
		text := strings.Join(c.orders, "\n") + "\nlast " + strings.Join(c.orders, " ") + "\n"
		for size := 1; size < len(text); size += 3 {
			r, log := reporter(c.system, nil, new([]string))
			out := r.Output()
			log.Reset()
			for rest := text; rest != ""; {
				n := min(size, len(rest))
				_, err := out.Write([]byte(rest[:n]))
				require.NoError(t, err)
				rest = rest[n:]
			}
			assert.NotRegexp(t, regexp.MustCompile(c.obeyed), log.String(), c.system)
			assert.Equal(t, text, strings.NewReplacer("## [", "##[", "vso [", "vso[", "VSO [", "VSO[", " :1", ":1", "\u200b", "").Replace(log.String()))
		}
	}
}

func TestCommandsAreStoppedByATokenThatTheActionCannotKnow(t *testing.T) {
	summary := filepath.Join(t.TempDir(), "summary.md")
	require.NoError(t, os.WriteFile(summary, nil, 0o600))
	var log bytes.Buffer
	n := 0
	r := New(GitHub, Options{Log: &log, Getenv: func(string) string { return summary }, Token: func() string { n++; return fmt.Sprint("t", n) }})
	r.Begin("a", true)
	_, _ = r.Output().Write([]byte("::warning::x"))
	r.Mask([]string{"one-long-line\n\nshort\nanother 100% line\n"})
	_, _ = r.Output().Write([]byte("::t1::\n"))
	r.End(failed("a", "no"))
	assert.Equal(t, `::group::a
::stop-commands::t1
::warning::x
::t1::
::add-mask::one-long-line
::add-mask::another 100%25 line
::stop-commands::t2
::t1::
::t2::
::endgroup::
::error title=a%3A failed::no
`, log.String())
}

func TestAnnotationsAndSummariesStayWithinTheirBounds(t *testing.T) {
	dir := t.TempDir()
	env := map[string]string{"GITHUB_STEP_SUMMARY": filepath.Join(dir, "summary.md"), "GITHUB_OUTPUT": filepath.Join(dir, "output")}
	before := strings.Repeat("x", 300_000)
	require.NoError(t, os.WriteFile(env["GITHUB_STEP_SUMMARY"], []byte(before), 0o600))
	var warnings []string
	r, log := reporter(GitHub, env, &warnings)
	run := &report.Run{Title: "many"}
	for i := range 1100 {
		e := failed(fmt.Sprintf("entry-%d", i), strings.Repeat("`", 3)+strings.Repeat("é", 1000))
		e.Result.Result = strings.Repeat("r", 1000)
		e.Warnings = []string{"w"}
		r.Begin(e.Name, false)
		r.End(e)
		run.Executions = append(run.Executions, *e)
	}
	r.Finish(run)
	assert.Equal(t, 10, strings.Count(log.String(), "::error "))
	assert.Equal(t, 10, strings.Count(log.String(), "::warning "))
	info, err := os.Stat(env["GITHUB_STEP_SUMMARY"])
	require.NoError(t, err)
	assert.LessOrEqual(t, info.Size(), int64(1<<20))
	assert.Greater(t, info.Size(), int64(1<<20-10_000))
	output, err := os.ReadFile(env["GITHUB_OUTPUT"])
	require.NoError(t, err)
	assert.NotContains(t, string(output), "result<<")
	assert.Equal(t, []string{`the output "result" is left out: it has 1163791 bytes, and 1000000 are the most`}, warnings)
	data, err := junit(run)
	require.NoError(t, err)
	assert.Contains(t, string(data), `tests="1100" failures="1100"`)
}

func TestMarkdownMeansNothingThatAnActionSays(t *testing.T) {
	e := failed("a|b`<img src=x>` [l](u)\n# h", "m\n```\n</details><script>\x1b]8;;http://x\x07link\x1b]8;;\x07\x1b[31m!\x1b[0m\x9b1m\x00")
	e.Result.Stderr = strings.Repeat("line\n", 100) + "```` end <b>"
	text := Markdown(&report.Run{Title: "t", Executions: []report.Execution{*e}}, 1<<20)
	assert.Contains(t, text, "| ❌ | a\\|b\\`&lt;img src=x&gt;\\` \\[l\\](u) # h | failed (1) |")
	assert.Contains(t, text, "````text\nm\n```\n</details><script>link!\ufffd1m\n````")
	assert.Contains(t, text, "`````text\n"+strings.Repeat("line\n", 19)+"```` end <b>\n`````")
	assert.NotContains(t, text, "\x1b")
}

func TestDotenvLeavesOutWhatDoesNotFit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out.env")
	run := &report.Run{Executions: []report.Execution{{Result: executor.Result{Status: executor.Succeeded, Result: map[string]any{"a": "x\ny", "q": `"`}}}}}
	require.NoError(t, WriteDotenv(path, run, nil))
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, "ATTUNE_STATUS=succeeded\nATTUNE_EXIT_CODE=0\nATTUNE_RESULT={\"a\":\"x\\ny\",\"q\":\"\\\"\"}\n", string(data))
	run.Executions[0].Result.Result = strings.Repeat("x", 5000)
	warned := ""
	require.NoError(t, WriteDotenv(path, run, func(message string) { warned = message }))
	assert.Contains(t, warned, "left out")
	data, err = os.ReadFile(path)
	require.NoError(t, err)
	assert.NotContains(t, string(data), "RESULT")
}

func TestASystemMustProveThatItIsThere(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for _, c := range []struct {
		env    map[string]string
		system string
		doubt  bool
	}{
		{nil, "", false},
		{map[string]string{"GITHUB_ACTIONS": "false"}, "", false},
		{map[string]string{"GITHUB_ACTIONS": "true"}, "", true},
		{map[string]string{"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": dir}, "", true},
		{map[string]string{"GITHUB_ACTIONS": "true", "GITHUB_OUTPUT": file}, GitHub, false},
		{map[string]string{"GITHUB_ACTIONS": "true", "TF_BUILD": "True", "AGENT_TEMPDIRECTORY": dir}, Azure, false},
		{map[string]string{"GITLAB_CI": "true", "CI_JOB_ID": "1"}, "", true},
		{map[string]string{"GITLAB_CI": "true", "CI_JOB_ID": "1", "CI_PROJECT_DIR": dir}, GitLab, false},
		{map[string]string{"BUILDKITE": "true"}, "", true},
		{map[string]string{"BUILDKITE": "true", "BUILDKITE_JOB_ID": "1"}, Buildkite, false},
		{map[string]string{"TF_BUILD": "True", "AGENT_TEMPDIRECTORY": file}, "", true},
	} {
		system, doubt := Detect(func(name string) string { return c.env[name] })
		assert.Equal(t, c.system, system, c.env)
		assert.Equal(t, c.doubt, doubt != "", "%v: %s", c.env, doubt)
	}
}

func FuzzPlain(f *testing.F) {
	f.Add("\x1b[31mred\x1b[0m\x1b]0;title\x07\x1bP q\x1b\\x\x1b")
	f.Fuzz(func(t *testing.T, text string) {
		assert.NotRegexp(t, "[\x00-\x08\x0b-\x1f\x7f]", plain(text))
		assert.NotContains(t, markdown(text), "\n")
	})
}
