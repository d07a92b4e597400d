package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// onTerminal runs a command on a terminal of a width and gives what it wrote there.
func onTerminal(t *testing.T, cmd *exec.Cmd, columns uint16) string {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	require.NoError(t, err)
	defer func() { _ = master.Close() }()
	fd := int(master.Fd())
	require.NoError(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}))
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	require.NoError(t, cmd.Start())
	require.NoError(t, slave.Close())
	out, _ := io.ReadAll(master) // EIO when nobody has the other side any more
	_ = cmd.Wait()
	return strings.ReplaceAll(string(out), "\r\n", "\n")
}

func TestATerminalShowsWhatIsRunning(t *testing.T) {
	a := job(t, "none")
	a.env = append(a.env, "TERM=xterm", "NO_COLOR=")
	seen := onTerminal(t, a.command("batch", "plan.yaml"), 60)
	assert.Contains(t, seen, "▸ good  0s\n", "it is running")
	assert.Contains(t, seen, "\x1b[1A\r\x1b[J", "and then it is not")
	assert.Contains(t, seen, "good | the token is ***\n")
	assert.Regexp(t, `\x1b\[32mgood: succeeded in [^\n]*\x1b\[0m\n`, seen)
	assert.Regexp(t, `\x1b\[31mbad +failed [^\n]*\x1b\[0m\n`, seen)
	last := strings.Split(seen, "\n")
	for _, line := range last[len(last)-5:] {
		line = regexp.MustCompile(`\x1b\[[0-9;]*m`).ReplaceAllString(line, "")
		assert.LessOrEqual(t, len([]rune(line)), 60, line)
	}
}

func TestATerminalWithoutColorsGetsNone(t *testing.T) {
	a := job(t, "none")
	for _, env := range []string{"NO_COLOR=1", "TERM=dumb"} {
		cmd := a.command("batch", "plan.yaml")
		cmd.Env = append(a.env, "TERM=xterm", env)
		seen := onTerminal(t, cmd, 80)
		seen = strings.ReplaceAll(seen, "\x1b[31mred\x1b[0m", "") // the action's own
		assert.NotRegexp(t, `\x1b\[[0-9;]+m`, seen, env)
		assert.Contains(t, seen, "1 succeeded, 1 failed, 1 skipped")
	}
}

func TestTablesEndAtTheTerminalsEdge(t *testing.T) {
	a := newAttune(t)
	seen := onTerminal(t, a.command("pack", "list"), 40)
	for line := range strings.Lines(seen) {
		assert.LessOrEqual(t, len([]rune(strings.TrimSuffix(line, "\n"))), 40)
	}
	assert.Contains(t, seen, "…")
}

// In a job a terminal is a person's: nothing is folded there.
func TestATerminalGetsNoGroups(t *testing.T) {
	a := job(t, "github")
	assert.NotContains(t, onTerminal(t, a.command("batch", "plan.yaml"), 80), "::group::")
}
