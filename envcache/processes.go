package envcache

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Process is one that uses an environment.
type Process struct {
	PID     int    `json:"pid"`
	Command string `json:"command"` // its name alone: a command line may hold anything
}

func (p Process) String() string { return fmt.Sprintf("process %d (%s)", p.PID, p.Command) }

// processesIn are the processes that were started from below one of the directories, work there, or have mapped a file of it.
// They are what a hold does not cover: a grandchild that closed the descriptors it inherited. Processes of other hosts, of other
// pid namespaces and, unless this one is root, of other users are not seen.
func (s *Store) processesIn(dirs []string) []Process {
	all := []string{s.envs()} // searched for first: hardly any process is in the store at all
	return processes(s.sys.proc, func(proc string) bool {
		for _, link := range []string{"exe", "cwd"} {
			if target, err := os.Readlink(filepath.Join(proc, link)); err == nil && below(dirs, target) {
				return true
			}
		}
		maps, err := os.ReadFile(filepath.Join(proc, "maps"))
		return err == nil && mentions(maps, all) && mentions(maps, dirs)
	})
}

func below(dirs []string, path string) bool {
	for _, dir := range dirs {
		if strings.HasPrefix(path, dir+"/") || path == dir {
			return true
		}
	}
	return false
}

func mentions(maps []byte, dirs []string) bool {
	for _, dir := range dirs {
		// maps writes a newline in a path as \012 (proc(5)).
		if bytes.Contains(maps, []byte(" "+strings.ReplaceAll(dir, "\n", `\012`)+"/")) {
			return true
		}
	}
	return false
}

// processesHolding are the processes that have one of the files open, by file.
func processesHolding(files map[string]bool) map[string][]Process {
	holders := map[string][]Process{}
	processes(procDir, func(proc string) bool {
		fds, err := os.ReadDir(filepath.Join(proc, "fd"))
		if err != nil {
			return false
		}
		for _, fd := range fds {
			if target, err := os.Readlink(filepath.Join(proc, "fd", fd.Name())); err == nil && files[target] {
				holders[target] = append(holders[target], processAt(proc))
				return false
			}
		}
		return false
	})
	return holders
}

const procDir = "/proc"

// processes are all below root for which matches is true.
func processes(root string, matches func(proc string) bool) []Process {
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil
	}
	var all []Process
	for _, item := range entries {
		proc := filepath.Join(root, item.Name())
		if _, err := strconv.Atoi(item.Name()); err == nil && matches(proc) {
			all = append(all, processAt(proc))
		}
	}
	return all
}

func processAt(proc string) Process {
	pid, _ := strconv.Atoi(filepath.Base(proc))
	name, _ := os.ReadFile(filepath.Join(proc, "comm"))
	return Process{PID: pid, Command: strings.TrimSpace(string(name))}
}
