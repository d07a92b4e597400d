// Package envcache maps a key to a ready directory: built once, in place, by
// whoever asks first, and correct through crashes of any of its users. It knows
// no language and starts no process; what to build comes in as a Builder.
package envcache

import (
	"context"
	"io"
	"os"
	"time"
)

// Interpreter is what an environment was built with. A zero Path means that
// the environment depends on none.
type Interpreter struct {
	Path    string `json:"path"`
	Version string `json:"version"`
	ABI     string `json:"abi"`
}

// Builder makes one environment. Build and Check are called by at most one goroutine of one process at a time for a given key
// (on a network file system whose locks do not hold, of one host); the others by any number at once.
type Builder interface {
	// Interpreter is what the environment will depend on.
	Interpreter() Interpreter
	// Probe asks the interpreter at path for its identity now. It is called only when the interpreter's stat and content
	// differ from what is recorded.
	Probe(ctx context.Context, path string) (Interpreter, error)
	// Build fills site.Dir.
	Build(ctx context.Context, site Site) (Built, error)
	// Check is the smoke check of a finished build, run before it is published.
	Check(ctx context.Context, dir string) error
}

// Site is where and how a Builder works.
type Site struct {
	Dir   string       // exists, is empty and will never be moved
	Log   io.Writer    // takes the installer's output; never fails
	Phase func(string) // says what is being done; never nil
	// Hold is for every process of the build to inherit: as long as one of them lives, nobody
	// throws Dir away, whatever became of the builder itself.
	Hold *os.File
}

// Built is what a Builder reports of a finished build.
type Built struct {
	Resolved  []string `json:"resolved"`  // what was installed, "name==version", sorted
	Locked    bool     `json:"locked"`    // a lock file or hashes decided the versions
	Sentinels []string `json:"sentinels"` // files below dir (relative) whose absence means damage
	Complete  []string `json:"-"`         // directories below dir (relative) that never hold fewer entries than now, unless they are damaged
}

// State says how an environment came to be at hand.
type State string

const (
	Hit    State = "hit"    // it was there
	Fresh  State = "built"  // this call built it
	Waited State = "waited" // another process or goroutine built it meanwhile
)

// Progress is one step of an Acquire that is not a hit.
type Progress struct {
	Phase   string        // "waiting", "replacing" (Line says why), or the builder's own phase
	Holder  string        // while waiting: host, pid and phase of the builder
	Line    string        // last line of the installer's output, may be empty
	Log     string        // path of the build log
	Elapsed time.Duration // since the Acquire began
}
