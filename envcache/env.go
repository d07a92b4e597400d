package envcache

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// hold is the shared lock of a generation; shared by nothing but its Env.
type hold struct {
	once sync.Once
	use  *os.File
}

func (s *Store) newEnv(e entry, r ready, use *os.File) *Env {
	return &Env{
		ID: e.id, Inputs: r.Inputs, State: Hit, Root: s.root, Dir: e.generation(r.Generation),
		Built: r.Built, Resolved: r.Resolved, hold: &hold{use: use},
	}
}

// Close lets go of the environment; it may be removed from then on. It may be called again.
func (e *Env) Close() error {
	var err error
	e.hold.once.Do(func() { err = e.hold.use.Close() })
	return err
}

// Hold is a lock of its own on the environment, for a child to inherit: it lasts until the last
// process that has the descriptor is gone, whatever becomes of this one. The caller closes its copy.
func (e *Env) Hold() (*os.File, error) {
	f, err := os.Open(e.hold.use.Name())
	if err != nil {
		return nil, &LockError{Path: e.hold.use.Name(), Err: err}
	}
	// It cannot block: this process has the lock shared already.
	if _, err := tryLock(f, unix.LOCK_SH); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
