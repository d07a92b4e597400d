package proc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/attune-run/attune/internal/redact"
)

func sh(script string) Spec {
	return Spec{Argv: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin"}}
}

func TestOutputAndExit(t *testing.T) {
	spec := sh("echo out; echo err >&2; cat; exit 3")
	out, errs := NewCapture(DefaultCapture), NewCapture(DefaultCapture)
	spec.Stdin, spec.Stdout, spec.Stderr = strings.NewReader("in"), out, errs
	exit, err := Run(t.Context(), spec)
	require.NoError(t, err)
	assert.Equal(t, 3, exit.Code)
	assert.Equal(t, "out\nin", out.Text())
	assert.Equal(t, "err\n", errs.Text())
	assert.NoError(t, exit.Cause)
	assert.Positive(t, exit.Usage.MaxRSS)
}

func TestLargeInputAgainstLargeOutput(t *testing.T) {
	spec := sh("cat")
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	out := NewSpool(int64(len(data)))
	spec.Stdin, spec.Stdout = bytes.NewReader(data), out
	_, err := Run(t.Context(), spec)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(data, out.Bytes()))
}

func TestInputOfAnySize(t *testing.T) {
	for _, size := range []int{0, 1, pipeMin - 1, pipeMin, pipeMin + 1, 16 * pipeMin, 16*pipeMin + 1} {
		spec := sh("cat; cat") // to its end, and no further
		data := bytes.Repeat([]byte("x"), size)
		out := NewSpool(int64(size) + 1)
		spec.Stdin, spec.Stdout = bytes.NewReader(data), out
		_, err := Run(t.Context(), spec)
		require.NoError(t, err)
		assert.True(t, bytes.Equal(data, out.Bytes()), size)
	}
}

func TestChildThatIgnoresStdin(t *testing.T) {
	spec := sh("exit 0")
	spec.Stdin = bytes.NewReader(make([]byte, 4<<20))
	exit, err := Run(t.Context(), spec)
	require.NoError(t, err)
	assert.Zero(t, exit.Code)
}

func TestTimeoutEndsWhatIgnoresSIGTERM(t *testing.T) {
	cause := errors.New("out of time")
	ctx, cancel := context.WithCancelCause(t.Context())
	spec := sh("trap '' TERM; echo ready; while :; do sleep 1; done")
	r, w := io.Pipe()
	spec.Stdout, spec.Grace = w, 50*time.Millisecond
	go func() {
		_, _ = io.ReadFull(r, make([]byte, 6))
		cancel(cause)
	}()
	exit, err := Run(ctx, spec)
	require.NoError(t, err)
	assert.Equal(t, unix.SIGKILL, exit.Signal)
	assert.Equal(t, 137, exit.Code)
	assert.ErrorIs(t, exit.Cause, cause)
}

func TestForceNeedsNoGrace(t *testing.T) {
	force := make(chan struct{})
	spec := sh("trap '' TERM; echo ready; sleep 1000")
	r, w := io.Pipe()
	spec.Stdout, spec.Force, spec.Grace = w, force, time.Hour
	go func() {
		_, _ = io.ReadFull(r, make([]byte, 6))
		close(force)
	}()
	exit, err := Run(t.Context(), spec)
	require.NoError(t, err)
	assert.Equal(t, unix.SIGKILL, exit.Signal)
}

func TestOwnExit137IsNoSignal(t *testing.T) {
	exit, err := Run(t.Context(), sh("exit 137"))
	require.NoError(t, err)
	assert.Equal(t, 137, exit.Code)
	assert.Zero(t, exit.Signal)
}

// onlyLinux skips a test of what other systems do not give.
func onlyLinux(t *testing.T, what string) {
	t.Helper()
	if !Isolates {
		t.Skip("only on Linux: " + what)
	}
}

// runs tells whether a process is there, and no zombie that waits for a parent attune is not.
func runs(pid string) bool {
	return slices.ContainsFunc(processes(), func(p process) bool { return strconv.Itoa(p.pid) == pid && !p.zombie })
}

