package envcache

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"time"
)

// failure is the content of failed.json: a build that failed and is not tried again until Until.
type failure struct {
	Schema   string    `json:"schema"`
	ID       string    `json:"id"`
	Class    Class     `json:"class"`
	Attempts int       `json:"attempts"` // failures in a row
	At       time.Time `json:"at"`
	Until    time.Time `json:"until"`
	Message  string    `json:"message"`
	Tail     []string  `json:"tail"`
	Log      string    `json:"log"`
}

const failureSchema = "attune.failure/v1"

// The first and the longest time a failure of a class is remembered; in between it doubles.
var remembering = map[Class][2]time.Duration{
	Permanent: {5 * time.Minute, time.Hour},
	Transient: {5 * time.Second, time.Minute},
}

// classOf is what the builder says of its error. A build that was called off says nothing about the next one.
func classOf(err error) Class {
	var classified Classified
	switch {
	case errors.As(err, &classified):
		return classified.Class()
	case errors.Is(err, context.Canceled):
		return Passing
	}
	return Transient
}

// rememberFailure notes a failure and returns until when; zero when it is not worth remembering. The key's lock is held.
func (s *Store) rememberFailure(e entry, failed *BuildError) {
	class := classOf(failed.Err)
	bounds, ok := remembering[class]
	if !ok {
		return
	}
	now := s.now()
	f := failure{Schema: failureSchema, ID: e.id, Class: class, Attempts: 1, At: now.UTC(), Message: failed.Err.Error(), Tail: failed.Tail, Log: failed.Log}
	// What failed long after its last time was remembered has begun anew.
	if last, err := e.readFailure(); err == nil && last.Class == class && now.Sub(last.Until) < bounds[1] {
		f.Attempts = last.Attempts + 1
	}
	f.Until = f.At.Add(min(bounds[0]<<min(f.Attempts-1, 10), bounds[1]))
	if data, err := json.MarshalIndent(f, "", "  "); err == nil {
		_ = s.write(e.failedFile(), data)
	}
}

func (e entry) readFailure() (*failure, error) {
	data, err := os.ReadFile(e.failedFile())
	if err != nil {
		return nil, err
	}
	var f failure
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	if f.Schema != failureSchema || f.ID != e.id {
		return nil, errors.New("failed.json is not one of this environment")
	}
	return &f, nil
}

// recallFailure is the failure that still counts; nil when there is none. One that a wrong clock put into the future counts
// for no longer than any other.
func (s *Store) recallFailure(e entry) *failure {
	f, err := e.readFailure()
	if err != nil {
		return nil
	}
	now := s.now()
	if now.After(f.Until) || f.At.After(now.Add(time.Second)) {
		return nil
	}
	return f
}

// asError is what an Acquire returns in place of a build.
func (f *failure) asError() *BuildError {
	return &BuildError{ID: f.ID, Log: f.Log, Tail: f.Tail, Err: &rememberedError{f.Message, f.Class}, FailedAt: f.At, RetryAt: f.Until}
}

// rememberedError is a builder's error of another time.
type rememberedError struct {
	message string
	class   Class
}

func (e *rememberedError) Error() string { return e.message }
func (e *rememberedError) Class() Class  { return e.class }
