package recipe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/runtime"
)

// jsToolsDir is where the installers are that npm brings, once for all tests.
var jsToolsDir struct {
	sync.Mutex
	root string
	err  map[string]error
}

// Versions that run on every node that the tests may meet.
var jsToolPackages = map[string]string{"pnpm": "pnpm@10.34.8", "yarn": "yarn@1.22.22", "berry": "@yarnpkg/cli-dist@4.18.1", "bun": "bun@1.4.5", "deno": "deno@2.9.6"}

// jsToolBin is a directory with one installer, as users get it from npm.
func jsToolBin(t *testing.T, name string) string {
	t.Helper()
	dirs := &jsToolsDir
	dirs.Lock()
	defer dirs.Unlock()
	if dirs.root == "" {
		root, err := os.MkdirTemp("", "attune-js-tools")
		require.NoError(t, err)
		dirs.root, dirs.err = root, map[string]error{}
		atExit = append(atExit, func() { _ = os.RemoveAll(root) })
	}
	dir := filepath.Join(dirs.root, name)
	if _, tried := dirs.err[name]; !tried {
		cmd := exec.Command("npm", "install", "--no-audit", "--no-fund", "--no-save", "--prefix", dir, jsToolPackages[name])
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		dirs.err[name] = err
	}
	require.NoError(t, dirs.err[name])
	return filepath.Join(dir, "node_modules", ".bin")
}

// nodeHere is this machine's node.
var nodeHere = sync.OnceValues(func() (runtime.Interpreter, error) {
	path, found := lookPath(os.Getenv("PATH"), "node")
	if !found {
		return runtime.Interpreter{}, errors.New("node is missing")
	}
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return runtime.Interpreter{}, err
	}
	out, err := exec.Command(path, "--version").Output()
	return runtime.Interpreter{Runtime: "node", Path: path, Version: strings.TrimPrefix(strings.TrimSpace(string(out)), "v")}, err
})

// jsInput is a pack for node, with the installer in PATH and no way to any registry but reg (where it is given).
func jsInput(t *testing.T, reg *registry, tool string, files map[string]string) Input {
	t.Helper()
	in := input(t, "node", files)
	var err error
	in.Interpreter, err = nodeHere()
	require.NoError(t, err)
	home := t.TempDir()
	path := os.Getenv("PATH")
	if tool != "npm" {
		path = jsToolBin(t, tool) + ":" + path
	}
	in.Downloads = filepath.Join(t.TempDir(), "downloads")
	in.HostEnv = []string{"PATH=" + path, "HOME=" + home}
	if reg == nil { // the usual registry, as this machine is set up to reach it
		in.HostEnv = append(os.Environ(), "PATH="+path)
		return in
	}
	in.HostEnv = append(in.HostEnv, "NPM_CONFIG_REGISTRY="+reg.URL+"/", "YARN_NPM_REGISTRY_SERVER="+reg.URL, "YARN_UNSAFE_HTTP_WHITELIST=127.0.0.1",
		"NPM_CONFIG_FETCH_RETRIES=0", "YARN_HTTP_RETRY=0", "http_proxy=", "NPM_CONFIG_MINIMUM_RELEASE_AGE=0", "NPM_CONFIG_USERCONFIG="+filepath.Join(home, ".npmrc"))
	return in
}

// lock writes the lock file with the tool itself, as the pack's author would, and leaves nothing else behind.
func lock(t *testing.T, in Input, tool string) {
	t.Helper()
	commands := map[string][]string{
		"npm": {"npm", "install", "--package-lock-only", "--no-audit"}, "pnpm": {"pnpm", "install", "--lockfile-only"},
		"yarn": {"yarn", "install", "--non-interactive", "--ignore-scripts"}, "berry": {"yarn", "install", "--mode=skip-build"}, "bun": {"bun", "install", "--lockfile-only"},
		"deno": {"deno", "install", "--node-modules-dir=none"},
	}
	argv := commands[tool]
	path, found := lookPath(in.hostVar("PATH"), argv[0])
	require.True(t, found, argv[0])
	if tool == "berry" && !exists(in.PackDir, "yarn.lock") {
		write(t, &in, "yarn.lock", "")
	}
	cmd := exec.Command(path, argv[1:]...)
	cmd.Dir = in.PackDir
	scratch := t.TempDir()
	cmd.Env = append(slices.Clone(in.HostEnv), "npm_config_cache="+scratch, "npm_config_store_dir="+scratch, "YARN_CACHE_FOLDER="+scratch, "YARN_NODE_LINKER=node-modules",
		"YARN_GLOBAL_FOLDER="+scratch, "BUN_INSTALL_CACHE_DIR="+scratch, "DENO_DIR="+scratch, "YARN_ENABLE_TELEMETRY=0", "XDG_CACHE_HOME="+scratch, "XDG_STATE_HOME="+scratch,
		"CI=", "YARN_ENABLE_IMMUTABLE_INSTALLS=0") // in CI yarn would refuse to make one
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, name := range []string{"node_modules", ".yarn"} {
		require.NoError(t, os.RemoveAll(filepath.Join(in.PackDir, name)))
	}
}

