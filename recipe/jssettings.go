package recipe

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/attune-run/attune/envcache"
)

// jsSettings are an installer's settings, from its files and the host's variables.
type jsSettings struct {
	inputs  []envcache.KeyInput // what changes what is installed, credentials left out
	npm     map[string]string   // npm's own settings, the strongest of each
	secrets []string            // must not be shown
	passed  []string            // variables that the files refer to, for the installer
	files   []string            // those of the pack
}

// readJSSettings reads what the tool would read.
func readJSSettings(in Input, tool jsTool) jsSettings {
	s := jsSettings{npm: map[string]string{}}
	home := in.hostVar("HOME")
	config := cmp.Or(in.hostVar("XDG_CONFIG_HOME"), filepath.Join(home, ".config"))
	for _, name := range tool.config {
		if exists(in.PackDir, name) {
			s.files = append(s.files, name)
		}
	}
	if slices.Contains(tool.config, ".npmrc") {
		// The weakest first (https://docs.npmjs.com/cli/configuring-npm/npmrc).
		files := []string{
			cmp.Or(npmVar(in, "globalconfig"), filepath.Join(filepath.Dir(filepath.Dir(in.Interpreter.Path)), "etc", "npmrc")),
			cmp.Or(npmVar(in, "userconfig"), filepath.Join(home, ".npmrc")),
		}
		if tool.name == "pnpm" {
			files = append(files, filepath.Join(config, "pnpm", "rc"), filepath.Join(config, "pnpm", "auth.ini"))
		}
		for _, path := range append(files, filepath.Join(in.PackDir, ".npmrc")) {
			s.readNPMRC(in, path)
		}
		s.readNPMVars(in)
	}
	for _, name := range tool.config {
		if name != ".npmrc" {
			s.readText(in, "~/"+strings.TrimPrefix(name, "."), filepath.Join(home, "."+strings.TrimPrefix(name, ".")))
			s.readText(in, name, filepath.Join(in.PackDir, name))
		}
	}
	if tool.name == "pnpm" {
		s.readText(in, "~/pnpm/config.yaml", filepath.Join(config, "pnpm", "config.yaml"))
	}
	for _, name := range slices.Sorted(maps.Keys(s.npm)) {
		if !isNPMCredential(name) && !slices.Contains(harmlessNPM, name) {
			s.inputs = append(s.inputs, envcache.KeyInput{Name: "setting:" + name, Value: withoutCredentials(s.npm[name])})
		}
	}
	s.inputs = append(s.inputs, toolVars(in, tool)...)
	slices.Sort(s.passed)
	s.passed = slices.Compact(s.passed)
	return s
}

// harmlessNPM settings change nothing about what is installed, or attune decides them itself.
var harmlessNPM = []string{
	"audit", "audit-level", "ca", "cafile", "cache", "cache-dir", "cache-max", "cache-min", "cert", "color", "depth", "description", "dry-run", "editor", "email", "fetch-retries",
	"fetch-retry-factor", "fetch-retry-maxtimeout", "fetch-retry-mintimeout", "fetch-timeout", "fund", "git", "global", "global-prefix", "globalconfig",
	"heading", "https-proxy", "init-author-name", "init-license", "init-module", "init-version", "key", "local-address", "local-prefix", "location",
	"lockfile-version", "logs-dir", "logs-max", "loglevel", "manage-package-manager-versions", "maxsockets", "network-concurrency", "node-gyp", "nodedir",
	"no-proxy", "noproxy", "npm-version", "offline", "omit-lockfile-registry-resolved", "otp", "package-import-method", "package-lock-only", "prefer-offline",
	"prefer-online", "prefix", "progress", "proxy", "reporter", "save", "save-exact", "save-prefix", "shell", "side-effects-cache", "state-dir", "store-dir", "strict-ssl",
	"timing", "tmp", "umask", "unicode", "update-notifier", "usage", "user-agent", "userconfig", "username", "verify-store-integrity", "viewer", "yes",
}

// isNPMCredential tells it by its name; all settings of one registry ("//host/:…") are how to get in.
func isNPMCredential(name string) bool { return strings.HasPrefix(name, "//") || isCredential(name) }

// npmVar is a setting that a variable gives (npm_config_registry or NPM_CONFIG_REGISTRY).
func npmVar(in Input, setting string) string {
	name := "npm_config_" + strings.ReplaceAll(setting, "-", "_")
	return cmp.Or(in.hostVar(name), in.hostVar(strings.ToUpper(name)))
}

func (s *jsSettings) readNPMVars(in Input) {
	for _, entry := range in.HostEnv {
		name, value, _ := strings.Cut(entry, "=")
		lower := strings.ToLower(name)
		setting, ok := strings.CutPrefix(lower, "npm_config_")
		if !ok {
			setting, ok = strings.CutPrefix(lower, "pnpm_config_")
		}
		if !ok || value == "" {
			continue
		}
		if !strings.HasPrefix(setting, "//") {
			setting = setting[:1] + strings.ReplaceAll(setting[1:], "_", "-")
		}
		s.setNPM(setting, value)
	}
}

// npmReference is a variable in a settings file: ${NAME}, ${NAME?}, ${NAME-default}, ${NAME:-default}.
var npmReference = lazy(`\$\{([A-Za-z_][A-Za-z0-9_]*)(\?|:?-[^}]*)?\}`)

