package envcache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel gives a flock up when the last descriptor of its open description is closed, at the
// latest with the process. That, and nothing else, says that a builder or a user is gone.
//
// A file system may refuse to lock (ENOLCK, EBADF, ENOSYS, EOPNOTSUPP). Builds then go on: their directories are
// unique and publishing replaces nothing, so the lock only spares double work. Nothing is removed there, for
// nobody can tell what is in use.

// lock takes a flock without waiting; it is false when somebody else has it. The error is a *LockError.
func (s *Store) lock(f *os.File, how int) (bool, error) {
	for {
		err := s.sys.flock(int(f.Fd()), how|unix.LOCK_NB)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, unix.EWOULDBLOCK):
			return false, nil
		case !errors.Is(err, unix.EINTR):
			return false, &LockError{Path: f.Name(), Err: err}
		}
	}
}

// errBusy is a .use that somebody has exclusively.
var errBusy = errors.New("it is being removed")

// briefly is how often a hit looks again at a .use that somebody has exclusively, a millisecond apart: who only asks
// whether it is in use has it for some microseconds, and that is no reason to go and queue for the builder's lock.
const briefly = 50

// lockShared opens and locks a .use file. A missing one is damage. Where locks do not work the file is held unlocked.
func (s *Store) lockShared(ctx context.Context, path string, wait bool) (*os.File, error) {
	f, err := openPlain(path, unix.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("it is damaged: %w", err)
	}
	for tries := 1; ; tries++ {
		ok, err := s.lock(f, unix.LOCK_SH)
		if ok || err != nil {
			return f, nil //nolint:nilerr // unlocked, see above
		}
		if !wait && tries > briefly {
			err = errBusy
		} else {
			err = pause(ctx, time.Millisecond)
		}
		if err != nil {
			_ = f.Close()
			return nil, err
		}
	}
}

// pause waits for a jittered while.
func pause(ctx context.Context, around time.Duration) error {
	timer := time.NewTimer(around/2 + rand.N(around))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// holder is what a builder writes into its lock file for those who wait.
type holder struct {
	Host  string `json:"host"`
	PID   int    `json:"pid"`
	Phase string `json:"phase"`
	Log   string `json:"log"`
}

func (h holder) String() string {
	if h.PID == 0 {
		return "another process"
	}
	return fmt.Sprintf("process %d on %s (%s)", h.PID, h.Host, h.Phase)
}

func readHolder(path string) holder {
	var h holder
	if data, err := os.ReadFile(path); err == nil {
		_ = json.Unmarshal(data, &h) // half a line is nobody
	}
	return h
}

// writeHolder tells waiters who builds; the lock does not depend on it.
func writeHolder(f *os.File, phase, log string) {
	host, _ := os.Hostname()
	data, err := json.Marshal(holder{Host: host, PID: os.Getpid(), Phase: phase, Log: log})
	if err != nil {
		return
	}
	if f.Truncate(0) == nil {
		_, _ = f.WriteAt(data, 0)
	}
}

const (
	lockPollMin = 2 * time.Millisecond
	lockPollMax = 25 * time.Millisecond
	// lockQuiet is how long a wait is not worth a word.
	lockQuiet = time.Second
)

// lockKey takes the builder lock of an entry. It polls, so that the context can end the wait, and often, so that fifty waiters
// have passed soon after a build. It reports who holds the lock once that takes a while. waited is true when
// somebody else had it. A *LockError comes with the open file. The wait ends with an error of enough, if it is not nil.
func (s *Store) lockKey(ctx context.Context, e entry, report func(holder), enough func() error) (f *os.File, waited bool, err error) {
	f, err = s.create(e.lockFile(), 0)
	if err != nil {
		return nil, false, &StoreError{Path: s.root, Err: err}
	}
	begun, told := time.Now(), time.Time{}
	for around := lockPollMin; ; around = min(around*3/2, lockPollMax) {
		ok, err := s.lock(f, unix.LOCK_EX)
		if ok || err != nil {
			return f, waited, err
		}
		waited = true
		if enough != nil {
			err = enough()
		}
		if err == nil {
			err = pause(ctx, around)
		}
		if err != nil {
			_ = f.Close()
			return nil, waited, err
		}
		if time.Since(begun) >= lockQuiet && time.Since(told) >= lockQuiet {
			told = time.Now()
			report(readHolder(e.lockFile()))
		}
	}
}

// isLocked tells whether somebody holds a lock on a file. Where that cannot be found out it is true.
func (s *Store) isLocked(path string) bool {
	f, err := openLockable(path)
	if err != nil {
		return !errors.Is(err, os.ErrNotExist)
	}
	defer func() { _ = f.Close() }()
	free, err := s.lock(f, unix.LOCK_EX)
	return err != nil || !free
}

// openLockable opens a file for an exclusive lock, for which NFS wants a descriptor that can write (flock(2)).
func openLockable(path string) (*os.File, error) {
	f, err := openPlain(path, unix.O_RDWR)
	if errors.Is(err, unix.EROFS) || errors.Is(err, os.ErrPermission) {
		return openPlain(path, unix.O_RDONLY)
	}
	return f, err
}