func TestNoDescendantIsLeft(t *testing.T) {
	for name, script := range map[string]string{
		"background":              "sleep 1000 >/dev/null 2>&1 & echo $!",
		"holds stdout":            "sleep 1000 & echo $!",
		"double fork and session": "setsid sh -c 'sleep 1000 >/dev/null 2>&1 & echo $!'",
		"ignores SIGTERM":         "sh -c \"trap '' TERM HUP; while :; do sleep 1; done\" >/dev/null 2>&1 & echo $!",
	} {
		t.Run(name, func(t *testing.T) {
			if strings.Contains(script, "setsid") {
				onlyLinux(t, "what leaves its session is found")
			}
			spec := sh(script)
			out := NewCapture(100)
			spec.Stdout = out
			exit, err := Run(t.Context(), spec)
			require.NoError(t, err)
			assert.Zero(t, exit.Code, "success stays success")
			assert.Positive(t, exit.Leftovers)
			pid := strings.TrimSpace(out.Text())
			require.NotEmpty(t, pid)
			assert.Eventually(t, func() bool { return !runs(pid) }, 10*time.Second, time.Millisecond)
		})
	}
}

func TestNeighboursDaemonSurvives(t *testing.T) {
	onlyLinux(t, "what leaves its session is found")
	neighbour := sh("setsid sh -c 'sleep 1000 >/dev/null 2>&1 & echo $!'; read wait")
	neighbour.Env = append(neighbour.Env, "ATTUNE_EXEC_ID=neighbour")
	stdin, letGo := io.Pipe()
	stdout, w := io.Pipe()
	neighbour.Stdin, neighbour.Stdout = stdin, w
	done := make(chan Exit, 1)
	go func() {
		exit, _ := Run(context.WithoutCancel(t.Context()), neighbour)
		done <- exit
	}()
	line := make([]byte, 32)
	n, err := stdout.Read(line)
	require.NoError(t, err)
	daemon := "/proc/" + strings.TrimSpace(string(line[:n])) + "/stat"
	require.FileExists(t, daemon)

	spec := sh("setsid sh -c 'sleep 1000 >/dev/null 2>&1 &'")
	spec.Env = append(spec.Env, "ATTUNE_EXEC_ID=mine")
	exit, err := Run(t.Context(), spec)
	require.NoError(t, err)
	assert.Equal(t, 1, exit.Leftovers)
	assert.FileExists(t, daemon)

	go func() { _, _ = io.Copy(io.Discard, stdout) }()
	require.NoError(t, letGo.Close())
	assert.Equal(t, 1, (<-done).Leftovers)
	assert.NoFileExists(t, daemon)
	require.NoError(t, w.Close())
}

func TestUmaskIsTheChildsAlone(t *testing.T) {
	before := unix.Umask(0o022)
	defer unix.Umask(before)
	mask := 0o077
	spec := sh("umask")
	out := NewCapture(100)
	spec.Stdout, spec.Umask = out, &mask
	_, err := Run(t.Context(), spec)
	require.NoError(t, err)
	assert.Equal(t, "0077\n", out.Text())
	assert.Equal(t, 0o022, unix.Umask(0o022))
}

func TestEnvironmentIsNeverInherited(t *testing.T) {
	t.Setenv("PROC_TEST_LEAK", "leak")
	spec := Spec{Argv: []string{"/usr/bin/env"}}
	out := NewCapture(1000)
	spec.Stdout = out
	_, err := Run(t.Context(), spec)
	require.NoError(t, err)
	assert.Empty(t, out.Text())
}

func TestHeldFilesAndNoOthersReachTheChild(t *testing.T) {
	held, err := os.Open("/dev/null")
	require.NoError(t, err)
	defer held.Close()
	spec := sh("ls /dev/fd | wc -l")
	out := NewCapture(1000)
	spec.Stdout, spec.Hold = out, []*os.File{held}
	_, err = Run(t.Context(), spec)
	require.NoError(t, err)
	assert.Equal(t, "5", strings.TrimSpace(out.Text()), "0, 1, 2, the held one and ls's own")
}

func TestRedactionAndClosedWriter(t *testing.T) {
	spec := sh("printf 'a s3cret'; printf 'value b'; echo s3cretvalue")
	out := NewCapture(1000)
	spec.Stdout, spec.Secrets = out, redact.New("s3cretvalue")
	_, err := Run(t.Context(), spec)
	require.NoError(t, err)
	assert.Equal(t, "a *** b***\n", out.Text())

	r, w, err := os.Pipe()
	require.NoError(t, err)
	require.NoError(t, r.Close())
	defer w.Close()
	spec = sh("yes | head -c 1000000; exit 4")
	spec.Stdout = w
	exit, err := Run(t.Context(), spec)
	require.NoError(t, err)
	assert.Equal(t, 4, exit.Code, "a closed reader does not end the child")
}

