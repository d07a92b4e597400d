//go:build !linux || attune_portable

package proc

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// parts are other programs that this test binary can play: none are needed.
var parts map[string]func() int

func TestWhatCannotBeKeptIsRefusedByName(t *testing.T) {
	for _, level := range []Level{Basic, Strict} {
		spec := sh("echo never")
		spec.Isolation = Isolation{Level: level, Network: "none"}
		_, err := Run(t.Context(), spec)
		var refused *IsolationError
		require.ErrorAs(t, err, &refused)
		for _, guarantee := range guaranteesOf(level, "none") {
			assert.ErrorContains(t, err, guarantee+" (only Linux has ")
		}
		assert.Equal(t, len(refused.Missing), len(guaranteesOf(level, "none")))
	}
}

func TestBestEffortSaysThatNothingIsKept(t *testing.T) {
	spec, out := isolated(t, Strict, "echo ran")
	spec.Isolation.BestEffort = true
	exit, err := Run(t.Context(), spec)
	require.NoError(t, err)
	assert.Equal(t, "ran\n", out.String())
	assert.Equal(t, None, exit.Isolation.Level)
	assert.Empty(t, exit.Isolation.Guarantees)
	assert.Equal(t, guaranteesOf(Strict, ""), exit.Isolation.Missing)

	spec.Isolation.Minimum = Basic
	_, err = Run(t.Context(), spec)
	assert.ErrorContains(t, err, "isolation basic cannot be had")
}

func TestDiagnosisOffersOnlyLimitsOfProcesses(t *testing.T) {
	d := Diagnose()
	assert.Equal(t, guaranteesOf(Basic, "none"), d.Missing(Basic))
	assert.Equal(t, guaranteesOf(Strict, "none"), d.Missing(Strict))
	by := map[string]string{}
	for _, l := range d.Limits {
		by[l.Name] = l.EnforcedBy
	}
	pids := "rlimit"
	if os.Geteuid() == 0 {
		pids = "none"
	}
	assert.Equal(t, map[string]string{
		"memory": "none", "pids": pids, "cpu": "none", "cpu_time": "rlimit", "file_size": "rlimit", "open_files": "rlimit", "disk": "polled",
	}, by)
}

// Umask and limits are those of a stub, which becomes the child and leaves no other trace.
func TestThroughAStub(t *testing.T) {
	mask := 0o077
	spec, out := isolated(t, None, `umask; ulimit -n; printf '%s|%s|' "$ODD" "$1"; cat; ls /dev/fd | wc -l; kill -9 $$`)
	spec.Argv = append(spec.Argv, "sh", "\xff[ü] ")
	spec.Env = append(spec.Env, "ODD=\xfe\n")
	spec.Stdin, spec.Umask, spec.Limits = strings.NewReader("in\n"), &mask, Limits{OpenFiles: 32}
	exit, err := Run(t.Context(), spec)
	require.NoError(t, err)
	assert.Equal(t, "0077\n32\n\xfe\n|\xff[ü] |in\n4\n", strings.ReplaceAll(out.String(), " 4\n", "4\n"))
	assert.Equal(t, unix.SIGKILL, exit.Signal)
	assert.Equal(t, 137, exit.Code)

	spec.Argv = []string{"/no/such/program"}
	_, err = Run(t.Context(), spec)
	var start *StartError
	require.ErrorAs(t, err, &start)
	assert.ErrorIs(t, err, os.ErrNotExist)
	assert.Empty(t, descendants(os.Getpid()))
}

func TestJobsWithGroupsOfTheirOwnAreEnded(t *testing.T) {
	spec := sh("set -m; sleep 1000 >/dev/null 2>&1 & sleep 1000 >/dev/null 2>&1 & echo ready")
	spec.Argv[0] = "/bin/bash" // has job control without a terminal
	out := NewCapture(100)
	spec.Stdout = out
	exit, err := Run(t.Context(), spec)
	require.NoError(t, err)
	assert.Equal(t, "ready\n", out.Text())
	assert.Equal(t, 2, exit.Leftovers)
}

func TestLoweredCoreLimitIsTheChildsAgainInTheForeground(t *testing.T) {
	harden()
	known, found := coreKnown, coreLimit
	defer func() { coreKnown, coreLimit = known, found }()
	var now unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_CORE, &now))
	if now.Max < 1<<20 {
		t.Skip("core dumps cannot be allowed here")
	}
	coreKnown, coreLimit = true, unix.Rlimit{Cur: 1 << 20, Max: now.Max}
	for foreground, want := range map[bool]string{true: "2048", false: "0"} { // blocks of 512 bytes (POSIX, ulimit)
		spec, out := isolated(t, None, "ulimit -c")
		spec.Foreground = foreground
		_, err := Run(t.Context(), spec)
		require.NoError(t, err)
		assert.Equal(t, want, strings.TrimSpace(out.String()), foreground)
	}
}
