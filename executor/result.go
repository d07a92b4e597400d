package executor

import (
	"bytes"
	"encoding/json"
	"time"
)

// Status is how an execution ended.
type Status string

// The statuses of a result. Failed covers a non-zero exit, a signal, a hit limit
// and output that is not what the action declared; Error is attune's own failure.
const (
	Succeeded   Status = "succeeded"
	Failed      Status = "failed"
	TimedOut    Status = "timed_out"
	Canceled    Status = "canceled"
	Interrupted Status = "interrupted"
	Errored     Status = "error"
)

// The exit codes attune gives itself; all others are the action's own.
const (
	ExitTimedOut  = 124
	ExitAttune    = 125 // attune failed, usage errors included
	ExitNoRuntime = 126 // no runtime can run it
	ExitNotFound  = 127 // no such pack, action or script
)

// Result is the document every accepted execution ends in.
type Result struct {
	Schema   string `json:"schema"`
	ID       string `json:"id"`
	Action   string `json:"action"`
	Status   Status `json:"status"`
	ExitCode int    `json:"exit_code"` // what attune-run exits with
	Signal   string `json:"signal"`    // "SIGKILL"; empty unless the action died of one
	Result   any    `json:"result"`    // the parsed output; null for text
	Error    *Error `json:"error"`     // null when the execution succeeded

	Stdout               string `json:"stdout"`
	StdoutTruncated      bool   `json:"stdout_truncated"`
	StdoutBytesTruncated int64  `json:"stdout_bytes_truncated"`
	Stderr               string `json:"stderr"`
	StderrTruncated      bool   `json:"stderr_truncated"`
	StderrBytesTruncated int64  `json:"stderr_bytes_truncated"`
	EncodingReplaced     bool   `json:"encoding_replaced"` // invalid UTF-8 was replaced

	StartedAt  time.Time `json:"started_at"`
	FinishedAt time.Time `json:"finished_at"`
	DurationMS float64   `json:"duration_ms"`
	Timings    Timings   `json:"timings_ms"`

	Pack        PackInfo        `json:"pack"`
	Runtime     RuntimeInfo     `json:"runtime"`
	Environment EnvironmentInfo `json:"environment"`
	Isolation   IsolationInfo   `json:"isolation"`
	Limits      []LimitInfo     `json:"limits"`
	Usage       UsageInfo       `json:"usage"`

	OOMKilled         bool       `json:"oom_killed"` // by the control group's own count, never guessed from the exit code
	LeftoverProcesses int        `json:"leftover_processes"`
	Artifacts         []Artifact `json:"artifacts"`
	Worker            string     `json:"worker"`
	Attempt           int        `json:"attempt"`
}

// Error says why an execution did not succeed.
type Error struct {
	Kind    string `json:"kind"`
	Stage   string `json:"stage"`
	Message string `json:"message"`
	Hint    string `json:"hint"` // what to do next
}

// Timings are the milliseconds each stage took; zero when it was not reached.
type Timings struct {
	Load        float64 `json:"load"`
	Validate    float64 `json:"validate"`
	Detect      float64 `json:"detect"`
	Environment float64 `json:"environment"`
	Spawn       float64 `json:"spawn"`
	Run         float64 `json:"run"`
	Decode      float64 `json:"decode"`
}

// PackInfo names the pack that was run; empty for a bare script.
type PackInfo struct {
	Ref     string `json:"ref"`
	Version string `json:"version"`
	Digest  string `json:"digest"`
	// SignedBy is the trusted key whose signature was verified; absent where none was required.
	SignedBy string `json:"signed_by,omitempty"`
}

// RuntimeInfo names the interpreter. Path is empty for native code.
type RuntimeInfo struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Path    string `json:"path"`
}

// EnvironmentInfo names the environment; State is "none" when none was needed.
type EnvironmentInfo struct {
	Key      string `json:"key"`
	State    string `json:"state"`
	Path     string `json:"path"`
	Locked   bool   `json:"locked"`
	Resolved string `json:"resolved"`
}

// IsolationInfo says what was asked for and what was done.
type IsolationInfo struct {
	Requested  string            `json:"requested"`
	Applied    string            `json:"applied"`
	Mode       string            `json:"mode"`
	Guarantees map[string]string `json:"guarantees"`
	Missing    []string          `json:"missing"`
}

// LimitInfo is one limit and who enforced it: "cgroup v2", "cgroup v1", "rlimit" (each process for itself), "polled", or
// "none". Used is null where nobody counts.
type LimitInfo struct {
	Name       string `json:"name"`
	Limit      any    `json:"limit"`
	Used       any    `json:"used"`
	EnforcedBy string `json:"enforced_by"`
	Hit        bool   `json:"hit"`
}

// UsageInfo is what the child and the descendants it awaited used.
type UsageInfo struct {
	MaxRSSBytes int64   `json:"max_rss_bytes"`
	UserMS      float64 `json:"user_ms"`
	SystemMS    float64 `json:"system_ms"`
}

// Artifact is one file the action left in ATTUNE_ARTIFACTS_DIR.
type Artifact struct {
	Path   string `json:"path"` // below the artifacts directory
	Size   int64  `json:"size"` // bytes
	Digest string `json:"digest"`
}

// JSON encodes the document on one line, without HTML escapes, newline at the end.
func (r *Result) JSON() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Microseconds()) / 1000
}
