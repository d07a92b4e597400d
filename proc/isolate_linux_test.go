//go:build !attune_portable

package proc

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestBasicCanBeHadEverywhere(t *testing.T) {
	d := Diagnose()
	assert.Empty(t, d.Missing(Basic))
	for _, l := range d.Limits {
		assert.NotEmpty(t, l.EnforcedBy)
	}
}

func TestWithoutRightsButWithTheSameUser(t *testing.T) {
	for _, level := range levels(t, Basic, Strict) {
		spec, out := isolated(t, level, "id -u; grep -E 'NoNewPrivs|CapEff|CapBnd|Seccomp:' /proc/self/status; touch $OWN/f && echo written")
		exit, err := Run(t.Context(), spec)
		require.NoError(t, err)
		assert.Equal(t, strconv.Itoa(os.Getuid())+"\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nwritten\n", out.String(), level)
		assert.Equal(t, level, exit.Isolation.Level)
		assert.Empty(t, exit.Isolation.Missing)
	}
}

func TestStrictKeepsExitSignalUsageAndArguments(t *testing.T) {
	if len(levels(t, Strict)) == 0 {
		return
	}
	spec, _ := isolated(t, Strict, "exit 7")
	exit, err := Run(t.Context(), spec)
	require.NoError(t, err)
	assert.Equal(t, 7, exit.Code)
	assert.Positive(t, exit.Usage.MaxRSS)

	spec, _ = isolated(t, Strict, "kill -9 $$")
	exit, err = Run(t.Context(), spec)
	require.NoError(t, err)
	assert.Equal(t, unix.SIGKILL, exit.Signal)
	assert.NoError(t, exit.Cause)

	spec, out := isolated(t, Strict, `printf %s "$ODD" "$1"; cat`)
	spec.Argv = append(spec.Argv, "sh", "\xff[ü] ")
	spec.Env = append(spec.Env, "ODD=\xfe\n")
	spec.Stdin = strings.NewReader("in")
	_, err = Run(t.Context(), spec)
	require.NoError(t, err)
	assert.Equal(t, "\xfe\n\xff[ü] in", out.String())

	spec, _ = isolated(t, Strict, "")
	spec.Argv = []string{"/no/such/program"}
	_, err = Run(t.Context(), spec)
	var start *StartError
	require.ErrorAs(t, err, &start)
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func TestStrictTakesSIGTERMAndTellsTheCause(t *testing.T) {
	if len(levels(t, Strict)) == 0 {
		return
	}
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	spec, _ := isolated(t, Strict, "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.01; done")
	r, w := io.Pipe()
	spec.Stdout = w
	said := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(r).ReadString('\n')
		cancel(cause)
		rest, _ := io.ReadAll(r)
		said <- line + string(rest)
	}()
	exit, err := Run(ctx, spec)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	assert.Contains(t, <-said, "bye")
	assert.Equal(t, 3, exit.Code)
	assert.ErrorIs(t, exit.Cause, cause)
}

func TestStrictHidesAndProtects(t *testing.T) {
	hidden, pack := t.TempDir(), t.TempDir()
	require.NoError(t, os.WriteFile(hidden+"/secret", []byte("s"), 0o600))
	require.NoError(t, os.WriteFile(pack+"/file", []byte("p"), 0o600))
	for _, force := range []mechanism{byNamespaces, byLandlock} {
		if probe(Strict, force).had[FSWrite].By == "" {
			continue
		}
		spec, out := isolated(t, Strict, "cat "+hidden+"/secret; cat "+pack+"/file; echo x > "+pack+"/file; echo x > /usr/new; rm -rf "+pack+"; ls "+hidden+"; echo done; touch $OWN/f && echo own")
		spec.Stderr = io.Discard
		spec.Isolation.Hidden, spec.Isolation.ReadOnly, spec.Isolation.force = []string{hidden}, []string{pack}, force
		_, err := Run(t.Context(), spec)
		require.NoError(t, err)
		assert.Equal(t, "pdone\nown\n", out.String(), force)
	}
	data, err := os.ReadFile(pack + "/file")
	require.NoError(t, err)
	assert.Equal(t, "p", string(data))
}

