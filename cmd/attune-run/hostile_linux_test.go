package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/proc"
)

// surroundings are a machine as attune may find it.
type surroundings struct {
	name   string
	root   bool
	jailed bool // no namespaces, no mounts, no Landlock, control groups cannot be written, as in a function service
	levels []string

	unbounded bool // nothing enforces the limit pids
}

var allSurroundings = []surroundings{
	{name: "root", root: true, levels: []string{"basic", "strict"}},
	{name: "user", levels: []string{"basic", "strict"}},
	{name: "jailed root", root: true, jailed: true, levels: []string{"basic"}},
	{name: "jailed user", jailed: true, levels: []string{"basic"}},
}

// hostile is one action that means harm, and what must come of it.
type hostile struct {
	script  string // TOKEN stands for a number that no other process on the machine has on its command line
	timeout time.Duration
	args    []string
	// Not run where: nothing bounds it there.
	unsafe func(surroundings) bool
	only   string // level
	setup  func(t *testing.T, h *house)
	check  func(t *testing.T, h *house, r executor.Result)
}

const hostileGrace = 200 * time.Millisecond

func timedOut(t *testing.T, _ *house, r executor.Result) {
	t.Helper()
	assert.Equal(t, executor.TimedOut, r.Status)
}

func succeeded(t *testing.T, _ *house, r executor.Result) {
	t.Helper()
	assert.Equal(t, executor.Succeeded, r.Status, "%v", r.Error)
}

// noBite is for actions that print BITE when they got what they wanted.
func noBite(t *testing.T, h *house, r executor.Result) {
	t.Helper()
	succeeded(t, h, r)
	assert.NotContains(t, r.Stdout, "BITE")
	assert.Contains(t, r.Stdout, "tried")
}

