package envcache

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestDamageIsAMissWithAReason(t *testing.T) {
	damages := map[string]func(t *testing.T, e entry, env *Env){
		"ready.json is damaged": func(t *testing.T, e entry, _ *Env) {
			require.NoError(t, os.Truncate(e.readyFile(), 40))
		},
		"ready.json is damaged: unexpected end": func(t *testing.T, e entry, _ *Env) {
			require.NoError(t, os.Truncate(e.readyFile(), 0))
		},
		"ready.json is not one of environment": func(t *testing.T, e entry, _ *Env) {
			require.NoError(t, os.WriteFile(e.readyFile(), []byte(`{"schema":"attune.env/v1","key":"other"}`), 0o600))
		},
		"it is damaged: stat": func(t *testing.T, _ entry, env *Env) {
			require.NoError(t, os.Remove(filepath.Join(env.Dir, "whole")))
		},
		"it is damaged: open": func(t *testing.T, e entry, env *Env) {
			require.NoError(t, os.Remove(e.useFile(filepath.Base(env.Dir))))
		},
	}
	for want, damage := range damages {
		t.Run(want, func(t *testing.T) {
			s, key := tempStore(t), testKey("x")
			old := acquire(t, s, key, &testBuilder{})
			damage(t, s.entry(s.ID(key)), old)
			require.NoError(t, old.Close())
			var reasons []string
			env, err := s.Acquire(context.Background(), key, &testBuilder{}, AcquireOptions{Progress: func(p Progress) {
				if p.Phase == "replacing" {
					reasons = append(reasons, p.Line)
				}
			}})
			require.NoError(t, err)
			defer func() { _ = env.Close() }()
			assert.Equal(t, Fresh, env.State)
			assert.NotEqual(t, old.Dir, env.Dir, "a generation is never used again")
			require.Len(t, reasons, 1)
			assert.Contains(t, reasons[0], want)
			again := acquire(t, s, key, &testBuilder{})
			assert.Equal(t, Hit, again.State)
		})
	}
}

func TestARebuildLeavesTheRunningItsGeneration(t *testing.T) {
	s, key := tempStore(t), testKey("x")
	running := acquire(t, s, key, &testBuilder{})
	require.NoError(t, os.Truncate(s.entry(s.ID(key)).readyFile(), 0))
	rebuilt := acquire(t, s, key, &testBuilder{})
	assert.NotEqual(t, running.Dir, rebuilt.Dir)
	assert.FileExists(t, filepath.Join(running.Dir, "whole"))
}
