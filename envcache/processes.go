package envcache

import (
	"fmt"
	"strings"
)

// Process is one that uses an environment.
type Process struct {
	PID     int    `json:"pid"`
	Command string `json:"command"` // its name alone: a command line may hold anything
}

func (p Process) String() string { return fmt.Sprintf("process %d (%s)", p.PID, p.Command) }

// processesIn are the processes that run from below one of the directories, as far as the system shows it. They are what a hold does not
// cover: a grandchild that closed the descriptors it inherited. Processes of other hosts and, unless this one is root, of other users are
// not seen.
func (s *Store) processesIn(dirs []string) []Process { return s.sys.processesIn(s.envs(), dirs) }

func below(dirs []string, path string) bool {
	for _, dir := range dirs {
		if strings.HasPrefix(path, dir+"/") || path == dir {
			return true
		}
	}
	return false
}