// runScript runs a script of the pack as attune would, but for the sandbox around it.
func runScript(t *testing.T, in Input, env *envcache.Env, script string) string {
	t.Helper()
	in.Script = filepath.Join(in.PackDir, script)
	r, err := For(in.Spec)
	require.NoError(t, err)
	command, err := r.Command(in, env)
	require.NoError(t, err)
	vars := runtime.Vars{PackDir: in.PackDir, Interpreter: in.Interpreter.Path}
	if env != nil {
		vars.EnvDir = env.Dir
	}
	environ, err := runtime.ApplyEnv([]string{"PATH=/usr/bin:/bin", "HOME=" + t.TempDir()}, in.Spec.EnvVars, vars)
	require.NoError(t, err)
	environ, err = runtime.ApplyEnv(environ, command.Env, vars)
	require.NoError(t, err)
	cmd := exec.Command(command.Argv[0], command.Argv[1:]...)
	cmd.Env, cmd.Dir = environ, in.PackDir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s\n%s", out, stderr.String())
	return string(out)
}

// buildError is the error of a build that fails, with the class that the store sees.
func buildError(t *testing.T, in Input) (envcache.Class, error) {
	t.Helper()
	store, err := envcache.Open(filepath.Join(filepath.Dir(in.Downloads), "cache"), envcache.Options{})
	require.NoError(t, err)
	r, err := For(in.Spec)
	require.NoError(t, err)
	k, needed, err := Key(context.Background(), r, in)
	require.NoError(t, err)
	require.True(t, needed)
	_, err = store.Acquire(context.Background(), k, Builder(r, in), envcache.AcquireOptions{})
	require.Error(t, err)
	var classified envcache.Classified
	require.ErrorAs(t, err, &classified)
	return classified.Class(), err
}

const basicManifest = `{"name":"p","version":"1.0.0","license":"MIT","private":true,"dependencies":{"user":"^1.0.0","@scope/esm":"2.0.0","tool":"1.0.0"},"devDependencies":{"devonly":"1.0.0"}}`

// basicFiles is a pack whose scripts import in every way.
func basicFiles() map[string]string {
	return map[string]string{
		"package.json":        basicManifest,
		"lib/helper.js":       "module.exports = 'lib helper'\n",
		"lib/modern.mjs":      "import { name } from '@scope/esm'\nexport default 'modern lib, ' + name\n",
		"actions/esm.mjs":     "import user from 'user'\nimport { name } from '@scope/esm'\nimport sub from '@scope/esm/sub/deep'\nimport helper from 'helper'\nimport modern from 'modern'\nconsole.log([user.name, name, sub, helper, modern].join('|'))\n",
		"actions/cjs.cjs":     "console.log([require('user').name, require('helper')].join('|'))\nimport('@scope/esm').then((m) => console.log(m.name))\n",
		"actions/missing.mjs": "try { await import('devonly') } catch (e) { console.log(e.code) }\n",
		"typed/package.json":  `{"type":"module"}`,
		"typed/script.js":     "import { name } from '@scope/esm'\nimport { createRequire } from 'node:module'\nconst require = createRequire(import.meta.url)\nconsole.log(name, require('@scope/esm/data.json').data)\n",
	}
}

// Every installer builds an environment of the same packages; ES modules and CommonJS find them from a script that lies
// in the pack, and nothing of the build's directory is left in what they use.
func TestEveryNodeInstaller(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"npm", "pnpm", "yarn", "berry", "bun"} {
		t.Run(tool, func(t *testing.T) {
			reg := newRegistry(t, "")
			reg.publishBasics(t)
			in := jsInput(t, reg, tool, basicFiles())
			lock(t, in, tool)
			reg.publish(t, "plain", "1.2.0", nil, map[string]string{"index.js": "throw 'not locked'\n"})
			in.Locked = true
			env, _ := build(t, in)

			assert.Equal(t, []string{"@scope/esm==2.0.0", "plain==1.1.0", "tool==1.0.0", "user==1.0.0"}, env.Built.Resolved)
			assert.True(t, env.Built.Locked)
			assert.Contains(t, env.Built.Complete, "node_modules")
			assert.Contains(t, env.Built.Sentinels, "node_modules/@scope/esm/package.json")
			assert.NoFileExists(t, filepath.Join(env.Dir, "node_modules/tool/ran"), "install scripts are off")
			assertRelocatable(t, in, env)
			assertBasics(t, in, env)

			moved := envcache.Env{Built: env.Built} // as a layer with another root
			moved.Dir = filepath.Join(t.TempDir(), "moved to [a b] "+strings.Repeat("x", 100))
			out, err := exec.Command("cp", "-a", env.Dir, moved.Dir).CombinedOutput()
			require.NoError(t, err, "%s", out)
			assertBasics(t, in, &moved)
			again, _ := build(t, in)
			assert.Equal(t, envcache.Hit, again.State)
		})
	}
}

