package envcache

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFiftyProcessesOneBuild(t *testing.T) {
	s, count := tempStore(t), filepath.Join(t.TempDir(), "count")
	processes := make([]*process, 50)
	for i := range processes {
		processes[i] = start(t, order{Root: s.Root(), Key: "x", Count: count})
	}
	dirs, states := map[string]bool{}, map[State]int{}
	for _, p := range processes {
		state, dir := p.state(t)
		dirs[dir] = true
		states[state]++
	}
	for _, p := range processes {
		p.end(t)
	}
	assert.Len(t, dirs, 1)
	assert.Equal(t, 1, states[Fresh])
	assert.Equal(t, 1, builds(t, count))
}

// All are there before the build fails, so that each has waited for it or finds it remembered.
func TestFiftyProcessesOneFailure(t *testing.T) {
	s, count := tempStore(t), filepath.Join(t.TempDir(), "count")
	builder := start(t, order{Root: s.Root(), Key: "x", Count: count, Fail: Permanent, Handing: true})
	builder.next(t, "progress building")
	waiters := make([]*process, 49)
	for i := range waiters {
		waiters[i] = start(t, order{Root: s.Root(), Key: "x", Count: count, Fail: Permanent})
	}
	waiters[0].next(t, "progress waiting")
	_, err := builder.stdin.Write([]byte("\n"))
	require.NoError(t, err)
	for _, p := range append(waiters, builder) {
		line := p.next(t, "error *envcache.BuildError")
		assert.Contains(t, line, "a permanent failure")
		assert.Contains(t, line, "line 29", "every one gets the installer's last lines")
	}
	assert.Equal(t, 1, builds(t, count))
}

// A builder is killed at every step; afterwards one build succeeds, and nothing is left of the first.
func TestKilledBuilders(t *testing.T) {
	for _, point := range []string{"locked", "made", "build", "check", "built", "synced", "published"} {
		t.Run(point, func(t *testing.T) {
			s, key := tempStore(t), testKey("x")
			p := start(t, order{Root: s.Root(), Key: "x", StopAt: point})
			p.next(t, "progress "+point)
			info, err := s.Get(s.ID(key))
			require.NoError(t, err)
			if point == "published" {
				assert.Equal(t, Ready, info.State, "what is published is there")
			} else {
				assert.Equal(t, Building, info.State)
				assert.Contains(t, info.Problem, "process ")
			}
			p.kill(t)
			if point != "published" {
				_, there := s.Find(key)
				assert.False(t, there, "what is not published is not there")
			}
			b := &testBuilder{}
			env := acquire(t, s, key, b)
			if point == "published" {
				assert.Equal(t, Hit, env.State)
			} else {
				assert.Equal(t, Fresh, env.State)
			}
			assertWhole(t, env)
			_, err = s.Prune(context.Background(), Policy{})
			require.NoError(t, err)
			generation := filepath.Base(env.Dir)
			assert.ElementsMatch(t, []string{generation, generation + ".list", generation + ".use", "lock", "ready.json"}, remains(t, s, key))
		})
	}
}

// Who comes while a builder is stopped just before it publishes waits; killed then, its work is thrown away.
func TestAWaiterTakesOverFromAKilledBuilder(t *testing.T) {
	s := tempStore(t)
	builder := start(t, order{Root: s.Root(), Key: "x", StopAt: "synced"})
	builder.next(t, "progress synced")
	waiter := start(t, order{Root: s.Root(), Key: "x"})
	waiter.next(t, "progress waiting")
	builder.kill(t)
	state, dir := waiter.state(t)
	assert.Equal(t, Fresh, state)
	waiter.end(t)
	assert.Equal(t, dir, acquire(t, s, testKey("x"), &testBuilder{}).Dir)
}

// An installer that outlives its builder may still write: its directory is left alone until it is gone.
func TestAnInstallerOutlivesItsBuilder(t *testing.T) {
	s, key := tempStore(t), testKey("x")
	var orphan *exec.Cmd
	b := &testBuilder{during: func(site Site) error {
		orphan = exec.Command("sleep", "1000")
		orphan.ExtraFiles = []*os.File{site.Hold}
		return orphan.Start()
	}}
	env := acquire(t, s, key, b)
	require.NoError(t, env.Close())
	t.Cleanup(func() { _ = orphan.Process.Kill(); _ = orphan.Wait() })
	// The pointer is lost, as if the builder had been killed before it published.
	require.NoError(t, os.Remove(s.entry(s.ID(key)).readyFile()))
	rebuilt := acquire(t, s, key, &testBuilder{})
	assert.NotEqual(t, env.Dir, rebuilt.Dir)
	assert.DirExists(t, env.Dir)
	require.NoError(t, orphan.Process.Kill())
	_ = orphan.Wait()
	_, err := s.Prune(context.Background(), Policy{})
	require.NoError(t, err)
	assert.NoDirExists(t, env.Dir)
	assertWhole(t, rebuilt)
}

