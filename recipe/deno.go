package recipe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/runtime"
)

// deno's environment is a DENO_DIR of its own, with a deno.lock beside it: packages of deno.json and package.json, and
// what the script names by address (npm:, jsr:, https:). Scripts run from it without the network.
type deno struct{}

// denoNeeds is what has to be there before a script runs.
type denoNeeds struct {
	in       Input
	files    map[string][]byte // deno.json and its like, by name
	manifest bool              // they name dependencies
	sources  []string          // the script and its local modules, where any of them names a remote one
	settings jsSettings
}

var (
	denoConfigs = []string{"deno.json", "deno.jsonc", "package.json"}
	// importMap is deno.json's word for a file that maps plain names.
	importMap = lazy(`"importMap"\s*:\s*"(?:\./)?([^"]+)"`)
	// remote is a specifier that has to be fetched.
	remote = lazy(`["'](?:npm|jsr|https?):[^"'\s]+["']`)
	// localImport is a specifier of a file: from "./x.ts", import("../y.js").
	localImport = lazy(`(?:\bfrom|\bimport)\s*\(?\s*["'](\.{1,2}/[^"'\n]+)["']`)
	// remoteImport is the same for what has to be fetched; an address in another place is only a text.
	remoteImport = lazy(`(?:\bfrom|\bimport)\s*\(?\s*["'](?:npm|jsr|https?):`)
	denoStale    = lazy(`The lockfile is out of date`)
)

func findDenoNeeds(in Input) (*denoNeeds, error) {
	n := &denoNeeds{in: in, files: map[string][]byte{}}
	for _, name := range append(n.configs(), "deno.lock") {
		data, found, err := readManifest(in.PackDir, name)
		if err != nil {
			return nil, err
		}
		if found {
			n.files[name] = data
			n.manifest = n.manifest || name != "package.json" && name != "deno.lock" && remote().Match(data)
		}
	}
	if n.files["package.json"] != nil {
		manifest, _, _, err := readPackageJSON(in.PackDir)
		if err != nil {
			return nil, err
		}
		n.manifest = n.manifest || len(manifest.Dependencies)+len(manifest.OptionalDependencies) > 0
	}
	if err := n.readSources(); err != nil {
		return nil, err
	}
	if !n.manifest && n.sources == nil {
		return nil, nil
	}
	if in.Locked && !n.locked() {
		return nil, &NotLockedError{Manifest: n.name(), Remedy: "run `deno install` and keep deno.lock beside it"}
	}
	n.settings = readJSSettings(in, jsTool{name: "deno", config: []string{".npmrc"}})
	return n, nil
}

// configs are the files that may name dependencies.
func (n *denoNeeds) configs() []string {
	all := slices.Clone(denoConfigs)
	for _, name := range denoConfigs[:2] {
		data, err := os.ReadFile(filepath.Join(n.in.PackDir, name))
		if m := importMap().FindSubmatch(data); err == nil && m != nil && filepath.IsLocal(string(m[1])) {
			all = append(all, filepath.Clean(string(m[1])))
		}
	}
	return all
}

// readSources follows the script's imports through the files beside it.
func (n *denoNeeds) readSources() error {
	if n.in.Script == "" {
		return nil
	}
	fetches := false
	sources := []string{n.in.Script}
	for i := 0; i < len(sources); i++ { // grows
		data, err := os.ReadFile(sources[i])
		if err != nil {
			if i == 0 {
				return err
			}
			continue // deno itself will say so, or it was only a text
		}
		fetches = fetches || remoteImport().Match(data)
		for _, m := range localImport().FindAllSubmatch(data, -1) {
			path := filepath.Join(filepath.Dir(sources[i]), string(m[1]))
			if !slices.Contains(sources, path) {
				sources = append(sources, path)
			}
		}
	}
	if fetches {
		n.sources = sources
	}
	return nil
}

func (n *denoNeeds) locked() bool { return n.files["deno.lock"] != nil }