func assertBasics(t *testing.T, in Input, env *envcache.Env) {
	t.Helper()
	esm := "esm 2.0.0 with plain 1.1.0"
	assert.Equal(t, "user of plain 1.1.0|"+esm+"|sub|lib helper|modern lib, "+esm+"\n", runScript(t, in, env, "actions/esm.mjs"))
	assert.Equal(t, "user of plain 1.1.0|lib helper\n"+esm+"\n", runScript(t, in, env, "actions/cjs.cjs"))
	assert.Equal(t, "ERR_MODULE_NOT_FOUND\n", runScript(t, in, env, "actions/missing.mjs"))
	assert.Equal(t, esm+" true\n", runScript(t, in, env, "typed/script.js"))
	said, err := exec.Command(filepath.Join(env.Dir, "node_modules/.bin/say")).CombinedOutput()
	require.NoError(t, err, "%s", said)
	assert.Equal(t, "said\n", string(said))
}

// assertRelocatable looks for the build's own path in files and links, and for links that lead out.
func assertRelocatable(t *testing.T, in Input, env *envcache.Env) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(env.Dir, func(path string, item fs.DirEntry, err error) error {
		require.NoError(t, err)
		switch {
		case item.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			require.NoError(t, err)
			assert.False(t, filepath.IsAbs(target), "%s -> %s", path, target)
			_, err = os.Stat(path)
			assert.NoError(t, err)
		case item.Type().IsRegular():
			data, err := os.ReadFile(path)
			require.NoError(t, err)
			assert.NotContains(t, string(data), env.Dir, path)
			assert.NotContains(t, string(data), filepath.Dir(in.Downloads), path)
		}
		return nil
	}))
}

func TestNodeWithoutALockFile(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t, "")
	reg.publishBasics(t)
	for manager, tool := range map[string]string{"": "npm", "pnpm@9.0.0": "pnpm", "yarn@4.0.0": "berry", "bun@1.0.0": "bun"} {
		manifest := strings.Replace(basicManifest, `{`, `{"packageManager":"`+manager+`",`, 1)
		if manager == "" {
			manifest = basicManifest
		}
		in := jsInput(t, reg, tool, map[string]string{"package.json": manifest})
		env, _ := build(t, in)
		assert.Equal(t, []string{"@scope/esm==2.0.0", "plain==1.1.0", "tool==1.0.0", "user==1.0.0"}, env.Built.Resolved, tool)
		assert.False(t, env.Built.Locked, tool)
		assert.FileExists(t, filepath.Join(in.PackDir, "package.json"))
		entries, err := os.ReadDir(in.PackDir)
		require.NoError(t, err)
		assert.Len(t, entries, 1, "the pack is only read: %v", entries)
	}
}

func TestALockFileThatDoesNotMatch(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t, "")
	reg.publishBasics(t)
	locks := map[string]string{"npm": "package-lock.json", "pnpm": "pnpm-lock.yaml", "yarn": "yarn.lock", "berry": "yarn.lock", "bun": "bun.lock"}
	for tool, name := range locks {
		in := jsInput(t, reg, tool, map[string]string{"package.json": `{"name":"p","dependencies":{"plain":"1.0.0"}}`})
		lock(t, in, tool)
		write(t, &in, "package.json", `{"name":"p","dependencies":{"plain":"1.1.0"}}`)
		class, err := buildError(t, in)
		var mismatch *LockMismatchError
		require.ErrorAs(t, err, &mismatch, tool)
		assert.Equal(t, name, mismatch.Lock)
		assert.ErrorContains(t, err, name+" does not match package.json", tool)
		assert.ErrorContains(t, err, "run `"+jsTools[tool].relock+"`", tool)
		assert.Equal(t, envcache.Permanent, class, tool)
	}
}

