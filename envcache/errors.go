package envcache

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// BuildError is a build that failed. Nothing of it is left but its log.
type BuildError struct {
	ID   string
	Log  string   // path of the whole output
	Tail []string // the output's last lines
	Err  error
}

// Error ends with the output's last lines.
func (e *BuildError) Error() string {
	text := fmt.Sprintf("environment %s could not be built: %v", e.ID, e.Err)
	if len(e.Tail) > 0 {
		text += "\n  " + strings.Join(e.Tail, "\n  ")
	}
	return text
}

// Unwrap is the builder's error.
func (e *BuildError) Unwrap() error { return e.Err }

// Class says for how long a failed build is remembered.
type Class string

const (
	// Permanent failures come again with the same inputs: remembered for 5 minutes, growing to an hour.
	Permanent Class = "permanent"
	// Transient failures may be over soon, a network that is away for one: remembered for 5 s, growing to a minute.
	Transient Class = "transient"
	// Passing failures say nothing about the next try (a full disk, memory, a signal, a missing tool): never remembered.
	Passing Class = "passing"
)

// Classified is a Builder's error that knows its class. An error that does not is Transient.
type Classified interface {
	error
	Class() Class
}

// LockError is a file system that cannot lock, or a lock file that cannot be opened.
type LockError struct {
	Path string
	Err  error
}

// Error names the lock file and the remedy.
func (e *LockError) Error() string {
	if errors.Is(e.Err, unix.ENOLCK) || errors.Is(e.Err, unix.EOPNOTSUPP) || errors.Is(e.Err, unix.ENOSYS) {
		return fmt.Sprintf("lock %s: %v: this file system cannot lock files; choose a local cache directory", e.Path, e.Err)
	}
	return fmt.Sprintf("lock %s: %v", e.Path, e.Err)
}

// Unwrap is the system's error.
func (e *LockError) Unwrap() error { return e.Err }

// lockError is err if it is a *LockError, else nil.
func lockError(err error) error {
	var failed *LockError
	if errors.As(err, &failed) {
		return failed
	}
	return nil
}

// StoreError is a store that cannot be used or written: read-only, full, or somebody else's.
type StoreError struct {
	Path string
	Err  error
}

// Error names the path.
func (e *StoreError) Error() string { return fmt.Sprintf("environment cache %s: %v", e.Path, e.Err) }

// Unwrap is the reason.
func (e *StoreError) Unwrap() error { return e.Err }

// InUseError is an environment that cannot be removed now.
type InUseError struct {
	ID  string
	Why string // "is in use by an execution", "is being built by …"
}

// Error says why.
func (e *InUseError) Error() string { return fmt.Sprintf("environment %s %s", e.ID, e.Why) }

// NotFoundError is an ID that names no environment, or more than one.
type NotFoundError struct {
	ID      string
	Matches []string // more than one when the prefix is ambiguous
}

// Error lists the candidates of an ambiguous prefix.
func (e *NotFoundError) Error() string {
	if len(e.Matches) > 1 {
		return fmt.Sprintf("environment %s is ambiguous: %s", e.ID, strings.Join(e.Matches, ", "))
	}
	return fmt.Sprintf("there is no environment %s", e.ID)
}
