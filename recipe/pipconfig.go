package recipe

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/attune-run/attune/envcache"
)

// pipConfig are pip's settings as its variables name them ("PIP_INDEX_URL"), from its configuration files and,
// over them, from the host's variables.
type pipConfig map[string]string

// pipSettings reads what pip would read, in its order
// (https://pip.pypa.io/en/stable/topics/configuration/).
func pipSettings(in Input) pipConfig {
	settings := pipConfig{}
	for _, path := range pipConfigFiles(in) {
		settings.read(path)
	}
	for _, entry := range in.HostEnv {
		name, value, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, "PIP_") && name != "PIP_CONFIG_FILE" && value != "" {
			settings[name] = value
		}
	}
	return settings
}

func pipConfigFiles(in Input) []string {
	named := in.hostVar("PIP_CONFIG_FILE")
	if named == os.DevNull {
		return nil
	}
	home := in.hostVar("HOME")
	var files []string
	for _, dir := range filepath.SplitList(cmp.Or(in.hostVar("XDG_CONFIG_DIRS"), "/etc/xdg")) {
		files = append(files, filepath.Join(dir, "pip", "pip.conf"))
	}
	files = append(files, "/etc/pip.conf")
	if home != "" {
		files = append(files, filepath.Join(home, ".pip", "pip.conf"),
			filepath.Join(cmp.Or(in.hostVar("XDG_CONFIG_HOME"), filepath.Join(home, ".config")), "pip", "pip.conf"))
	}
	if in.Interpreter.Path != "" {
		files = append(files, filepath.Join(filepath.Dir(filepath.Dir(in.Interpreter.Path)), "pip.conf"))
	}
	if named != "" {
		files = append(files, named)
	}
	return files
}

// read adds the [global] and [install] settings of one file; a value may go on in indented lines. A file that cannot be
// read says nothing: pip itself will complain of it.
func (c pipConfig) read(path string) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }()
	sections := map[string]map[string]string{"global": {}, "install": {}}
	var section map[string]string
	key := ""
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		text := strings.TrimSpace(line)
		switch {
		case text == "" || text[0] == '#' || text[0] == ';':
		case strings.HasPrefix(text, "["):
			section, key = sections[strings.ToLower(strings.Trim(text, "[] "))], ""
		case section == nil:
		case line[0] == ' ' || line[0] == '\t':
			if key != "" {
				section[key] = strings.TrimSpace(section[key] + " " + text)
			}
		default:
			name, value, _ := strings.Cut(text, "=")
			key = "PIP_" + strings.ToUpper(strings.ReplaceAll(strings.TrimSpace(name), "-", "_"))
			section[key] = strings.TrimSpace(value)
		}
	}
	for _, name := range []string{"global", "install"} {
		maps.Copy(c, sections[name])
	}
}

// harmless settings of pip change nothing about what is installed.
var harmless = []string{
	"PIP_DISABLE_PIP_VERSION_CHECK", "PIP_NO_COLOR", "PIP_PROGRESS_BAR", "PIP_QUIET", "PIP_VERBOSE", "PIP_CACHE_DIR", "PIP_NO_CACHE_DIR",
	"PIP_NO_INPUT", "PIP_RETRIES", "PIP_ROOT_USER_ACTION", "PIP_BREAK_SYSTEM_PACKAGES", "PIP_NO_PYTHON_VERSION_WARNING",
	"PIP_NO_WARN_SCRIPT_LOCATION", "PIP_EXISTS_ACTION", "PIP_NO_WARN_CONFLICTS", "PIP_DEFAULT_TIMEOUT", "PIP_TIMEOUT", "PIP_COMPILE",
	"PIP_NO_COMPILE", "PIP_YES", "PIP_WHEEL_DIR", "PIP_NO_CLEAN", "PIP_RESUME_RETRIES",
}

// reaching are settings that say how an index is reached, not which.
var reaching = []string{"PIP_CERT", "PIP_CLIENT_CERT", "PIP_PROXY", "PIP_TRUSTED_HOST", "PIP_KEYRING_PROVIDER"}