func TestAMissingInstallerIsNamed(t *testing.T) {
	in := jsInput(t, newRegistry(t, ""), "npm", map[string]string{"package.json": `{"dependencies":{"plain":"1.0.0"}}`, "pnpm-lock.yaml": "lockfileVersion: '9.0'\n"})
	in.HostEnv = []string{"PATH=/nowhere", "HOME=/nowhere"}
	in.Interpreter.Path = copyOfNode(t)
	class, err := buildError(t, in)
	assert.ErrorContains(t, err, "pnpm-lock.yaml needs pnpm, which is not in PATH; install it (npm install -g pnpm)")
	assert.Equal(t, envcache.Passing, class)

	// Corepack's stand-in would fetch it at every use.
	bin := t.TempDir()
	shim := filepath.Join(bin, "lib", "corepack", "dist", "pnpm.js")
	require.NoError(t, os.MkdirAll(filepath.Dir(shim), 0o755))
	require.NoError(t, os.WriteFile(shim, []byte("#!/usr/bin/env node\nprocess.exit(1)\n"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(bin, "lib", "corepack", "package.json"), []byte(`{"name":"corepack","version":"0.30.0"}`), 0o644))
	require.NoError(t, os.Symlink(shim, filepath.Join(bin, "pnpm")))
	in.HostEnv = []string{"PATH=" + bin, "HOME=/nowhere"}
	_, err = buildError(t, in)
	assert.ErrorContains(t, err, "corepack's, which fetches pnpm when it runs")

	// One yarn does not read the other's lock file.
	in = jsInput(t, newRegistry(t, ""), "yarn", map[string]string{"package.json": `{"dependencies":{"plain":"1.0.0"}}`, "yarn.lock": "# generated\n\n__metadata:\n  version: 8\n"})
	_, err = buildError(t, in)
	assert.ErrorContains(t, err, "yarn.lock needs yarn 2 or newer")
	assert.ErrorContains(t, err, "is yarn 1.22.22")
}

// copyOfNode is a directory with a node and nothing else.
func copyOfNode(t *testing.T) string {
	t.Helper()
	here, err := nodeHere()
	require.NoError(t, err)
	link := filepath.Join(t.TempDir(), "node")
	require.NoError(t, os.Symlink(here.Path, link))
	return link
}

// A registry that wants a token gets it from wherever the installer reads it; the token is nowhere in what attune keeps.
func TestTokensReachOnlyTheInstaller(t *testing.T) {
	t.Parallel()
	const token = "npm_sEcReT0123456789"
	for _, c := range []struct{ tool, where string }{
		{"npm", "home"}, {"npm", "variable"}, {"npm", "reference"}, {"pnpm", "home reference"}, {"yarn", "reference"}, {"berry", "home"}, {"berry", "variable"},
		{"bun", "home"}, {"bun", "bunfig"}, {"deno", "home"},
	} {
		t.Run(c.tool+" "+c.where, func(t *testing.T) {
			reg := newRegistry(t, "")
			reg.publishBasics(t)
			in := jsInput(t, reg, c.tool, map[string]string{"package.json": `{"name":"p","dependencies":{"user":"1.0.0"}}`, "a.cjs": "console.log(require('user').name)", "a.mjs": "import user from 'user'\nconsole.log(user.name)\n"})
			if c.tool == "deno" {
				in = denoInput(t, reg, in)
			}
			lock(t, in, c.tool)
			reg.set(func(r *registry) { r.token = token })
			host := strings.TrimPrefix(reg.URL, "http:")
			rc := "registry=" + reg.URL + "/\n" + host + "/:_authToken="
			if c.tool == "yarn" { // which asks for packages without a scope anonymously
				rc = "always-auth=true\n" + rc
			}
			home := func(name, text string) {
				require.NoError(t, os.WriteFile(filepath.Join(in.hostVar("HOME"), name), []byte(text), 0o600))
			}
			switch {
			case c.tool == "berry" && c.where == "home":
				home(".yarnrc.yml", "npmAlwaysAuth: true\nnpmAuthToken: "+token+"\n")
			case c.tool == "berry":
				in.HostEnv = append(in.HostEnv, "YARN_NPM_ALWAYS_AUTH=1", "YARN_NPM_AUTH_TOKEN="+token)
			case c.where == "home":
				home(".npmrc", rc+token+"\n")
			case c.where == "bunfig":
				write(t, &in, "bunfig.toml", "[install]\nregistry = { url = \""+reg.URL+"/\", token = \"$MY_SECRET\" }\n")
				in.HostEnv = append(slices.DeleteFunc(in.HostEnv, func(e string) bool { return strings.HasPrefix(e, "NPM_CONFIG_REGISTRY") }), "MY_SECRET="+token)
			case c.where == "home reference": // pnpm expands nothing in a pack's credentials
				home(".npmrc", rc+"${MY_SECRET}\n")
				in.HostEnv = append(in.HostEnv, "MY_SECRET="+token)
			case c.where == "reference":
				write(t, &in, ".npmrc", rc+"${MY_SECRET}\n")
				in.HostEnv = append(in.HostEnv, "MY_SECRET="+token)
			default:
				in.HostEnv = append(in.HostEnv, "NPM_CONFIG_"+host+"/:_authToken="+token)
			}
			before, needed := key(t, in)
			require.True(t, needed)
			env, _ := build(t, in)
			script := "a.cjs"
			if c.tool == "deno" {
				script = "a.mjs"
			}
			assert.Equal(t, "user of plain 1.1.0\n", runScript(t, in, env, script))
			for _, i := range before.Inputs("/store") {
				assert.NotContains(t, i.Name+i.Value, token)
			}
			assertNowhere(t, token, filepath.Dir(in.Downloads))

			// A wrong token may be right in a minute; it is nowhere either.
			reg.set(func(r *registry) { r.token = "another" })
			in.Downloads = filepath.Join(t.TempDir(), "downloads")
			class, err := buildError(t, in)
			assert.Equal(t, envcache.Transient, class, "%v", err)
			assert.NotContains(t, err.Error(), token)
			assertNowhere(t, token, filepath.Dir(in.Downloads))
		})
	}
}

// assertNowhere looks through all files below dir.
func assertNowhere(t *testing.T, secret, dir string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, item fs.DirEntry, err error) error {
		require.NoError(t, err)
		if item.Type().IsRegular() {
			data, err := os.ReadFile(path)
			require.NoError(t, err)
			assert.NotContains(t, string(data), secret, path)
		}
		return nil
	}))
}

