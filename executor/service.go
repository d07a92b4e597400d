// Package executor takes one execution from request to result: load, validate,
// pick the runtime, ensure the environment, run, decode. Service is the engine
// behind every front door; StartupMode says what it prepares before it takes work.
package executor

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/attune-run/attune/detect"
	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/internal/redact"
	"github.com/attune-run/attune/pack"
	"github.com/attune-run/attune/proc"
	"github.com/attune-run/attune/recipe"
	"github.com/attune-run/attune/runtime"
)

// Config is what an operator decides for a Service. New copies it.
type Config struct {
	Mode     StartupMode // zero value: Agent(nil)
	Packs    []string    // pack directories, first match wins
	CacheDir string      // root of the environment store; required
	// Layers are read-only lower stores, of an image or a network file system, asked in this order for what CacheDir does not
	// hold. LayerOwners are uids they may belong to beside root and the caller.
	Layers      []string
	LayerOwners []int
	Shared      bool // CacheDir belongs to a group: every member may build and prune
	Readable    bool // a CacheDir that is made now can be read by everybody: it will be a layer
	// Reproducible makes a CacheDir that is filled once, and then baked, the same each time.
	Reproducible bool
	TempDir      string // base of private directories; empty means <os.TempDir>/attune-<uid>
	// KeepDirs is how many private directories in which an execution left nothing are kept for others, until Close; zero keeps none.
	KeepDirs int

	Environ  []string // the host's environment; nil means os.Environ()
	Runtimes string   // restricts the runtimes, as ATTUNE_WORKER_RUNTIMES; empty means all
	AllowEnv []string // globs of variables that pass_env may ask for
	// PassProxies hands proxy and CA variables to sealed actions too.
	PassProxies    bool
	MaxTimeout     time.Duration // upper bound of any timeout; zero means none
	MinIsolation   proc.Level    // no request gets less; empty means none
	MaxLimits      proc.Limits   // no request gets more; zero fields mean unbounded
	PackConfig     map[string]map[string]any
	InstallScripts bool           // packages may run their own install scripts while building
	Network        recipe.Network // whether builds may reach the network, unless a request says otherwise; empty means Online
	Locked         bool           // no environment without a lock file or hashes
	BuildTimeout   time.Duration  // of one build; zero means 15 min
	ResultMax      int64          // bytes of structured output; zero means 16 MiB
	CaptureMax     int            // bytes of each captured stream; zero means 1 MiB
	Worker         string
	Grace          time.Duration // from SIGTERM to SIGKILL, unless a request says otherwise; zero means proc.DefaultGrace
	Masked         []string      // values that are masked in whatever any execution prints or returns
	// RuntimeFiles say what runtimes this host has, the last wins; those that are not there say nothing. Nil means
	// detect.HostFiles of the working directory the service is made in.
	RuntimeFiles []string
	// Concurrency bounds parallel builds in worker mode; zero means the number of CPUs.
	Concurrency int
	Log         *slog.Logger // nil discards

	// RequireSignature refuses packs without a signature by one of TrustedKeys.
	RequireSignature bool
	TrustedKeys      []pack.PublicKey
	Providers        Providers // how requests from elsewhere may name secrets; nil: not at all
}

// StartupMode says what Start prepares. The zero value is Agent(nil).
type StartupMode struct {
	worker   bool
	detected []runtime.Interpreter
}

// Worker verifies every runtime version and builds every environment at Start.
func Worker() StartupMode { return StartupMode{worker: true} }

// Agent prepares on first use. Interpreters that were detected already may be
// handed in; nil means they are detected when they are needed.
func Agent(detected []runtime.Interpreter) StartupMode { return StartupMode{detected: detected} }

// String is "worker" or "agent".
func (m StartupMode) String() string {
	if m.worker {
		return "worker"
	}
	return "agent"
}

// Service runs executions. It is safe for concurrent use after Start.
type Service struct {
	cfg      Config
	host     map[string]string               // Config.Environ by name; nobody writes to it
	catalog  func() (runtime.Catalog, error) // the built-in runtimes and the host's; read once, when they are first needed
	finder   pack.Finder
	actions  pack.Memory
	private  *proc.PrivateDirs
	detector *detect.Detector
	prepared []Prepared
	masked   *redact.Set // Config.Masked, shared by all executions that have no secret of their own

	storeOnce sync.Once // the store is opened by the first execution that needs an environment
	store     *envcache.Store
	storeErr  error
	checked   sync.Map // generation → struct{}: what was looked at for damage
}

