package recipe

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/runtime"
)

// ruby installs a Gemfile with bundler, in a copy of what the Gemfile reads: two packs with one Gemfile share the result.
// An action gets its gems as a plain load path, because bundler's own set-up costs 0.13 s an execution and a load path 0.01 s.
//
//	<env>/project/     Gemfile, Gemfile.lock, .bundle/config, local gems
//	<env>/gems/        bundler's path
//	<env>/bin/         the interpreter under its names, for programs that look for it in PATH
//	<env>/bundle.list  home, load path and gems, as the bundle itself reports them
type ruby struct{}

const (
	gemfile     = "Gemfile"
	gemfileLock = "Gemfile.lock"
	bundleList  = "bundle.list"
	gemCache    = "vendor/cache" // where `bundle cache` puts gems
)

func (ruby) Inputs(ctx context.Context, in Input) ([]envcache.KeyInput, error) {
	inputs, err := manifestInputs(in, gemfile, gemfileLock)
	if err != nil || inputs == nil {
		return nil, err
	}
	references, names, err := gemfileReads(in.PackDir)
	if err != nil {
		return nil, err
	}
	if vendored(in.PackDir) {
		references = append(references, gemCache)
	}
	files, err := references.inputs(in.PackDir)
	if err != nil {
		return nil, err
	}
	inputs = append(append(inputs, files...), variables(in, names...)...)
	settings, err := bundleSettingsOf(in)
	if err != nil {
		return nil, err
	}
	inputs = append(inputs, settings.inputs()...)
	version, err := bundlerVersion(ctx, in)
	if err != nil {
		return nil, err
	}
	return append(inputs, envcache.KeyInput{Name: "installer", Value: strings.TrimSpace("bundler " + version)}), nil
}

// bundlerVersion is read off the gems that rubygems would choose from, highest first: to ask bundler takes 0.3 s. Only one that lies
// elsewhere is asked. It is empty without bundler.
func bundlerVersion(ctx context.Context, in Input) (string, error) {
	bundle, found := findScript(in, "bundle", "ruby")
	if !found {
		return "", nil
	}
	api, home, version := series(in.Interpreter.Version)+".*", escapeGlob(in.hostVar("HOME")), ""
	prefix := escapeGlob(filepath.Dir(filepath.Dir(in.Interpreter.Path)))
	for _, place := range []string{
		prefix + "/lib/ruby/gems/" + api, "/var/lib/gems/" + api, "/usr/share/rubygems-integration/all", home + "/.local/share/gem/ruby/" + api, home + "/.gem/ruby/" + api,
	} {
		for _, dir := range []string{"/specifications", "/specifications/default"} {
			specs, _ := filepath.Glob(place + dir + "/bundler-*.gemspec") // the patterns are well formed
			for _, spec := range specs {
				candidate := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(spec), "bundler-"), ".gemspec")
				if version == "" || runtime.CompareVersions(candidate, version) > 0 {
					version = candidate
				}
			}
		}
	}
	if version != "" {
		return version, nil
	}
	version, err := in.toolVersion(ctx, "bundle", bundle, `(?P<version>\d+(?:\.\w+)+)`)
	if err != nil && !errors.Is(err, errNoProbe) {
		return "", fmt.Errorf("bundler: %w", err)
	}
	return version, nil
}

// vendored tells whether the pack brings its gems.
func vendored(dir string) bool {
	items, err := os.ReadDir(filepath.Join(dir, gemCache))
	return err == nil && slices.ContainsFunc(items, func(item fs.DirEntry) bool {
		return strings.HasSuffix(item.Name(), ".gem") || exists(filepath.Join(dir, gemCache, item.Name()), ".bundlecache")
	})
}

// A Gemfile is a program. What it reads is seen by its literals, what it asks of the host by ENV.
var (
	rubyComment = lazily(`(?m)^\s*#.*$`)
	rubyLiteral = lazily(`"([^"\n]*)"|'([^'\n]*)'`)
	rubyPath    = lazily(`\bpath(?::|\s*=>|\s*\()?\s*["']([^"'\n]*)["']`)
	rubyEnv     = lazily(`\bENV(?:\.fetch\(|\[)\s*["'](\w+)["']`)
	rubySource  = lazily(`\bsource(?::|\s*=>|\s*\()?\s*["']([^"'\n]*)["']`)
	bareGemspec = lazily(`(?m)^\s*gemspec\b(?:[^\n]*\bpath\b)?`)
)