// name is the manifest, for messages.
func (n *denoNeeds) name() string {
	for _, name := range n.configs() {
		if n.manifest && n.files[name] != nil {
			return name
		}
	}
	return filepath.Base(n.in.Script)
}

func (deno) Inputs(_ context.Context, in Input) ([]envcache.KeyInput, error) {
	n, err := findDenoNeeds(in)
	if err != nil || n == nil {
		return nil, err
	}
	var inputs []envcache.KeyInput
	for name, data := range n.files {
		inputs = append(inputs, content(name, data))
	}
	for i, path := range n.sources {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		relative, err := filepath.Rel(in.PackDir, path)
		if err != nil || !filepath.IsLocal(relative) {
			relative = fmt.Sprint("#", i) // inline code
		}
		inputs = append(inputs, content("source/"+relative, data))
	}
	inputs = append(inputs, envcache.KeyInput{Name: "installer", Value: "deno " + in.Interpreter.Version})
	return append(inputs, n.settings.inputs...), nil
}

// denoFlags keep deno from writing into the pack.
var denoFlags = []string{"--node-modules-dir=none", "--vendor=false"}

func (deno) Build(ctx context.Context, in Input, site envcache.Site) (envcache.Built, error) {
	n, err := findDenoNeeds(in)
	if err != nil || n == nil {
		return envcache.Built{}, err
	}
	lock := filepath.Join(site.Dir, "deno.lock")
	if n.locked() {
		if err := os.WriteFile(lock, n.files["deno.lock"], 0o600); err != nil {
			return envcache.Built{}, err
		}
	}
	i := newInstaller(in, "deno", append(n.settings.passed, "DENO_AUTH_TOKENS", "DENO_TLS_CA_STORE", "DENO_CERT", "NPM_CONFIG_REGISTRY", "JSR_URL")...)
	i.secrets = n.settings.secrets
	i.set("DENO_DIR", filepath.Join(in.Downloads, "deno"))
	i.set("DENO_NO_UPDATE_CHECK", "1")
	i.set("NO_COLOR", "1")
	flags := append(slices.Clone(denoFlags), "--lock="+lock)
	if n.locked() {
		flags = append(flags, "--frozen")
	}
	if in.Network == Offline {
		flags = append(flags, "--cached-only")
	}
	site.Phase("installing " + n.name() + " with deno " + in.Interpreter.Version)
	if n.manifest {
		err = n.run(ctx, i, site, append([]string{in.Interpreter.Path, "install"}, flags...))
	}
	if err == nil && n.sources != nil {
		err = n.run(ctx, i, site, append(append([]string{in.Interpreter.Path, "cache"}, flags...), in.Script))
	}
	if err != nil {
		return envcache.Built{}, err
	}
	return n.collect(site.Dir)
}

func (n *denoNeeds) run(ctx context.Context, i *installer, site envcache.Site, argv []string) error {
	var last tail
	site.Log = io.MultiWriter(site.Log, &last)
	err := i.run(ctx, site, argv...)
	reclassify(err, last.buffer.Bytes())
	switch {
	case err != nil && denoStale().Match(last.buffer.Bytes()):
		return &LockMismatchError{Manifest: n.name(), Lock: "deno.lock", Remedy: "run `deno install --frozen=false`", Err: err}
	case n.in.Network == Offline:
		return offlineFailure(n.name(), err)
	}
	return err
}

// denoLock is the part of deno.lock that names packages.
type denoLock struct {
	NPM    map[string]json.RawMessage `json:"npm"`
	JSR    map[string]json.RawMessage `json:"jsr"`
	Remote map[string]json.RawMessage `json:"remote"`
}

