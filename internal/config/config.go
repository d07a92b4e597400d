// Package config reads what an operator decides: flags, ATTUNE_ variables and the configuration file, for every front door.
package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/pack"
	"github.com/attune-run/attune/proc"
	"github.com/attune-run/attune/recipe"
)

// document is attune.yaml. Every key has a variable of its own, ATTUNE_ and the key in capitals, except
// where settings says otherwise; variables win over the file, flags over both.
type document struct {
	Packs          []string                  `yaml:"packs"`           // pack directories, relative to the file, before ./packs and /opt/attune/packs; as a variable separated by colons
	Cache          string                    `yaml:"cache"`           // environment cache, relative to the file; $XDG_CACHE_HOME/attune, else ~/.cache/attune, unless said
	Runtimes       []string                  `yaml:"runtimes"`        // the only runtimes to use; all unless said
	AllowEnv       []string                  `yaml:"allow_env"`       // globs of variables that pass_env may ask for; none unless said
	Proxies        *bool                     `yaml:"proxies"`         // proxy and CA variables reach sealed actions; false unless said
	MaxTimeout     string                    `yaml:"max_timeout"`     // upper bound of any timeout; none unless said
	InstallScripts *bool                     `yaml:"install_scripts"` // packages may run their own install scripts; false unless said
	Layers         []string                  `yaml:"layers"`          // read-only caches below the cache, relative to the file, asked in this order; as a variable separated by colons
	LayerOwners    []int                     `yaml:"layer_owners"`    // uids that layers may belong to beside root and the user
	Shared         *bool                     `yaml:"shared"`          // the cache belongs to its group; false unless said
	Network        string                    `yaml:"network"`         // online, prefer-offline or offline: what builds may do; online unless said
	Locked         *bool                     `yaml:"locked"`          // refuse dependencies without lock file or hashes; false unless said
	BuildTimeout   string                    `yaml:"build_timeout"`   // longest build of an environment; 15m unless said
	MinIsolation   string                    `yaml:"min_isolation"`   // none, basic or strict: no request gets less; none unless said
	MaxLimits      map[string]any            `yaml:"max_limits"`      // limit → value: no request gets more; as a variable memory=2G,pids=500
	PackConfig     map[string]map[string]any `yaml:"pack_config"`     // pack → values over its own configuration

	trust `yaml:",inline"`

	Broker brokerFile `yaml:"broker"` // where the pool is; for attune-worker, as the next
	Worker workerFile `yaml:"worker"`
}

// Config is the effective configuration, and where each value came from.
type Config struct {
	File     string // the configuration file; empty when there is none
	Packs    []string
	Cache    string
	Runtimes string // the only runtimes to use; empty: all
	Settings []Setting

	RequireSignature bool
	TrustedKeys      []pack.PublicKey
	InstallLimits    pack.Limits // zero fields: pack.DefaultLimits

	env        map[string]string
	allowEnv   []string
	proxies    bool
	maxTimeout time.Duration
	scripts    bool
	layers     []string
	owners     []int
	shared     bool
	network    recipe.Network
	locked     bool
	build      time.Duration
	isolation  proc.Level  // the least
	limits     proc.Limits // the most
	packConfig map[string]map[string]any
	providers  executor.Providers
	broker     brokerFile // Broker decides
	worker     workerFile // Worker decides
}

// Flags are what a command line says; its zero value says nothing.
type Flags struct {
	Packs  []string
	Cache  string
	Layers []string
	Shared bool
}

// Defaults are what holds where nobody decided. The zero value is a user's: $XDG_CACHE_HOME/attune or ~/.cache/attune, no layers, and the
// pack directories of pack.DefaultDirs.
type Defaults struct {
	Packs  []string // before those of pack.DefaultDirs
	Cache  string
	Layers []string
}

// Setting is one value and who decided it.
type Setting struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Source string `json:"source"`
}

