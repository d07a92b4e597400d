package config

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/attune-run/attune/executor"
)

// brokerFile is what attune.yaml says about where the pool's storage is.
type brokerFile struct {
	NATS        string `yaml:"nats"`        // URLs of a NATS server or cluster, separated by commas; none: a server in the worker's own process
	Store       string `yaml:"store"`       // directory of that server, relative to the file; attune/pool below the user's data directory unless said
	Credentials string `yaml:"credentials"` // file of a NATS user (JWT and seed)
	CA          string `yaml:"ca"`          // PEM file of the authority that signed the server's certificate
	Cert        string `yaml:"cert"`        // PEM file of the client's certificate; with key
	Key         string `yaml:"key"`         // PEM file of its private key
	Sync        string `yaml:"sync"`        // always, or relaxed: what was accepted may be lost with the machine; always unless said
	Replicas    int    `yaml:"replicas"`    // of what is stored in a cluster; 3 where there are as many servers unless said
	AckWait     string `yaml:"ack_wait"`    // how long a silent worker keeps what it took; 60s unless said
}

// workerFile is what attune.yaml says about serving.
type workerFile struct {
	Name         string            `yaml:"name"`          // unique in the pool; the host's name unless said
	Mode         string            `yaml:"mode"`          // worker prepares every environment at start, agent on first use; worker unless said
	Concurrency  int               `yaml:"concurrency"`   // executions at once; the number of processors unless said
	Labels       map[string]string `yaml:"labels"`        // what selectors choose by; as a variable zone=a,disk=ssd
	Taints       []string          `yaml:"taints"`        // keep away whoever does not tolerate them: gpu=yes
	TrustedKeys  []string          `yaml:"trusted_keys"`  // of submitters: NAME=ed25519:<base64>, or PEM files; with any, nobody else's requests run
	AllowActions []string          `yaml:"allow_actions"` // globs of actions that may run; all unless said
	AllowScripts *bool             `yaml:"allow_scripts"` // run code that requests bring along; false unless said
	PackDir      string            `yaml:"pack_dir"`      // packs of the pool are kept below it; pool-packs in the cache unless said
	Grace        string            `yaml:"grace"`         // time that running executions have at SIGTERM; 30s unless said
	HTTP         string            `yaml:"http"`          // address of /healthz, /readyz and /metrics, a port alone is on loopback; none unless said
	LogFormat    string            `yaml:"log_format"`    // json or text; text on a terminal unless said
	LogLevel     string            `yaml:"log_level"`     // debug, info, warn or error; info unless said
	Heartbeat    string            `yaml:"heartbeat"`     // how often a worker looks whether it still holds an execution; 15s unless said
	Fence        string            `yaml:"fence"`         // without a successful heartbeat for so long the action is ended; 45s unless said
	Unroutable   string            `yaml:"unroutable"`    // how long a request waits for a worker that is able to run it; 10m unless said
}

// BrokerFlags are the flags of every command of the pool that say where it is.
type BrokerFlags struct {
	NATS      string `help:"NATS server or cluster, as URLs separated by commas. [$ATTUNE_NATS_URL]" placeholder:"URL" name:"nats"`
	NATSCreds string `help:"Credentials file of a NATS user. [$ATTUNE_NATS_CREDENTIALS]" placeholder:"FILE" name:"nats-creds" type:"path"`
	NATSCA    string `help:"Certificate authority of the server (PEM). [$ATTUNE_NATS_CA]" placeholder:"FILE" name:"nats-ca" type:"path"`
	NATSCert  string `help:"Client certificate (PEM). [$ATTUNE_NATS_CERT]" placeholder:"FILE" name:"nats-cert" type:"path"`
	NATSKey   string `help:"Key of the client certificate (PEM). [$ATTUNE_NATS_KEY]" placeholder:"FILE" name:"nats-key" type:"path"`
	Store     string `help:"Directory of the embedded server's store, where there is no --nats. [$ATTUNE_STORE]" placeholder:"DIR" type:"path"`
}

