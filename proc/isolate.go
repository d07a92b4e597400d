package proc

import (
	"fmt"
	"slices"
	"strings"
)

// Level is how far a child is cut off. Each promises what the one before does, and more.
type Level string

// The levels. The zero value means None.
const (
	None   Level = "none"   // supervision alone
	Basic  Level = "basic"  // no way to more rights, nor to attune itself
	Strict Level = "strict" // and none to the machine's files; nothing survives
)

// Levels are all, from the weakest on.
var Levels = []Level{None, Basic, Strict}

// Least tells whether l promises all that other does.
func (l Level) Least(other Level) bool { return l.rank() >= other.rank() }

func (l Level) rank() int { return max(slices.Index(Levels, l), 0) }

// The guarantees a level is made of.
const (
	NoNewPrivs     = "no_new_privs"    // no set-user-id program gives rights
	NoCapabilities = "no_capabilities" // root has none either
	ParentMemory   = "parent_memory"   // attune's environment and memory cannot be read
	ParentSignal   = "parent_signal"   // attune cannot be signalled
	Syscalls       = "syscalls"        // the deny-list: ptrace, mounts, namespaces, bpf, keys, foreign ABIs
	FSWrite        = "fs_write"        // writes end in the private directory and the artifacts
	FSRead         = "fs_read"         // home and credentials are hidden
	KillAll        = "kill_all"        // nothing outlives the execution, or attune
	Net            = "net"             // no network, where none was asked for
)

// Guarantees are all there are, in the order of a table.
func Guarantees() []string { return guaranteesOf(Strict, "none") }

// guaranteesOf a level, in the order of a table.
func guaranteesOf(level Level, network string) []string {
	var all []string
	if level.Least(Basic) {
		all = append(all, NoNewPrivs, NoCapabilities, ParentMemory, ParentSignal, Syscalls)
	}
	if level.Least(Strict) {
		all = append(all, FSWrite, FSRead, KillAll)
	}
	if network == "none" {
		all = append(all, Net)
	}
	return all
}

// Isolation is what a child is cut off from. The zero value is None with the host's network.
type Isolation struct {
	Level      Level
	Network    string // "none", or "host"; empty means host
	BestEffort bool   // what cannot be had is left out, and named in Applied.Missing, instead of refusing
	Minimum    Level  // not left out even then; empty means None

	// At Strict these absolute paths say what a child may see and change. What does not exist is left out.
	ReadOnly []string // visible even below something hidden
	Writable []string // the only places that can be written, besides scratch directories that vanish with the child
	Hidden   []string // seem empty

	Disk []string // what the limit "disk" counts; empty means Writable

	force mechanism // chosen by a probe
}

// Applied is what a child was really cut off from.
type Applied struct {
	Level      Level             // the highest of which nothing is missing
	Guarantees map[string]string // guarantee → the mechanism behind it
	Missing    []string          // guarantees of the requested level that could not be had
}

// IsolationError refuses a child that cannot be isolated as it should be. Nothing was started.
type IsolationError struct {
	Level   Level
	Missing map[string]string // guarantee → why it cannot be had
}

// Error names every guarantee that is missing, and why.
func (e *IsolationError) Error() string {
	var reasons []string
	for _, guarantee := range guaranteesOf(Strict, "none") {
		if why, ok := e.Missing[guarantee]; ok {
			reasons = append(reasons, guarantee+" ("+why+")")
		}
	}
	return fmt.Sprintf("isolation %s cannot be had on this machine; missing: %s", e.Level, strings.Join(reasons, ", "))
}

// check refuses what is no isolation at all.
func (i *Isolation) check() error {
	if i.Level == "" {
		i.Level = None
	}
	switch {
	case !slices.Contains(Levels, i.Level):
		return fmt.Errorf("isolation %q is not a level; there are none, basic and strict", i.Level)
	case !slices.Contains([]string{"", "host", "none"}, i.Network):
		return fmt.Errorf("network %q is not known; there are host and none", i.Network)
	case i.Network == "none" && i.Level == None:
		return fmt.Errorf("network none needs isolation basic or strict")
	}
	return nil
}

// Guarantee is whether a guarantee can be had on this machine: By a mechanism, or not and Why.
type Guarantee struct {
	By  string `json:"by,omitempty"`
	Why string `json:"why,omitempty"`
}

// mechanism is a way to keep guarantees.
type mechanism string

// resolve chooses the mechanisms for what was asked for, or refuses.
func (i *Isolation) resolve() (mechanism, Applied, error) {
	if err := i.check(); err != nil {
		return "", Applied{}, err
	}
	wanted := guaranteesOf(i.Level, i.Network)
	if i.force != "" || len(wanted) == 0 {
		return i.force, Applied{Level: i.Level, Guarantees: map[string]string{}, Missing: []string{}}, nil
	}
	how, had := offered(i.Level)
	applied := Applied{Guarantees: map[string]string{}, Missing: []string{}}
	reasons := map[string]string{}
	for _, guarantee := range wanted {
		if g := had[guarantee]; g.By != "" {
			applied.Guarantees[guarantee] = g.By
		} else {
			applied.Missing, reasons[guarantee] = append(applied.Missing, guarantee), g.Why
		}
	}
	if len(reasons) > 0 && !i.BestEffort {
		return "", applied, &IsolationError{Level: i.Level, Missing: reasons}
	}
	applied.Level = None
	for _, level := range Levels {
		if i.Level.Least(level) && !slices.ContainsFunc(guaranteesOf(level, ""), func(g string) bool { return applied.Guarantees[g] == "" }) {
			applied.Level = level
		}
	}
	if !applied.Level.Least(i.Minimum) {
		return "", applied, &IsolationError{Level: i.Minimum, Missing: reasons}
	}
	return how, applied, nil
}

// Prepare finds out what this machine offers at a level before it is needed. It returns at once.
func Prepare(level Level) {
	if level.Least(Basic) {
		go offered(level)
	}
}