// Load takes flags, then ATTUNE_ variables, then the configuration file, then defaults.
func Load(flags Flags, defaults Defaults, environ []string) (Config, error) {
	c := Config{env: map[string]string{}}
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		c.env[name] = value
	}
	file, err := c.readFile()
	if err != nil {
		return c, err
	}
	c.broker, c.worker = file.Broker, file.Worker
	if err := c.resolvePacks(flags, defaults, file); err != nil {
		return c, err
	}
	c.resolveCache(flags, defaults, file)
	c.Runtimes = c.text("runtimes", "ATTUNE_WORKER_RUNTIMES", strings.Join(file.Runtimes, ","), "all")
	if c.Runtimes == "all" {
		c.Runtimes = ""
	}
	c.allowEnv = fields(c.text("allow_env", "ATTUNE_ALLOW_ENV", strings.Join(file.AllowEnv, ","), ""))
	if c.proxies, err = c.boolean("proxies", "ATTUNE_PROXIES", file.Proxies); err != nil {
		return c, err
	}
	if c.scripts, err = c.boolean("install_scripts", "ATTUNE_INSTALL_SCRIPTS", file.InstallScripts); err != nil {
		return c, err
	}
	if c.maxTimeout, err = c.duration("max_timeout", "ATTUNE_MAX_TIMEOUT", file.MaxTimeout); err != nil {
		return c, err
	}
	if err := c.resolveBuilds(flags, defaults, file); err != nil {
		return c, err
	}
	if err := c.resolveTrust(file.trust); err != nil {
		return c, err
	}
	if err := c.resolveIsolation(file); err != nil {
		return c, err
	}
	c.packConfig = file.PackConfig
	for ref := range file.PackConfig {
		c.note("pack_config."+ref, "…", c.File)
	}
	return c, nil
}

// readFile reads the file that ATTUNE_CONFIG names, else the first of ./attune.yaml,
// $XDG_CONFIG_HOME/attune/attune.yaml and /etc/attune/attune.yaml.
func (c *Config) readFile() (document, error) {
	users := filepath.Join(c.userDir("XDG_CONFIG_HOME", ".config"), "attune.yaml")
	candidates := []string{"attune.yaml", users, "/etc/attune/attune.yaml"}
	named := c.env["ATTUNE_CONFIG"]
	if named != "" {
		candidates = []string{named}
	}
	for _, path := range candidates {
		data, err := os.ReadFile(path)
		// A home that cannot be entered is another's: sudo leaves HOME as it was.
		if named == "" && (errors.Is(err, fs.ErrNotExist) || path == users && errors.Is(err, fs.ErrPermission)) {
			continue
		}
		if err != nil {
			return document{}, fmt.Errorf("configuration: %w", err)
		}
		if c.File, err = filepath.Abs(path); err != nil {
			return document{}, err
		}
		return c.parseFile(data)
	}
	return document{}, nil
}

func (c *Config) parseFile(data []byte) (document, error) {
	var file document
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil && !errors.Is(err, io.EOF) {
		return file, fmt.Errorf("configuration %s: %w", c.File, err)
	}
	for _, list := range [][]string{file.Packs, file.Layers} {
		for i, dir := range list {
			list[i] = c.besideFile(dir)
		}
	}
	if file.Cache != "" {
		file.Cache = c.besideFile(file.Cache)
	}
	if len(file.PackConfig) == 0 {
		return file, nil
	}
	// Numbers keep their digits: the values are read again as parameters are.
	exact, err := pack.DecodeYAML(data)
	if err != nil {
		return file, fmt.Errorf("configuration %s: %w", c.File, err)
	}
	if root, ok := exact.(map[string]any); ok {
		sections, _ := root["pack_config"].(map[string]any)
		for ref := range file.PackConfig {
			file.PackConfig[ref], _ = sections[ref].(map[string]any)
		}
	}
	return file, nil
}

func (c *Config) besideFile(path string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		return filepath.Join(c.env["HOME"], rest)
	}
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(c.File), path)
}

// resolvePacks puts the directories in the order they are searched: flags, variable, file, defaults.
func (c *Config) resolvePacks(flags Flags, defaults Defaults, file document) error {
	cwd, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("working directory: %w", err)
	}
	getenv := func(name string) string { return c.env[name] }
	source := "default"
	switch {
	case len(flags.Packs) > 0:
		source = "--packs"
	case c.env["ATTUNE_PACKS"] != "":
		source = "ATTUNE_PACKS"
	case len(file.Packs) > 0:
		source = c.File
	}
	named := flags.Packs
	if len(named) == 0 && c.env["ATTUNE_PACKS"] == "" {
		named = file.Packs
	}
	c.Packs = pack.DefaultDirs(named, getenv, cwd)
	if source == "default" {
		c.Packs = slices.Concat(defaults.Packs, c.Packs)
	}
	c.note("packs", strings.Join(c.Packs, string(os.PathListSeparator)), source)
	return nil
}

// resolveCache is --cache, ATTUNE_CACHE, the file's, $XDG_CACHE_HOME/attune, ~/.cache/attune.
func (c *Config) resolveCache(flags Flags, defaults Defaults, file document) {
	switch {
	case flags.Cache != "":
		c.Cache = flags.Cache
		c.note("cache", c.Cache, "--cache")
	default:
		c.Cache = c.text("cache", "ATTUNE_CACHE", file.Cache, cmp.Or(defaults.Cache, c.userDir("XDG_CACHE_HOME", ".cache")))
	}
	if absolute, err := filepath.Abs(c.Cache); err == nil {
		c.Cache = absolute
	}
}

