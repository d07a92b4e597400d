//go:build !attune_portable

package proc

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// group is the control group of one execution: one directory in version 2, one for each controller in version 1.
type group struct {
	version  string            // "cgroup v2" or "cgroup v1"
	dirs     map[string]string // controller → directory
	locks    []*os.File        // mark the owner as alive
	fd       *os.File          // version 2: what the child is born into
	enforces map[string]bool   // by the names of limits
}

// dataLimited tells whether RLIMIT_DATA bounds what a process allocates.
const dataLimited = true

const groupPrefix = "attune-"

var groupNumber atomic.Int64

// newGroup makes the group for these limits, with every controller that can be had. What is missing is not in enforces.
func newGroup(l Limits) (*group, error) {
	mounts := hierarchies()
	sweepOnce.Do(func() { mounts.sweep() })
	name := groupPrefix + strconv.Itoa(os.Getpid()) + "." + strconv.FormatInt(groupNumber.Add(1), 10)
	g := &group{dirs: map[string]string{}, enforces: map[string]bool{}}
	if mounts.unified != "" {
		g.makeUnified(filepath.Join(mounts.unified, name), l)
	}
	if len(g.enforces) == 0 {
		g.remove()
		g.dirs, g.locks = map[string]string{}, nil
		g.makeEach(mounts.each, name, l)
	}
	return g, nil
}

// makeUnified uses version 2 (Documentation/admin-guide/cgroup-v2.rst of Linux).
func (g *group) makeUnified(dir string, l Limits) {
	if g.mkdir("unified", dir) != nil {
		return
	}
	g.version = "cgroup v2"
	if l.Memory > 0 && g.write("unified", "memory.max", l.Memory) {
		g.enforces["memory"] = true
		g.write("unified", "memory.swap.max", 0)
		g.write("unified", "memory.oom.group", 1)
	}
	if l.Pids > 0 && g.write("unified", "pids.max", l.Pids+stubTasks) {
		g.enforces["pids"] = true
	}
	if l.CPU > 0 && g.write("unified", "cpu.max", strconv.Itoa(int(l.CPU*cpuPeriod))+" "+strconv.Itoa(cpuPeriod)) {
		g.enforces["cpu"] = true
	}
	if l.CPUTime > 0 && len(g.enforces) > 0 {
		g.enforces["cpu_time"] = true
	}
	fd, err := os.Open(dir)
	if err != nil {
		clear(g.enforces)
		return
	}
	g.fd = fd
}

// makeEach uses version 1 (Documentation/admin-guide/cgroup-v1 of Linux).
func (g *group) makeEach(bases map[string]string, name string, l Limits) {
	g.version = "cgroup v1"
	use := func(limit, controller string, wanted bool, set func() bool) {
		if base := bases[controller]; wanted && base != "" && g.mkdir(controller, filepath.Join(base, name)) == nil && set() {
			g.enforces[limit] = true
		}
	}
	use("memory", "memory", l.Memory > 0, func() bool {
		ok := g.write("memory", "memory.limit_in_bytes", l.Memory)
		g.write("memory", "memory.memsw.limit_in_bytes", l.Memory)
		return ok
	})
	use("pids", "pids", l.Pids > 0, func() bool { return g.write("pids", "pids.max", l.Pids+1) }) // and the thread that brings the child
	use("cpu", "cpu", l.CPU > 0, func() bool {
		return g.write("cpu", "cpu.cfs_period_us", cpuPeriod) && g.write("cpu", "cpu.cfs_quota_us", max(int(l.CPU*cpuPeriod), 1000))
	})
	use("cpu_time", "cpuacct", l.CPUTime > 0, func() bool { return true })
}

const cpuPeriod = 100000 // microseconds; the kernel's default