func TestStartErrorsNameTheThing(t *testing.T) {
	dir := t.TempDir()
	script := dir + "/s"
	require.NoError(t, os.WriteFile(script, []byte("#!/no/such/interpreter\n"), 0o755))
	for name, test := range map[string]struct {
		spec Spec
		want string
	}{
		"missing":       {Spec{Argv: []string{dir + "/none"}}, "no such file"},
		"interpreter":   {Spec{Argv: []string{script}}, "#! line"},
		"nul":           {Spec{Argv: []string{"/bin/true", "a\x00b"}}, "argument 1 holds a NUL byte"},
		"nul in env":    {Spec{Argv: []string{"/bin/true"}, Env: []string{"KEY=a\x00b"}}, "the variable KEY"},
		"directory":     {Spec{Argv: []string{"/bin/true"}, Dir: dir + "/none"}, "working directory"},
		"large":         {Spec{Argv: []string{"/bin/true", strings.Repeat("x", 2<<20)}}, "may hold"},
		"no permission": {Spec{Argv: []string{dir}}, "permission denied"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Run(t.Context(), test.spec)
			var start *StartError
			require.ErrorAs(t, err, &start)
			assert.ErrorContains(t, err, test.want)
		})
	}
}

func TestOneGiantLineCostsNoMemory(t *testing.T) {
	spec := sh("head -c 100000000 /dev/zero | tr '\\0' x")
	out := NewCapture(1 << 10)
	spec.Stdout = out
	_, err := Run(t.Context(), spec)
	require.NoError(t, err)
	assert.Equal(t, int64(100000000-1024), out.Dropped())
	assert.Contains(t, out.Text(), "x\n[… 99998976 bytes dropped …]\nx")
}

func TestCaptureKeepsWholeCharacters(t *testing.T) {
	c := NewCapture(8)
	for range 10 {
		_, _ = c.Write([]byte("äöü"))
	}
	assert.True(t, c.Truncated())
	assert.False(t, c.Replaced())
	bad := NewCapture(100)
	_, _ = bad.Write([]byte("a\xffb"))
	assert.True(t, bad.Replaced())
	assert.Equal(t, "a\uFFFDb", bad.Text())
}

func TestAPumpThatComesLateLosesNothing(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer func() { _, _ = r.Close(), w.Close() }()
	_, err = w.WriteString("what the child said") // somebody else still holds w
	require.NoError(t, err)
	var said bytes.Buffer
	s := &stream{r: r, w: &said, done: make(chan struct{})}
	require.NoError(t, r.SetReadDeadline(time.Now().Add(-time.Second)))
	s.draining = true
	s.pump(nil)
	assert.Equal(t, "what the child said", said.String())
}

func TestPrivateDirIsRemovedHoweverDeep(t *testing.T) {
	parent, err := os.MkdirTemp("/dev/shm", "private-") // memory: a disk takes long
	if err != nil {
		parent = t.TempDir()
	}
	defer func() { _ = os.RemoveAll(parent) }()
	base := parent + "/base"
	dirs := NewPrivateDirs(base, 0)
	p, err := dirs.Take(PrivateLayout{})
	require.NoError(t, err)
	info, err := os.Stat(p.Path)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o700), info.Mode().Perm())

	spec := Spec{Argv: []string{"/usr/bin/perl", "-e", `for (1..20000) { mkdir "d"; chdir "d" } open F, ">f"; symlink "/etc", "link"; mkdir "closed"; chmod 0, "closed"`}, Dir: p.Path}
	exit, err := Run(t.Context(), spec)
	require.NoError(t, err)
	require.Zero(t, exit.Code)
	SweepPrivateDirs(base) // not ours to sweep while it is held
	assert.DirExists(t, p.Path)
	require.NoError(t, p.Release(true))
	assert.NoDirExists(t, p.Path)
	assert.DirExists(t, "/etc")

	p, err = dirs.Take(PrivateLayout{})
	require.NoError(t, err)
	require.NoError(t, p.lock.Close()) // as if its owner had died
	SweepPrivateDirs(base)
	assert.NoDirExists(t, p.Path)
}

