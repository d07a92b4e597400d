package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// children are the leaders of all Runs of this process. An orphan comes to attune whichever of them it grew
// from, so each Run must know the others.
var children = &registry{alive: map[int]*child{}}

type registry struct {
	mu       sync.Mutex
	starting int // leaders that exist, or will, and are not in alive yet
	alive    map[int]*child
}

func (r *registry) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.starting++
}

func (r *registry) abort() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.starting--
}

func (r *registry) add(c *child) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.starting--
	r.alive[c.pid] = c
}

func (r *registry) forget(c *child) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.alive[c.pid] == c { // its pid may be another leader's by now
		delete(r.alive, c.pid)
	}
}

// leaders are the pids of all leaders; alone is true when there is one and no other is being started.
func (r *registry) leaders() (pids map[int]bool, alone bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pids = make(map[int]bool, len(r.alive))
	for pid := range r.alive {
		pids[pid] = true
	}
	return pids, len(r.alive) == 1 && r.starting == 0
}

// process is what /proc says of one.
type process struct {
	pid, parent, group, session int
	zombie                      bool
}

// restMax is when a process that cannot die, in an uninterruptible system call for one, is given up.
const restMax = 10 * time.Second

// killRest ends what is left of the child after its leader, again and again until nothing is: one look
// races with forks. It returns how many processes it had to end.
func (c *child) killRest() int {
	killed := map[int]bool{}
	pause := time.Millisecond
	for begun := time.Now(); ; {
		rest := c.rest()
		if len(rest) == 0 || time.Since(begun) > restMax {
			return len(killed)
		}
		_ = unix.Kill(-c.pid, unix.SIGKILL)
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

// rest are attune's own children that grew from c: orphans of its leader.
func (c *child) rest() []process {
	pids, ok := orphans() // before leaders: whoever is listed here and is a leader is known there
	if !ok {
		return c.restWithoutProc()
	}
	leaders, alone := children.leaders()
	own := unix.Getpgrp()
	var rest []process
	for _, pid := range pids {
		if leaders[pid] {
			continue
		}
		p, err := readProcess(pid)
		if err != nil || p.group == own {
			continue // gone, or something this process started by other means
		}
		if c.owns(p, leaders, alone) {
			rest = append(rest, p)
		}
	}
	return rest
}

// owns decides whose orphan p is: by its session or group; a daemon that left both is known by the execution's id in its
// environment; what cannot be told apart belongs to whoever runs alone.
func (c *child) owns(p process, leaders map[int]bool, alone bool) bool {
	switch {
	case p.group == c.pid || p.session == c.pid:
		return true
	case leaders[p.group] || leaders[p.session]:
		return false
	case alone:
		return true
	case c.execID != "":
		return hasVariable(p.pid, "ATTUNE_EXEC_ID="+c.execID)
	}
	return false
}

func hasVariable(pid int, entry string) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return false
	}
	for _, e := range bytes.Split(data, []byte{0}) {
		if string(e) == entry {
			return true
		}
	}
	return false
}

// restWithoutProc ends the leader's group blindly where there is no /proc to look at.
func (c *child) restWithoutProc() []process {
	_ = unix.Kill(-c.pid, unix.SIGKILL)
	return nil
}

// reapSoon takes the status of an orphan that was killed. One that cannot die yet is left for the next look.
func reapSoon(pid int, patience time.Duration) {
	for deadline := time.Now().Add(patience); ; {
		got, err := unix.Wait4(pid, nil, unix.WNOHANG, nil)
		if got == pid || err != nil && !errors.Is(err, unix.EINTR) || time.Now().After(deadline) {
			return
		}
		time.Sleep(100 * time.Microsecond)
	}
}

// orphans are the pids of attune's children. ok is false without /proc.
func orphans() (pids []int, ok bool) {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return nil, false
	}
	for _, task := range tasks {
		data, err := os.ReadFile("/proc/self/task/" + task.Name() + "/children")
		if errors.Is(err, os.ErrNotExist) && pids == nil && len(tasks) > 0 {
			if _, gone := os.Stat("/proc/self/task/" + task.Name()); gone == nil {
				return childrenByScan(os.Getpid()), true // a kernel without CONFIG_PROC_CHILDREN
			}
		}
		for _, field := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids, true
}

// descendants are the processes below pid as they are now, for signals that may miss some.
func descendants(pid int) []process {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	byParent := map[int][]process{}
	for _, e := range entries {
		if id, err := strconv.Atoi(e.Name()); err == nil {
			if p, err := readProcess(id); err == nil {
				byParent[p.parent] = append(byParent[p.parent], p)
			}
		}
	}
	var below []process
	for queue := []int{pid}; len(queue) > 0; queue = queue[1:] {
		for _, p := range byParent[queue[0]] {
			below = append(below, p)
			queue = append(queue, p.pid)
		}
	}
	return below
}

func childrenByScan(parent int) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		if id, err := strconv.Atoi(e.Name()); err == nil {
			if p, err := readProcess(id); err == nil && p.parent == parent {
				pids = append(pids, id)
			}
		}
	}
	return pids
}

// readProcess reads /proc/PID/stat (proc_pid_stat(5)). The command's name may hold anything, so fields are
// counted from the last parenthesis.
func readProcess(pid int) (process, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return process{}, err
	}
	end := bytes.LastIndexByte(data, ')')
	fields := strings.Fields(string(data[end+1:]))
	if end < 0 || len(fields) < 4 {
		return process{}, fmt.Errorf("/proc/%d/stat: %q", pid, data)
	}
	p := process{pid: pid, zombie: fields[0] == "Z" || fields[0] == "X"}
	for i, field := range []*int{&p.parent, &p.group, &p.session} {
		if *field, err = strconv.Atoi(fields[i+1]); err != nil {
			return process{}, err
		}
	}
	return p, nil
}
