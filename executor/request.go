package executor

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/attune-run/attune/recipe"
)

// RequestSchema and ResultSchema version the two wire formats.
const (
	RequestSchema = "attune.request/v1"
	ResultSchema  = "attune.result/v1"
)

// Request asks for one execution: of an Action, or of a Script. It is a wire
// type; Local alone never travels.
type Request struct {
	Schema string `json:"schema"`
	// ID is a UUID and the idempotency key; empty means a new version 7 UUID.
	ID     string   `json:"id,omitempty"`
	Action string   `json:"action,omitempty"` // "pack.action" or "pack.action@constraint"
	Script *Script  `json:"script,omitempty"`
	Args   []string `json:"args,omitempty"`
	// Pack, if set, is the only one that may run: the version of the action's pack, and its digest.
	Pack PackPin `json:"pack,omitzero"`

	Parameters map[string]any    `json:"parameters,omitempty"` // JSON values, numbers as json.Number
	Secrets    map[string]string `json:"secrets,omitempty"`    // name → reference, "env:API_KEY"
	SecretEnv  []string          `json:"secret_env,omitempty"` // secrets handed over as variables
	Env        map[string]string `json:"env,omitempty"`

	Timeout        Duration `json:"timeout,omitzero"` // zero means the action's own
	RuntimeVersion string   `json:"runtime_version,omitempty"`
	Isolation      string   `json:"isolation,omitempty"`
	IsolationMode  string   `json:"isolation_mode,omitempty"`
	// IsolationNetwork is "none", or "host", the default.
	IsolationNetwork string           `json:"isolation_network,omitempty"`
	Limits           map[string]any   `json:"limits,omitempty"`
	Retries          *Retries         `json:"retries,omitempty"`
	OnLost           string           `json:"on_lost,omitempty"`
	Priority         int              `json:"priority,omitempty"`
	NotBefore        string           `json:"not_before,omitempty"`
	Selector         map[string]any   `json:"selector,omitempty"`
	Tolerations      []map[string]any `json:"tolerations,omitempty"`
	Affinity         []map[string]any `json:"affinity,omitempty"`
	Context          Context          `json:"context,omitzero"`

	Local *Local `json:"-"`
}

// PackPin names one version of a pack. Digest is as pack.Pack.Digest gives it.
type PackPin struct {
	Ref     string `json:"ref"`
	Version string `json:"version"`
	Digest  string `json:"digest"`
}

// Script is code that belongs to no pack: a file, or Inline code with the name
// of its Runtime.
type Script struct {
	Path    string `json:"path,omitempty"`
	Inline  string `json:"inline,omitempty"`
	Runtime string `json:"runtime,omitempty"`
}

// Retries is how often, and after what pause, a failed execution is run again by the pool.
type Retries struct {
	Max     int      `json:"max"`
	Backoff Duration `json:"backoff,omitzero"`
}

// Context says where a request came from; it reaches the child as variables.
type Context struct {
	Rule        string `json:"rule,omitempty"`
	Trigger     string `json:"trigger,omitempty"`
	Traceparent string `json:"traceparent,omitempty"` // W3C Trace Context
}

// Local is what only the command line on the same machine may ask for.
type Local struct {
	Profile    Profile
	Dir        string // the caller's working directory; empty means attune's own
	Cwd        string // overrides the profile's working directory
	InheritEnv bool   // the caller's environment, also in the sealed profile
	Stdin      *os.File
	// Arguments are parameters as they were typed, read by their declared type.
	Arguments    []Argument
	OutputFormat string // overrides a script's output format
	Artifacts    string // directory that receives a copy of the artifacts
	// Keep is handed each artifact and its content once no process of the execution is left; nil keeps none. An error fails the
	// execution.
	Keep func(a Artifact, content io.Reader) error
	// Remote says that the request came from elsewhere: Config.Providers bound its secrets. What else is set here is the
	// door's own choice, none of the request's.
	Remote      bool
	Packs       []string // directories of packs, looked in before the service's
	Locked      bool
	Network     recipe.Network
	RetryFailed bool // build although a failure is remembered
	// Direct says that nobody keeps the result document. The observer's files are then handed to the child itself where
	// nothing needs to read the output on its way (no secret, no structured output), and the pack is not digested.
	Direct bool
	Force  <-chan struct{} // closed: SIGKILL at once
	Grace  time.Duration   // zero means 10 s

	AgeIdentity      string // file of age identities; empty means where the environment says
	RequireSignature bool   // also where the Config does not
}

// Argument is one "-p name=text", or "-p name:=json".
type Argument struct {
	Name, Text string
	JSON       bool
}

// Profile is a set of defaults for one execution.
type Profile string

const (
	// Sealed starts from nothing: the default for actions of a pack.
	Sealed Profile = "sealed"
	// Host starts from the caller's surroundings: the default for bare scripts.
	Host Profile = "host"
)

// Duration is a time.Duration that is written as Go's text ("30s"), and read
// from such a text or from a number of seconds.
type Duration time.Duration

// MarshalJSON writes the duration as text.
func (d Duration) MarshalJSON() ([]byte, error) {
	return json.Marshal(time.Duration(d).String())
}

// UnmarshalJSON reads "1m30s" or 90.
func (d *Duration) UnmarshalJSON(data []byte) error {
	var seconds float64
	if json.Unmarshal(data, &seconds) == nil {
		*d = Duration(seconds * float64(time.Second))
		return nil
	}
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return fmt.Errorf("a duration is a number of seconds or a text like \"30s\", not %s", data)
	}
	return d.UnmarshalText([]byte(text))
}

// UnmarshalText reads "1m30s", or "90" as seconds.
func (d *Duration) UnmarshalText(text []byte) error {
	if seconds, err := strconv.ParseFloat(string(text), 64); err == nil {
		*d = Duration(seconds * float64(time.Second))
		return nil
	}
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("duration %q: write it like \"30s\" or \"5m\"", text)
	}
	*d = Duration(parsed)
	return nil
}

// name is what the result calls the thing that was asked for.
func (r *Request) name() string {
	switch {
	case r.Action != "":
		return r.Action
	case r.Script != nil && r.Script.Path != "":
		return "script:" + filepath.Base(r.Script.Path)
	default:
		return "script:inline"
	}
}