// gemfileReads are the pack's files and directories that a Gemfile names, and the host's variables it asks for.
func gemfileReads(packDir string) (all references, names []string, err error) {
	data, err := os.ReadFile(filepath.Join(packDir, gemfile))
	if err != nil {
		return nil, nil, err
	}
	text := rubyComment().ReplaceAllString(string(data), "")
	for _, match := range rubyPath().FindAllStringSubmatch(text, -1) {
		if !filepath.IsLocal(match[1]) && !strings.Contains(match[1], "#{") {
			return nil, nil, &ManifestError{File: filepath.Join(packDir, gemfile), Problem: fmt.Sprintf("path %q lies outside the pack", match[1]),
				Remedy: "put the gem below the pack, or give it a git: or a version"}
		}
	}
	if call := bareGemspec().FindString(text); call != "" && !strings.HasSuffix(call, "path") {
		all = append(all, ".")
	}
	for _, match := range rubyLiteral().FindAllStringSubmatch(text, -1) {
		if name := cmp.Or(match[1], match[2]); name != "" && filepath.IsLocal(name) && exists(packDir, name) {
			all = append(all, filepath.Clean(name))
		}
	}
	for _, match := range rubyEnv().FindAllStringSubmatch(text, -1) {
		names = append(names, match[1])
	}
	return all, names, nil
}

func (ruby) Build(ctx context.Context, in Input, site envcache.Site) (envcache.Built, error) {
	bundle, found := findScript(in, "bundle", "ruby")
	if !found {
		return envcache.Built{}, &ToolError{Tool: "bundle", Manifest: gemfile, Remedy: "install bundler (Debian: ruby-bundler)"}
	}
	dir, remove, err := plainName(site.Dir)
	if err != nil {
		return envcache.Built{}, err
	}
	defer remove()
	b, err := newBundleBuild(in, site, dir, bundle)
	if err != nil {
		return envcache.Built{}, err
	}
	if err := b.layOut(); err != nil {
		return envcache.Built{}, err
	}
	if err := b.install(ctx); err != nil {
		return envcache.Built{}, err
	}
	return b.finish(ctx)
}

// bundleBuild is one build of a Gemfile.
type bundleBuild struct {
	in      Input
	site    envcache.Site
	bundle  string
	dir     string // site.Dir, by a name that bundler's patterns can bear
	tool    *installer
	project string // the copy of what the Gemfile reads
	cache   string // bundler's downloads, one directory for each set of sources: a name means one gem in each
	reads   references
	locked  bool
}

func newBundleBuild(in Input, site envcache.Site, dir, bundle string) (*bundleBuild, error) {
	reads, names, err := gemfileReads(in.PackDir)
	if err != nil {
		return nil, err
	}
	settings, err := bundleSettingsOf(in)
	if err != nil {
		return nil, err
	}
	b := &bundleBuild{
		in: in, site: site, dir: dir, bundle: bundle, reads: reads, project: filepath.Join(dir, "project"), locked: exists(in.PackDir, gemfileLock),
		cache: filepath.Join(in.Downloads, "bundle", settings.sources(in.PackDir)), tool: newInstaller(in, "bundle", names...).mayMiss(in.Network),
	}
	for name, value := range settings {
		b.tool.set(name, value)
	}
	b.tool.secrets = settings.credentials()
	b.tool.dir = b.project
	b.tool.set("PATH", filepath.Dir(in.Interpreter.Path)+string(os.PathListSeparator)+b.tool.env["PATH"])
	b.tool.set("BUNDLE_GEMFILE", filepath.Join(b.project, gemfile))
	b.tool.set("BUNDLE_USER_CACHE", b.cache)
	b.tool.set("BUNDLE_GLOBAL_GEM_CACHE", "true")
	b.tool.set("BUNDLE_SILENCE_ROOT_WARNING", "true")
	b.tool.set("BUNDLE_IGNORE_MESSAGES", "true")
	return b, nil
}