// Broker says where the pool's storage is.
type Broker struct {
	URL         string // empty: the embedded server on Store
	Store       string
	Credentials string
	CA          string
	Cert, Key   string
	Relaxed     bool // what was accepted may be lost with the machine, within the server's sync interval
	Replicas    int
	AckWait     time.Duration // zero means the driver's own
}

// Broker takes flags, then variables, then the file, then defaults: an embedded server below the user's data directory.
func (c *Config) Broker(flags BrokerFlags) (Broker, error) {
	file := c.broker
	store := filepath.Join(c.userDir("XDG_DATA_HOME", filepath.Join(".local", "share")), "pool")
	b := Broker{
		URL:         c.flagged("broker.nats", "--nats", flags.NATS, "ATTUNE_NATS_URL", file.NATS, ""),
		Store:       c.flagged("broker.store", "--store", flags.Store, "ATTUNE_STORE", c.besideOr(file.Store), store),
		Credentials: c.flagged("broker.credentials", "--nats-creds", flags.NATSCreds, "ATTUNE_NATS_CREDENTIALS", c.besideOr(file.Credentials), ""),
		CA:          c.flagged("broker.ca", "--nats-ca", flags.NATSCA, "ATTUNE_NATS_CA", c.besideOr(file.CA), ""),
		Cert:        c.flagged("broker.cert", "--nats-cert", flags.NATSCert, "ATTUNE_NATS_CERT", c.besideOr(file.Cert), ""),
		Key:         c.flagged("broker.key", "--nats-key", flags.NATSKey, "ATTUNE_NATS_KEY", c.besideOr(file.Key), ""),
		Replicas:    file.Replicas,
	}
	if flags.Store != "" && flags.NATS == "" {
		b.URL = "" // a command line that names a store means it, whatever the environment says
	}
	var err error
	if b.Store, err = filepath.Abs(b.Store); err != nil {
		return b, err
	}
	switch sync := c.text("broker.sync", "ATTUNE_SYNC", file.Sync, "always"); sync {
	case "always":
	case "relaxed":
		b.Relaxed = true
	default:
		return b, fmt.Errorf("broker.sync %q: write always or relaxed", sync)
	}
	if b.AckWait, err = c.duration("broker.ack_wait", "ATTUNE_ACK_WAIT", file.AckWait); err != nil {
		return b, err
	}
	if (b.Cert == "") != (b.Key == "") {
		return b, fmt.Errorf("broker.cert and broker.key: give both or neither")
	}
	return b, nil
}

// WorkerFlags are the flags of serve.
type WorkerFlags struct {
	Name         string   `help:"Name of this worker, unique in the pool; the host's name unless said. [$ATTUNE_WORKER_NAME]" placeholder:"NAME"`
	Concurrency  int      `help:"Executions at once; the number of processors unless said. [$ATTUNE_WORKER_CONCURRENCY]" placeholder:"N"`
	Mode         string   `help:"worker prepares every environment at start, agent on first use. [$ATTUNE_WORKER_MODE]" placeholder:"worker|agent"`
	Label        []string `help:"Label that selectors match (repeatable). [$ATTUNE_WORKER_LABELS]" placeholder:"K=V" sep:"none" name:"labels" aliases:"label"`
	Taint        []string `help:"Taint that keeps away whoever does not tolerate it (repeatable). [$ATTUNE_WORKER_TAINTS]" placeholder:"K=V" sep:"none" name:"taints" aliases:"taint"`
	Runtimes     string   `help:"The only runtimes to use. [$ATTUNE_WORKER_RUNTIMES]" placeholder:"LIST"`
	TrustedKeys  []string `help:"Key of a submitter, NAME=ed25519:… or a PEM file; with any, nobody else's requests run (repeatable). [$ATTUNE_WORKER_TRUSTED_KEYS]" placeholder:"KEY" sep:"none"`
	AllowActions []string `help:"Glob of actions that may run (repeatable); all unless said. [$ATTUNE_WORKER_ALLOW_ACTIONS]" placeholder:"GLOB"`
	AllowScripts *bool    `help:"Run code that requests bring along. [$ATTUNE_WORKER_ALLOW_SCRIPTS]" negatable:""`
	Grace        string   `help:"Time that running executions have at SIGTERM; 30s unless said. [$ATTUNE_WORKER_GRACE]" placeholder:"DURATION"`
	HTTP         string   `help:"Serve /healthz, /readyz and /metrics on this address; a port alone is on loopback. [$ATTUNE_WORKER_HTTP]" placeholder:"ADDRESS" name:"http"`
	LogFormat    string   `help:"json, or text; text on a terminal unless said. [$ATTUNE_WORKER_LOG_FORMAT]" placeholder:"FORMAT"`
	LogLevel     string   `help:"debug, info, warn or error. [$ATTUNE_WORKER_LOG_LEVEL]" placeholder:"LEVEL"`
}