// readNPMRC adds the settings of one file; one that is not there says nothing.
func (s *jsSettings) readNPMRC(in Input, path string) {
	data, err := os.ReadFile(path)
	if err != nil {
		return
	}
	lists := map[string]bool{}
	for line := range bytes.Lines(data) {
		text := strings.TrimSpace(string(line))
		if text == "" || text[0] == ';' || text[0] == '#' || text[0] == '[' {
			continue
		}
		name, value, found := strings.Cut(text, "=")
		if !found {
			value = "true"
		}
		name, list := strings.CutSuffix(strings.TrimSpace(s.expand(in, name)), "[]")
		value = strings.Trim(strings.TrimSpace(s.expand(in, value)), `"'`)
		if list && lists[name] {
			value = s.npm[name] + "," + value
		}
		lists[name] = list
		s.setNPM(name, value)
	}
}

func (s *jsSettings) setNPM(name, value string) {
	s.npm[name] = value
	if isNPMCredential(name) {
		s.hide(value)
	}
	s.secrets = append(s.secrets, urlPasswords(value)...)
}

// hide remembers a secret, and what it is in base64 (_auth, _password).
func (s *jsSettings) hide(value string) {
	s.secrets = append(s.secrets, value)
	if plain, err := base64.StdEncoding.DecodeString(value); err == nil && len(plain) >= 6 {
		_, password, found := strings.Cut(string(plain), ":")
		if !found {
			password = string(plain)
		}
		s.secrets = append(s.secrets, password)
	}
}

// expand puts the host's variables in, and notes that the installer needs them.
func (s *jsSettings) expand(in Input, text string) string {
	return npmReference().ReplaceAllStringFunc(text, func(found string) string {
		m := npmReference().FindStringSubmatch(found)
		s.passed = append(s.passed, m[1])
		value := in.hostVar(m[1])
		if isCredential(m[1]) {
			s.hide(value)
		}
		return cmp.Or(value, strings.TrimLeft(m[2], ":-?"))
	})
}

// secretValue is a credential in a text of any of the formats: `npmAuthToken: x`, `token = "x"`, `"//host/:_authToken" x`.
var secretValue = lazy(`(?im)((?:token|password|passwd|secret|_auth|authident|username)\w*["']?(?:\s*[:=]\s*|[ \t]+))("[^"\n]*"|'[^'\n]*'|[^\s,}]+)`)

// anyReference is a variable in any of these formats.
var anyReference = lazy(`\$\{?([A-Za-z_][A-Za-z0-9_]*)`)

// readText makes an input of a file in a format of its own.
func (s *jsSettings) readText(in Input, name, path string) {
	data, err := os.ReadFile(path)
	if err != nil {
		return
	}
	for _, m := range anyReference().FindAllStringSubmatch(string(data), -1) {
		s.passed = append(s.passed, m[1])
		if isCredential(m[1]) {
			s.hide(in.hostVar(m[1]))
		}
	}
	for _, m := range secretValue().FindAllStringSubmatch(string(data), -1) {
		s.hide(s.expand(in, strings.Trim(m[2], `"'`)))
	}
	text := s.expand(in, secretValue().ReplaceAllString(string(data), "$1"))
	s.secrets = append(s.secrets, urlPasswords(text)...)
	s.inputs = append(s.inputs, asSettings(content(name, withoutCredentialsIn([]byte(text))))...)
}

// harmlessVars are variables of yarn and bun that change nothing about what is installed, or that attune sets itself.
var harmlessVars = []string{
	"YARN_CACHE_FOLDER", "YARN_GLOBAL_FOLDER", "YARN_ENABLE_TELEMETRY", "YARN_ENABLE_COLORS", "YARN_ENABLE_PROGRESS_BARS", "YARN_ENABLE_NETWORK",
	"YARN_ENABLE_GLOBAL_CACHE", "YARN_ENABLE_IMMUTABLE_INSTALLS", "YARN_ENABLE_SCRIPTS", "YARN_HTTP_PROXY", "YARN_HTTPS_PROXY", "YARN_HTTP_RETRY",
	"YARN_HTTP_TIMEOUT", "YARN_HTTPS_CA_FILE_PATH", "YARN_IGNORE_PATH", "YARN_NODE_LINKER", "YARN_NM_MODE", "YARN_VERSION",
}

func toolVars(in Input, tool jsTool) []envcache.KeyInput {
	prefix := map[string]string{"yarn": "YARN_", "bun": "BUN_CONFIG_", "deno": "NPM_CONFIG_REGISTRY"}[tool.name]
	var names []string
	for _, entry := range in.HostEnv {
		name, _, _ := strings.Cut(entry, "=")
		if prefix != "" && strings.HasPrefix(name, prefix) && !slices.Contains(harmlessVars, name) {
			names = append(names, name)
		}
	}
	return variables(in, names...)
}

// link shows the pack's settings files to an installer that works in dir. They are linked, not copied, and unlinked
// afterwards: not even a build that is killed leaves a credential in the store.
func (s *jsSettings) link(pack, dir string) (unlink func() error, err error) {
	var links []string
	unlink = func() error {
		var all error
		for _, link := range links {
			if err := os.Remove(link); !errors.Is(err, fs.ErrNotExist) {
				all = errors.Join(all, err)
			}
		}
		return all
	}
	for _, name := range s.files {
		link := filepath.Join(dir, name)
		if err := os.Symlink(filepath.Join(pack, name), link); err != nil {
			return nil, errors.Join(err, unlink())
		}
		links = append(links, link)
	}
	return unlink, nil
}