// layOut copies what bundler reads. The lock file's bundler version goes: bundler would download and start that version of
// itself.
func (b *bundleBuild) layOut() error {
	reads := append(references{gemfile}, b.reads...)
	if vendored(b.in.PackDir) {
		reads = append(reads, gemCache)
	}
	if err := reads.copy(b.in.PackDir, b.project); err != nil {
		return err
	}
	if b.locked {
		lock, err := os.ReadFile(filepath.Join(b.in.PackDir, gemfileLock))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(b.project, gemfileLock), bundledWith().ReplaceAll(lock, nil), 0o600); err != nil {
			return err
		}
		if err := b.checkGems(filepath.Join(b.project, gemCache)); err != nil {
			return err
		}
	}
	return b.writeConfig()
}

var bundledWith = lazily(`(?m)^BUNDLED WITH\r?\n[ \t]+\S+\r?\n?`)

// writeConfig leaves the settings that bundler needs again when an action calls it: in the environment, where no credential
// goes.
func (b *bundleBuild) writeConfig() error {
	config := map[string]string{"BUNDLE_PATH": "../gems"}
	for _, name := range []string{"BUNDLE_WITHOUT", "BUNDLE_WITH", "BUNDLE_ONLY", "BUNDLE_FORCE_RUBY_PLATFORM"} {
		if value := b.tool.env[name]; value != "" {
			config[name] = value
		}
	}
	if b.locked {
		config["BUNDLE_FROZEN"] = "true"
	}
	data, err := yaml.Marshal(config)
	if err != nil {
		return err
	}
	dir := filepath.Join(b.project, ".bundle")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config"), data, 0o600)
}

// install runs bundler, without the network where the pack brings its gems, the network is off limits, or what was downloaded
// before will do.
func (b *bundleBuild) install(ctx context.Context) error {
	b.site.Phase("installing Gemfile with bundle")
	switch {
	case vendored(b.in.PackDir):
		return b.run(ctx, "--local")
	case b.in.Network == Online || b.in.Network == "":
		return b.run(ctx)
	}
	found, err := b.bringDownloads()
	if err != nil {
		return err
	}
	if b.in.Network == Offline {
		return b.run(ctx, "--local")
	}
	if found {
		err := b.run(ctx, "--local")
		var failed *ToolFailure
		if err == nil || !errors.As(err, &failed) || failed.Signal != 0 {
			return err
		}
	}
	return b.run(ctx)
}

// bringDownloads puts the gems that were downloaded before where bundler looks without the network.
func (b *bundleBuild) bringDownloads() (found bool, err error) {
	gems, err := filepath.Glob(filepath.Join(escapeGlob(b.cache), "gems", "*", "*.gem"))
	if err != nil || len(gems) == 0 {
		return false, err
	}
	cache := filepath.Join(b.project, gemCache)
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return false, err
	}
	for _, gem := range gems {
		if err := copyFile(gem, filepath.Join(cache, filepath.Base(gem))); err != nil {
			return false, err
		}
	}
	return true, nil
}

func (b *bundleBuild) run(ctx context.Context, options ...string) error {
	var said tail
	site := b.site
	site.Log = io.MultiWriter(b.site.Log, &said)
	err := b.tool.run(ctx, site, append([]string{b.in.Interpreter.Path, b.bundle, "install"}, options...)...)
	var failed *ToolFailure
	if b.locked && errors.As(err, &failed) && frozenComplaint().Match(said.buffer.Bytes()) {
		return &ManifestError{File: filepath.Join(b.in.PackDir, gemfileLock), Problem: "it does not match " + gemfile,
			Remedy: "run `bundle lock` and keep the new " + gemfileLock, Err: err}
	}
	return err
}

// frozenComplaint is bundler's word for a lock file that is not its Gemfile's.
var frozenComplaint = lazily(`(?i)deployment mode|frozen mode|is frozen|lockfile can't be updated|gemfile lock is corrupt`)