func TestSettingsThatDecideAreInTheKey(t *testing.T) {
	files := map[string]string{"package.json": `{"dependencies":{"plain":"1.0.0"}}`, "package-lock.json": "{}"}
	id := func(tool string, change func(in *Input)) string {
		in := jsInput(t, newRegistry(t, ""), tool, files)
		in.HostEnv = []string{"HOME=" + in.hostVar("HOME"), "PATH=" + in.hostVar("PATH")}
		if change != nil {
			change(&in)
		}
		k, _ := key(t, in)
		return k.ID("/store")
	}
	home := func(name, text string) func(in *Input) {
		return func(in *Input) {
			require.NoError(t, os.WriteFile(filepath.Join(in.hostVar("HOME"), name), []byte(text), 0o600))
		}
	}
	base := id("npm", nil)
	for name, c := range map[string]struct {
		same   bool
		change func(in *Input)
	}{
		"user's registry":     {false, home(".npmrc", "registry=https://mirror.example/\n")},
		"a scope's registry":  {false, home(".npmrc", "@scope:registry=https://mirror.example/\n")},
		"a variable":          {false, func(in *Input) { in.HostEnv = append(in.HostEnv, "npm_config_legacy_peer_deps=true") }},
		"the pack's settings": {false, func(in *Input) { write(t, in, ".npmrc", "install-strategy=nested\n") }},
		"a token":             {true, home(".npmrc", "//mirror.example/:_authToken=x\n")},
		"noise":               {true, home(".npmrc", "fund=false\nloglevel=silly\ncafile=/x\n# registry=https://no.example/\n")},
		"where npm runs in": {true, func(in *Input) {
			in.HostEnv = append(in.HostEnv, "npm_config_local_prefix=/x", "npm_package_name=x", "npm_config_cache=/x")
		}},
		"another lock": {false, func(in *Input) { write(t, in, "package-lock.json", `{"lockfileVersion":3}`) }},
		"scripts":      {false, func(in *Input) { in.InstallScripts = true }},
	} {
		assert.Equal(t, c.same, base == id("npm", c.change), name)
	}
	// The same setting is the same, wherever it stands.
	assert.Equal(t, id("npm", home(".npmrc", "registry = \"https://u:pw@mirror.example/\"\n")), id("npm", func(in *Input) {
		in.HostEnv = append(in.HostEnv, "NPM_CONFIG_REGISTRY=https://mirror.example/")
	}))
	// yarn 2 does not read .npmrc.
	files = map[string]string{"package.json": `{"dependencies":{"plain":"1.0.0"}}`, "yarn.lock": "\n__metadata:\n"}
	assert.Equal(t, id("berry", nil), id("berry", home(".npmrc", "registry=https://mirror.example/\n")))
	assert.NotEqual(t, id("berry", nil), id("berry", home(".yarnrc.yml", "npmRegistryServer: https://mirror.example\n")))
	assert.Equal(t, id("berry", nil), id("berry", nil))
	assert.Equal(t, id("berry", home(".yarnrc.yml", "npmAuthToken: one\n")), id("berry", home(".yarnrc.yml", "npmAuthToken: other\n")))
}

