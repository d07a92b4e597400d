//go:build !attune_portable

package proc

import (
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A spawner is a thread of attune that has confined itself and forks children, which inherit that. It serves one child at a time and
// lives at least as long as it, for the child is killed when the thread ends: when attune is gone (PR_SET_PDEATHSIG(2const)).
// Its UTS namespace is therefore the mark of one execution's descendants at a time.
//
// Confining a thread costs the kernel much more than a fork: it runs a new filter over every system call there is, and makes and
// frees a namespace. So where nothing of a confinement is of one execution alone, the thread waits a little for the next child.
type spawner struct {
	trait    trait
	reusable bool
	born     time.Time
	mark     string            // of its UTS namespace; empty without one
	jobs     chan func() error // written by do, read by the thread; closed when it is to end
	done     chan error        // written by the thread, read by do
	waiting  time.Time         // since when it has been on the stack
	idle     *time.Timer       // ends it
}

// trait is what spawners that may stand in for one another have in common.
type trait struct {
	umask                            int // -1: attune's own
	mark, noNewPrivs, noCaps         bool
	lockSignals                      bool
	filter, denySignals, denyNetwork bool
}

const (
	// spawnerIdle is how long a spawner waits for another child.
	spawnerIdle = 200 * time.Millisecond
	// spawnerAge is when it is not used any more: its filter names attune's threads as they were when it was made.
	spawnerAge = 10 * time.Second
)

// spawners are those that wait. The last is taken first, so that no more than are needed stay.
var spawners struct {
	mu      sync.Mutex
	waiting []*spawner
}

// trait is what a thread confined so can be used again for; false where something is of one execution alone.
func (c *confinement) trait() (trait, bool) {
	if c.Lock.Files || len(c.Tasks) > 0 || len(c.Rlimits) > 0 || c.Filter != nil && c.Filter.Ask {
		return trait{}, false
	}
	t := trait{umask: -1, mark: c.Mark, noNewPrivs: c.NoNewPrivs, noCaps: c.NoCaps, lockSignals: c.Lock.Signals}
	if c.Umask != nil {
		t.umask = *c.Umask
	}
	if c.Filter != nil {
		t.filter, t.denySignals, t.denyNetwork = true, c.Filter.Signals, c.Filter.NoNetwork
	}
	return t, true
}

// spawnerFor is a thread that is confined by c, one that waited for work or a new one.
func spawnerFor(c confinement) (*spawner, error) {
	t, shared := c.trait()
	if shared {
		if s := waitingSpawner(t); s != nil {
			return s, nil
		}
	}
	c = c.protecting()
	s := &spawner{trait: t, reusable: shared, born: time.Now(), jobs: make(chan func() error), done: make(chan error)}
	onThread(func() {
		for job := range s.jobs {
			s.done <- job()
		}
	})
	err := s.do(func() error {
		if err := c.apply(); err != nil {
			return err
		}
		if c.Mark {
			s.mark, _ = os.Readlink("/proc/thread-self/ns/uts")
		}
		return nil
	})
	if err != nil {
		close(s.jobs)
		return nil, err
	}
	return s, nil
}

// waitingSpawner takes one off the stack.
func waitingSpawner(t trait) *spawner {
	spawners.mu.Lock()
	defer spawners.mu.Unlock()
	for i, s := range slices.Backward(spawners.waiting) {
		if s.trait == t {
			spawners.waiting = slices.Delete(spawners.waiting, i, i+1)
			s.idle.Stop()
			return s
		}
	}
	return nil
}

// do has the thread do something.
func (s *spawner) do(job func() error) error {
	s.jobs <- job
	return <-s.done
}

// start forks a child that is killed when the thread ends. The thread is to be released when the child is gone.
func (s *spawner) start(attr *syscall.ProcAttr, fork func() (pid int, err error)) (pid int, err error) {
	attr.Sys.Pdeathsig = unix.SIGKILL
	err = s.do(func() error {
		pid, err = fork()
		return err
	})
	if err != nil {
		s.release()
	}
	return pid, err
}

// release lets the thread end, or wait for another child.
func (s *spawner) release() {
	if !s.reusable || time.Since(s.born) > spawnerAge {
		close(s.jobs)
		return
	}
	spawners.mu.Lock()
	defer spawners.mu.Unlock()
	s.waiting = time.Now()
	spawners.waiting = append(spawners.waiting, s)
	s.idle = time.AfterFunc(spawnerIdle, s.expire)
}

// expire ends the thread, unless it was taken meanwhile.
func (s *spawner) expire() {
	spawners.mu.Lock()
	defer spawners.mu.Unlock()
	if i := slices.Index(spawners.waiting, s); i >= 0 && time.Since(s.waiting) >= spawnerIdle {
		spawners.waiting = slices.Delete(spawners.waiting, i, i+1)
		close(s.jobs)
	}
}