// reportBundle makes bundler say what it would give to a program: the load path in order, and every gem.
const reportBundle = `
before = $LOAD_PATH.dup
require "bundler/setup"
lines = ["home #{Bundler.bundle_path}"] + ($LOAD_PATH - before).map { |dir| "path #{dir}" } + Gem.loaded_specs.values
  .reject { |gem| gem.name == "bundler" || gem.default_gem? }
  .map { |gem| "gem #{gem.name}==#{gem.version}#{"-#{gem.platform}" unless gem.platform.to_s == "ruby"}" }
File.write(ARGV[0], lines.uniq.join("\n") + "\n")
`

// finish checks the installed gems against the lock file, throws away what only bundler needed, and notes what an action needs.
func (b *bundleBuild) finish(ctx context.Context) (envcache.Built, error) {
	file := filepath.Join(b.site.Dir, bundleList)
	if err := b.tool.run(ctx, b.site, b.in.Interpreter.Path, "-e", reportBundle, file); err != nil {
		return envcache.Built{}, err
	}
	if err := b.useOwnName(file); err != nil {
		return envcache.Built{}, err
	}
	list, err := readBundleList(b.site.Dir)
	if err != nil {
		return envcache.Built{}, err
	}
	if err := b.checkGems(filepath.Join(list.home, "cache")); err != nil {
		return envcache.Built{}, err
	}
	if err := b.tidy(list.home); err != nil {
		return envcache.Built{}, err
	}
	bin := filepath.Join(b.site.Dir, "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		return envcache.Built{}, err
	}
	for _, name := range slices.Compact([]string{"ruby", filepath.Base(b.in.Interpreter.Path)}) {
		if err := os.Symlink(b.in.Interpreter.Path, filepath.Join(bin, name)); err != nil {
			return envcache.Built{}, err
		}
	}
	built := envcache.Built{Resolved: list.gems, Locked: b.locked, Sentinels: []string{bundleList, "project/" + gemfile, "project/" + gemfileLock}}
	built.Complete = existingDirs(b.site.Dir, list.home, "gems", "specifications", "extensions/*/*", "bundler/gems")
	return built, nil
}

// useOwnName gives the paths in a file the name that will last.
func (b *bundleBuild) useOwnName(file string) error {
	data, err := os.ReadFile(file)
	if err != nil || b.dir == b.site.Dir {
		return err
	}
	return os.WriteFile(file, bytes.ReplaceAll(data, []byte(b.dir+"/"), []byte(b.site.Dir+"/")), 0o600)
}

// tidy removes downloads, and credentials that a lock file may have got from its Gemfile.
func (b *bundleBuild) tidy(home string) error {
	if err := os.RemoveAll(filepath.Join(home, "cache")); err != nil {
		return err
	}
	gems, err := filepath.Glob(filepath.Join(escapeGlob(b.project), gemCache, "*.gem"))
	if err != nil {
		return err
	}
	for _, gem := range gems {
		if err := os.Remove(gem); err != nil {
			return err
		}
	}
	lock := filepath.Join(b.project, gemfileLock)
	data, err := os.ReadFile(lock)
	if errors.Is(err, fs.ErrNotExist) { // nothing to lock
		return os.WriteFile(lock, nil, 0o600)
	}
	if err != nil {
		return err
	}
	return os.WriteFile(lock, []byte(withoutCredentials(string(data))), 0o600)
}

// checkGems compares gem files with the lock file's CHECKSUMS, which bundler itself knows since 2.6 only.
func (b *bundleBuild) checkGems(dir string) error {
	if !b.locked {
		return nil
	}
	lock, err := os.ReadFile(filepath.Join(b.in.PackDir, gemfileLock))
	if err != nil {
		return err
	}
	for name, want := range lockChecksums(lock) {
		path := filepath.Join(dir, name+".gem")
		if _, err := os.Stat(path); err != nil {
			continue
		}
		got, err := fileDigest(path)
		if err != nil {
			return err
		}
		if got != want {
			return &ManifestError{File: filepath.Join(b.in.PackDir, gemfileLock), Problem: fmt.Sprintf("the checksum of %s is sha256=%s, not the recorded sha256=%s", name, got, want),
				Remedy: "find out where the gem came from; `bundle lock --add-checksums` records a new one"}
		}
	}
	return nil
}

var checksumLine = lazily(`^  (\S+) \(([^)]+)\).*\bsha256=([0-9a-f]+)`)