func TestAWaiterSaysWhoBuildsAndCanLeave(t *testing.T) {
	s := tempStore(t)
	builder := start(t, order{Root: s.Root(), Key: "x", StopAt: "build"})
	builder.next(t, "progress build")
	require.NoError(t, builder.cmd.Process.Signal(syscall.SIGSTOP))
	ctx, cancel := context.WithCancelCause(context.Background())
	var seen Progress
	_, err := s.Acquire(ctx, testKey("x"), &testBuilder{}, AcquireOptions{Progress: func(p Progress) {
		if p.Phase == "waiting" {
			seen = p
			cancel(os.ErrDeadlineExceeded)
		}
	}})
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	host, err := os.Hostname()
	require.NoError(t, err)
	assert.Regexp(t, `^process \d+ on `+host+` \(build\)$`, seen.Holder)
	assert.FileExists(t, seen.Log, "who waits can look at the installer's output")
	builder.kill(t)
	assert.Equal(t, Fresh, acquire(t, s, testKey("x"), &testBuilder{}).State)
}

// The parent that acquired the environment is dead, its child lives.
func TestAChildOutlivesItsParentsHold(t *testing.T) {
	s, key := tempStore(t), testKey("x")
	parent := start(t, order{Root: s.Root(), Key: "x"})
	parent.next(t, "state")
	env := acquire(t, s, key, &testBuilder{})
	hold, err := env.Hold()
	require.NoError(t, err)
	child := exec.Command("sleep", "1000")
	child.ExtraFiles = []*os.File{hold}
	require.NoError(t, child.Start())
	t.Cleanup(func() { _ = child.Process.Kill(); _ = child.Wait() })
	require.NoError(t, hold.Close())
	require.NoError(t, env.Close())
	parent.kill(t)
	assertUntouchable(t, s, key, env.Dir)
	info, err := s.Get(s.ID(key))
	require.NoError(t, err)
	assert.Equal(t, []Process{{PID: child.Process.Pid, Command: "sleep"}}, info.UsedBy)
	require.NoError(t, child.Process.Kill())
	_ = child.Wait()
	require.NoError(t, s.Remove(context.Background(), s.ID(key)))
}

// A grandchild that closed every descriptor it inherited, as daemons do, is seen by what it runs from.
func TestAGrandchildWithoutDescriptors(t *testing.T) {
	for what, begin := range map[string]func(dir string) *exec.Cmd{
		"executable": func(dir string) *exec.Cmd { return exec.Command(filepath.Join(dir, "sleep"), "1000") },
		"working directory": func(dir string) *exec.Cmd {
			cmd := exec.Command("sleep", "1000")
			cmd.Dir = filepath.Join(dir, "packages", "one")
			return cmd
		},
		"library": func(dir string) *exec.Cmd {
			cmd := exec.Command("sleep", "1000")
			cmd.Env = []string{"LD_PRELOAD=" + filepath.Join(dir, "lib.so")}
			return cmd
		},
	} {
		for _, where := range []string{"plain", "with blanks, [brackets] and a\nnewline"} {
			if what == "library" && where != "plain" {
				continue // LD_PRELOAD takes blanks for ends
			}
			t.Run(what+" in "+where, func(t *testing.T) {
				s, key := openStore(t, filepath.Join(t.TempDir(), where)), testKey("x")
				env := acquire(t, s, key, &testBuilder{during: func(site Site) error {
					copyFile(t, lookPath(t, "sleep"), filepath.Join(site.Dir, "sleep"))
					copyFile(t, libc(t), filepath.Join(site.Dir, "lib.so"))
					return nil
				}})
				cmd := begin(env.Dir)
				require.NoError(t, cmd.Start())
				t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
				// The loader maps its libraries a moment after the start.
				require.Eventually(t, func() bool { return len(s.processesIn([]string{env.Dir})) > 0 }, time.Minute, time.Millisecond)
				require.NoError(t, env.Close())
				assertUntouchable(t, s, key, env.Dir)

				// Given up and built anew, the sweep of the new build leaves the old one to its process.
				require.NoError(t, s.Quarantine(context.Background(), env, "for the test"))
				assert.Equal(t, Fresh, acquire(t, s, key, &testBuilder{}).State)
				assert.DirExists(t, env.Dir)
				require.NoError(t, cmd.Process.Kill())
				_ = cmd.Wait()
				_, err := s.Prune(context.Background(), Policy{})
				require.NoError(t, err)
				assert.NoDirExists(t, env.Dir)
			})
		}
	}
}

// assertUntouchable checks that an environment is neither removed nor pruned.
func assertUntouchable(t *testing.T, s *Store, key Key, dir string) {
	t.Helper()
	var busy *InUseError
	require.ErrorAs(t, s.Remove(context.Background(), s.ID(key)), &busy)
	report, err := s.Prune(context.Background(), Policy{MaxSize: 1})
	require.NoError(t, err)
	assert.Empty(t, report.Removed)
	if assert.Len(t, report.Kept, 1) {
		assert.Contains(t, report.Kept[0].Why, "in use")
	}
	assert.FileExists(t, filepath.Join(dir, "whole"))
}

func lookPath(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	require.NoError(t, err)
	return path
}

// libc is the path of the C library of this process's machine.
func libc(t *testing.T) string {
	t.Helper()
	for _, pattern := range []string{"/lib/*-linux-gnu/libc.so.6", "/lib64/libc.so.6", "/usr/lib/libc.so.6"} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return found[0]
		}
	}
	t.Fatal("no C library")
	return ""
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to, data, 0o700))
}
