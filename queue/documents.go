package queue

import (
	"encoding/json"
	"time"
)

// The schemas of the documents, each with a JSON Schema of its name in schemas/.
const (
	SubmissionSchema = "attune.submission/v1"
	RecordSchema     = "attune.record/v1"
	ScheduleSchema   = "attune.schedule/v1"
	WorkerSchema     = "attune.worker/v1"
	CatalogSchema    = "attune.catalog/v1"
	LogSchema        = "attune.log/v1"
	AuditSchema      = "attune.audit/v1"
	DeadSchema       = "attune.dead/v1"
)

// Submission is what somebody asks for. Its JSON text, byte by byte, is what is signed and what the digest of a Record is of.
type Submission struct {
	Schema  string          `json:"schema"`
	ID      string          `json:"id"`      // of the execution: a UUID, the idempotency key
	Request json.RawMessage `json:"request"` // attune.request/v1, its id the same
	Pack    Pin             `json:"pack,omitzero"`
	// Deadline is when an execution that has not started is no longer wanted; zero means never. A signed one must have it.
	Deadline time.Time `json:"deadline,omitzero"`
}

// Pin names the one version of a pack that may run. Digest is "sha256:" and 64 hex digits; a zero Pin is a script without pack.
type Pin struct {
	Ref     string `json:"ref"`
	Version string `json:"version"`
	Digest  string `json:"digest"`
}

// Signature is ed25519 over "attune.submission/v1\n" and the text of a Submission, or "attune.schedule/v1\n" and that of a ScheduleText.
type Signature struct {
	Key   string `json:"key"`   // the public key, base64 (RFC 4648)
	Value string `json:"value"` // the signature, base64
}

// State is where an execution stands.
type State string

// The states. An execution ends in Done and never leaves it.
const (
	Queued  State = "queued"  // a message on its route wakes a worker
	Parked  State = "parked"  // waits for NotBefore or for a place; no message
	Running State = "running" // a worker holds it
	Done    State = "done"
)

// Record is the truth about one execution. It is changed only by compare-and-set, and Epoch rises with each claim: whoever
// holds an older epoch has lost it.
type Record struct {
	Schema string `json:"schema"`
	ID     string `json:"id"`
	State  State  `json:"state"`
	Epoch  uint64 `json:"epoch"` // 0: never claimed
	// Attempt counts those that were spent, the running one included. A release spends none.
	Attempt int    `json:"attempt"`
	Worker  string `json:"worker,omitempty"` // who holds it, or held it last
	// Started is false while the holder only prepares: it may be run again then without harm.
	Started bool `json:"started,omitempty"`

	// Submission is the text of a Submission, or SubmissionObject the name of the object that holds it. Digest is its SHA-256, hex.
	Submission       string     `json:"submission,omitempty"`
	SubmissionObject string     `json:"submission_object,omitempty"`
	Digest           string     `json:"digest"`
	Signature        *Signature `json:"signature,omitempty"`
	// Schedule is set where a schedule made the submission; Signature is then of the schedule's text.
	Schedule *Tick `json:"schedule,omitempty"`

	SubmittedBy string    `json:"submitted_by,omitempty"` // a key's name or the broker's user, never the request's own words
	SubmittedAt time.Time `json:"submitted_at"`

	// What follows is taken from the submission when it is accepted.
	Action      string          `json:"action"`
	Route       string          `json:"route"`
	Priority    Priority        `json:"priority,omitempty"`
	Requirement json.RawMessage `json:"requirement"`
	Affinity    json.RawMessage `json:"affinity,omitempty"` // which of the workers able to run it should; in the words of whoever computes them
	NotBefore   time.Time       `json:"not_before,omitzero"`
	Waits       string          `json:"waits,omitempty"` // why it is parked: one of the Waits
	Limit       int             `json:"limit,omitempty"` // how many of its action may be queued or run at once; 0 means any number
	Retries     int             `json:"retries,omitempty"`
	BackoffMS   int64           `json:"backoff_ms,omitempty"` // before the first retry; 0 means 1000
	OnLost      string          `json:"on_lost,omitempty"`    // OnLostFail or OnLostRetry; empty means the first
	// Unroutable is when it fails unless a worker able to run it was there; zero means never.
	Unroutable  time.Time `json:"unroutable,omitzero"`
	Traceparent string    `json:"traceparent,omitempty"`

	ClaimedAt  time.Time `json:"claimed_at,omitzero"`
	FinishedAt time.Time `json:"finished_at,omitzero"`
	Outcome    string    `json:"outcome,omitempty"` // the result's status
	// Result is the attune.result/v1 document, or ResultObject the name of the object that holds it.
	Result       json.RawMessage `json:"result,omitempty"`
	ResultObject string          `json:"result_object,omitempty"`
	LastError    string          `json:"last_error,omitempty"` // of the attempt before

	Unknown Unknown `json:"-"`
}

