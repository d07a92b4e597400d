package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestDocsAreTrue runs the commands of each page's console blocks, in order, in one shell, and compares what they
// print; "..." stands for anything.
func TestDocsAreTrue(t *testing.T) {
	for _, page := range []string{"quick-start.md", "environments.md", "batch.md", "ci.md", "lambda.md", "migrating.md"} {
		t.Run(page, func(t *testing.T) { pageIsTrue(t, page) })
	}
}

func pageIsTrue(t *testing.T, page string) {
	text, err := os.ReadFile("../../docs/" + page)
	require.NoError(t, err)
	a := newAttune(t)
	packs, err := filepath.Abs("../../packs")
	require.NoError(t, err)
	a.write("show.sh", "read -r document\ntoken=${document#*:\\\"}\necho \"the token is ${token%\\\"*}\"\n")
	a.env = append(a.env, "ATTUNE_PACKS="+a.dir+"/packs:"+packs)
	bootstrap(t, own)
	var script strings.Builder
	var expected []string
	for _, block := range regexp.MustCompile("(?s)```console\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		for _, step := range strings.Split("\n"+block[1], "\n$ ")[1:] {
			command, output := splitStep(step)
			script.WriteString(command + "\necho --end-of-step--\n")
			expected = append(expected, output)
		}
	}
	cmd := exec.Command("bash", "-c", script.String())
	cmd.Dir, cmd.Env = a.dir, a.env
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	steps := strings.Split(string(out), "--end-of-step--\n")
	require.Len(t, steps, len(expected)+1)
	for i, want := range expected {
		pattern := "(?s)^" + strings.ReplaceAll(regexp.QuoteMeta(want), `\.\.\.`, ".*") + "$"
		assert.Regexp(t, pattern, strings.TrimRight(steps[i], "\n"))
	}
}

// Every variable that attune-lambda --help names is explained.
func TestTheVariablesOfAFunctionAreDocumented(t *testing.T) {
	help, err := exec.Command(bootstrap(t, own), "--help").Output()
	require.NoError(t, err)
	page, err := os.ReadFile("../../docs/lambda.md")
	require.NoError(t, err)
	names := regexp.MustCompile(`\b(ATTUNE|AWS)_[A-Z_]*[A-Z]\b`).FindAllString(string(help), -1)
	require.NotEmpty(t, names)
	for _, name := range names {
		assert.Contains(t, string(page), "`"+name+"`")
	}
}

// splitStep separates a command, with its here-document, from its output.
func splitStep(step string) (command, output string) {
	lines := strings.Split(strings.TrimRight(step, "\n"), "\n")
	end := 1
	if _, word, ok := strings.Cut(lines[0], "<<'"); ok {
		word = strings.TrimSuffix(word, "'")
		for end < len(lines) && lines[end-1] != word {
			end++
		}
	}
	return strings.Join(lines[:end], "\n"), strings.Join(lines[end:], "\n")
}
