package envcache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

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
			require.NoError(t, os.WriteFile(e.readyFile(), []byte("{\"schema\":\"attune.env/v1\",\"id\":\"other\"}\n{}\n"), 0o600))
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

func TestABrokenLinkIsDamage(t *testing.T) {
	target := filepath.Join(t.TempDir(), "python")
	require.NoError(t, os.WriteFile(target, nil, 0o700))
	s, key := tempStore(t), testKey("x")
	link := func(site Site) error { return os.Symlink(target, filepath.Join(site.Dir, "python")) }
	b := claims{&testBuilder{during: link}, Built{Sentinels: []string{"python"}}}
	first := acquire(t, s, key, b)
	assert.Equal(t, Hit, acquire(t, s, key, b).State)
	require.NoError(t, os.Remove(target))
	info, err := s.Get(s.ID(key))
	require.NoError(t, err)
	assert.Equal(t, Broken, info.State)
	assert.Contains(t, info.Problem, "python")
	require.NoError(t, os.WriteFile(target, nil, 0o700))
	assert.Equal(t, first.Dir, acquire(t, s, key, b).Dir, "it works again")
}

// Somebody removed a package by hand: the next hit notices.
func TestADeletedPackageIsDamage(t *testing.T) {
	s, key := tempStore(t), testKey("x")
	first := acquire(t, s, key, &testBuilder{})
	require.NoError(t, os.Mkdir(filepath.Join(first.Dir, "packages", "more"), 0o700))
	assert.Equal(t, Hit, acquire(t, s, key, &testBuilder{}).State, "more is no damage")
	require.NoError(t, os.RemoveAll(filepath.Join(first.Dir, "packages", "more")))
	require.NoError(t, os.RemoveAll(filepath.Join(first.Dir, "packages", "two")))
	second := acquire(t, s, key, &testBuilder{})
	assert.Equal(t, Fresh, second.State)
	assert.NotEqual(t, first.Dir, second.Dir)
	assertWhole(t, second)
}

// Deep damage is not seen by a hit. Verify finds it, quarantine gives the environment up, and the next one to ask builds.
func TestDeepDamage(t *testing.T) {
	ctx := context.Background()
	for what, damage := range map[string]func(file string) error{
		"is missing":         os.Remove,
		"has 3 bytes":        func(file string) error { return os.WriteFile(file, []byte("bad"), 0o600) },
		"is of another kind": func(file string) error { return errors.Join(os.Remove(file), os.Mkdir(file, 0o700)) },
		"was changed": func(file string) error {
			return os.Chtimes(file, time.Time{}, time.Now().Add(-time.Hour))
		},
	} {
		t.Run(what, func(t *testing.T) {
			s, key := tempStore(t), testKey("x")
			running := acquire(t, s, key, &testBuilder{})
			v, err := s.Verify(ctx, running.ID)
			require.NoError(t, err)
			assert.Empty(t, v.Problems)
			assert.Positive(t, v.Files)
			require.NoError(t, damage(filepath.Join(running.Dir, "packages", "one", "module")))
			assert.Equal(t, Hit, acquire(t, s, key, &testBuilder{}).State)
			v, err = s.Verify(ctx, running.ID[:4])
			require.NoError(t, err)
			require.Len(t, v.Problems, 1)
			assert.Contains(t, v.Problems[0], "packages/one/module "+what)
			problems, err := running.Damage(ctx)
			require.NoError(t, err)
			assert.Equal(t, v.Problems, problems)

			require.NoError(t, s.Quarantine(ctx, running, problems[0]))
			info, err := s.Get(running.ID)
			require.NoError(t, err)
			assert.Equal(t, Broken, info.State)
			assert.Contains(t, info.Problem, problems[0])
			rebuilt := acquire(t, s, key, &testBuilder{})
			assert.Equal(t, Fresh, rebuilt.State)
			assertWhole(t, rebuilt)
			assert.FileExists(t, filepath.Join(running.Dir, "whole"), "whoever runs in it keeps it")

			// A second opinion about the old one does not cost the new one.
			require.NoError(t, s.Quarantine(ctx, running, "again"))
			assert.Equal(t, rebuilt.Dir, acquire(t, s, key, &testBuilder{}).Dir)
			require.NoError(t, running.Close())
			_, err = s.Prune(ctx, Policy{})
			require.NoError(t, err)
			assert.DirExists(t, running.Dir, "the hits of this test hold it")
		})
	}
}

func TestVerifyCountsWhatItDoesNotList(t *testing.T) {
	s, key := tempStore(t), testKey("x")
	env := acquire(t, s, key, &testBuilder{files: 2 * problemsMax})
	for i := range 2 * problemsMax {
		require.NoError(t, os.Remove(filepath.Join(env.Dir, fmt.Sprint("file", i))))
	}
	v, err := s.Verify(context.Background(), env.ID)
	require.NoError(t, err)
	require.Len(t, v.Problems, problemsMax+1)
	assert.Equal(t, fmt.Sprintf("and %d more", problemsMax), v.Problems[problemsMax])
}

func TestADamagedListIsAProblem(t *testing.T) {
	s, key := tempStore(t), testKey("x")
	env := acquire(t, s, key, &testBuilder{})
	list := s.entry(env.ID).listFile(filepath.Base(env.Dir))
	for _, damage := range []func() error{
		func() error { return os.WriteFile(list, []byte("f 1 2 \"a\"\nnonsense\n"), 0o600) },
		func() error { return os.Remove(list) },
	} {
		require.NoError(t, damage())
		v, err := s.Verify(context.Background(), env.ID)
		require.NoError(t, err)
		require.Len(t, v.Problems, 1)
		assert.Contains(t, v.Problems[0], "list of its files")
	}
}
