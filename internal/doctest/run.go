package doctest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Setting is what the commands of a page find.
type Setting struct {
	Dir     string   // where they are run
	Env     []string // all of their environment
	Replace []string // old, new, …: what is another here than on the page
}

// pageMax bounds a page that hangs.
const pageMax = 3 * time.Minute

const endOfStep = "--end-of-step--\n"

// Run runs the commands of a page, in order, in one bash, and compares what they print.
func Run(t *testing.T, page Page, s Setting) {
	t.Helper()
	page = parse(page.Name, strings.NewReplacer(s.Replace...).Replace(page.Text))
	var script strings.Builder
	script.WriteString("exec 2>&1\n")
	var steps []Step
	for _, block := range page.Blocks {
		if path, ok := strings.CutPrefix(block.Note, "file="); ok {
			fmt.Fprintf(&script, "mkdir -p '%s'\ncat > '%s' <<'--end-of-file--'\n%s--end-of-file--\n", filepath.Dir(path), path, block.Text)
		}
		if block.Language != "console" {
			continue
		}
		for _, step := range block.Steps() {
			script.WriteString(step.Command + "\necho " + endOfStep)
			steps = append(steps, step)
		}
	}
	require.NotEmpty(t, steps, "commands of docs/%s", page.Name)
	printed := strings.Split(bash(t, script.String(), s), endOfStep)
	require.Len(t, printed, len(steps)+1, "%s", printed)
	for i, step := range steps {
		assert.Regexp(t, pattern(step.Output), strings.TrimRight(printed[i], "\n"), "docs/%s:%d: $ %s", page.Name, step.Line, step.Command)
	}
}

// pattern is what an output must look like; "..." stands for anything.
func pattern(output string) string {
	return "(?s)^" + strings.ReplaceAll(regexp.QuoteMeta(output), `\.\.\.`, ".*") + "$"
}

// bash runs a script, and ends whatever of it is left.
func bash(t *testing.T, script string, s Setting) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), pageMax)
	defer cancel()
	out, err := os.CreateTemp(t.TempDir(), "out")
	require.NoError(t, err)
	defer func() { _ = out.Close() }()
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = s.Dir, s.Env, out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err = cmd.Run()
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // jobs of the page that still run
	}
	text, readErr := os.ReadFile(out.Name())
	require.NoError(t, readErr)
	require.NoError(t, err, "%s", text)
	return string(text)
}
