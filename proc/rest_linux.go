//go:build !attune_portable

package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// children are the leaders of all Runs of this process. An orphan comes to attune whichever of them it grew
// from, so each Run must know the others.
var children = &registry{alive: map[int]*child{}}

// reaping keeps the lists of attune's children as they are while they are read: the kernel skips one when another before it is
// reaped meanwhile, which many Runs that end at once do all the time.
var reaping sync.RWMutex

type registry struct {
	mu       sync.Mutex
	starting int // leaders that exist, or will, and are not in alive yet
	plain    int // of all, alive and starting, those whose orphans carry no mark and come to attune
	alive    map[int]*child
}

// begin registers a child to come. It tells whether there are others whose orphans would look like its own.
func (r *registry) begin(l *launch) (crowded bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.starting++
	crowded = r.plain > 0 || os.Getpid() == 1
	if l.ambiguous() {
		r.plain++
		l.child.plain = true
	}
	return crowded
}

func (r *registry) abort(l *launch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.starting--
	r.clear(l.child)
}

func (r *registry) clear(c *child) {
	if c.plain {
		r.plain--
		c.plain = false
	}
}

func (r *registry) add(c *child) {
	if c.marked && c.mark == "" {
		c.mark = utsOf(c.pid)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.starting--
	r.alive[c.pid] = c
	if c.contained {
		r.clear(c)
	}
}

func (r *registry) forget(c *child) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clear(c)
	if r.alive[c.pid] == c { // its pid may be another leader's by now
		delete(r.alive, c.pid)
	}
}

// neighbours is what one child must know of all.
type neighbours struct {
	leaders map[int]bool
	marks   map[string]bool
	alone   bool // no other child's orphans come to attune unmarked
	settled bool // no leader is being started
}

func (r *registry) look(c *child) neighbours {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := neighbours{leaders: make(map[int]bool, len(r.alive)), marks: map[string]bool{}, settled: r.starting == 0}
	others := r.plain
	if c != nil && c.plain {
		others--
	}
	n.alone = others == 0
	for pid, other := range r.alive {
		n.leaders[pid] = true
		if other.mark != "" && other != c {
			n.marks[other.mark] = true
		}
	}
	return n
}

// strangers leaves the leaders out, which most often are all there is.
func (r *registry) strangers(pids []int) []int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(pids, func(pid int) bool { return r.alive[pid] != nil })
}

// crowded tells whether more than one Run goes on.
func (r *registry) crowded() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.starting+len(r.alive) > 1
}

// utsOf is the UTS namespace a process is in; empty where that cannot be seen.
func utsOf(pid int) string {
	name, _ := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/uts")
	return name
}

// killRest ends what is left of the child after its leader, again and again until nothing is: one look
// races with forks. It returns how many processes it had to end.
func (c *child) killRest() int {
	killed := map[int]bool{}
	pause, empty := time.Millisecond, 0
	for begun := time.Now(); ; {
		rest := c.rest()
		if len(rest) == 0 {
			// One that ended between the list and the look at it may have been somebody else's to reap, and have left children: they
			// had come to attune by then, and are in the next list.
			if empty++; empty < 2 && children.crowded() {
				continue
			}
			return len(killed)
		}
		if empty = 0; time.Since(begun) > restMax {
			c.spoilt = true
			return len(killed)
		}
		_ = unix.Kill(-c.pid, unix.SIGKILL)
		if c.limiter != nil {
			c.limiter.group.kill()
		}
		for _, p := range rest {
			if !p.zombie {
				killed[p.pid] = true
				_ = unix.Kill(p.pid, unix.SIGKILL)
			}
		}
		for _, p := range rest {
			reapSoon(p.pid, pause)
		}
		pause = min(2*pause, 50*time.Millisecond)
	}
}

// rest are the processes that grew from c and are still there: those in its control group, and orphans that came to attune.
func (c *child) rest() []process {
	pids, ok := orphans() // before look: whoever is listed here and is a leader is known there
	if !ok {
		return c.restWithoutProc()
	}
	var rest []process
	var n neighbours
	strangers := children.strangers(pids)
	if len(strangers) > 0 {
		n = children.look(c)
	}
	own := unix.Getpgrp()
	for _, pid := range strangers {
		if n.leaders[pid] {
			continue
		}
		p, err := readProcess(pid)
		if err != nil || p.group == own {
			continue // gone, or something this process started by other means
		}
		if c.owns(p, n) {
			rest = append(rest, p)
		}
	}
	if c.limiter == nil {
		return rest
	}
	for _, pid := range c.limiter.group.pids() {
		if p, err := readProcess(pid); err == nil && pid != c.pid && !slices.ContainsFunc(rest, func(o process) bool { return o.pid == pid }) {
			rest = append(rest, p)
		}
	}
	return rest
}

