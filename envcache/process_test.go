package envcache

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// process is one other attune that acquires a key.
type process struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
	stdin io.Closer
}

func start(t *testing.T, s *Store, key string, env ...string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), append(env, "GORACE=atexit_sleep_ms=0", "ENVCACHE_CHILD="+s.Root(), "ENVCACHE_KEY="+key)...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return &process{cmd: cmd, lines: bufio.NewScanner(stdout), stdin: stdin}
}

// next is the process's next line that begins with word.
func (p *process) next(t *testing.T, word string) string {
	t.Helper()
	for p.lines.Scan() {
		if strings.HasPrefix(p.lines.Text(), word) {
			return p.lines.Text()
		}
		require.NotContains(t, p.lines.Text(), "error")
	}
	t.Fatalf("the process ended without a line %q", word)
	return ""
}

func (p *process) kill(t *testing.T) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Kill())
	_ = p.cmd.Wait()
}

func TestFiftyProcessesOneBuild(t *testing.T) {
	s, count := tempStore(t), filepath.Join(t.TempDir(), "count")
	processes := make([]*process, 50)
	for i := range processes {
		processes[i] = start(t, s, "x", "ENVCACHE_COUNT="+count)
	}
	dirs := map[string]bool{}
	for _, p := range processes {
		words := strings.Fields(p.next(t, "state"))
		dirs[words[2]] = true
	}
	for _, p := range processes {
		require.NoError(t, p.stdin.Close())
		require.NoError(t, p.cmd.Wait())
	}
	assert.Len(t, dirs, 1)
	assert.Equal(t, 1, builds(t, count))
}

func TestKilledBuildersAreCleanedUpAfter(t *testing.T) {
	for _, phase := range []string{"build", "check"} {
		t.Run(phase, func(t *testing.T) {
			s, key := tempStore(t), testKey("x")
			p := start(t, s, "x", "ENVCACHE_STOP_AT="+phase)
			p.next(t, "progress "+phase)
			info, err := s.Get(s.ID(key))
			require.NoError(t, err)
			assert.Equal(t, Building, info.State)
			p.kill(t)
			env := acquire(t, s, key, &testBuilder{})
			assert.Equal(t, Fresh, env.State)
			generations, err := filepath.Glob(filepath.Join(s.entry(s.ID(key)).dir, "*.use"))
			require.NoError(t, err)
			assert.Len(t, generations, 1, "the killed builder's generation is gone")
		})
	}
}

// Between the link of ready.json and the removal of the file it was made from.
func TestKilledRightAfterPublishing(t *testing.T) {
	s, key := tempStore(t), testKey("x")
	env := acquire(t, s, key, &testBuilder{})
	e := s.entry(s.ID(key))
	require.NoError(t, os.Link(e.readyFile(), e.pendingFile(filepath.Base(env.Dir))))
	assert.Equal(t, Hit, acquire(t, s, key, &testBuilder{}).State)
}

func TestAWaiterSaysWhoBuildsAndCanLeave(t *testing.T) {
	s := tempStore(t)
	builder := start(t, s, "x", "ENVCACHE_STOP_AT=build")
	builder.next(t, "progress build")
	require.NoError(t, builder.cmd.Process.Signal(syscall.SIGSTOP))
	ctx, cancel := context.WithCancelCause(context.Background())
	var holder string
	_, err := s.Acquire(ctx, testKey("x"), &testBuilder{}, AcquireOptions{Progress: func(p Progress) {
		if p.Phase == "waiting" {
			holder = p.Holder
			cancel(os.ErrDeadlineExceeded)
		}
	}})
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	host, err := os.Hostname()
	require.NoError(t, err)
	assert.Contains(t, holder, host)
	assert.Contains(t, holder, "(build)")
	builder.kill(t)
	assert.Equal(t, Fresh, acquire(t, s, testKey("x"), &testBuilder{}).State)
}

func TestAChildOutlivesItsParentsHold(t *testing.T) {
	s, key := tempStore(t), testKey("x")
	parent := start(t, s, "x")
	parent.next(t, "state")
	env := acquire(t, s, key, &testBuilder{})
	hold, err := env.Hold()
	require.NoError(t, err)
	child := exec.Command("sleep", "1000")
	child.ExtraFiles = []*os.File{hold}
	require.NoError(t, child.Start())
	require.NoError(t, hold.Close())
	require.NoError(t, env.Close())
	parent.kill(t)
	var busy *InUseError
	require.ErrorAs(t, s.Remove(context.Background(), s.ID(key)), &busy)
	require.NoError(t, child.Process.Kill())
	_ = child.Wait()
	require.NoError(t, s.Remove(context.Background(), s.ID(key)))
}
