package proc

import (
	"bytes"
	"context"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// isolated is a script at a level, with a directory it may write at Strict.
func isolated(t *testing.T, level Level, script string) (Spec, *bytes.Buffer) {
	spec, out := sh(script), &bytes.Buffer{}
	dir := t.TempDir()
	spec.Stdout, spec.Dir = out, dir
	spec.Env = append(spec.Env, "OWN="+dir)
	spec.Isolation = Isolation{Level: level, Writable: []string{dir}}
	return spec, out
}

// levels are those of all that this machine offers. What it does not offer is refused, by name.
func levels(t *testing.T, all ...Level) []Level {
	return slices.DeleteFunc(all, func(level Level) bool {
		missing := Diagnose().Missing(level)
		if len(missing) == 0 {
			return false
		}
		spec := sh("echo never")
		spec.Isolation = Isolation{Level: level}
		_, err := Run(t.Context(), spec)
		assert.ErrorContains(t, err, missing[0])
		return true
	})
}

func TestContradictingIsolationIsRefused(t *testing.T) {
	for want, i := range map[string]Isolation{
		"is not a level": {Level: "total"}, "is not known": {Level: Basic, Network: "some"}, "needs isolation": {Network: "none"},
	} {
		spec := sh("true")
		spec.Isolation = i
		_, err := Run(t.Context(), spec)
		assert.ErrorContains(t, err, want)
	}
}

func TestLimits(t *testing.T) {
	for _, bad := range []map[string]any{{"memory": "much"}, {"memory": "1K"}, {"pids": 0}, {"cpu": -1}, {"cpu_time": "x"}, {"open_files": 2}, {"memry": "1G"}, {"disk": "1M", "file_size": "1G"}} {
		_, err := ParseLimits(bad)
		assert.Error(t, err, "%v", bad)
	}
	l, err := ParseLimits(map[string]any{"memory": "64Mi", "pids": 30, "cpu": "0.5", "cpu_time": "2s", "disk": "1G", "open_files": nil})
	require.NoError(t, err)
	assert.Equal(t, Limits{Memory: 64 << 20, Pids: 30, CPU: 0.5, CPUTime: 2 * time.Second, Disk: 1 << 30}, l)
	assert.Equal(t, Limits{Memory: 1 << 20, Pids: 7, OpenFiles: 9}, Limits{Memory: 2 << 20, Pids: 7}.Within(Limits{Memory: 1 << 20, OpenFiles: 9}))
}

func TestLimitsAreEnforcedAndReported(t *testing.T) {
	for name, test := range map[string]struct {
		limits Limits
		script string
		hit    bool
	}{
		"cpu_time":   {Limits{CPUTime: 200 * time.Millisecond}, "while :; do :; done", true},
		"file_size":  {Limits{FileSize: 1 << 20}, "exec head -c 2000000 /dev/zero > $OWN/f", true},
		"open_files": {Limits{OpenFiles: 16}, "[ $(ulimit -n) = 16 ]", false},
		"disk":       {Limits{Disk: 1 << 20}, "i=0; while :; do head -c 100000 /dev/zero > $OWN/f$i; i=$((i+1)); sleep 0.005; done", true},
		"pids":       {Limits{Pids: 5}, "for i in 1 2 3 4 5 6 7 8 9; do sleep 0.2 & done; wait", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, level := range levels(t, None, Basic, Strict) {
				spec, _ := isolated(t, level, test.script)
				spec.Limits, spec.Stderr = test.limits, io.Discard
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				exit, err := Run(ctx, spec)
				cancel()
				require.NoError(t, err)
				require.Len(t, exit.Limits, 1)
				assert.Equal(t, name, exit.Limits[0].Name)
				if exit.Limits[0].EnforcedBy == "none" { // root without control groups
					continue
				}
				if name == "pids" && exit.Limits[0].EnforcedBy == "rlimit" { // nobody counts the forks that are refused
					assert.NotZero(t, exit.Code)
					continue
				}
				assert.Equal(t, test.hit, exit.Limits[0].Hit, "%s: %+v %+v", level, exit.Limits[0], exit)
			}
		})
	}
}
