package recipe

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"go.yaml.in/yaml/v4"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/runtime"
)

// jsTool is one installer of JavaScript packages.
type jsTool struct {
	name     string                // as in keys and messages
	wanted   string                // the same where the name alone does not tell
	program  string                // as in packageManager
	binaries []string              // in PATH
	locks    string                // its lock file, for messages
	relock   string                // the command that writes it
	get      string                // how to get the tool
	reads    []string              // what it reads beside package.json and the lock file
	config   []string              // its settings files in the pack; never copied, for they may hold credentials
	leavings []string              // what it writes for itself only
	stale    func() *regexp.Regexp // what it says of a lock file that does not match
	args     func(p *packages, version string) []string
	env      func(p *packages, i *installer, downloads string)
}

// jsTools are the installers by name. "berry" is yarn 2 and newer: another program of the same name.
var jsTools = map[string]jsTool{
	"npm": {
		name: "npm", program: "npm", binaries: []string{"npm"}, locks: "package-lock.json", relock: "npm install --package-lock-only",
		get: "install npm", config: []string{".npmrc"},
		stale: lazy(`(?s)npm (?:error|ERR!) code EUSAGE.*?are in sync\.(?:.*?(?:error|ERR!) ((?:Invalid|Missing): [^\n]*))?`),
		args:  npmArgs,
		env: func(p *packages, i *installer, downloads string) {
			i.set("npm_config_cache", filepath.Join(downloads, "npm"))
			npmLogins(p.settings.npm, i)
		},
	},
	"pnpm": {
		name: "pnpm", program: "pnpm", binaries: []string{"pnpm"}, locks: "pnpm-lock.yaml", relock: "pnpm install --lockfile-only",
		get: "install it (npm install -g pnpm)", config: []string{".npmrc"},
		reads:    []string{"pnpm-workspace.yaml", ".pnpmfile.cjs", ".pnpmfile.mjs", "patches"},
		leavings: []string{"node_modules/.modules.yaml", "node_modules/.pnpm-workspace-state.json", "node_modules/.pnpm-workspace-state-v1.json"},
		stale:    lazy(`ERR_PNPM_(?:OUTDATED_LOCKFILE|LOCKFILE_CONFIG_MISMATCH|FROZEN_LOCKFILE_WITH_OUTDATED_LOCKFILE)(?:(?s:.*?)\n\s*- ([^\n]*\(lockfile: [^\n]*))?`),
		args:     pnpmArgs,
	},
	"yarn": {
		name: "yarn", wanted: "yarn 1", program: "yarn", binaries: []string{"yarn", "yarnpkg"}, locks: "yarn.lock", relock: "yarn install",
		get: "install it (npm install -g yarn)", config: []string{".npmrc", ".yarnrc"}, reads: []string{"patches"},
		leavings: []string{"node_modules/.yarn-integrity"},
		stale:    lazy(`Your lockfile needs to be updated()`),
		args:     yarnArgs,
		env: func(_ *packages, i *installer, downloads string) {
			i.set("YARN_CACHE_FOLDER", filepath.Join(downloads, "yarn"))
			i.set("YARN_IGNORE_PATH", "1") // no yarn-path: another yarn
		},
	},
	"berry": {
		name: "yarn", wanted: "yarn 2 or newer", program: "yarn", binaries: []string{"yarn", "yarnpkg"}, locks: "yarn.lock", relock: "yarn install",
		get: "install it (npm install -g @yarnpkg/cli-dist)", config: []string{".yarnrc.yml"},
		reads:    []string{".yarn/plugins", ".yarn/patches", "patches"},
		leavings: []string{".yarn/install-state.gz"},
		// Production installs resolve anew what the lock file lacks, and say so with a plus sign.
		stale: lazy(`(?:YN0028: |YN0085: . \+ )([^\n]*)`),
		args:  berryArgs,
		env:   berryEnv,
	},
	"bun": {
		name: "bun", program: "bun", binaries: []string{"bun"}, locks: "bun.lock", relock: "bun install --lockfile-only",
		get: "install it (npm install -g bun)", config: []string{".npmrc", "bunfig.toml"}, reads: []string{"patches"},
		stale: lazy(`lockfile had changes, but lockfile is frozen(?:\s*note: dependencies in package\.json changed since [^:]*: ([^\n]*))?`),
		args:  bunArgs,
		env: func(_ *packages, i *installer, downloads string) {
			i.set("BUN_INSTALL_CACHE_DIR", filepath.Join(downloads, "bun"))
			i.set("DO_NOT_TRACK", "1")
		},
	},
}