func TestPrivateDirsServeAgainWhereNothingWasLeft(t *testing.T) {
	base := filepath.Join(t.TempDir(), "base")
	dirs := NewPrivateDirs(base, 2)
	layout := PrivateLayout{Dirs: []string{"home", "tmp"}, Files: map[string]string{"config": "a"}}
	take := func(l PrivateLayout) *PrivateDir {
		p, err := dirs.Take(l)
		require.NoError(t, err)
		return p
	}
	untouched := take(layout)
	for range 3 {
		require.NoError(t, untouched.Release(true))
		assert.Same(t, untouched, take(layout))
	}
	require.Eventually(t, func() bool {
		plain := untouched.Unused("") && untouched.Unused("tmp")
		require.NoError(t, untouched.Release(true))
		assert.Same(t, untouched, take(layout))
		return plain
	}, 10*time.Second, 20*time.Millisecond, "once its times are old enough to say so")
	require.NoError(t, os.WriteFile(filepath.Join(untouched.Path, "tmp", "x"), nil, 0o600))
	assert.False(t, untouched.Unused("tmp"))
	assert.True(t, untouched.Unused(""))
	require.NoError(t, os.Remove(filepath.Join(untouched.Path, "tmp", "x")))
	assert.False(t, untouched.Unused("tmp"))
	assert.False(t, untouched.Unused("gone"))
	require.NoError(t, untouched.Release(true))
	assert.Same(t, untouched, take(layout), "what was removed again leaves nothing")

	for name, spoil := range map[string]func(dir string) error{
		"file":   func(dir string) error { return os.WriteFile(dir+"/home/.profile", nil, 0o600) },
		"beside": func(dir string) error { return os.WriteFile(dir+"/result", nil, 0o600) },
		"lost":   func(dir string) error { return os.Remove(dir + "/tmp") },
		"mode":   func(dir string) error { return os.Chmod(dir+"/home", 0o777) },
		"content": func(dir string) error {
			_ = os.Chmod(dir+"/config", 0o600)
			return errors.Join(os.WriteFile(dir+"/config", []byte("b"), 0), os.Chmod(dir+"/config", 0o400))
		},
		"link":    func(dir string) error { return errors.Join(os.Remove(dir+"/tmp"), os.Symlink("/etc", dir+"/tmp")) },
		"renamed": func(dir string) error { return os.Rename(dir, dir+"-away") },
	} {
		p := take(layout)
		require.NoError(t, spoil(p.Path), name)
		require.NoError(t, p.Release(true), name)
		next := take(layout)
		assert.NotSame(t, p, next, name)
		require.NoError(t, next.Release(false))
	}
	other := take(PrivateLayout{Dirs: layout.Dirs, Files: map[string]string{"config": "b"}})
	assert.NotSame(t, untouched, other, "another's configuration is nobody's")
	require.NoError(t, untouched.Release(false))
	assert.NoDirExists(t, untouched.Path)

	many := []*PrivateDir{take(layout), take(layout), take(layout)}
	for _, p := range many {
		require.NoError(t, p.Release(true))
	}
	assert.NoDirExists(t, many[0].Path, "no more are kept than was said")
	require.NoError(t, dirs.Close())
	assert.NoDirExists(t, many[2].Path)
	require.NoError(t, other.Release(true))
	assert.NoDirExists(t, other.Path)
}

func TestNothingIsLeaked(t *testing.T) {
	count := func() int {
		entries, err := os.ReadDir("/dev/fd")
		require.NoError(t, err)
		return len(entries)
	}
	_, err := Run(t.Context(), sh("true"))
	require.NoError(t, err)
	before := count()
	for range 20 {
		spec := sh("echo x; sleep 1000 >/dev/null 2>&1 &")
		spec.Stdin, spec.Stdout, spec.Stderr = strings.NewReader("x"), io.Discard, io.Discard
		exit, err := Run(t.Context(), spec)
		require.NoError(t, err)
		assert.Equal(t, 1, exit.Leftovers)
	}
	assert.Equal(t, before, count())
	assert.Empty(t, descendants(os.Getpid()), "no zombie, no orphan")
}