// Worker is what an operator decides for serving.
type Worker struct {
	Name         string
	Mode         executor.StartupMode
	Concurrency  int
	Labels       map[string]string
	Taints       []executor.Taint
	TrustedKeys  []string // NAME=ed25519:<base64>, ed25519:<base64> or a PEM file
	AllowActions []string
	AllowScripts bool
	PackDir      string // packs of the pool are kept below it
	Grace        time.Duration
	HTTP         string // host:port; empty: none
	LogFormat    string // json or text; empty: by what stderr is
	LogLevel     string
	Heartbeat    time.Duration // zero means the worker's own, as the two below
	Fence        time.Duration
	Unroutable   time.Duration
}

// Worker takes flags, then variables, then the file, then defaults.
func (c *Config) Worker(flags WorkerFlags) (Worker, error) {
	file := c.worker
	host, _ := os.Hostname() // a worker needs a name, and says so itself
	w := Worker{
		Name:         c.flagged("worker.name", "--name", flags.Name, "ATTUNE_WORKER_NAME", file.Name, host),
		AllowActions: fields(c.flagged("worker.allow_actions", "--allow-actions", strings.Join(flags.AllowActions, ","), "ATTUNE_WORKER_ALLOW_ACTIONS", strings.Join(file.AllowActions, ","), "")),
		TrustedKeys:  fields(c.flagged("worker.trusted_keys", "--trusted-keys", strings.Join(flags.TrustedKeys, ","), "ATTUNE_WORKER_TRUSTED_KEYS", strings.Join(c.besideKeys(file.TrustedKeys), ","), "")),
		PackDir:      c.text("worker.pack_dir", "ATTUNE_WORKER_PACK_DIR", c.besideOr(file.PackDir), filepath.Join(c.Cache, "pool-packs")),
		LogFormat:    c.flagged("worker.log_format", "--log-format", flags.LogFormat, "ATTUNE_WORKER_LOG_FORMAT", file.LogFormat, ""),
		LogLevel:     c.flagged("worker.log_level", "--log-level", flags.LogLevel, "ATTUNE_WORKER_LOG_LEVEL", file.LogLevel, "info"),
	}
	if flags.Runtimes != "" {
		c.Runtimes = flags.Runtimes
	}
	for _, step := range []func(*Worker, WorkerFlags) error{c.workerMode, c.workerPlace, c.workerTimes, c.workerHTTP} {
		if err := step(&w, flags); err != nil {
			return w, err
		}
	}
	return w, nil
}

func (c *Config) workerMode(w *Worker, flags WorkerFlags) error {
	switch mode := c.flagged("worker.mode", "--mode", flags.Mode, "ATTUNE_WORKER_MODE", c.worker.Mode, "worker"); mode {
	case "worker":
		w.Mode = executor.Worker()
	case "agent":
		w.Mode = executor.Agent(nil)
	default:
		return fmt.Errorf("worker.mode %q: write worker or agent", mode)
	}
	concurrency := c.flagged("worker.concurrency", "--concurrency", number(flags.Concurrency), "ATTUNE_WORKER_CONCURRENCY", number(c.worker.Concurrency), number(runtime.NumCPU()))
	var err error
	if w.Concurrency, err = strconv.Atoi(concurrency); err != nil || w.Concurrency < 1 {
		return fmt.Errorf("worker.concurrency %q: write a number of executions, at least 1", concurrency)
	}
	allow := c.worker.AllowScripts
	if flags.AllowScripts != nil {
		c.note("worker.allow_scripts", strconv.FormatBool(*flags.AllowScripts), "--allow-scripts")
		w.AllowScripts = *flags.AllowScripts
		return nil
	}
	w.AllowScripts, err = c.boolean("worker.allow_scripts", "ATTUNE_WORKER_ALLOW_SCRIPTS", allow)
	return err
}