// collect copies what the lock names out of the download cache, which deno shares between all programs, into the
// environment's own DENO_DIR.
func (n *denoNeeds) collect(dir string) (envcache.Built, error) {
	built := envcache.Built{Locked: n.locked(), Sentinels: []string{"deno.lock"}}
	data, err := os.ReadFile(filepath.Join(dir, "deno.lock"))
	if err != nil {
		return built, fmt.Errorf("deno wrote no lock file: %w", err)
	}
	var lock denoLock
	if err := json.Unmarshal(data, &lock); err != nil {
		return built, fmt.Errorf("%s: %w", at("deno.lock", data, err), err)
	}
	cache := filepath.Join(n.in.Downloads, "deno")
	for key := range lock.NPM {
		name, version := denoPackage(key)
		built.Resolved = append(built.Resolved, name+"=="+version)
		if err := copyNPM(cache, filepath.Join(dir, "deno"), name, version); err != nil {
			return built, err
		}
	}
	for key := range lock.JSR {
		name, version := denoPackage(key)
		built.Resolved = append(built.Resolved, "jsr:"+name+"=="+version)
	}
	for address := range lock.Remote {
		built.Resolved = append(built.Resolved, withoutCredentials(address))
	}
	if len(lock.JSR)+len(lock.Remote) > 0 {
		if err := copyFiles(filepath.Join(cache, "remote"), filepath.Join(dir, "deno", "remote"), isJSSource); err != nil {
			return built, err
		}
	}
	slices.Sort(built.Resolved)
	built.Resolved = slices.Compact(built.Resolved)
	registries, err := os.ReadDir(filepath.Join(dir, "deno", "npm"))
	for _, registry := range registries { // none when err is not nil
		built.Complete = append(built.Complete, filepath.Join("deno", "npm", registry.Name()))
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = os.MkdirAll(filepath.Join(dir, "deno"), 0o755)
	}
	return built, err
}

// denoPackage splits "@scope/name@1.0.0_peer@2.0.0".
func denoPackage(key string) (name, version string) {
	at := strings.Index(key[1:], "@") + 1
	version, _, _ = strings.Cut(key[at+1:], "_")
	return key[:at], version
}

// copyNPM copies npm/<registry>/<name>/<version>; a registry's address may have directories. A package for another
// platform is in the lock file and not in the cache.
func copyNPM(cache, to, name, version string) error {
	for _, registry := range []string{"*", "*/*", "*/*/*", "*/*/*/*"} {
		found, err := filepath.Glob(filepath.Join(globQuote(cache), "npm", registry, name, version))
		if err != nil {
			return err
		}
		for _, dir := range found {
			relative, err := filepath.Rel(cache, dir)
			if err != nil {
				return err
			}
			if err := copyFiles(dir, filepath.Join(to, relative), isAnything); err != nil {
				return err
			}
		}
	}
	return nil
}

func isAnything(string, os.DirEntry) bool { return true }

// globQuote makes a path mean itself in a pattern.
func globQuote(path string) string {
	return regexp.MustCompile(`[*?\[\\]`).ReplaceAllString(path, `\$0`)
}

func (deno) Check(_ context.Context, _ Input, dir string) error {
	_, err := os.Stat(filepath.Join(dir, "deno"))
	return err
}

func (deno) Command(in Input, env *envcache.Env) (Command, error) {
	command, err := interpreted(in, in.Interpreter.Path, runtime.Vars{})
	if err != nil {
		return command, err
	}
	var flags []string
	switch {
	case env != nil:
		flags = append(slices.Clone(denoFlags), "--cached-only", "--frozen", "--lock="+filepath.Join(env.Dir, "deno.lock"))
		command.Env = []runtime.EnvVar{{Name: "DENO_DIR", Value: "{env_dir}/deno", Operation: runtime.Set}}
		// The cache is ordered by registry; nothing is fetched from it.
		if registry := readJSSettings(in, jsTool{name: "deno", config: []string{".npmrc"}}).npm["registry"]; registry != "" {
			command.Env = append(command.Env, runtime.EnvVar{Name: "NPM_CONFIG_REGISTRY", Value: withoutCredentials(registry), Operation: runtime.Set})
		}
	case !in.AdHoc:
		flags = append(slices.Clone(denoFlags), "--no-lock") // a pack is only ever read
	}
	command.Argv = slices.Insert(command.Argv, 1+len(in.Spec.Interpreter.Args), flags...)
	return command, nil
}
