package recipe

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/proc"
	"github.com/attune-run/attune/runtime"
)

// node installs packages with npm. CommonJS finds them through NODE_PATH; ES modules do not look there, so they get
// a loader hook.
type node struct{}

// The hooks let `import` find the environment's packages; which one fits depends on node's version.
var (
	//go:embed hook_sync.mjs
	hookSync []byte // module.registerHooks: 22.15, 23.5 and newer
	//go:embed hook_async.mjs
	hookAsync []byte // module.register: 18.19, 20.6 and newer
)

var nodeLocks = []string{"npm-shrinkwrap.json", "package-lock.json"}

// otherLocks belong to installers that this recipe does not run.
var otherLocks = map[string]string{"pnpm-lock.yaml": "pnpm", "yarn.lock": "yarn", "bun.lock": "bun"}

// packageJSON is the part of package.json that decides what is installed.
type packageJSON struct {
	Dependencies         map[string]string `json:"dependencies"`
	OptionalDependencies map[string]string `json:"optionalDependencies"`
}

func (node) Inputs(_ context.Context, in Input) ([]envcache.KeyInput, error) {
	data, found, err := readManifest(in.PackDir, "package.json")
	if err != nil || !found {
		return nil, err
	}
	var manifest packageJSON
	if err := json.Unmarshal(data, &manifest); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(in.PackDir, "package.json"), err)
	}
	if len(manifest.Dependencies)+len(manifest.OptionalDependencies) == 0 {
		return nil, nil
	}
	for name, at := range manifest.Dependencies {
		if strings.HasPrefix(at, "file:") || strings.HasPrefix(at, "link:") {
			return nil, fmt.Errorf("%s: dependency %s is %s: local packages are not supported; put its code in the pack's lib directory", filepath.Join(in.PackDir, "package.json"), name, at)
		}
	}
	inputs := []envcache.KeyInput{content("package.json", data)}
	lock, err := nodeLock(in)
	if err != nil {
		return nil, err
	}
	if lock == "" && in.Locked {
		return nil, &NotLockedError{Manifest: "package.json", Remedy: "run `npm install --package-lock-only` and keep package-lock.json beside it"}
	}
	for _, name := range []string{lock, ".npmrc"} {
		if data, found, err := readManifest(in.PackDir, name); err == nil && found && name != "" {
			inputs = append(inputs, content(name, withoutTokens(data)))
		}
	}
	if user, err := os.ReadFile(filepath.Join(in.hostVar("HOME"), ".npmrc")); err == nil {
		inputs = append(inputs, content("~/.npmrc", withoutTokens(user)))
	}
	_, npm := npmCommand(in)
	inputs = append(inputs, envcache.KeyInput{Name: "installer", Value: "npm " + npmVersion(npm)})
	return append(inputs, variables(in, "NPM_CONFIG_REGISTRY", "npm_config_registry", "npm_config_omit", "NPM_CONFIG_OMIT")...), nil
}

// nodeLock is the name of npm's lock file; empty without one.
func nodeLock(in Input) (string, error) {
	for _, name := range nodeLocks {
		if exists(in.PackDir, name) {
			return name, nil
		}
	}
	for name, tool := range otherLocks {
		if exists(in.PackDir, name) {
			return "", fmt.Errorf("%s: %s is not supported by this version; add a package-lock.json", filepath.Join(in.PackDir, name), tool)
		}
	}
	return "", nil
}

// withoutTokens drops an .npmrc's lines that hold credentials.
func withoutTokens(data []byte) []byte {
	var kept []byte
	for line := range bytes.Lines(data) {
		name, _, _ := strings.Cut(string(line), "=")
		if !isCredential(name) {
			kept = append(kept, withoutCredentials(string(line))...)
		}
	}
	return kept
}

// npmCommand is how npm is run, with the very node that the action gets, and the path of npm itself; both are empty when
// there is no npm.
func npmCommand(in Input) (argv []string, path string) {
	path, found := lookPath(filepath.Dir(in.Interpreter.Path)+string(os.PathListSeparator)+in.hostVar("PATH"), "npm")
	if !found {
		return nil, ""
	}
	if real, err := filepath.EvalSymlinks(path); err == nil && strings.HasSuffix(real, ".js") {
		return []string{in.Interpreter.Path, real}, real
	}
	return []string{path}, path
}

// npmVersion reads npm's own package.json; empty when it lies elsewhere.
func npmVersion(path string) string {
	data, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(path)), "package.json"))
	var manifest struct {
		Version string `json:"version"`
	}
	if err != nil || json.Unmarshal(data, &manifest) != nil {
		return ""
	}
	return manifest.Version
}