// Packages of the pack's own are copied into the environment, and their contents are inputs.
func TestLocalPackagesAndWorkspaces(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"npm", "pnpm", "yarn", "berry", "bun"} {
		t.Run(tool, func(t *testing.T) {
			reg := newRegistry(t, "")
			reg.publishBasics(t)
			manifest := `{"name":"p","version":"1.0.0","private":true,"workspaces":["members/*"],"dependencies":{"mine":"file:own/mine","packed":"file:own/packed.tgz","plain":"1.0.0"}}`
			files := map[string]string{
				"package.json":             manifest,
				"own/mine/package.json":    `{"name":"mine","version":"0.1.0","main":"index.js"}`,
				"own/mine/index.js":        "module.exports = 'mine'\n",
				"own/packed.tgz":           string(npmTarball(t, map[string]string{"package.json": `{"name":"packed","version":"0.2.0"}`, "index.js": "module.exports = 'packed'\n"})),
				"members/one/package.json": `{"name":"one","version":"0.3.0","main":"index.js","dependencies":{"user":"1.0.0"}}`,
				"members/one/index.js":     "module.exports = 'one, ' + require('user').name\n",
				"a.cjs":                    "console.log(require('mine'), require('packed'), require('plain').name)\n",
				"b.cjs":                    "console.log(require('one'))\n",
			}
			if tool == "pnpm" {
				files["pnpm-workspace.yaml"] = "packages: ['members/*']\n"
			}
			if tool == "pnpm" || tool == "bun" { // the others link all members
				files["package.json"] = strings.Replace(manifest, `"plain"`, `"one":"workspace:*","plain"`, 1)
			}
			in := jsInput(t, reg, tool, files)
			lock(t, in, tool)
			env, _ := build(t, in)
			assert.Equal(t, "mine packed plain 1.0.0\n", runScript(t, in, env, "a.cjs"))
			assert.Equal(t, "one, user of plain 1.0.0\n", strings.ReplaceAll(runScript(t, in, env, "b.cjs"), "1.1.0", "1.0.0"))
			assertRelocatable(t, in, env)

			before, _ := key(t, in)
			write(t, &in, "own/mine/index.js", "module.exports = 'changed'\n")
			after, _ := key(t, in)
			assert.NotEqual(t, before.ID("/"), after.ID("/"))
			assert.Equal(t, "mine packed plain 1.0.0\n", runScript(t, in, env, "a.cjs"), "it is a copy")
		})
	}
	in := jsInput(t, newRegistry(t, ""), "npm", map[string]string{"package.json": `{"dependencies":{"x":"file:../x"}}`})
	_, _, err := Key(context.Background(), node{}, in)
	assert.ErrorContains(t, err, "dependency x (file:../x) lies outside the pack")
	in = jsInput(t, newRegistry(t, ""), "npm", map[string]string{"package.json": `{"dependencies":{"x":"file:x"}}`})
	_, _, err = Key(context.Background(), node{}, in)
	assert.ErrorContains(t, err, "dependency x (file:x) is not there")
}

func TestOffline(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"npm", "pnpm", "yarn", "berry", "bun", "deno"} {
		t.Run(tool, func(t *testing.T) {
			reg := newRegistry(t, "")
			reg.publishBasics(t)
			in := jsInput(t, reg, tool, map[string]string{"package.json": `{"name":"p","dependencies":{"plain":"1.0.0"}}`})
			if tool == "deno" {
				in = denoInput(t, reg, in)
			}
			lock(t, in, tool)
			in.Network = Offline
			reg.set(func(r *registry) { r.requests = 0 })
			class, err := buildError(t, in)
			assert.Equal(t, envcache.Passing, class, "%v", err)
			assert.ErrorContains(t, err, "plain", "it names what is missing")
			var missing *OfflineError
			assert.ErrorAs(t, err, &missing)

			in.Network = Online
			build(t, in)
			reg.set(func(r *registry) { r.requests = 0 })
			in.Network = Offline
			in.InstallScripts = true // another key
			env, _ := build(t, in)
			assert.Equal(t, envcache.Fresh, env.State)
			assert.Equal(t, []string{"plain==1.0.0"}, env.Built.Resolved)
			assert.Zero(t, reg.requests)
		})
	}
}

func TestPackagesThatCannotBeInstalled(t *testing.T) {
	t.Parallel()
	locks := map[string]string{"npm": "package-lock.json", "pnpm": "pnpm-lock.yaml", "yarn": "yarn.lock", "berry": "yarn.lock", "bun": "bun.lock"}
	for tool, name := range locks {
		t.Run(tool, func(t *testing.T) {
			reg := newRegistry(t, "")
			reg.publishBasics(t)
			in := jsInput(t, reg, tool, map[string]string{"package.json": `{"name":"p","dependencies":{"plain":"1.0.0"}}`})
			lock(t, in, tool)
			data, err := os.ReadFile(filepath.Join(in.PackDir, name))
			require.NoError(t, err)

			reg.set(func(r *registry) { r.fail = 503 })
			class, err := buildError(t, in)
			assert.Equal(t, envcache.Transient, class, "busy: %v", err)
			reg.set(func(r *registry) { r.fail = 0 })

			text := strings.Replace(string(data), integrity(reg.packages["plain"]["1.0.0"].tarball), integrity([]byte("another")), 1)
			if _, sum, found := strings.Cut(text, "checksum: "); found { // yarn 2 has one of its own
				_, sum, _ = strings.Cut(strings.SplitN(sum, "\n", 2)[0], "/")
				text = strings.Replace(text, sum, strings.Repeat("0", len(sum)), 1)
			}
			require.NotEqual(t, string(data), text)
			write(t, &in, name, text)
			class, err = buildError(t, in)
			assert.Equal(t, envcache.Permanent, class, "wrong hash: %v", err)
			assert.Regexp(t, "(?i)integrity|checksum", err.Error())

			write(t, &in, name, string(data))
			reg.Close()
			class, err = buildError(t, in)
			assert.Equal(t, envcache.Transient, class, "down: %v", err)
		})
	}
	reg := newRegistry(t, "")
	for tool, manager := range map[string]string{"npm": "npm@1.0.0", "bun": "bun@1.0.0"} {
		in := jsInput(t, reg, tool, map[string]string{"package.json": `{"name":"p","packageManager":"` + manager + `","dependencies":{"nosuch":"1.0.0"}}`})
		class, err := buildError(t, in)
		assert.Equal(t, envcache.Permanent, class, "%v", err)
		assert.ErrorContains(t, err, "nosuch")
	}
	in := jsInput(t, reg, "npm", map[string]string{"package.json": `{"dependencies":{"plain":"one or two"}}`})
	class, err := buildError(t, in)
	assert.Equal(t, envcache.Permanent, class, "%v", err)
	assert.ErrorContains(t, err, "plain")
}