// lockChecksums maps "name-version" to the SHA-256 of its gem file, in hex.
func lockChecksums(lock []byte) map[string]string {
	sums := map[string]string{}
	_, section, _ := bytes.Cut(lock, []byte("\nCHECKSUMS"))
	for line := range bytes.Lines(section) {
		if match := checksumLine().FindSubmatch(line); match != nil {
			sums[string(match[1])+"-"+string(match[2])] = string(match[3])
		}
	}
	return sums
}

// existingDirs are the directories below home that globs name, relative to dir.
func existingDirs(dir, home string, globs ...string) []string {
	var all []string
	for _, glob := range globs {
		found, _ := filepath.Glob(filepath.Join(escapeGlob(home), glob)) // the patterns are constants
		for _, path := range found {
			if relative, err := filepath.Rel(dir, path); err == nil && filepath.IsLocal(relative) {
				all = append(all, relative)
			}
		}
	}
	return all
}

// escapeGlob makes a path a pattern that means itself.
func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// bundle is what a bundleList says.
type bundle struct {
	home string   // GEM_HOME
	path []string // the load path, in order
	gems []string // "name==version", sorted
}

func readBundleList(dir string) (bundle, error) {
	data, err := os.ReadFile(filepath.Join(dir, bundleList))
	if err != nil {
		return bundle{}, err
	}
	var all bundle
	for line := range strings.Lines(string(data)) {
		word, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch word {
		case "home":
			all.home = rest
		case "path":
			all.path = append(all.path, rest)
		case "gem":
			all.gems = append(all.gems, rest)
		}
	}
	slices.Sort(all.gems)
	return all, nil
}

// maxVariable is the length up to which a load path is given as a variable; Linux allows 128 KiB (execve(2), MAX_ARG_STRLEN).
const maxVariable = 100 << 10

// variables are what makes a ruby find the bundle, its children and the gems' programs included. A load path that is too long for a
// variable is left to bundler's own set-up.
func (b bundle) variables() []runtime.EnvVar {
	separator := string(os.PathListSeparator)
	loadPath := runtime.EnvVar{Name: "RUBYLIB", Value: strings.Join(b.path, separator), Operation: runtime.Append}
	if len(loadPath.Value) > maxVariable {
		loadPath = runtime.EnvVar{Name: "RUBYOPT", Value: "-rbundler/setup", Operation: runtime.Append, Separator: " "}
	}
	return []runtime.EnvVar{
		loadPath,
		{Name: "GEM_HOME", Value: b.home, Operation: runtime.Set},
		{Name: "GEM_PATH", Value: b.home, Operation: runtime.Set},
		{Name: "BUNDLE_GEMFILE", Value: "{env_dir}/project/" + gemfile, Operation: runtime.Set},
		{Name: "PATH", Value: filepath.Join(b.home, "bin") + separator + "{env_dir}/bin", Operation: runtime.Prepend},
	}
}

func (ruby) Check(ctx context.Context, in Input, dir string) error {
	list, err := readBundleList(dir)
	if err != nil {
		return err
	}
	return starts(ctx, dir, list.variables(), in.Interpreter.Path, "-e", "")
}

func (ruby) Command(in Input, env *envcache.Env) (Command, error) {
	if env == nil {
		return interpreted(in, in.Interpreter.Path, runtime.Vars{})
	}
	command, err := interpreted(in, in.Interpreter.Path, runtime.Vars{EnvDir: env.Dir})
	if err != nil {
		return command, err
	}
	list, err := readBundleList(env.Dir)
	command.Env = list.variables()
	return command, err
}

// bundleSettings are bundler's settings as its variables name them: the user's file, over it the host's variables, over them
// the pack's file (https://bundler.io/man/bundle-config.1.html). What would move the installation is left out.
type bundleSettings map[string]string