func (node) Build(ctx context.Context, in Input, site envcache.Site) (envcache.Built, error) {
	argv, _ := npmCommand(in)
	if argv == nil {
		return envcache.Built{}, &ToolError{Tool: "npm", Manifest: "package.json", Remedy: "install npm beside " + in.Interpreter.Path}
	}
	lock, err := nodeLock(in)
	if err != nil {
		return envcache.Built{}, err
	}
	for _, name := range []string{"package.json", lock, ".npmrc"} {
		if name != "" && exists(in.PackDir, name) {
			if err := copyFile(filepath.Join(in.PackDir, name), filepath.Join(site.Dir, name)); err != nil {
				return envcache.Built{}, err
			}
		}
	}
	npm := newInstaller(in, "npm", "NPM_", "npm_", "NODE_AUTH_TOKEN")
	npm.dir = site.Dir
	npm.set("npm_config_cache", filepath.Join(in.Downloads, "npm"))
	npm.set("PATH", filepath.Dir(in.Interpreter.Path)+string(os.PathListSeparator)+npm.env["PATH"])
	command := "install"
	if lock != "" {
		command = "ci"
	}
	argv = append(argv, command, "--omit=dev", "--no-audit", "--no-fund", "--no-progress", "--no-update-notifier")
	if !in.InstallScripts {
		argv = append(argv, "--ignore-scripts")
	}
	if in.Network == Offline {
		argv = append(argv, "--offline")
	} else {
		argv = append(argv, "--prefer-offline")
	}
	site.Phase("installing package.json with npm " + command)
	if err := npm.run(ctx, site, argv...); err != nil {
		return envcache.Built{}, err
	}
	for name, hook := range map[string][]byte{"hook_sync.mjs": hookSync, "hook_async.mjs": hookAsync} {
		if err := os.WriteFile(filepath.Join(site.Dir, name), hook, 0o644); err != nil {
			return envcache.Built{}, err
		}
	}
	resolved, err := installedPackages(site.Dir)
	return envcache.Built{Resolved: resolved, Locked: lock != "", Sentinels: []string{"node_modules", "hook_sync.mjs", "hook_async.mjs"}}, err
}

// installedPackages reads what npm noted of its own work.
func installedPackages(dir string) ([]string, error) {
	data, err := os.ReadFile(filepath.Join(dir, "node_modules", ".package-lock.json"))
	if err != nil {
		return nil, err
	}
	var lock struct {
		Packages map[string]struct {
			Version string `json:"version"`
		} `json:"packages"`
	}
	if err := json.Unmarshal(data, &lock); err != nil {
		return nil, err
	}
	var all []string
	for path, p := range lock.Packages {
		all = append(all, strings.TrimPrefix(path, "node_modules/")+"=="+p.Version)
	}
	slices.Sort(all)
	return all, nil
}

func (node) Check(ctx context.Context, in Input, dir string) error {
	var out bytes.Buffer
	exit, err := proc.Run(ctx, proc.Spec{
		Argv:   append(append([]string{in.Interpreter.Path}, importHook(in, dir)...), "-e", ""),
		Stdout: &out, Stderr: &out,
	})
	if err == nil && exit.Code != 0 {
		err = fmt.Errorf("node exited with %d: %s", exit.Code, strings.TrimSpace(out.String()))
	}
	return err
}

// importHook are the options that let ES modules find the environment's packages. On a node without synchronous hooks
// they cost a thread and some 20 ms, so only a script that imports gets them there.
func importHook(in Input, dir string) []string {
	version := in.Interpreter.Version
	newer := func(than string) bool { return runtime.CompareVersions(version, than) >= 0 }
	switch {
	case newer("23.5") || newer("22.15") && !newer("23.0"):
		return []string{"--import", fileURL(filepath.Join(dir, "hook_sync.mjs"))}
	case (newer("20.6") || newer("18.19") && !newer("19.0")) && imports(in.Script):
		return []string{"--import", fileURL(filepath.Join(dir, "hook_async.mjs"))}
	}
	return nil
}

// imports tells whether a script may use ES modules; a CommonJS file without import() does not.
func imports(script string) bool {
	if script == "" || strings.HasSuffix(script, ".mjs") {
		return true
	}
	data, err := os.ReadFile(script)
	return err != nil || bytes.Contains(data, []byte("import"))
}

func fileURL(path string) string {
	return "file://" + strings.NewReplacer("%", "%25", "?", "%3F", "#", "%23", " ", "%20").Replace(path)
}

func (node) Command(in Input, env *envcache.Env) (Command, error) {
	command, err := interpreted(in, in.Interpreter.Path, runtime.Vars{})
	if err != nil || env == nil {
		return command, err
	}
	command.Argv = slices.Insert(command.Argv, 1, importHook(in, env.Dir)...)
	command.Env = []runtime.EnvVar{
		{Name: "NODE_PATH", Value: "{env_dir}/node_modules", Operation: runtime.Append},
		{Name: "PATH", Value: "{env_dir}/node_modules/.bin", Operation: runtime.Prepend},
	}
	return command, nil
}
