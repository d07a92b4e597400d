package envcache

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fakeInterpreter is a file whose text is what the interpreter says of itself; write replaces it as an upgrade does.
func fakeInterpreter(t *testing.T, text string) (path string, write func(text string)) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "python")
	write = func(text string) {
		pending := path + ".new" // a new inode
		require.NoError(t, os.WriteFile(pending, []byte(text), 0o700))
		require.NoError(t, os.Rename(pending, path))
	}
	write(text)
	return path, write
}

func TestInterpreterAtTheSamePath(t *testing.T) {
	interpreter, write := fakeInterpreter(t, "3.11.2 cp311")
	s, key := tempStore(t), testKey("x")
	first := acquire(t, s, key, &testBuilder{interpreter: interpreter})

	b := &testBuilder{interpreter: interpreter}
	assert.Equal(t, Hit, acquire(t, s, key, b).State)
	assert.Zero(t, b.probes.Load(), "the same stat needs no probe")

	write("3.11.2 cp311 ")
	assert.Equal(t, first.Dir, acquire(t, s, key, b).Dir, "the same identity is no miss")
	assert.EqualValues(t, 1, b.probes.Load())
	assert.Equal(t, Hit, acquire(t, s, key, b).State)
	assert.Equal(t, Hit, acquire(t, openStore(t, s.Root()), key, b).State, "another process")
	assert.EqualValues(t, 1, b.probes.Load(), "the new stat is remembered")

	write("3.11.9 cp311")
	assert.Equal(t, Fresh, acquire(t, s, key, b).State)
	require.NoError(t, os.Remove(interpreter))
	_, err := s.Acquire(context.Background(), key, b, AcquireOptions{})
	require.ErrorContains(t, err, "no such file")
}

// The same content with another inode and other times, as a restored cache or a reinstalled package leaves it.
func TestAnInterpreterThatWasOnlyTouched(t *testing.T) {
	interpreter, write := fakeInterpreter(t, "3.11.2 cp311")
	s, key, b := tempStore(t), testKey("x"), &testBuilder{interpreter: interpreter}
	acquire(t, s, key, b)
	require.NoError(t, os.Chtimes(interpreter, time.Time{}, time.Now().Add(-time.Hour)))
	assert.Equal(t, Hit, acquire(t, s, key, b).State)
	write("3.11.2 cp311")
	assert.Equal(t, Hit, acquire(t, s, key, b).State)
	assert.Zero(t, b.probes.Load(), "the content is the same: nobody is asked")
}

// It is there when the key is made, and gone when the build begins or ends.
func TestAnInterpreterThatVanishes(t *testing.T) {
	for _, point := range []string{"locked", "made", "built"} {
		t.Run(point, func(t *testing.T) {
			interpreter, write := fakeInterpreter(t, "3.11.2 cp311")
			s, key := tempStore(t), testKey("x")
			b := fixedInterpreter{&testBuilder{}, Interpreter{Path: interpreter, Version: "3.11.2", ABI: "cp311"}}
			s.sys.reached = func(at string) {
				if at == point {
					require.NoError(t, os.Remove(interpreter))
				}
			}
			_, err := s.Acquire(context.Background(), key, b, AcquireOptions{})
			var gone *InterpreterError
			require.ErrorAs(t, err, &gone)
			require.ErrorContains(t, err, interpreter)
			assertOnlyLock(t, s, key)
			s.sys.reached = nil
			write("3.11.2 cp311")
			assert.Equal(t, Fresh, acquire(t, s, key, b).State, "it is not remembered")
		})
	}
}

// fixedInterpreter is what a process detected a while ago.
type fixedInterpreter struct {
	*testBuilder
	was Interpreter
}

func (f fixedInterpreter) Interpreter() Interpreter { return f.was }

// A process that runs for long knows the interpreter before its upgrade. What it builds is recorded as built with the new one:
// after a downgrade it is no hit.
func TestAnUpgradeThatTheBuilderDoesNotKnow(t *testing.T) {
	interpreter, write := fakeInterpreter(t, "3.11.2 cp311")
	s, key := tempStore(t), testKey("x")
	b := fixedInterpreter{&testBuilder{interpreter: interpreter}, Interpreter{Path: interpreter, Version: "3.11.2", ABI: "cp311"}}
	acquire(t, s, key, b)
	write("3.12.1 cp312")
	assert.Equal(t, Fresh, acquire(t, s, key, b).State)
	assert.Equal(t, Hit, acquire(t, s, key, b).State)
	info, ok := s.Find(key)
	require.True(t, ok)
	assert.Equal(t, "3.12.1", info.Interpreter.Version)
	write("3.11.2 cp311")
	assert.Equal(t, Fresh, acquire(t, s, key, b).State)
}

// A CI cache: the store and the interpreter are saved by tar and restored at the same places, with new inodes.
func TestAStoreThatTarRestored(t *testing.T) {
	interpreter, _ := fakeInterpreter(t, "3.11.2 cp311")
	s := tempStore(t)
	key := NewKey([]KeyInput{{Name: "manifest", Value: "x"}}, true)
	b := &testBuilder{interpreter: interpreter}
	env := acquire(t, s, key, b)
	require.NoError(t, env.Close())
	archive := filepath.Join(t.TempDir(), "cache.tar")
	runTar(t, "-P", "-cf", archive, s.Root(), interpreter)
	require.NoError(t, os.RemoveAll(s.Root()))
	require.NoError(t, os.Remove(interpreter))
	runTar(t, "-P", "-xf", archive)

	again := acquire(t, openStore(t, s.Root()), key, b)
	assert.Equal(t, Hit, again.State)
	assert.Equal(t, env.Dir, again.Dir)
	assert.Zero(t, b.probes.Load())
	assertWhole(t, again)

	// At another root what carries its path is no hit, and says why.
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	require.NoError(t, os.Mkdir(elsewhere, 0o700))
	runTar(t, "-xf", archive, "-C", elsewhere)
	moved := openStore(t, filepath.Join(elsewhere, s.Root()))
	assert.Equal(t, Fresh, acquire(t, moved, key, b).State)
	list, err := moved.List(context.Background(), false)
	require.NoError(t, err)
	problems := map[string]string{}
	for _, info := range list {
		problems[info.State] = info.Problem
	}
	assert.Equal(t, map[string]string{Ready: "", Broken: "it was built for the root " + s.Root()}, problems)
	report, err := moved.Prune(context.Background(), Policy{})
	require.NoError(t, err)
	assert.Len(t, report.Removed, 1, "it is of no use")

	// What does not carry its path is found at any root.
	free := testKey("free")
	acquire(t, s, free, b)
	runTar(t, "-C", s.Root(), "-cf", archive, "v1")
	third := t.TempDir()
	runTar(t, "-C", third, "-xf", archive)
	assert.Equal(t, Hit, acquire(t, openStore(t, third), free, b).State)
}

// runTar runs tar(1).
func runTar(t *testing.T, args ...string) {
	t.Helper()
	out, err := runTool("tar", args...)
	require.NoError(t, err, out)
}

func runTool(name string, args ...string) (output string, err error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	return string(out), err
}