var hostiles = map[string]hostile{
	"fork bomb": {
		script:  "b() { b TOKEN | b TOKEN & sleep 1000.TOKEN; }; b\nsleep 1000.TOKEN\n",
		timeout: time.Second, args: []string{"--limit", "pids=40"},
		unsafe: func(s surroundings) bool { return s.unbounded }, // RLIMIT_NPROC does not bind root
		check: func(t *testing.T, _ *house, r executor.Result) {
			assert.NotEqual(t, executor.Succeeded, r.Status)
			assert.Contains(t, []string{"timeout", "limit", "exit", "signal"}, r.Error.Kind)
		},
	},
	"bounded forks": {
		script:  "f() { [ $1 -lt 5 ] || { sleep 1000.TOKEN; return; }; setsid sh -c : ; (f $(($1+1))) & (f $(($1+1))) & sleep 1000.TOKEN; }; f 0\n",
		timeout: 500 * time.Millisecond, check: timedOut,
	},
	"endless output": {script: "yes TOKEN\n", timeout: time.Second, check: func(t *testing.T, h *house, r executor.Result) {
		timedOut(t, h, r)
		assert.True(t, r.StdoutTruncated)
		assert.Positive(t, r.StdoutBytesTruncated)
	}},
	"giant line": {script: "head -c SIZE /dev/zero | tr '\\0' x\n", timeout: time.Minute, check: func(t *testing.T, h *house, r executor.Result) {
		succeeded(t, h, r)
		assert.Equal(t, int64(h.giant()-(1<<20)), r.StdoutBytesTruncated)
	}},
	"ignores SIGTERM": {script: "trap '' TERM; echo ready; while :; do sleep 1000.TOKEN; done\n", timeout: 300 * time.Millisecond, check: func(t *testing.T, h *house, r executor.Result) {
		timedOut(t, h, r)
		if strings.Contains(r.Stdout, "ready") { // a slow machine may not come that far
			assert.Equal(t, "SIGKILL", r.Signal)
		}
	}},
	"daemon": {script: "env -i setsid sh -c 'setsid sleep 1000.TOKEN >/dev/null 2>&1 & exit' >/dev/null 2>&1; sleep 0.1; echo done\n", timeout: time.Minute, check: func(t *testing.T, h *house, r executor.Result) {
		succeeded(t, h, r)
		assert.Equal(t, 1, r.LeftoverProcesses)
	}},
	"daemon that holds stdout": {script: "setsid sh -c 'sleep 1000.TOKEN & exit'; echo done\n", timeout: time.Minute, check: func(t *testing.T, h *house, r executor.Result) {
		succeeded(t, h, r)
		assert.Positive(t, r.LeftoverProcesses)
		assert.Equal(t, "done\n", r.Stdout)
	}},
	"closes stdout and goes on": {script: "exec >&- 2>&-; sleep 1000.TOKEN\n", timeout: 300 * time.Millisecond, check: timedOut},
	"stops itself":              {script: "kill -STOP $$\n", timeout: 300 * time.Millisecond, check: timedOut},
	"kills its group": {script: "sleep 1000.TOKEN & kill -9 -$$ 0\n", timeout: time.Minute, check: func(t *testing.T, _ *house, r executor.Result) {
		assert.Equal(t, executor.Failed, r.Status)
		assert.Equal(t, "SIGKILL", r.Signal)
	}},
	"fills the disk": {
		script: "i=0; while [ $i -lt 200 ]; do head -c 262144 /dev/zero > $TMPDIR/f$i; i=$((i+1)); sleep 0.01; done\n", timeout: time.Minute, args: []string{"--limit", "disk=4M"},
		check: func(t *testing.T, _ *house, r executor.Result) {
			require.NotNil(t, r.Error)
			assert.Equal(t, "limit", r.Error.Kind)
			assert.True(t, r.Limits[0].Hit)
		},
	},
	"depth 20,000": {script: "cd $TMPDIR && perl -e 'for (1..20000) { mkdir \"d\"; chdir \"d\" }'; echo done\n", timeout: time.Minute, check: succeeded},
	"writes into pack and cache": {
		only:    "strict",
		script:  "for d in $PWD $PWD/actions CACHE / /etc /usr /root /home; do (echo BITE > $d/bite) 2>/dev/null && echo BITE $d; done; rm -rf actions 2>/dev/null; mv pack.yaml x 2>/dev/null; [ -f pack.yaml ] || echo BITE; chmod 777 pack.yaml 2>/dev/null && echo BITE; mount -o remount,rw / 2>/dev/null && echo BITE; echo tried\n",
		timeout: time.Minute,
		check: func(t *testing.T, h *house, r executor.Result) {
			noBite(t, h, r)
			assert.FileExists(t, h.dir+"/packs/h/actions/act.sh")
		},
	},
	"reads another run's directory": {
		only: "strict",
		setup: func(t *testing.T, h *house) {
			other := filepath.Join(h.dir, "tmp", fmt.Sprintf("attune-%d", h.uid), "other")
			h.mkdir(t, other)
			h.write(t, other+"/secret", "BITE")
		},
		script: "cat $TMPDIR/../../other/secret 2>/dev/null; ls -R $TMPDIR/../.. 2>/dev/null | grep other && echo BITE; echo tried\n", timeout: time.Minute, check: noBite,
	},
	"hidden credentials": {
		only:   "strict",
		script: "cat /etc/shadow /root/.bashrc /home/*/.ssh/* 2>/dev/null | grep -q . && echo BITE; ls -A /root | grep -q . && echo BITE; echo tried\n", timeout: time.Minute, check: noBite,
	},
	"reads attune's memory": {
		script:  "for p in $PPID $ATTUNE; do cat /proc/$p/environ 2>/dev/null | tr '\\0' '\\n' | sed -n 's/^CANARY_TOKEN=//p'; (exec 8</proc/$p/mem) 2>/dev/null && echo BITE; for f in /proc/$p/task/*/environ /proc/$p/root/etc/hostname /proc/$p/fd/*; do cat $f >/dev/null 2>&1 && echo BITE $f; done; done; echo tried\n",
		timeout: time.Minute, check: noBite,
	},
	"signals attune": {
		script:  "for t in $ATTUNE $(ls /proc/$ATTUNE/task 2>/dev/null); do kill -9 $t 2>/dev/null && echo BITE; kill -STOP $t 2>/dev/null && echo BITE; done; kill -9 -- -$ATTUNE 2>/dev/null && echo BITE; python3 -c 'import resource; resource.prlimit('$ATTUNE', resource.RLIMIT_CPU, (0, 0)); print(\"BITE\")' 2>/dev/null; echo tried\n",
		timeout: time.Minute, args: []string{"--env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
		check: func(t *testing.T, h *house, r executor.Result) {
			if h.level == "strict" { // attune's number may be another process's there, or none
				succeeded(t, h, r)
				return
			}
			noBite(t, h, r)
		},
	},
	"signals everybody": {
		script: "kill -9 -1 2>/dev/null; echo tried\n", timeout: time.Minute,
		unsafe: func(s surroundings) bool { return s.root }, // were it let through, it would not end with attune
		check:  func(t *testing.T, _ *house, r executor.Result) { assert.NotEmpty(t, r.Status) },
	},
	"makes namespaces":     {script: "unshare -Ur true 2>/dev/null && echo BITE; unshare -m true 2>/dev/null && echo BITE; echo tried\n", timeout: time.Minute, check: noBite},
	"becomes root again":   {script: "su -c 'echo BITE' </dev/null 2>/dev/null; setpriv --reuid 1 true 2>/dev/null && echo BITE; chroot / true 2>/dev/null && echo BITE; echo tried\n", timeout: time.Minute, check: noBite},
	"inherited descriptor": {script: "for n in 3 4 5 6 7 8 9 10 11 12; do (cat <&$n) 2>/dev/null; done; echo tried\n", timeout: time.Minute, check: noBite},
	"invalid UTF-8 and forged commands": {
		script: "printf '\\377\\376 \\033[2J\\033]0;x\\007\\n::set-output name=a::b\\n::add-mask::x\\n::stop-commands::t\\n##vso[task.complete]\\n'\n", timeout: time.Minute,
		check: func(t *testing.T, h *house, r executor.Result) {
			succeeded(t, h, r)
			assert.True(t, r.EncodingReplaced)
			assert.Contains(t, r.Stdout, "\x1b[2J")
		},
	},
	"reaches the network": {
		script:  "python3 -c 'import socket; s=socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect((\"192.0.2.1\", 9)); print(\"BITE\")' 2>/dev/null; echo tried\n",
		timeout: time.Minute, args: []string{"--isolation-network", "none"}, check: noBite,
	},
	"too much memory": {
		script:  "python3 -c 'a = bytearray(300 << 20); print(\"BITE\")' 2>/dev/null; echo tried\n",
		timeout: time.Minute, args: []string{"--limit", "memory=100M"},
		check: func(t *testing.T, _ *house, r executor.Result) {
			assert.NotContains(t, r.Stdout, "BITE")
			assert.Equal(t, r.OOMKilled, r.Limits[0].Hit)
			assert.Contains(t, []string{"cgroup v1", "cgroup v2", "rlimit"}, r.Limits[0].EnforcedBy)
		},
	},
	"own exit 137": {script: "exit 137\n", timeout: time.Minute, args: []string{"--limit", "memory=100M"}, check: func(t *testing.T, _ *house, r executor.Result) {
		assert.Equal(t, 137, r.ExitCode)
		assert.False(t, r.OOMKilled)
		assert.Equal(t, "exit", r.Error.Kind)
	}},
}

func TestHostile(t *testing.T) {
	if !proc.Isolates {
		t.Skip("only on Linux: what must come of each action")
	}
	program := builtAttune(t)
	t.Cleanup(func() { _ = os.RemoveAll(filepath.Dir(program)) })
	t.Run("input", hostileInput)
	t.Run("actions", hostileActions)
}

func hostileActions(t *testing.T) {
	for _, s := range allSurroundings {
		offered := newHouse(t, s, "none").doctor(t)
		s.unbounded = !slices.ContainsFunc(offered.Limits, func(l proc.Enforced) bool { return l.Name == "pids" && l.EnforcedBy != "none" })
		for _, level := range s.levels {
			if missing := offered.Missing(proc.Level(level)); len(missing) > 0 {
				require.NotEqual(t, "basic", level, "basic works everywhere; missing %v", missing)
				t.Logf("%s: %s cannot be had on this machine: %v", s.name, level, missing)
				continue
			}
			t.Run(s.name+" "+level, func(t *testing.T) {
				t.Parallel()
				for name, action := range hostiles {
					if action.only != "" && action.only != level || action.unsafe != nil && action.unsafe(s) {
						continue
					}
					t.Run(name, func(t *testing.T) {
						h := newHouse(t, s, level)
						h.act(t, action)
					})
				}
			})
		}
	}
}

// house is one run's own place: pack, cache, temporary directory and user.
type house struct {
	surroundings
	level string
	dir   string
	uid   int
	token string
}

var houseNumber atomic.Int32

func newHouse(t *testing.T, s surroundings, level string) *house {
	require.Zero(t, os.Getuid(), "this test plays other users, which takes root")
	n := int(houseNumber.Add(1))
	h := &house{surroundings: s, level: level, token: strconv.Itoa(os.Getpid()) + fmt.Sprintf("%03d", n)}
	if !s.root {
		h.uid = 200000 + os.Getpid()%50000*100 + n // nobody else's, or RLIMIT_NPROC would count others
	}
	dir, err := os.MkdirTemp("/dev/shm", "hostile-"+h.token+"-") // memory: on a disk depth 20,000 takes a minute
	if err != nil {
		dir, err = os.MkdirTemp("", "hostile-"+h.token+"-")
	}
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	h.dir = dir
	require.NoError(t, os.Chmod(dir, 0o755))
	for _, name := range []string{"tmp", "home", "cache", "packs/h/actions"} {
		h.mkdir(t, filepath.Join(dir, name))
	}
	return h
}

// mkdir makes a directory that belongs to the house's user.
func (h *house) mkdir(t *testing.T, dir string) {
	require.NoError(t, os.MkdirAll(dir, 0o700))
	for d := dir; d != h.dir; d = filepath.Dir(d) {
		require.NoError(t, os.Chown(d, h.uid, h.uid))
	}
}

func (h *house) write(t *testing.T, path, text string) {
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	require.NoError(t, os.Chown(path, h.uid, h.uid))
}

// giant is a line's length in bytes: 1 GiB once, and a tenth of it else, to save time.
func (h *house) giant() int {
	if h.name == "root" && h.level == "basic" {
		return 1 << 30
	}
	return 100 << 20
}

// act runs the action and holds attune to what it always promises.
func (h *house) act(t *testing.T, a hostile) {
	script := strings.NewReplacer("TOKEN", h.token, "SIZE", strconv.Itoa(h.giant()), "CACHE", h.dir+"/cache").Replace(a.script)
	h.write(t, h.dir+"/packs/h/pack.yaml", "ref: h\nversion: 1.0.0\n")
	h.write(t, h.dir+"/packs/h/actions/act.yaml", "ref: h.act\nentry_point: act.sh\n")
	h.write(t, h.dir+"/packs/h/actions/act.sh", "read ATTUNE < pid 2>/dev/null || ATTUNE=$PPID\n"+script)
	if a.setup != nil {
		a.setup(t, h)
	}
	begun := time.Now()
	memory, output := h.run(t, append([]string{"--timeout", a.timeout.String(), "--isolation", h.level, "--grace", hostileGrace.String(), "h.act"}, a.args...))
	took := time.Since(begun)

	decoder := json.NewDecoder(strings.NewReader(output))
	var r executor.Result
	require.NoError(t, decoder.Decode(&r), "one valid result: %q", output)
	assert.ErrorIs(t, decoder.Decode(&r), io.EOF, "and no second one")
	assert.Equal(t, h.level, r.Isolation.Applied, "%v", r.Error)
	if a.timeout < time.Minute {
		assert.Less(t, took, a.timeout+hostileGrace+4*time.Second, "attune ends with deadline and grace")
	}
	if r.Status == executor.TimedOut {
		assert.Less(t, time.Duration(r.DurationMS*1e6), a.timeout+hostileGrace+2*time.Second, "dead within 2 s of the deadline")
	}
	assert.Empty(t, h.descendants(), "no descendant is left")
	assert.Less(t, memory, 64<<10, "attune's memory, in KiB")
	left, err := filepath.Glob(h.dir + "/tmp/attune-*/run-*")
	require.NoError(t, err)
	assert.Empty(t, left, "private directories")
	if a.check != nil {
		a.check(t, h, r)
	}
}

// doctor is what attune finds in these surroundings.
func (h *house) doctor(t *testing.T) proc.Diagnosis {
	_, output := h.start(t, []string{"doctor", "--output", "json"})
	var d proc.Diagnosis
	require.NoError(t, json.Unmarshal([]byte(output), &d), "%s", output)
	return d
}

func (h *house) run(t *testing.T, args []string) (memory int, output string) {
	return h.start(t, append([]string{"run", "--output", "json", "--quiet"}, args...))
}

// start starts attune-run as the house's user and gives the most memory it used, in KiB, and what it printed.
func (h *house) start(t *testing.T, args []string) (memory int, output string) {
	program := builtAttune(t)
	argv := append([]string{program}, args...)
	if h.jailed {
		argv = append([]string{filepath.Join(filepath.Dir(program), "attune-jail")}, argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + h.dir + "/home", "TMPDIR=" + h.dir + "/tmp", "ATTUNE_CACHE=" + h.dir + "/cache",
		"ATTUNE_PACKS=" + h.dir + "/packs", "CANARY_TOKEN=BITE", "GORACE=atexit_sleep_ms=0"}
	cmd.Dir = h.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if h.uid != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(h.uid), Gid: uint32(h.uid)}
	}
	secret, err := os.CreateTemp(t.TempDir(), "")
	require.NoError(t, err)
	defer func() { _ = secret.Close() }()
	_, err = secret.WriteString("BITE through a descriptor")
	require.NoError(t, err)
	_, err = secret.Seek(0, io.SeekStart)
	require.NoError(t, err)
	cmd.ExtraFiles = []*os.File{secret, secret, secret, secret, secret, secret, secret} // 3 to 9
	var out bytes.Buffer
	errs := proc.NewCapture(4096)
	cmd.Stdout, cmd.Stderr = &out, errs
	require.NoError(t, cmd.Start())
	peak := watchMemory(cmd.Process.Pid)
	h.write(t, h.dir+"/packs/h/pid", strconv.Itoa(cmd.Process.Pid)+"\n")
	err = cmd.Wait()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		require.NoError(t, err)
	}
	if out.Len() == 0 {
		t.Logf("%v: %s", err, errs.Text())
	}
	return peak(), out.String()
}