// Without namespaces a control group holds what leaves every session.
func TestStrictWithoutNamespacesEndsEverything(t *testing.T) {
	if killByGroup().By == "" || probe(Strict, byLandlock).had[FSWrite].By == "" {
		return
	}
	m, err := newLimiter(Limits{}, nil, true)
	require.NoError(t, err)
	spec, _ := isolated(t, Strict, "env -i setsid sh -c 'setsid sleep 1000 >/dev/null 2>&1 &'; sleep 0.05")
	spec.Isolation.force = byLandlock
	spec.Limits = Limits{Pids: 100}
	exit, err := Run(t.Context(), spec)
	require.NoError(t, err)
	assert.Equal(t, 1, exit.Leftovers)
	assert.True(t, len(m.group.tasks()) > 0 || m.group.fd != nil, "there is a group although there are no limits")
	assert.Empty(t, m.report(&exit))
	m.close()
}

func TestNoNetwork(t *testing.T) {
	for _, level := range levels(t, Basic, Strict) {
		spec, out := isolated(t, level, "exec 3<>/dev/udp/192.0.2.1/9 && echo reached; echo tried")
		spec.Argv[0] = "/bin/bash"
		spec.Isolation.Network = "none"
		spec.Stderr = io.Discard
		_, err := Run(t.Context(), spec)
		require.NoError(t, err)
		assert.Equal(t, "tried\n", out.String(), level)
	}
}

func TestForeignABIsAreRefused(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		return // 32-bit programs of arm64 need a machine that has them
	}
	dir := t.TempDir()
	source := `#include <unistd.h>
int main(void) { int pid; __asm__ volatile("int $0x80" : "=a"(pid) : "a"(20)); write(1, "reached\n", 8); return 0; }`
	require.NoError(t, os.WriteFile(dir+"/i386.c", []byte(source), 0o600))
	out, err := exec.Command("gcc", "-o", dir+"/i386", dir+"/i386.c").CombinedOutput()
	require.NoError(t, err, "%s", out)
	spec, said := isolated(t, Basic, "")
	spec.Argv = []string{dir + "/i386"}
	exit, err := Run(t.Context(), spec)
	require.NoError(t, err)
	assert.Equal(t, unix.SIGSYS, exit.Signal)
	assert.Empty(t, said.String())
}

func TestPidsOfAttuneAreNotTheChilds(t *testing.T) {
	for _, level := range levels(t, None, Basic) {
		spec, _ := isolated(t, level, "sleep 0.01 & sleep 0.01 & wait")
		spec.Limits = Limits{Pids: 3}
		exit, err := Run(t.Context(), spec)
		require.NoError(t, err)
		assert.False(t, exit.Limits[0].Hit, "%s: %+v", level, exit.Limits[0])
		assert.Zero(t, exit.Code, level)
	}
}

func TestMemoryLimitTellsAnOutOfMemoryKillFromExit137(t *testing.T) {
	for _, level := range levels(t, None, Basic, Strict) {
		spec, _ := isolated(t, level, "head -c 200000000 /dev/zero | tail >/dev/null; true")
		spec.Limits = Limits{Memory: 32 << 20}
		exit, err := Run(t.Context(), spec)
		require.NoError(t, err)
		assert.Equal(t, strings.HasPrefix(exit.Limits[0].EnforcedBy, "cgroup"), exit.OOMKilled, level)

		spec, _ = isolated(t, level, "exit 137")
		spec.Limits = Limits{Memory: 32 << 20}
		exit, err = Run(t.Context(), spec)
		require.NoError(t, err)
		assert.Equal(t, 137, exit.Code)
		assert.False(t, exit.OOMKilled)
	}
	for controller, dir := range hierarchies().each {
		left, _ := filepath.Glob(dir + "/attune-" + strconv.Itoa(os.Getpid()) + ".*")
		assert.Empty(t, left, controller)
	}
}