func (g *group) mkdir(controller, dir string) error {
	if g.dirs[controller] != "" {
		return nil
	}
	for attempt := 0; ; attempt++ {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		lock, err := lockDir(dir)
		if err == nil {
			g.dirs[controller], g.locks = dir, append(g.locks, lock)
			return nil
		}
		_ = unix.Rmdir(dir)
		if attempt == 3 { // else a sweep came between making and locking it
			return err
		}
	}
}

func (g *group) write(controller, file string, value any) bool {
	return os.WriteFile(filepath.Join(g.dirs[controller], file), []byte(fmt.Sprint(value)), 0) == nil
}

// tasks are the files a thread joins a version 1 group by.
func (g *group) tasks() []string {
	var files []string
	if g == nil || g.fd != nil {
		return nil
	}
	for _, dir := range g.dirs {
		files = append(files, filepath.Join(dir, "tasks"))
	}
	return files
}

// stubTasks are as many threads as a stub may need, which is born into a version 2 group.
const stubTasks = 16

// settle is called once the child is in the group, and who took it there has left, or, in version 2, has become it. An init stays.
func (g *group) settle(l Limits, stays bool) {
	switch {
	case g == nil || !g.enforces["pids"] || l.Pids == 0:
	case g.fd == nil:
		g.write("pids", "pids.max", l.Pids)
	case !stays:
		g.write("unified", "pids.max", l.Pids)
	}
}

func (g *group) read(controller, file string) string {
	if g == nil || g.dirs[controller] == "" {
		return ""
	}
	data, err := os.ReadFile(filepath.Join(g.dirs[controller], file))
	if err != nil {
		return ""
	}
	return string(data)
}

func (g *group) count(controller, file string) int64 {
	n, _ := strconv.ParseInt(strings.TrimSpace(g.read(controller, file)), 10, 64)
	return n
}

// key is a line "name value" of a file.
func (g *group) key(controller, file, name string) int64 {
	for line := range strings.Lines(g.read(controller, file)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			return n
		}
	}
	return 0
}

func (g *group) counters() counters {
	c := counters{cpuTime: g.cpuTime()}
	if g == nil {
		return c
	}
	if g.fd != nil {
		c.memory, c.oomKills = g.count("unified", "memory.peak"), g.key("unified", "memory.events", "oom_kill")
		c.pids, c.pidsHit = g.count("unified", "pids.peak"), g.key("unified", "pids.events", "max")
		return c
	}
	c.memory, c.oomKills = g.count("memory", "memory.max_usage_in_bytes"), g.key("memory", "memory.oom_control", "oom_kill")
	c.pids, c.pidsHit = g.count("pids", "pids.peak"), g.key("pids", "pids.events", "max")
	return c
}

func (g *group) cpuTime() time.Duration {
	if g != nil && g.fd != nil {
		return time.Duration(g.key("unified", "cpu.stat", "usage_usec")) * time.Microsecond
	}
	return time.Duration(g.count("cpuacct", "cpuacct.usage"))
}

// pids are the processes in the group now.
func (g *group) pids() []int {
	if g == nil {
		return nil
	}
	var pids []int
	for controller := range g.dirs {
		for _, field := range strings.Fields(g.read(controller, "cgroup.procs")) {
			if pid, err := strconv.Atoi(field); err == nil && pid != os.Getpid() { // a thread of attune may be there
				pids = append(pids, pid)
			}
		}
		break // all hold the same
	}
	return pids
}