func TestPackageJSONThatCannotBeRead(t *testing.T) {
	for text, want := range map[string]string{
		"{\n  \"dependencies\": {\"x\": 1,}\n}":   "package.json:2:",
		"{\n  \"dependencies\": {\"x\": 1}\n}":    "package.json:2:",
		"\xff\xfe{\x00}\x00":                      "UTF-8",
		"{\"dependencies\": {\"x\": \"\xe4\"}}\n": "UTF-8",
	} {
		in := jsInput(t, newRegistry(t, ""), "npm", map[string]string{"package.json": text})
		_, _, err := Key(context.Background(), node{}, in)
		require.ErrorContains(t, err, want)
		assert.ErrorContains(t, err, in.PackDir)
	}
	in := jsInput(t, newRegistry(t, ""), "npm", map[string]string{"package.json": "\xef\xbb\xbf{\"dependencies\":{\"plain\":\"1\"}}"})
	_, needed := key(t, in)
	assert.True(t, needed)
}

func TestInstallScriptsOnRequest(t *testing.T) {
	reg := newRegistry(t, "")
	reg.publishBasics(t)
	in := jsInput(t, reg, "npm", map[string]string{"package.json": `{"dependencies":{"tool":"1.0.0"},"allowScripts":{"tool":true}}`})
	in.InstallScripts = true
	env, _ := build(t, in)
	assert.FileExists(t, filepath.Join(env.Dir, "node_modules/tool/ran"))
}

// A pack's lib directory is on the path of import, too, where nothing has to be installed.
func TestLibraryWithoutPackages(t *testing.T) {
	in := jsInput(t, newRegistry(t, ""), "npm", map[string]string{
		"lib/helper.js": "module.exports = 'helper'\n", "actions/a.mjs": "import helper from 'helper'\nimport { x } from 'modern'\nconsole.log(helper, x)\n", "lib/modern/index.mjs": "export const x = 'modern'\n"})
	assert.Equal(t, "helper modern\n", runScript(t, in, nil, "actions/a.mjs"))
}

// Real packages, as the usual registry has them.
func TestRealPackages(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"npm", "pnpm", "yarn", "berry", "bun"} {
		t.Run(tool, func(t *testing.T) {
			in := jsInput(t, nil, tool, map[string]string{
				"package.json": `{"name":"p","version":"1.0.0","dependencies":{"chalk":"5.3.0","debug":"4.3.7","semver":"7.6.3"}}`,
				"a.mjs":        "import chalk from 'chalk'\nimport debug from 'debug'\nimport semver from 'semver/functions/valid.js'\nconsole.log(typeof chalk.red, typeof debug, semver('1.2.3'))\n",
			})
			lock(t, in, tool)
			env, _ := build(t, in)
			assert.Equal(t, []string{"chalk==5.3.0", "debug==4.3.7", "ms==2.1.3", "semver==7.6.3"}, env.Built.Resolved)
			assert.Equal(t, "function function 1.2.3\n", runScript(t, in, env, "a.mjs"))
		})
	}
}

// jsRuntime is the Input of bun or deno itself.
func jsRuntime(t *testing.T, name string, in Input) Input {
	t.Helper()
	path, err := filepath.EvalSymlinks(filepath.Join(jsToolBin(t, name), name))
	require.NoError(t, err)
	in.Spec = spec(t, name)
	version := jsToolPackages[name][strings.LastIndex(jsToolPackages[name], "@")+1:]
	in.Interpreter = runtime.Interpreter{Runtime: name, Path: path, Version: version}
	return in
}

func denoInput(t *testing.T, reg *registry, in Input) Input {
	t.Helper()
	in = jsRuntime(t, "deno", in)
	in.HostEnv = append(in.HostEnv, "DENO_NO_UPDATE_CHECK=1")
	return in
}