// owns decides whose orphan p is: by its session or group; a daemon that left both is known by its namespace, which it cannot
// leave, else by the execution's id in its environment; what cannot be told apart belongs to whoever runs alone.
// An orphan that has ended is anybody's: it needs only to be reaped.
func (c *child) owns(p process, n neighbours) bool {
	switch {
	case p.group == c.pid || p.session == c.pid:
		return true
	case n.leaders[p.group] || n.leaders[p.session]:
		return false
	case p.zombie:
		return n.settled
	}
	uts := utsOf(p.pid)
	switch {
	case c.mark != "":
		return uts == c.mark
	case n.marks[uts]:
		return false
	case n.alone && n.settled && os.Getpid() != 1: // process 1 gets orphans of processes that attune never started
		return true
	case c.execID != "":
		return hasVariable(p.pid, "ATTUNE_EXEC_ID="+c.execID)
	}
	return false
}

// executing is how long a process may take to execute another program.
const executing = time.Second

// hasVariable looks into a process's environment, which is empty while it executes another program: on a busy machine for long.
func hasVariable(pid int, entry string) bool {
	for deadline := time.Now().Add(executing); ; time.Sleep(time.Millisecond) {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil {
			return false
		}
		if len(data) == 0 && !hasEnvironment(pid) && time.Now().Before(deadline) {
			continue
		}
		if len(data) == 0 { // it may have got one since
			data, _ = os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		}
		return slices.Contains(strings.Split(string(data), "\x00"), entry)
	}
}

// hasEnvironment is false until a process that executes another program has got an environment, empty or not: env_end of proc_pid_stat(5).
func hasEnvironment(pid int) bool {
	const envEnd = 51 - 3 // counted from the field behind the name
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return true
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	return len(fields) <= envEnd || fields[envEnd] != "0"
}

// restWithoutProc ends the leader's group blindly where there is no /proc to look at.
func (c *child) restWithoutProc() []process {
	_ = unix.Kill(-c.pid, unix.SIGKILL)
	return nil
}

// reapSoon takes the status of an orphan that was killed. One that cannot die yet is left for the next look.
func reapSoon(pid int, patience time.Duration) {
	for deadline := time.Now().Add(patience); ; {
		got, err := reapEnded(pid, nil, nil)
		if got == pid || err != nil && !errors.Is(err, unix.EINTR) || time.Now().After(deadline) {
			return
		}
		time.Sleep(100 * time.Microsecond)
	}
}

// reapEnded takes the status of a child that has ended; 0 when it has not.
func reapEnded(pid int, status *unix.WaitStatus, usage *unix.Rusage) (int, error) {
	reaping.Lock()
	defer reaping.Unlock()
	return unix.Wait4(pid, status, unix.WNOHANG, usage)
}

// reapStrays is for process 1 of a container: orphans of processes that attune never started come to it, and are to be
// reaped when they have ended. Leaders are left to their Runs. It never returns.
func reapStrays() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	for range ended {
		pids, _ := orphans() // before look, as in rest
		n := children.look(nil)
		for _, pid := range pids {
			if p, err := readProcess(pid); err == nil && p.zombie && n.settled && !n.leaders[pid] {
				_, _ = reapEnded(pid, nil, nil)
			}
		}
	}
}

// orphans are the pids of the children of attune's first thread: the kernel hands an orphan to the first thread of a subreaper that is
// not about to end (find_new_reaper in kernel/exit.c, since Linux 4.0), and Go's first one never ends. Leaders that it forked are among
// them. ok is false without /proc.
func orphans() (pids []int, ok bool) {
	reaping.RLock()
	defer reaping.RUnlock()
	data, err := readProc(firstThread())
	if err != nil {
		if _, gone := os.Stat("/proc/self/task"); gone != nil {
			return nil, false
		}
		return childrenByScan(os.Getpid()), true // a kernel without CONFIG_PROC_CHILDREN
	}
	for _, field := range strings.Fields(string(data)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, true
}

var firstThread = sync.OnceValue(func() string {
	pid := strconv.Itoa(os.Getpid())
	return "/proc/" + pid + "/task/" + pid + "/children"
})

// readProc reads a file that never blocks, without Go's trying to have its poller wait for it.
func readProc(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }()
	data := make([]byte, 0, 512)
	for {
		n, err := unix.Read(fd, data[len(data):cap(data)])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, err
		case n == 0:
			return data, nil
		}
		data = slices.Grow(data[:len(data)+n], 512)
	}
}

func childrenByScan(parent int) []int {
	var pids []int
	for _, p := range processes() {
		if p.parent == parent {
			pids = append(pids, p.pid)
		}
	}
	return pids
}