// New makes a service; it touches no disk and starts no process.
func New(cfg Config) (*Service, error) {
	if cfg.CacheDir == "" {
		return nil, fmt.Errorf("executor: no cache directory")
	}
	if err := cfg.Providers.check(); err != nil {
		return nil, err
	}
	if cfg.Environ == nil {
		cfg.Environ = os.Environ()
	}
	if cfg.TempDir == "" {
		cfg.TempDir = filepath.Join(os.TempDir(), "attune-"+strconv.Itoa(os.Getuid()))
	}
	if cfg.ResultMax == 0 {
		cfg.ResultMax = 16 << 20
	}
	if cfg.CaptureMax == 0 {
		cfg.CaptureMax = proc.DefaultCapture
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	dir, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("working directory: %w", err)
	}
	if cfg.RuntimeFiles == nil {
		cfg.RuntimeFiles = detect.HostFiles(dir)
	}
	host := environment(cfg.Environ)
	options := detect.Options{Path: host["PATH"], Home: host["HOME"], Dir: dir, Env: host, CacheFile: envcache.DetectFile(cfg.CacheDir), CacheMode: cfg.storeOptions().Mode()} // most executions make the first of them without opening the store
	for _, layer := range cfg.Layers {
		options.Memories = append(options.Memories, envcache.DetectFile(layer))
	}
	return &Service{
		cfg:      cfg,
		host:     host,
		catalog:  sync.OnceValues(func() (runtime.Catalog, error) { return catalog(cfg.RuntimeFiles) }),
		finder:   pack.Finder{Dirs: cfg.Packs},
		detector: detect.New(options),
		private:  proc.NewPrivateDirs(cfg.TempDir, cfg.KeepDirs),
		masked:   redact.New(cfg.Masked...),
	}, nil
}

func (c *Config) storeOptions() envcache.Options {
	return envcache.Options{Layers: c.Layers, LayerOwners: c.LayerOwners, Shared: c.Shared, Readable: c.Readable, Reproducible: c.Reproducible}
}

// Start prepares what the mode asks for. In worker mode everything that could not be
// prepared is in Prepared afterwards and is tried again on first use; errors are a
// canceled context and a host's runtime file that cannot be used.
func (s *Service) Start(ctx context.Context) error {
	proc.SweepPrivateDirs(s.cfg.TempDir)
	if !s.cfg.Mode.worker {
		return nil
	}
	var err error
	s.prepared, err = s.Prepare(ctx, PrepareOptions{})
	s.logPrepared()
	return err
}

// EmptyDir makes an empty directory for the caller. One that nobody removes, for its owner was killed, goes when a service starts here again.
func (s *Service) EmptyDir() (path string, remove func() error, err error) {
	dir, err := s.private.Take(proc.PrivateLayout{})
	if err != nil {
		return "", nil, fmt.Errorf("private directory: %w", err)
	}
	return dir.Path, func() error { return dir.Release(false) }, nil
}

// Close gives back what was kept for further executions. Those that go on are not disturbed.
func (s *Service) Close() error { return s.private.Close() }

// Prepared is the table of what worker mode prepared at Start, as Prepare gives it.
func (s *Service) Prepared() []Prepared { return s.prepared }

// Mode is "worker" or "agent".
func (s *Service) Mode() string { return s.cfg.Mode.String() }

// Store opens the environment store, once.
func (s *Service) Store() (*envcache.Store, error) {
	s.storeOnce.Do(func() {
		s.store, s.storeErr = envcache.Open(s.cfg.CacheDir, s.cfg.storeOptions())
	})
	return s.store, s.storeErr
}

// Observer follows an execution live; all of it but Secrets is already redacted. Nil fields are not told.
type Observer struct {
	Stdout, Stderr io.Writer
	Event          func(Event)
	// Secrets is told once, before the process starts, the values that are masked, if there are any: for the masks of a CI system.
	// They are the only thing an observer gets that is not redacted.
	Secrets func(values []string)
}

// Event is one step of an execution.
type Event struct {
	Kind     EventKind
	Stage    string             // for StageStarted and StageFinished: a key of Timings
	Elapsed  time.Duration      // for StageFinished
	Progress *envcache.Progress // for EnvironmentProgress
	PID      int                // for ProcessStarted
	Message  string             // for Warning
}

// EventKind tells events apart.
type EventKind string

// The kinds of events.
const (
	StageStarted        EventKind = "stage_started"
	StageFinished       EventKind = "stage_finished"
	EnvironmentProgress EventKind = "environment_progress"
	ProcessStarted      EventKind = "process_started"
	Warning             EventKind = "warning"
)