// lazy is a pattern that is compiled when it is first needed: start-up is part of every execution.
func lazy(pattern string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(pattern) })
}

// busy are the installers' own words for a network or a registry that failed.
var busy = lazy(`ConnectionRefused|ConnectionClosed|ConnectionTimeout|DNSResolveFailed|error trying to connect|Bad response: (?:401|403|407|408|425|429|5\d\d)|` +
	`GET \S+ - (?:401|403|407|408|425|429|5\d\d)|YN0041|Response Code: (?:401|403|407|408|425|429|5\d\d)`)

// reclassify gives a failure the class that only these installers' words tell.
func reclassify(err error, said []byte) {
	var failed *ToolFailure
	if errors.As(err, &failed) && failed.class == envcache.Permanent && busy().Match(said) {
		failed.class = envcache.Transient
	}
}

// npmArgs: https://docs.npmjs.com/cli/commands/npm-ci
func npmArgs(p *packages, _ string) []string {
	args := []string{"install"}
	if p.lock != "" {
		args = []string{"ci"}
	}
	args = append(args, "--omit=dev", "--no-audit", "--no-fund", "--no-progress", "--no-update-notifier", "--logs-max=0")
	for _, kind := range strings.FieldsFunc(p.settings.npm["omit"], func(r rune) bool { return r == ',' || r == ' ' }) {
		args = append(args, "--omit="+kind) // a command line's word replaces that of the settings
	}
	if !p.in.InstallScripts {
		args = append(args, "--ignore-scripts")
	}
	switch {
	case p.in.Network == Offline:
		args = append(args, "--offline")
	case p.in.Network == PreferOffline || p.lock != "": // a locked version never changes
		args = append(args, "--prefer-offline")
	}
	return args
}

// npmLogins takes user and password out of the registries' addresses and gives them to npm apart: it notes addresses as they
// are in its cache.
func npmLogins(settings map[string]string, i *installer) {
	for name, value := range settings {
		if name != "registry" && !strings.HasSuffix(name, ":registry") {
			continue
		}
		u, err := url.Parse(value)
		if err != nil || u.User == nil {
			continue
		}
		password, _ := u.User.Password()
		at := "npm_config_//" + u.Host + strings.TrimSuffix(u.Path, "/") + "/:"
		i.set(at+"username", u.User.Username())
		i.set(at+"_password", base64.StdEncoding.EncodeToString([]byte(password)))
		u.User = nil
		delete(i.env, "NPM_CONFIG_"+strings.ToUpper(name))
		i.set("npm_config_"+name, u.String())
	}
}

// pnpmArgs: https://pnpm.io/settings. Packages are cloned or copied out of the store, never linked: a hard link would
// let an action that writes into its node_modules change every other environment.
func pnpmArgs(p *packages, _ string) []string {
	downloads := filepath.Join(p.in.Downloads, "pnpm")
	args := []string{"install", "--prod", "--reporter=append-only", "--store-dir=" + filepath.Join(downloads, "store")}
	for _, setting := range []string{
		"cache-dir=" + filepath.Join(downloads, "cache"), "state-dir=" + filepath.Join(downloads, "state"),
		"package-import-method=clone-or-copy", "enable-global-virtual-store=false", "virtual-store-dir=node_modules/.pnpm",
		"extend-node-path=false",                                                              // the programs' scripts would carry the build's path
		"manage-package-manager-versions=false", "pm-on-fail=ignore", "update-notifier=false", // no other pnpm is fetched
		"package-manager-strict=false", "verify-deps-before-run=false",
	} {
		args = append(args, "--config."+setting)
	}
	if p.lock != "" {
		args = append(args, "--frozen-lockfile")
	} else {
		args = append(args, "--no-frozen-lockfile")
	}
	if !exists(p.in.PackDir, "pnpm-workspace.yaml") {
		args = append(args, "--ignore-workspace") // one further up is not the pack's
	}
	if !p.in.InstallScripts {
		args = append(args, "--ignore-scripts")
	}
	return append(args, offlineArgs(p)...)
}

// yarnArgs: https://classic.yarnpkg.com/en/docs/cli/install
func yarnArgs(p *packages, _ string) []string {
	args := []string{"install", "--production", "--non-interactive", "--no-progress"}
	if p.lock != "" {
		args = append(args, "--frozen-lockfile")
	}
	if !p.in.InstallScripts {
		args = append(args, "--ignore-scripts")
	}
	return append(args, offlineArgs(p)...)
}

