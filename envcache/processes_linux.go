package envcache

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// processesIn are the processes that were started from below one of the directories, work there, or have mapped a file of it. Those of
// other pid namespaces are not seen.
func processesIn(envs string, dirs []string) []Process {
	all := []string{envs} // searched for first: hardly any process is in the store at all
	return processes(func(proc string) bool {
		for _, link := range []string{"exe", "cwd"} {
			if target, err := os.Readlink(filepath.Join(proc, link)); err == nil && below(dirs, target) {
				return true
			}
		}
		maps, err := os.ReadFile(filepath.Join(proc, "maps"))
		return err == nil && mentions(maps, all) && mentions(maps, dirs)
	})
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
	processes(func(proc string) bool {
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

// processes are all for which matches is true.
func processes(matches func(proc string) bool) []Process {
	entries, err := os.ReadDir(procDir)
	if err != nil {
		return nil
	}
	var all []Process
	for _, item := range entries {
		proc := filepath.Join(procDir, item.Name())
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