// watchMemory reads a process's peak again and again: its rusage also holds its parent's, from before the exec.
func watchMemory(pid int) (peak func() int) {
	done, result := make(chan struct{}), make(chan int, 1)
	go func() {
		most := 0
		for {
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			if _, rest, ok := bytes.Cut(status, []byte("VmHWM:")); ok {
				fields := bytes.Fields(rest)
				n, _ := strconv.Atoi(string(fields[0]))
				exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
				if filepath.Base(exe) == "attune-run" {
					most = max(most, n)
				}
			}
			select {
			case <-done:
				result <- most
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return func() int { close(done); return <-result }
}

// descendants are processes that carry the token, or are the house's user's.
func (h *house) descendants() []string {
	var left []string
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		line, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		info, err := e.Info()
		if err != nil {
			continue
		}
		stat, _ := info.Sys().(*syscall.Stat_t)
		if bytes.Contains(line, []byte(h.token)) || h.uid != 0 && int(stat.Uid) == h.uid {
			left = append(left, e.Name()+" "+string(line))
		}
	}
	return left
}

// builtAttune is the program as it is shipped: the tests' own binary is larger.
func builtAttune(t *testing.T) string {
	buildOnce.Do(func() {
		builtPath = filepath.Join(os.TempDir(), "attune-hostile-"+strconv.Itoa(os.Getpid()), "attune-run")
		build := exec.Command("go", "build", "-trimpath", "-o", builtPath, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := build.CombinedOutput()
		if err != nil {
			builtErr = fmt.Errorf("%w: %s", err, out)
		}
		_ = os.Chmod(filepath.Dir(builtPath), 0o755)
		if self, err := os.ReadFile("/proc/self/exe"); err == nil && builtErr == nil { // TestMain knows this name
			builtErr = os.WriteFile(filepath.Join(filepath.Dir(builtPath), "attune-jail"), self, 0o755)
		}
	})
	require.NoError(t, builtErr)
	return builtPath
}

var (
	buildOnce sync.Once
	builtPath string
	builtErr  error
)

func init() { programs["attune-jail"] = jail }

// jail is "attune-jail PROGRAM ARGS…": what function services and plain containers leave of a kernel.
func jail() {
	fail := func(what string, err error) {
		fmt.Fprintln(os.Stderr, "attune-jail:", what, err)
		os.Exit(125)
	}
	// Exec goes on with this thread's restrictions.
	if os.Getuid() == 0 && unix.Unshare(unix.CLONE_NEWNS) == nil { // else there is nothing to take away
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			fail("private mounts", err)
		}
		_ = unix.MountSetattr(unix.AT_FDCWD, "/sys/fs/cgroup", unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		fail("no_new_privs", err)
	}
	var program []unix.SockFilter
	program = append(program, unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS})
	for _, number := range []uint32{unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_MOUNT_SETATTR,
		unix.SYS_LANDLOCK_CREATE_RULESET, unix.SYS_LANDLOCK_RESTRICT_SELF, unix.SYS_OPEN_TREE, unix.SYS_FSOPEN} {
		program = append(program, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ, K: number, Jf: 1},
			unix.SockFilter{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)})
	}
	program = append(program, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ, K: unix.SYS_CLONE3, Jf: 1},
		unix.SockFilter{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ, K: unix.SYS_CLONE, Jf: 3},
		unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 16},
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET, K: unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC, Jf: 1},
		unix.SockFilter{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		unix.SockFilter{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ALLOW})
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&fprog))); errno != 0 {
		fail("seccomp", errno)
	}
	fail("exec", syscall.Exec(os.Args[1], slices.Clone(os.Args[1:]), os.Environ()))
}