func offlineArgs(p *packages) []string {
	switch p.in.Network {
	case Offline:
		return []string{"--offline"}
	case PreferOffline:
		return []string{"--prefer-offline"}
	}
	return nil
}

// berryArgs: https://yarnpkg.com/cli/workspaces/focus is the one installation without development dependencies; yarn 2
// and 3 have it as a plugin only.
func berryArgs(p *packages, version string) []string {
	if runtime.CompareVersions(version, "4") < 0 {
		if p.lock == "" {
			return []string{"install"}
		}
		return []string{"install", "--immutable"}
	}
	if len(p.manifest.Workspaces) > 0 {
		return []string{"workspaces", "focus", "--all", "--production"}
	}
	return []string{"workspaces", "focus", "--production"}
}

// berryEnv: https://yarnpkg.com/configuration/yarnrc; variables win over every .yarnrc.yml.
func berryEnv(p *packages, i *installer, downloads string) {
	for name, value := range map[string]string{
		"YARN_NODE_LINKER": "node-modules", "YARN_NM_MODE": "classic", "YARN_IGNORE_PATH": "1", "YARN_ENABLE_TELEMETRY": "0",
		"YARN_GLOBAL_FOLDER": filepath.Join(downloads, "berry"), "YARN_ENABLE_GLOBAL_CACHE": "1",
		"YARN_ENABLE_PROGRESS_BARS": "0", "YARN_ENABLE_COLORS": "0", "YARN_ENABLE_HYPERLINKS": "0", "YARN_ENABLE_SCRIPTS": "0", "YARN_ENABLE_NETWORK": "1",
	} {
		i.set(name, value)
	}
	if p.in.InstallScripts {
		i.set("YARN_ENABLE_SCRIPTS", "1")
	}
	if p.in.Network == Offline {
		i.set("YARN_ENABLE_NETWORK", "0")
	}
	delete(i.env, "YARN_CACHE_FOLDER")
}

// bunArgs: https://bun.com/docs/cli/install; for the backend see pnpmArgs.
func bunArgs(p *packages, _ string) []string {
	args := []string{"install", "--production", "--no-progress", "--backend=copyfile"}
	if p.lock != "" {
		args = append(args, "--frozen-lockfile")
	}
	if !p.in.InstallScripts {
		args = append(args, "--ignore-scripts")
	}
	return append(args, offlineArgs(p)...)
}

// jsProgram is an installer as it is found.
type jsProgram struct {
	argv    []string // what starts it
	version string
}

// find looks for the installer beside the interpreter and in PATH. Corepack's stand-ins are passed over: they fetch the
// tool when they are started, in whatever version the directory asks for.
func (p *packages) find(ctx context.Context) (jsProgram, error) {
	if p.tool.name == p.in.Spec.Environment.Type { // bun installs what bun runs
		return jsProgram{argv: []string{p.in.Interpreter.Path}, version: p.in.Interpreter.Version}, nil
	}
	remedy := p.tool.get
	for _, dir := range filepath.SplitList(beside(p.in)) {
		for _, name := range p.tool.binaries {
			path, found := lookPath(dir, name)
			if !found {
				continue
			}
			program, why, err := p.program(ctx, path)
			if why == "" {
				return program, err
			}
			remedy = fmt.Sprintf("%s is %s; %s", path, why, p.tool.get)
		}
	}
	manifest := cmp.Or(p.lock, "package.json")
	return jsProgram{}, &ToolError{Tool: cmp.Or(p.tool.wanted, p.tool.name), Manifest: manifest, Remedy: remedy}
}

// program looks at one candidate; why says what is wrong with it.
func (p *packages) program(ctx context.Context, path string) (program jsProgram, why string, err error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return program, "", err
	}
	program.argv = []string{path}
	if p.runsScripts() && isNodeScript(real) {
		program.argv = []string{p.in.Interpreter.Path, real} // the very node that the action gets
	}
	owner := packageOf(real)
	if owner.Name == "corepack" {
		return program, "corepack's, which fetches " + p.tool.program + " when it runs", nil
	}
	if program.version = owner.Version; program.version == "" {
		program.version, err = p.in.toolVersion(ctx, p.tool.name, path, `(?m)^(?P<version>\d+\.\d+\.\d+)`)
		if errors.Is(err, errNoProbe) {
			err = nil
		}
	}
	if classic := strings.HasPrefix(program.version, "1."); p.tool.name == "yarn" && program.version != "" && classic != (p.tool.wanted == "yarn 1") {
		return program, "yarn " + program.version, nil
	}
	return program, "", err
}