// workerPlace is what placement goes by.
func (c *Config) workerPlace(w *Worker, flags WorkerFlags) error {
	var own []string
	for name, value := range c.worker.Labels {
		own = append(own, name+"="+value)
	}
	slices.Sort(own)
	w.Labels = map[string]string{}
	for _, text := range fields(c.flagged("worker.labels", "--labels", strings.Join(flags.Label, ","), "ATTUNE_WORKER_LABELS", strings.Join(own, ","), "")) {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return fmt.Errorf("label %q: write it as name=value", text)
		}
		w.Labels[name] = value
	}
	for _, text := range fields(c.flagged("worker.taints", "--taints", strings.Join(flags.Taint, ","), "ATTUNE_WORKER_TAINTS", strings.Join(c.worker.Taints, ","), "")) {
		taint, err := executor.ParseTaint(text)
		if err != nil {
			return err
		}
		w.Taints = append(w.Taints, taint)
	}
	return nil
}

func (c *Config) workerTimes(w *Worker, flags WorkerFlags) error {
	for _, t := range []struct {
		target                    *time.Duration
		key, flag, variable, file string
	}{
		{&w.Grace, "worker.grace", flags.Grace, "ATTUNE_WORKER_GRACE", c.worker.Grace},
		{&w.Heartbeat, "worker.heartbeat", "", "ATTUNE_WORKER_HEARTBEAT", c.worker.Heartbeat},
		{&w.Fence, "worker.fence", "", "ATTUNE_WORKER_FENCE", c.worker.Fence},
		{&w.Unroutable, "worker.unroutable", "", "ATTUNE_WORKER_UNROUTABLE", c.worker.Unroutable},
	} {
		text := c.flagged(t.key, "--"+strings.TrimPrefix(t.key, "worker."), t.flag, t.variable, t.file, "")
		if text == "" {
			continue
		}
		value, err := time.ParseDuration(text)
		if err != nil || value <= 0 {
			return fmt.Errorf("%s %q: write it like \"30s\" or \"5m\"", t.key, text)
		}
		*t.target = value
	}
	return nil
}

// workerHTTP makes a port, or an address without a host, one of loopback: what is served tells about the host.
func (c *Config) workerHTTP(w *Worker, flags WorkerFlags) error {
	text := c.flagged("worker.http", "--http", flags.HTTP, "ATTUNE_WORKER_HTTP", c.worker.HTTP, "")
	if text == "" {
		return nil
	}
	if _, err := strconv.ParseUint(text, 10, 16); err == nil {
		text = ":" + text
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return fmt.Errorf("worker.http %q: write a port, or host:port (0.0.0.0:9464 for every interface)", text)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	w.HTTP = net.JoinHostPort(host, port)
	return nil
}

// flagged is text with a flag before it.
func (c *Config) flagged(key, flag, said, variable, file, byDefault string) string {
	if said != "" {
		c.note(key, said, flag)
		return said
	}
	return c.text(key, variable, file, byDefault)
}

func (c *Config) besideOr(path string) string {
	if path == "" {
		return ""
	}
	return c.besideFile(path)
}

// besideKeys makes the PEM files among keys absolute.
func (c *Config) besideKeys(keys []string) []string {
	absolute := slices.Clone(keys)
	for i, key := range keys {
		name, value, named := strings.Cut(key, "=")
		switch {
		case strings.Contains(key, "ed25519:"):
		case named && !strings.Contains(name, "/"):
			absolute[i] = name + "=" + c.besideFile(value)
		default:
			absolute[i] = c.besideFile(key)
		}
	}
	return absolute
}

func number(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}
