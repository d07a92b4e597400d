package envcache

import (
	"slices"

	"golang.org/x/sys/unix"
)

// processesIn are the processes whose program or arguments lie below one of the directories. Where they work, and what they have mapped, is
// not to be seen.
func processesIn(_ string, dirs []string) []Process {
	all, err := unix.SysctlKinfoProcSlice("kern.proc.all")
	if err != nil {
		return nil
	}
	var in []Process
	for _, p := range all {
		pid := int(p.Proc.P_pid)
		image, err := unix.SysctlRaw("kern.procargs2", pid) // fails for other users' processes
		if err == nil && slices.ContainsFunc(words(image), func(word string) bool { return below(dirs, word) }) {
			in = append(in, Process{PID: pid, Command: unix.ByteSliceToString(p.Proc.P_comm[:])})
		}
	}
	return in
}

// processesHolding are the processes that have one of the files open: nothing shows them here.
func processesHolding(map[string]bool) map[string][]Process { return nil }