func bundleSettingsOf(in Input) (bundleSettings, error) {
	all := bundleSettings{}
	if in.hostVar("BUNDLE_IGNORE_CONFIG") == "" {
		home := cmp.Or(in.hostVar("BUNDLE_USER_HOME"), filepath.Join(in.hostVar("HOME"), ".bundle"))
		if err := all.read(cmp.Or(in.hostVar("BUNDLE_USER_CONFIG"), filepath.Join(home, "config"))); err != nil {
			return nil, err
		}
	}
	for _, entry := range in.HostEnv {
		if name, value, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "BUNDLE_") && value != "" {
			all[name] = value
		}
	}
	if in.hostVar("BUNDLE_IGNORE_CONFIG") == "" {
		if err := all.read(filepath.Join(in.PackDir, ".bundle", "config")); err != nil {
			return nil, err
		}
	}
	maps.DeleteFunc(all, func(name, _ string) bool { return slices.Contains(moving, name) || slices.Contains(movingBundle, name) })
	return all, nil
}

// movingBundle are settings that the recipe decides itself, beside those of moving.
var movingBundle = []string{
	"BUNDLE_PATH__SYSTEM", "BUNDLE_CACHE_PATH", "BUNDLE_DEPLOYMENT", "BUNDLE_FROZEN", "BUNDLE_BIN", "BUNDLE_CLEAN", "BUNDLE_NO_INSTALL",
	"BUNDLE_STANDALONE", "BUNDLE_IGNORE_CONFIG", "BUNDLE_USER_HOME", "BUNDLE_USER_CONFIG", "BUNDLE_USER_CACHE", "BUNDLE_USER_PLUGIN",
	"BUNDLE_LOCKFILE", "BUNDLE_GLOBAL_GEM_CACHE", "BUNDLE_VERSION", "BUNDLE_SYSTEM_BINDIR",
}

func (s bundleSettings) read(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil //nolint:nilerr // none, or none that bundler could read either
	}
	var settings map[string]any
	if err := yaml.Unmarshal(data, &settings); err != nil {
		return &ManifestError{File: file, Problem: "it is no configuration of bundler", Remedy: "write it with `bundle config`", Err: err}
	}
	for name, value := range settings {
		switch value := value.(type) {
		case []any:
			words := make([]string, len(value))
			for i, word := range value {
				words[i] = fmt.Sprint(word)
			}
			s[name] = strings.Join(words, ":")
		case nil:
		default:
			s[name] = fmt.Sprint(value)
		}
	}
	return nil
}

// decidingBundle are the settings, or beginnings of settings, that change what is installed. Others may be a host's
// credentials, whose names cannot be told from settings that are yet to come.
var decidingBundle = lazily(`^BUNDLE_(?:MIRROR__.*|BUILD__.*|LOCAL__.*|WITHOUT|WITH|ONLY|FORCE_RUBY_PLATFORM|SPECIFIC_PLATFORM|PREFER_PATCH|` +
	`DISABLE_CHECKSUM_VALIDATION|DISABLE_MULTISOURCE|DISABLE_LOCAL_BRANCH_CHECK|TRUST___POLICY)$`)

func (s bundleSettings) inputs() []envcache.KeyInput {
	var all []envcache.KeyInput
	for _, name := range slices.Sorted(maps.Keys(s)) {
		if decidingBundle().MatchString(name) {
			all = append(all, envcache.KeyInput{Name: "setting:" + withoutCredentials(name), Value: withoutCredentials(s[name])})
		}
	}
	return all
}

// credentials are what a host's settings hold: "user:password", or a token (BUNDLE_GEMS__EXAMPLE__COM).
func (s bundleSettings) credentials() []string {
	var all []string
	for name, value := range s {
		if decidingBundle().MatchString(name) || !strings.Contains(name, "__") && !strings.Contains(value, ":") {
			continue
		}
		user, password, both := strings.Cut(value, ":")
		if !both {
			password = user
		}
		all = append(all, value, password)
	}
	return all
}

// sources names the set of places that a Gemfile takes gems from: 16 hex digits.
func (s bundleSettings) sources(packDir string) string {
	data, _ := os.ReadFile(filepath.Join(packDir, gemfile)) // read before
	hash := sha256.New()
	for _, match := range rubySource().FindAllSubmatch(data, -1) {
		_, _ = fmt.Fprintln(hash, withoutCredentials(string(match[1])))
	}
	for _, input := range s.inputs() {
		if strings.HasPrefix(input.Name, "setting:BUNDLE_MIRROR__") {
			_, _ = fmt.Fprintln(hash, input.Name, input.Value)
		}
	}
	return hex.EncodeToString(hash.Sum(nil)[:8])
}