// resolveBuilds is everything about how and where environments are built, but for the cache itself.
func (c *Config) resolveBuilds(flags Flags, defaults Defaults, file document) error {
	c.layers = flags.Layers
	if c.layers == nil {
		c.layers = filepath.SplitList(c.text("layers", "ATTUNE_LAYERS", strings.Join(file.Layers, string(os.PathListSeparator)), strings.Join(defaults.Layers, string(os.PathListSeparator))))
	} else {
		c.note("layers", strings.Join(c.layers, string(os.PathListSeparator)), "--layer")
	}
	names := make([]string, len(file.LayerOwners))
	for i, uid := range file.LayerOwners {
		names[i] = strconv.Itoa(uid)
	}
	for _, text := range fields(c.text("layer_owners", "ATTUNE_LAYER_OWNERS", strings.Join(names, ","), "")) {
		uid, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("layer_owners %q: write numeric uids", text)
		}
		c.owners = append(c.owners, uid)
	}
	var err error
	if c.shared, err = c.boolean("shared", "ATTUNE_SHARED", file.Shared); err != nil {
		return err
	}
	if flags.Shared {
		c.shared = true
		c.note("shared", "true", "--shared")
	}
	if c.locked, err = c.boolean("locked", "ATTUNE_LOCKED", file.Locked); err != nil {
		return err
	}
	if c.build, err = c.duration("build_timeout", "ATTUNE_BUILD_TIMEOUT", file.BuildTimeout); err != nil {
		return err
	}
	c.network = recipe.Network(c.text("network", "ATTUNE_NETWORK", file.Network, string(recipe.Online)))
	if !slices.Contains([]recipe.Network{recipe.Online, recipe.PreferOffline, recipe.Offline}, c.network) {
		return fmt.Errorf("network %q: write online, prefer-offline or offline", c.network)
	}
	return nil
}

// userDir is the user's own directory of a kind (XDG Base Directory Specification). Without a home it lies
// below the temporary directory.
func (c *Config) userDir(variable, fallback string) string {
	if base := c.env[variable]; filepath.IsAbs(base) {
		return filepath.Join(base, "attune")
	}
	if home := c.env["HOME"]; home != "" {
		return filepath.Join(home, fallback, "attune")
	}
	return filepath.Join(os.TempDir(), "attune-"+strconv.Itoa(os.Getuid())+fallback)
}

func (c *Config) text(key, variable, file, byDefault string) string {
	value, source := byDefault, "default"
	if file != "" {
		value, source = file, c.File
	}
	if env, ok := c.env[variable]; ok && env != "" {
		value, source = env, variable
	}
	c.note(key, value, source)
	return value
}

func (c *Config) boolean(key, variable string, file *bool) (bool, error) {
	text := ""
	if file != nil {
		text = strconv.FormatBool(*file)
	}
	text = c.text(key, variable, text, "false")
	value, err := strconv.ParseBool(text)
	if err != nil {
		return false, fmt.Errorf("%s %q: write true or false", key, text)
	}
	return value, nil
}

func (c *Config) duration(key, variable, file string) (time.Duration, error) {
	text := c.text(key, variable, file, "")
	if text == "" {
		return 0, nil
	}
	value, err := time.ParseDuration(text)
	if err != nil || value <= 0 {
		return 0, fmt.Errorf("%s %q: write it like \"30s\" or \"5m\"", key, text)
	}
	return value, nil
}

func (c *Config) note(key, value, source string) {
	c.Settings = append(c.Settings, Setting{key, value, source})
}

func fields(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}

func (c *Config) Executor() executor.Config {
	return executor.Config{
		Providers: c.providers, RequireSignature: c.RequireSignature, TrustedKeys: c.TrustedKeys,
		Mode: executor.Agent(nil), Packs: c.Packs, CacheDir: c.Cache, Runtimes: c.Runtimes,
		AllowEnv: c.allowEnv, PassProxies: c.proxies, MaxTimeout: c.maxTimeout,
		PackConfig: c.packConfig, InstallScripts: c.scripts, Layers: c.layers, LayerOwners: c.owners, Shared: c.shared,
		Network: c.network, Locked: c.locked, BuildTimeout: c.build,
		MinIsolation: c.isolation, MaxLimits: c.limits,
	}
}