// Why an execution is parked.
const (
	WaitsForTime  = "time"  // not_before
	WaitsForRetry = "retry" // the pause before the next attempt
	WaitsForPlace = "place" // the limit of its action
)

// What a lost worker means once the child had started.
const (
	OnLostFail  = "fail"
	OnLostRetry = "retry"
)

// InlineMax is the size in bytes from which a submission or a result is an object of its own.
const InlineMax = 256 << 10

// Cancel asks that an execution ends.
type Cancel struct {
	By string    `json:"by,omitempty"`
	At time.Time `json:"at"`
}

// RouteEntry is one route: what a worker must have to serve it, in the words of whoever computed it.
type RouteEntry struct {
	Requirement json.RawMessage `json:"requirement"`
	CreatedAt   time.Time       `json:"created_at"`
}

// CatalogEntry is an action that some worker can run, so that a submitter needs no packs.
type CatalogEntry struct {
	Schema      string          `json:"schema"`
	Action      string          `json:"action"` // "pack.name"
	Pack        Pin             `json:"pack"`
	Requirement json.RawMessage `json:"requirement"` // of a request that asks for nothing more
	// Parameters is the action's schema, so that a submitter can read and check parameters: JSON Schema with "secret",
	// "position" and "immutable" in the definitions. Null means unknown: nothing is checked before the worker does.
	Parameters json.RawMessage `json:"parameters,omitempty"`
	// Action's own defaults, for the record.
	Retries   int             `json:"retries,omitempty"`
	BackoffMS int64           `json:"backoff_ms,omitempty"`
	Limit     int             `json:"limit,omitempty"`
	Affinity  json.RawMessage `json:"affinity,omitempty"`
	UpdatedAt time.Time       `json:"updated_at"`
}

// Schedule is a standing order. Text is the JSON of a ScheduleText, byte by byte what is signed.
type Schedule struct {
	Text      string     `json:"text"`
	Signature *Signature `json:"signature,omitempty"`
	CreatedBy string     `json:"created_by,omitempty"`
	CreatedAt time.Time  `json:"created_at"`
	// LastTick is the last tick that was submitted or skipped.
	LastTick time.Time `json:"last_tick,omitzero"`
	// Refused is why the last tick was not submitted; empty when it was, or is skipped.
	Refused string `json:"refused,omitempty"`

	Unknown Unknown `json:"-"`
}

// ScheduleText is what a schedule says.
type ScheduleText struct {
	Schema  string          `json:"schema"`
	Name    string          `json:"name"`
	Cron    string          `json:"cron"`             // five fields, or @hourly and its like
	Zone    string          `json:"zone,omitempty"`   // IANA name; empty means UTC
	Missed  string          `json:"missed,omitempty"` // "skip" (default), "once", "all"
	Request json.RawMessage `json:"request"`          // without id
	Pack    Pin             `json:"pack,omitzero"`
}

// Tick is one time of one schedule. The execution's id follows from both, so that it is submitted once.
type Tick struct {
	Name string    `json:"name"`
	At   time.Time `json:"at"`
	Text string    `json:"text"` // the ScheduleText the Signature is of
}

