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
// latest with the process. That, and nothing else, says that a builder is gone.

// tryLock takes a flock without waiting; it is false when somebody else has it.
func tryLock(f *os.File, how int) (bool, error) {
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
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

// lockShared opens and locks a .use file. A missing one is damage.
func lockShared(ctx context.Context, path string, wait bool) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("it is damaged: %w", err)
	}
	for {
		ok, err := tryLock(f, unix.LOCK_SH)
		if err == nil && !ok && !wait {
			err = errBusy
		}
		if err == nil && !ok {
			err = pause(ctx, time.Millisecond)
		}
		if err != nil {
			_ = f.Close()
			return nil, err
		}
		if ok {
			return f, nil
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

// write tells waiters who builds; the lock does not depend on it.
func (h holder) write(f *os.File) {
	data, err := json.Marshal(h)
	if err != nil {
		return
	}
	if f.Truncate(0) == nil {
		_, _ = f.WriteAt(data, 0)
	}
}

const (
	lockPollMin = 5 * time.Millisecond
	lockPollMax = 100 * time.Millisecond
	// lockQuiet is how long a wait is not worth a word.
	lockQuiet = time.Second
)

// lock takes a key's builder lock. It polls, so that the context can end the wait, and reports who
// holds the lock once that takes a while. waited is true when somebody else had it.
func (e entry) lock(ctx context.Context, report func(holder)) (f *os.File, waited bool, err error) {
	f, err = os.OpenFile(e.lockFile(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, false, &StoreError{Path: e.dir, Err: err}
	}
	begun, told := time.Now(), time.Time{}
	for around := lockPollMin; ; around = min(around*3/2, lockPollMax) {
		ok, err := tryLock(f, unix.LOCK_EX)
		if ok {
			return f, waited, nil
		}
		waited = true
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
