package queue

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Errors of a transition that the Record's state does not allow.
var (
	ErrDone    = errors.New("the execution is over")
	ErrParked  = errors.New("the execution is parked")
	ErrNotHeld = errors.New("nobody runs the execution")
)

// LostMax is how many attempts OnLostRetry makes of an execution whose workers are lost, whatever its Retries: one that takes
// its worker down each time must come to an end.
const LostMax = 5

// unstartedMax is how many claims more than attempts a Record may have before a worker that is lost while it prepares counts as
// one that had started.
const unstartedMax = 20

// The transitions return the Record as it is to be stored by compare-and-set; the receiver stays as it is.

// Claim is taken by a worker that holds the message of a queued Record, or of one whose worker is lost: an attempt more, unless
// that worker had not started. Errors are ErrDone and ErrParked.
func (r Record) Claim(worker string, at time.Time) (Record, error) {
	switch r.State {
	case Done:
		return r, ErrDone
	case Parked:
		return r, ErrParked
	case Running:
		if !r.startedWhenLost() {
			r.Attempt--
		}
	}
	r.State, r.Worker, r.Started = Running, worker, true
	r.Epoch++
	r.Attempt++
	r.ClaimedAt = at.UTC()
	return r, nil
}

func (r *Record) startedWhenLost() bool {
	return r.Started || r.Epoch >= uint64(max(r.Attempt, 0))+unstartedMax
}

// LostForGood tells whether a running Record whose worker is lost must not be run again.
func (r *Record) LostForGood() bool {
	if r.State != Running || !r.startedWhenLost() {
		return false
	}
	return r.OnLost != OnLostRetry || r.Attempt >= max(r.Retries+1, LostMax)
}

// Begin says whether the child is about to start, or the holder only prepares. Error: ErrNotHeld.
func (r Record) Begin(started bool) (Record, error) {
	if r.State != Running {
		return r, ErrNotHeld
	}
	r.Started = started
	return r, nil
}

// Release gives a running Record back to the queue without an attempt spent. Error: ErrNotHeld.
func (r Record) Release() (Record, error) {
	if r.State != Running {
		return r, ErrNotHeld
	}
	r.State, r.Started = Queued, false
	r.Attempt--
	return r, nil
}

// Retry parks a running Record until due. Error: ErrNotHeld.
func (r Record) Retry(due time.Time, lastError string) (Record, error) {
	if r.State != Running {
		return r, ErrNotHeld
	}
	r.State, r.Started = Parked, false
	r.Waits, r.NotBefore, r.LastError = WaitsForRetry, due.UTC(), lastError
	return r, nil
}

// Park makes a queued Record wait, or a parked one wait for something else. Errors are ErrDone, and ErrNotHeld for a running one:
// its holder alone parks it, with Retry.
func (r Record) Park(waits string, notBefore time.Time) (Record, error) {
	switch r.State {
	case Done:
		return r, ErrDone
	case Running:
		return r, ErrNotHeld
	}
	r.State, r.Waits, r.NotBefore = Parked, waits, notBefore.UTC()
	return r, nil
}

// Admit makes a parked Record queued: its message is to be published next. A queued one stays as it is. Errors are ErrDone, and
// ErrNotHeld for a running one.
func (r Record) Admit() (Record, error) {
	switch r.State {
	case Done:
		return r, ErrDone
	case Running:
		return r, ErrNotHeld
	}
	r.State, r.Waits = Queued, ""
	return r, nil
}

// Ending is what an execution comes to: a result document, or the name of the object that holds it.
type Ending struct {
	Outcome string // the result's status
	Result  []byte
	Object  string
}

// Finish ends an execution in whatever state. Error: ErrDone.
func (r Record) Finish(end Ending, at time.Time) (Record, error) {
	if r.State == Done {
		return r, ErrDone
	}
	r.State, r.Started, r.Waits = Done, false, ""
	r.FinishedAt = at.UTC()
	r.Outcome, r.Result, r.ResultObject = end.Outcome, end.Result, end.Object
	return r, nil
}

// CanRetry tells whether an attempt that failed may be followed by another.
func (r *Record) CanRetry() bool { return r.Attempt <= r.Retries }

// Follows tells what is wrong when next is stored over r; nil when that is how an execution goes on. A checker of histories uses it.
func (r *Record) Follows(next *Record) error {
	switch {
	case r.ID != next.ID || r.Digest != next.Digest || r.Submission != next.Submission || r.SubmissionObject != next.SubmissionObject:
		return fmt.Errorf("%s: another submission took its place", r.ID)
	case r.State == Done:
		return fmt.Errorf("%s: changed after it was over", r.ID)
	case next.Epoch < r.Epoch:
		return fmt.Errorf("%s: epoch fell from %d to %d", r.ID, r.Epoch, next.Epoch)
	case next.Epoch > r.Epoch+1:
		return fmt.Errorf("%s: epoch rose from %d to %d", r.ID, r.Epoch, next.Epoch)
	case next.State == Running && r.State != Running && next.Epoch == r.Epoch:
		return fmt.Errorf("%s: claimed without a new epoch", r.ID)
	case next.Epoch > r.Epoch && next.State != Running && next.State != Done:
		return fmt.Errorf("%s: a new epoch without a claim", r.ID)
	case next.State == Running && r.State == Parked:
		return fmt.Errorf("%s: claimed while it was parked", r.ID)
	case next.Attempt > r.Attempt+1 || next.Attempt < r.Attempt-1 || next.Attempt < 0:
		return fmt.Errorf("%s: attempt went from %d to %d", r.ID, r.Attempt, next.Attempt)
	case next.Epoch == r.Epoch && next.Worker != r.Worker:
		return fmt.Errorf("%s: went from worker %q to %q without a claim", r.ID, r.Worker, next.Worker)
	case !slices.Contains([]State{Queued, Parked, Running, Done}, next.State):
		return fmt.Errorf("%s: state %q", r.ID, next.State)
	}
	return nil
}