func TestBun(t *testing.T) {
	reg := newRegistry(t, "")
	reg.publishBasics(t)
	in := jsRuntime(t, "bun", jsInput(t, reg, "bun", map[string]string{
		"package.json": basicManifest, "lib/helper.ts": "import { name } from '@scope/esm'\nexport default 'helper, ' + name\n", "actions/data.txt": "data",
		"actions/a.ts": "import user from 'user'\nimport helper from 'helper'\nimport sub from '@scope/esm/sub/deep'\nconst data: string = await Bun.file(import.meta.dir + '/data.txt').text()\nconsole.log([user.name, helper, sub, data, require('plain').name].join('|'))\n",
		"actions/b.ts": "import 'devonly'\n",
	}))
	lock(t, in, "bun")
	env, _ := build(t, in)
	assert.True(t, env.Built.Locked)
	reg.Close() // it runs without the network
	esm := "esm 2.0.0 with plain 1.1.0"
	assert.Equal(t, "user of plain 1.1.0|helper, "+esm+"|sub|data|plain 1.1.0\n", runScript(t, in, env, "actions/a.ts"))
	assertRelocatable(t, in, env)

	before, _ := key(t, in)
	write(t, &in, "actions/a.ts", "console.log('changed')\n")
	after, _ := key(t, in)
	assert.NotEqual(t, before.ID("/"), after.ID("/"))
}

func TestDeno(t *testing.T) {
	reg := newRegistry(t, "")
	reg.publishBasics(t)
	in := denoInput(t, reg, jsInput(t, reg, "deno", map[string]string{
		"deno.jsonc":    "{\n  // names\n  \"imports\": {\"user\": \"npm:user@^1.0.0\", \"helper\": \"./lib/helper.ts\"},\n}\n",
		"package.json":  `{"dependencies":{"@scope/esm":"2.0.0"}}`,
		"lib/helper.ts": "export default 'helper' as string\n",
		"actions/a.ts":  "import user from 'user'\nimport helper from 'helper'\nimport { name } from '@scope/esm'\nconst all: string[] = [user.name, helper, name]\nconsole.log(all.join('|'))\n",
		"actions/b.ts":  "import { name } from './c.ts'\nconsole.log(name)\n",
		"actions/c.ts":  "import plain from 'npm:plain@1.0.0'\nexport const name: string = plain.name\n",
	}))
	env, _ := build(t, in)
	assert.Equal(t, []string{"@scope/esm==2.0.0", "plain==1.1.0", "user==1.0.0"}, env.Built.Resolved)
	assert.False(t, env.Built.Locked)
	assert.Len(t, env.Built.Complete, 1)
	assert.NoFileExists(t, filepath.Join(in.PackDir, "deno.lock"), "the pack is only read")
	assert.Equal(t, "user of plain 1.1.0|helper|esm 2.0.0 with plain 1.1.0\n", runScript(t, in, env, "actions/a.ts"))

	// A script that names its packages itself gets an environment of its own.
	in.Script = filepath.Join(in.PackDir, "actions/b.ts")
	own, _ := build(t, in)
	assert.NotEqual(t, env.Dir, own.Dir)
	assert.Equal(t, "plain 1.0.0\n", runScript(t, in, own, "actions/b.ts"))
	in.Script = ""

	lock(t, in, "deno")
	reg.publish(t, "plain", "1.2.0", nil, map[string]string{"index.js": "throw 'not locked'\n"})
	in.Locked = true
	locked, _ := build(t, in)
	assert.True(t, locked.Built.Locked)
	assert.NotEqual(t, env.Dir, locked.Dir)
	moved := envcache.Env{Built: locked.Built}
	moved.Dir = filepath.Join(t.TempDir(), "moved")
	require.NoError(t, os.Rename(locked.Dir, moved.Dir))
	reg.Close()
	assert.Equal(t, "user of plain 1.1.0|helper|esm 2.0.0 with plain 1.1.0\n", runScript(t, in, &moved, "actions/a.ts"))
}

func TestDenoLockThatDoesNotMatch(t *testing.T) {
	reg := newRegistry(t, "")
	reg.publishBasics(t)
	in := denoInput(t, reg, jsInput(t, reg, "deno", map[string]string{"deno.json": `{"imports":{"plain":"npm:plain@1.0.0"}}`}))
	lock(t, in, "deno")
	write(t, &in, "deno.json", `{"imports":{"plain":"npm:plain@1.1.0"}}`)
	class, err := buildError(t, in)
	var mismatch *LockMismatchError
	require.ErrorAs(t, err, &mismatch)
	assert.ErrorContains(t, err, "deno.lock does not match deno.json")
	assert.Equal(t, envcache.Permanent, class)
}

func TestPasswordsInARegistrysAddress(t *testing.T) {
	const password = "hunter2-hunter2"
	reg := newRegistry(t, "")
	reg.publishBasics(t)
	in := jsInput(t, reg, "npm", map[string]string{"package.json": `{"name":"p","dependencies":{"user":"1.0.0"}}`})
	reg.user = "me:" + password
	for i, entry := range in.HostEnv {
		in.HostEnv[i] = strings.Replace(entry, "NPM_CONFIG_REGISTRY=http://", "NPM_CONFIG_REGISTRY=http://me:"+password+"@", 1)
	}
	build(t, in)
	assertNowhere(t, password, filepath.Dir(in.Downloads))
}