// WorkerEntry is what a worker says of itself with every heartbeat.
type WorkerEntry struct {
	Schema    string            `json:"schema"`
	Name      string            `json:"name"`
	Instance  string            `json:"instance"` // of the process: two workers of one name differ in it
	Version   string            `json:"version"`
	Host      string            `json:"host"`
	PID       int               `json:"pid"`
	Mode      string            `json:"mode"` // worker or agent
	StartedAt time.Time         `json:"started_at"`
	SeenAt    time.Time         `json:"seen_at"`
	Draining  bool              `json:"draining,omitempty"`
	Slots     int               `json:"slots"`
	Busy      int               `json:"busy"`
	Running   []string          `json:"running,omitempty"` // execution ids
	Labels    map[string]string `json:"labels,omitempty"`
	Taints    json.RawMessage   `json:"taints,omitempty"`
	// Capabilities are what requirements are matched with, in the words of whoever computes them.
	Capabilities json.RawMessage `json:"capabilities"`
}

// LogChunk is a piece of an execution's output, at most ChunkMax bytes of it. Number rises by one within an epoch: a jump is a gap.
type LogChunk struct {
	Schema string    `json:"schema"`
	Epoch  uint64    `json:"epoch"`
	Number uint64    `json:"number"` // from 1
	Stream string    `json:"stream"` // "stdout", "stderr", or "end" for the last of an epoch
	At     time.Time `json:"at"`
	Data   []byte    `json:"data,omitempty"` // base64
}

// ChunkMax is the size of a chunk's Data in bytes.
const ChunkMax = 64 << 10

// AuditLine is one thing that somebody did.
type AuditLine struct {
	Schema  string    `json:"schema"`
	At      time.Time `json:"at"`
	Who     string    `json:"who"`  // user, key name or worker
	What    string    `json:"what"` // submit claim result cancel retry lost release drop packs.push packs.rm schedule.add schedule.rm …
	ID      string    `json:"id,omitempty"`
	Action  string    `json:"action,omitempty"`
	Digest  string    `json:"digest,omitempty"` // of the submission, or of the pack
	Epoch   uint64    `json:"epoch,omitempty"`
	Attempt int       `json:"attempt,omitempty"`
	Outcome string    `json:"outcome,omitempty"`
	Detail  string    `json:"detail,omitempty"`
}

// DeadLetter is an execution that used up its attempts, or what arrived and could not be read.
type DeadLetter struct {
	Schema string          `json:"schema"`
	ID     string          `json:"id"`
	Reason string          `json:"reason"`
	At     time.Time       `json:"at"`
	Record json.RawMessage `json:"record,omitempty"` // as it stood; a text in quotes when it is no JSON
}

// LimitEntry says which executions of an action hold its places.
type LimitEntry struct {
	Max     int      `json:"max"`
	Holders []string `json:"holders"` // "<execution id>.<attempt it is held for>"

	Unknown Unknown `json:"-"`
}

// SubmitQuestion is what is asked on SubmitTopic. Submission is the text of one; where nothing is signed its id, schema and pack
// may be missing and are filled in.
type SubmitQuestion struct {
	Submission string     `json:"submission"`
	Signature  *Signature `json:"signature,omitempty"`
}

// SubmitAnswer is what became of it: Error is empty when it was accepted.
type SubmitAnswer struct {
	ID    string `json:"id,omitempty"`
	State State  `json:"state,omitempty"`
	Error string `json:"error,omitempty"`
	Hint  string `json:"hint,omitempty"`
}

// PackEntry is a pack that was pushed.
type PackEntry struct {
	Pack     Pin       `json:"pack"`
	Object   string    `json:"object"` // of the bundle, a .tar.gz
	Size     int64     `json:"size"`   // bytes of it
	PushedBy string    `json:"pushed_by,omitempty"`
	PushedAt time.Time `json:"pushed_at"`
}

// Lease is a role that one worker has, until it is not renewed.
type Lease struct {
	Worker   string    `json:"worker"`
	Instance string    `json:"instance"`
	Since    time.Time `json:"since"`
}