// What is wrong before anything runs ends in one valid result as well, soon and in little memory.
func hostileInput(t *testing.T) {
	bomb := "x0: &x0 [lol, lol]\n"
	for i := range 40 {
		bomb += fmt.Sprintf("x%d: &x%d [*x%d, *x%d, *x%d, *x%d]\n", i+1, i+1, i, i, i, i)
	}
	deep := strings.Repeat("[", 20000) + strings.Repeat("]", 20000)
	positional := "parameters: {a: {type: string, position: 1}}\n"
	for name, test := range map[string]struct {
		entry, extra, params string
		kinds                []string
	}{
		"entry point above the pack": {entry: "../../../../etc/passwd", kinds: []string{"pack"}},
		"entry point anywhere":       {entry: "/etc/passwd", kinds: []string{"pack"}},
		"entry point through a link": {entry: "link.sh", kinds: []string{"pack"}},
		"YAML bomb in metadata":      {extra: bomb, kinds: []string{"pack"}},
		"deep YAML in metadata":      {extra: "tags: " + deep + "\n", kinds: []string{"pack"}},
		"YAML bomb in parameters":    {params: bomb},
		"deep YAML in parameters":    {params: "a: " + deep},
		"deep JSON in parameters":    {params: `{"a": ` + deep + `}`},
		"NUL in an argument":         {extra: positional, params: `{"a": "x\u0000y"}`, kinds: []string{"spawn", "parameters"}},
		"an argument of 200 KiB":     {extra: positional, params: `{"a": "` + strings.Repeat("x", 200<<10) + `"}`, kinds: []string{"spawn"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, allSurroundings[0], "basic")
			entry := test.entry
			if entry == "" {
				entry = "act.sh"
			}
			h.write(t, h.dir+"/packs/h/pack.yaml", "ref: h\nversion: 1.0.0\n")
			h.write(t, h.dir+"/packs/h/actions/act.yaml", "ref: h.act\nentry_point: "+entry+"\n"+test.extra)
			h.write(t, h.dir+"/packs/h/actions/act.sh", "echo BITE\n")
			require.NoError(t, os.Symlink("/etc/passwd", h.dir+"/packs/h/actions/link.sh"))
			args := []string{"h.act"}
			if test.params != "" {
				h.write(t, h.dir+"/params", test.params)
				args = append(args, "--params-file", h.dir+"/params")
			}
			begun := time.Now()
			memory, output := h.run(t, args)
			assert.Less(t, time.Since(begun), 10*time.Second)
			assert.Less(t, memory, 64<<10)
			if test.kinds == nil { // a usage error, before there is an execution, or a result like any other
				assert.NotContains(t, output, "BITE")
				return
			}
			var r executor.Result
			require.NoError(t, json.Unmarshal([]byte(output), &r), "%s", output)
			assert.Equal(t, executor.Errored, r.Status)
			assert.Contains(t, test.kinds, r.Error.Kind, "%v", r.Error)
			assert.NotContains(t, output, "BITE")
		})
	}
}
