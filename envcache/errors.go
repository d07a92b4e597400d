package envcache

import (
	"fmt"
	"strings"
	"time"
)

// BuildError is a build that failed, now or a while ago. Nothing of it is left but its log.
type BuildError struct {
	ID   string
	Log  string   // path of the whole output
	Tail []string // the output's last lines
	Err  error
	// FailedAt and RetryAt are set when this is the memory of an earlier build: nothing was built now.
	FailedAt, RetryAt time.Time
}

// Error ends with the output's last lines.
func (e *BuildError) Error() string {
	text := fmt.Sprintf("environment %s could not be built: %v", e.ID, e.Err)
	if e.Remembered() {
		text = fmt.Sprintf("environment %s could not be built at %s and is not tried again before %s: %v", e.ID,
			e.FailedAt.Local().Format(time.TimeOnly), e.RetryAt.Local().Format(time.TimeOnly), e.Err)
	}
	if len(e.Tail) > 0 {
		text += "\n  " + strings.Join(e.Tail, "\n  ")
	}
	return text
}

// Remembered tells whether this is the failure of an earlier build.
func (e *BuildError) Remembered() bool { return !e.RetryAt.IsZero() }

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

// InterpreterError is an interpreter that vanished after it was found.
type InterpreterError struct {
	Path string
	Err  error
}

// Error names the interpreter.
func (e *InterpreterError) Error() string {
	return fmt.Sprintf("the interpreter %s vanished since it was detected: %v", e.Path, e.Err)
}

// Unwrap is the system's error.
func (e *InterpreterError) Unwrap() error { return e.Err }

// LockError is a file system that cannot lock.
type LockError struct {
	Path string
	Err  error
}

// Error names the lock file and the remedy.
func (e *LockError) Error() string {
	return fmt.Sprintf("lock %s: %v: this file system cannot lock files; choose a local cache directory", e.Path, e.Err)
}

// Unwrap is the system's error.
func (e *LockError) Unwrap() error { return e.Err }

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