// runsScripts tells whether the interpreter is a node, and so can run an installer that is written in JavaScript.
func (p *packages) runsScripts() bool { return p.in.Spec.Environment.Type == "node_modules" }

func isNodeScript(path string) bool {
	if slices.Contains([]string{".js", ".cjs", ".mjs"}, filepath.Ext(path)) {
		return true
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	head := make([]byte, 32)
	n, _ := f.Read(head)
	return bytes.HasPrefix(head[:n], []byte("#!/usr/bin/env node"))
}

// packageOf is the package.json of the package that a program belongs to, without starting it; zero where there is none.
func packageOf(path string) packageJSON {
	for dir := filepath.Dir(path); dir != "/" && dir != "."; dir = filepath.Dir(dir) {
		var manifest packageJSON
		data, err := os.ReadFile(filepath.Join(dir, "package.json"))
		if err == nil && json.Unmarshal(data, &manifest) == nil && manifest.Version != "" {
			return manifest
		}
		if filepath.Base(dir) == "node_modules" {
			break
		}
	}
	return packageJSON{}
}

// installer is the tool's environment.
func (p *packages) installer(program jsProgram, dir string) *installer {
	i := newInstaller(p.in, p.tool.name, append(p.settings.passed, "NPM_CONFIG_", "npm_config_", "PNPM_CONFIG_", "pnpm_config_", "YARN_", "BUN_CONFIG_",
		"NPM_TOKEN", "NODE_AUTH_TOKEN", "BUN_AUTH_TOKEN")...)
	i.dir = dir
	i.secrets = append(p.settings.secrets, urlPasswords(string(p.data))...)
	i.set("PATH", beside(p.in))
	if p.tool.env != nil {
		p.tool.env(p, i, p.in.Downloads)
	}
	return i
}

// workspaceMembers are the directories that the pack's workspaces are in.
func (p *packages) workspaceMembers() ([]string, error) {
	globs := []string(p.manifest.Workspaces)
	if p.tool.name == "pnpm" {
		data, found, err := readManifest(p.in.PackDir, "pnpm-workspace.yaml")
		if err != nil {
			return nil, err
		}
		var workspace struct {
			Packages []string `yaml:"packages"`
		}
		if err := yaml.Unmarshal(data, &workspace); found && err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(p.in.PackDir, "pnpm-workspace.yaml"), err)
		}
		globs = workspace.Packages
	}
	var members []string
	for _, glob := range globs {
		without, exclude := strings.CutPrefix(glob, "!")
		found, err := matching(p.in.PackDir, without)
		if err != nil {
			return nil, fmt.Errorf("%s: workspace %s: %w", filepath.Join(p.in.PackDir, "package.json"), glob, err)
		}
		if exclude {
			members = slices.DeleteFunc(members, func(name string) bool { return slices.Contains(found, name) })
		} else {
			members = append(members, found...)
		}
	}
	slices.Sort(members)
	return slices.Compact(members), nil
}

// matching are the directories with a package.json that a glob means; "**" is any depth.
func matching(root, glob string) ([]string, error) {
	glob = strings.TrimSuffix(filepath.Clean(glob), "/package.json")
	var found []string
	err := filepath.WalkDir(root, func(path string, item fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case !item.IsDir():
			return nil
		case path != root && !isJSSource(path, item):
			return filepath.SkipDir
		}
		relative, err := filepath.Rel(root, path)
		if err != nil || relative == "." {
			return err
		}
		matched, err := globMatch(strings.Split(glob, "/"), strings.Split(relative, "/"))
		if matched && exists(path, "package.json") {
			found = append(found, relative)
		}
		return err
	})
	return found, err
}

func globMatch(glob, path []string) (bool, error) {
	switch {
	case len(glob) == 0:
		return len(path) == 0, nil
	case glob[0] == "**":
		for skip := range len(path) + 1 {
			if matched, err := globMatch(glob[1:], path[skip:]); matched || err != nil {
				return matched, err
			}
		}
		return false, nil
	case len(path) == 0:
		return false, nil
	}
	matched, err := filepath.Match(glob[0], path[0])
	if err != nil || !matched {
		return false, err
	}
	return globMatch(glob[1:], path[1:])
}

// offlineFailure makes an *OfflineError of every failure without the network, but for a canceled build: these installers have
// too many words for what they miss.
func offlineFailure(manifest string, err error) error {
	var failed *ToolFailure
	if err == nil || errors.As(err, &failed) && failed.Signal != 0 {
		return err
	}
	return &OfflineError{Manifest: manifest, Err: err}
}