// An isolated daemon may clear its environment and leave every session: it is known all the same.
func TestNeighboursDaemonSurvivesWhateverItHides(t *testing.T) {
	for _, level := range levels(t, Basic, Strict) {
		neighbour, _ := isolated(t, level, "env -i setsid sh -c 'setsid sleep 1000 >/dev/null 2>&1 &'; echo ready; read wait")
		stdin, letGo := io.Pipe()
		stdout, w := io.Pipe()
		neighbour.Stdin, neighbour.Stdout = stdin, w
		done := make(chan Exit, 1)
		go func() {
			exit, _ := Run(context.WithoutCancel(t.Context()), neighbour)
			done <- exit
		}()
		_, err := bufio.NewReader(stdout).ReadString('\n')
		require.NoError(t, err)

		mine, _ := isolated(t, level, "env -i setsid sh -c 'setsid sleep 1000 >/dev/null 2>&1 &'; sleep 0.05")
		exit, err := Run(t.Context(), mine)
		require.NoError(t, err)
		assert.Equal(t, 1, exit.Leftovers, level)

		go func() { _, _ = io.Copy(io.Discard, stdout) }()
		require.NoError(t, letGo.Close())
		assert.Equal(t, 1, (<-done).Leftovers, "%s: the neighbour's was still there", level)
		require.NoError(t, w.Close())
	}
}

func TestManyExecutionsCostNothingThatStays(t *testing.T) {
	strict := len(levels(t, Strict)) > 0
	run := func(n int) {
		for i := range n {
			spec := Spec{Argv: []string{"/bin/true"}, Stdout: io.Discard, Stderr: io.Discard, Isolation: Isolation{Level: []Level{None, Basic, Basic, Basic}[i%4]}}
			if i%50 == 0 && strict {
				spec.Isolation.Level, spec.Limits = Strict, Limits{Pids: 100, Memory: 64 << 20}
			}
			_, err := Run(t.Context(), spec)
			require.NoError(t, err)
		}
	}
	count := func() (fds, goroutines, threads, temporary int) {
		f, _ := os.ReadDir("/proc/self/fd")
		th, _ := os.ReadDir("/proc/self/task")
		tmp, _ := filepath.Glob(os.TempDir() + "/attune-canary-*")
		return len(f), runtime.NumGoroutine(), len(th), len(tmp)
	}
	memory := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	run(100)
	fds, goroutines, threads, temporary := count()
	before := memory()
	run(1000)
	assert.Less(t, memory(), before+(2<<20))
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) { // threads end a moment later
		f, g, th, tmp := count()
		if f <= fds && g <= goroutines && th <= threads+4 && tmp <= temporary { // the runtime keeps some threads
			return
		}
		require.True(t, time.Now().Before(deadline), "descriptors %d→%d, goroutines %d→%d, threads %d→%d, temporary %d→%d", fds, f, goroutines, g, threads, th, temporary, tmp)
	}
}

// helper starts this test binary as a program of its own that plays one of the parts in TestMain.
func helper(part string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), "PROC_TEST_PART="+part, "GORACE=atexit_sleep_ms=0")
	return cmd
}