// forUV says the same in uv's variables (https://docs.astral.sh/uv/reference/environment/). Where uv has an index of its own, in
// its variables or files, that one stands. odd is a setting that uv has no word for; then uv must not be used.
func (c pipConfig) forUV(in Input) (variables map[string]string, odd string) {
	variables = map[string]string{}
	ownIndex := uvHasIndex(in)
	set := func(name, value string) {
		if in.hostVar(name) == "" && !(ownIndex && slices.Contains(indexVariables, name)) {
			variables[name] = value
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c)) {
		value := c[name]
		switch name {
		case "PIP_INDEX_URL":
			set("UV_DEFAULT_INDEX", value)
		case "PIP_EXTRA_INDEX_URL":
			set("UV_INDEX", value)
			// pip takes the best version of all indexes, uv by default the first index that has the package.
			set("UV_INDEX_STRATEGY", "unsafe-best-match")
		case "PIP_FIND_LINKS":
			set("UV_FIND_LINKS", strings.Join(existingLinks(in.PackDir, value), ","))
		case "PIP_NO_INDEX":
			set("UV_NO_INDEX", value)
		case "PIP_TRUSTED_HOST":
			set("UV_INSECURE_HOST", value)
		case "PIP_CERT":
			variables["SSL_CERT_FILE"] = value // over the host's, as pip does it
		case "PIP_CLIENT_CERT":
			variables["SSL_CLIENT_CERT"] = value
		case "PIP_PROXY":
			for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
				variables[name] = value
			}
		case "PIP_DEFAULT_TIMEOUT", "PIP_TIMEOUT":
			set("UV_HTTP_TIMEOUT", value)
		case "PIP_CONSTRAINT":
			set("UV_CONSTRAINT", value)
		case "PIP_REQUIRE_HASHES":
			set("UV_REQUIRE_HASHES", value)
		case "PIP_KEYRING_PROVIDER":
			if !slices.Contains([]string{"auto", "disabled", "subprocess"}, value) {
				return nil, name
			}
			if value != "auto" {
				set("UV_KEYRING_PROVIDER", value)
			}
		default:
			if !slices.Contains(harmless, name) && !slices.Contains(moving, name) {
				return nil, name
			}
		}
	}
	return variables, ""
}

// uvHasIndex tells whether uv is told on its own where packages come from.
func uvHasIndex(in Input) bool {
	for _, name := range indexVariables {
		if in.hostVar(name) != "" {
			return true
		}
	}
	for _, file := range uvConfigFiles(in) {
		settings := uvSettings(file)
		pip, _ := settings["pip"].(map[string]any)
		for _, name := range []string{"index", "index-url", "extra-index-url", "find-links", "no-index"} {
			if settings[name] != nil || pip[name] != nil {
				return true
			}
		}
	}
	return false
}

// uvSettings are what uv reads from a uv.toml, or a pyproject.toml's [tool.uv]. Of a file that it cannot read it says so itself.
func uvSettings(file string) map[string]any {
	var settings map[string]any
	if _, err := toml.DecodeFile(file, &settings); err != nil {
		return nil
	}
	if filepath.Base(file) == "pyproject.toml" {
		tool, _ := settings["tool"].(map[string]any)
		settings, _ = tool["uv"].(map[string]any)
	}
	return settings
}

// existingLinks leaves out directories that are not there: pip warns about them, uv gives up.
func existingLinks(dir, value string) []string {
	return slices.DeleteFunc(strings.Fields(value), func(link string) bool {
		if strings.Contains(link, "://") {
			return false
		}
		if !filepath.IsAbs(link) {
			link = filepath.Join(dir, link)
		}
		_, err := os.Stat(link)
		return err != nil
	})
}

// inputs are the settings that change what is installed, credentials left out.
func (c pipConfig) inputs(in Input) []envcache.KeyInput {
	var all []envcache.KeyInput
	for _, name := range slices.Sorted(maps.Keys(c)) {
		switch {
		case slices.Contains(harmless, name) || slices.Contains(moving, name) || slices.Contains(reaching, name) || isCredential(name):
		case name == "PIP_CONSTRAINT" || name == "PIP_BUILD_CONSTRAINT":
			all = append(all, constraints(in.PackDir, "setting:"+name, c[name]))
		default:
			all = append(all, envcache.KeyInput{Name: "setting:" + name, Value: withoutCredentials(c[name])})
		}
	}
	return all
}

// uvInputs are uv's settings that change what is installed, credentials left out.
func uvInputs(in Input) []envcache.KeyInput {
	all := variables(in, slices.Concat(indexVariables, []string{"UV_INDEX_STRATEGY", "UV_EXCLUDE_NEWER", "UV_PRERELEASE", "UV_RESOLUTION",
		"UV_NO_BINARY", "UV_NO_BINARY_PACKAGE", "UV_NO_BUILD", "UV_NO_BUILD_PACKAGE", "UV_NO_SOURCES", "UV_TORCH_BACKEND", "UV_FORK_STRATEGY"})...)
	for _, name := range []string{"UV_CONSTRAINT", "UV_OVERRIDE", "UV_BUILD_CONSTRAINT", "UV_EXCLUDE"} {
		if value := in.hostVar(name); value != "" {
			all = append(all, constraints(in.PackDir, "variable:"+name, value))
		}
	}
	for i, file := range uvConfigFiles(in) {
		if data, err := json.Marshal(uvSettings(file)); err == nil {
			all = append(all, content(fmt.Sprintf("%d:%s", i+1, filepath.Base(file)), withoutCredentialsIn(data)))
		}
	}
	return all
}

// constraints is the key input of the content of the files that a setting names. What cannot be read is for the installer to
// complain of.
func constraints(dir, name, files string) envcache.KeyInput {
	hash := sha256.New()
	for file := range strings.FieldsSeq(files) {
		if !filepath.IsAbs(file) {
			file = filepath.Join(dir, file)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			_, _ = hash.Write([]byte(withoutCredentials(file)))
		}
		_, _ = hash.Write(withoutCredentialsIn(data))
	}
	return envcache.KeyInput{Name: name, Value: "sha256:" + hex.EncodeToString(hash.Sum(nil))}
}