// kill ends every process in the group; forks in between are found by the next call.
func (g *group) kill() {
	if g == nil || g.fd != nil && g.write("unified", "cgroup.kill", 1) {
		return
	}
	for _, pid := range g.pids() {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}

// remove takes the directories away. A process that was killed may linger for a moment.
func (g *group) remove() {
	for _, dir := range g.dirs {
		for wait := time.Millisecond; unix.Rmdir(dir) == unix.EBUSY && wait < time.Second; wait *= 2 {
			g.kill()
			time.Sleep(wait)
		}
	}
	for _, lock := range g.locks {
		_ = lock.Close()
	}
	if g.fd != nil {
		_ = g.fd.Close()
	}
}

// hierarchy is where this process may make groups.
type hierarchy struct {
	unified string            // version 2; empty when there is none
	each    map[string]string // version 1: controller → directory
}

var (
	sweepOnce   sync.Once
	hierarchies = sync.OnceValue(findHierarchies)
)

// findHierarchies looks for attune's own groups where they are mounted (proc_pid_mountinfo(5), cgroups(7)).
func findHierarchies() hierarchy {
	h := hierarchy{each: map[string]string{}}
	own := ownGroups()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return h
	}
	for scanner := bufio.NewScanner(bytes.NewReader(data)); scanner.Scan(); {
		before, after, ok := strings.Cut(scanner.Text(), " - ")
		fields, last := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(last) < 3 {
			continue
		}
		root, point := fields[3], fields[4]
		below := func(path string) string {
			return filepath.Join(point, strings.TrimPrefix(path, strings.TrimSuffix(root, "/")))
		}
		switch last[0] {
		case "cgroup2":
			h.unified = unifiedBase(below(own[""]), point)
		case "cgroup":
			for _, controller := range strings.Split(last[2], ",") {
				if path, known := own[controller]; known {
					h.each[controller] = below(path)
				}
			}
		}
	}
	return h
}

// ownGroups are attune's own groups: controller → path; version 2 has the empty name.
func ownGroups() map[string]string {
	own := map[string]string{}
	data, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(data)) {
		if parts := strings.SplitN(strings.TrimSpace(line), ":", 3); len(parts) == 3 {
			for _, controller := range strings.Split(parts[1], ",") {
				own[controller] = parts[2]
			}
		}
	}
	return own
}

// unifiedBase is a version 2 group whose children may have limits. Such a group holds no processes itself, except the root
// (the "no internal processes" rule): attune's own group, where attune can move into a leaf of it, being alone there;
// else the one above, if attune may write to it.
func unifiedBase(own, mount string) string {
	if has, err := os.ReadFile(filepath.Join(own, "cgroup.controllers")); err != nil || !bytes.Contains(has, []byte("memory")) && !bytes.Contains(has, []byte("pids")) {
		return "" // they are bound to version 1, or not handed down
	}
	if enableControllers(own) == nil {
		return own
	}
	if leaf := filepath.Join(own, groupPrefix+"self"); alone(own) && (os.Mkdir(leaf, 0o755) == nil || exists(leaf)) {
		if os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte("0"), 0) == nil && enableControllers(own) == nil {
			return own
		}
	}
	if above := filepath.Dir(own); own != mount && enableControllers(above) == nil {
		return above
	}
	return ""
}

func enableControllers(dir string) error {
	wanted := 0
	for _, controller := range []string{"memory", "pids", "cpu"} {
		if os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0) == nil {
			wanted++
		}
	}
	if wanted == 0 {
		return errors.New("no controller can be enabled")
	}
	return nil
}

func alone(dir string) bool {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	return err == nil && strings.TrimSpace(string(data)) == strconv.Itoa(os.Getpid())
}

// sweep removes the groups of owners that are dead, with what still runs in them.
func (h hierarchy) sweep() {
	bases := []string{h.unified}
	for _, base := range h.each {
		bases = append(bases, base)
	}
	for _, base := range bases {
		entries, err := os.ReadDir(base)
		if base == "" || err != nil {
			continue
		}
		for _, e := range entries {
			if !e.IsDir() || !strings.HasPrefix(e.Name(), groupPrefix) || e.Name() == groupPrefix+"self" {
				continue
			}
			dir := filepath.Join(base, e.Name())
			if lock, err := lockDir(dir); err == nil {
				(&group{dirs: map[string]string{"": dir}, locks: []*os.File{lock}}).remove()
			}
		}
	}
}
