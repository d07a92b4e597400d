//go:build !linux || attune_portable

package proc

import "time"

// dataLimited tells whether RLIMIT_DATA bounds what a process allocates: where memory is mapped, it does not.
const dataLimited = false

// group stands for the control group that other systems do not have. It enforces nothing and holds nobody.
type group struct {
	version  string
	enforces map[string]bool
}

func newGroup(Limits) (*group, error) { return &group{}, nil }
func (*group) counters() counters     { return counters{} }
func (*group) cpuTime() time.Duration { return 0 }
func (*group) remove()                {}