// parts are what helpers do.
var parts = map[string]func() int{
	// A Run whose attune will be killed; its child says where it is.
	"doomed": func() int {
		level := Level(os.Args[1])
		spec := Spec{Argv: []string{"/bin/sh", "-c", "setsid sleep 1000." + os.Args[2] + " & exec sleep 1000." + os.Args[2]}, Env: []string{"PATH=/usr/bin:/bin"},
			Isolation: Isolation{Level: level}, Started: func(int) { _, _ = os.Stdout.WriteString("started\n") }}
		_, _ = Run(context.Background(), spec)
		return 0
	},
	// Two executions at once that nothing marks: the second gets a stub for a parent.
	"crowd": func() int {
		script := "env -i setsid sh -c 'setsid sleep 1000 >/dev/null 2>&1 &'; sleep 0.1; "
		spec := func(rest string) Spec {
			s := sh(script + rest)
			s.Isolation, s.Dir = Isolation{Level: Basic}, "/"
			return s
		}
		first, second := spec("echo ready; read wait"), spec("exit 3")
		stdin, letGo := io.Pipe()
		stdout, w := io.Pipe()
		first.Stdin, first.Stdout = stdin, w
		done := make(chan Exit, 1)
		go func() {
			exit, _ := Run(context.Background(), first)
			done <- exit
		}()
		if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
			return 1
		}
		exit, err := Run(context.Background(), second)
		_, _ = os.Stdout.WriteString(fmt.Sprintln("second", exit.Code, exit.Leftovers, err, exit.Usage.MaxRSS > 0))
		_ = letGo.Close()
		exit = <-done
		_, _ = os.Stdout.WriteString(fmt.Sprintln("first", exit.Code, exit.Leftovers))
		return 0
	},
	// Process 1 of a pid namespace: strays of others come to it while a Run goes on.
	"one": func() int {
		_ = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		_ = unix.Mount("proc", "/proc", "proc", 0, "")
		harden()
		other, err := os.StartProcess("/bin/sh", []string{"sh", "-c", "setsid sh -c 'sleep 0.05 & setsid sleep 1000 & exit' & sleep 0.02"}, &os.ProcAttr{Files: []*os.File{nil, os.Stdout, os.Stderr}, Sys: &syscall.SysProcAttr{Setpgid: true}})
		if err != nil {
			return 1
		}
		_, _ = other.Wait()
		exit, err := Run(context.Background(), Spec{Argv: []string{"/bin/sh", "-c", "env -i setsid sh -c 'sleep 1000 & exit'; sleep 0.2; exit 5"}, Env: []string{"PATH=/usr/bin:/bin", "ATTUNE_EXEC_ID=x"}, Isolation: Isolation{Level: Basic}})
		if err != nil || exit.Code != 5 || exit.Leftovers != 1 {
			_, _ = os.Stdout.WriteString("unexpected end\n")
			return 1
		}
		alive := 0
		pids, _ := orphans()
		for _, pid := range pids {
			if p, err := readProcess(pid); err == nil && p.zombie {
				_, _ = os.Stdout.WriteString("a zombie is left\n")
			} else if err == nil {
				alive++
			}
		}
		_, _ = os.Stdout.WriteString(strconv.Itoa(alive) + " stranger\n")
		return 0
	},
}

func TestWhatOutlivesAnAttuneThatIsKilled(t *testing.T) {
	for _, level := range levels(t, Basic, Strict) {
		token := strconv.Itoa(os.Getpid()) + string(level[0]) + "9"
		token = strings.NewReplacer("b", "1", "s", "2").Replace(token)
		cmd := helper("doomed", string(level), token)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		_, err = bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)
		require.Eventually(t, func() bool { return len(carrying("1000."+token)) == 2 }, 10*time.Second, 5*time.Millisecond)
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait()
		want := map[Level]int{Basic: 1, Strict: 0}[level] // the leader goes with attune; below strict a daemon stays
		require.Eventually(t, func() bool { return len(carrying("1000."+token)) == want }, 10*time.Second, 5*time.Millisecond, level)
		for _, pid := range carrying("1000." + token) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

func TestOrphansFindTheirExecutionWithoutMarks(t *testing.T) {
	cmd := helper("crowd")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Equal(t, "second 3 1 <nil> true\nfirst 1 1\n", string(out))
}

func TestProcessOneReapsStrangersAndLeavesThemAlone(t *testing.T) {
	cmd := helper("one")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) {
		t.Log("this machine lets nobody play process 1")
		return
	}
	require.NoError(t, err, "%s", out)
	assert.Equal(t, "1 stranger\n", string(out))
}

// carrying are the processes with a word among their arguments.
func carrying(word string) []int {
	var pids []int
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		line, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err == nil && bytes.HasPrefix(line, []byte("sleep\x00"+word)) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func TestTheCanaryNoticesWhatIsNotKept(t *testing.T) {
	s := song{Attune: itself()}
	said := make(chan [3]string, 1)
	onThread(func() {
		memory, signal := s.asAnother()
		said <- [3]string{memory, signal, s.capabilities()}
	})
	for _, why := range <-said {
		assert.NotEmpty(t, why)
	}
	o := probe(Basic, byThread) // as another program, too
	for guarantee, had := range offers.basic.had {
		assert.Equal(t, had, o.had[guarantee], guarantee)
	}
}
