package recipe

import (
	"bufio"
	"cmp"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

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
	"PIP_NO_COMPILE", "PIP_PREFER_BINARY", "PIP_KEYRING_PROVIDER", "PIP_YES",
}

// forUV says the same in uv's variables. odd is a setting that uv has no word for; then uv must not be used.
func (c pipConfig) forUV() (variables map[string]string, odd string) {
	variables = map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(c)) {
		value := c[name]
		switch name {
		case "PIP_INDEX_URL":
			variables["UV_DEFAULT_INDEX"] = value
		case "PIP_EXTRA_INDEX_URL":
			variables["UV_INDEX"] = value
			// pip takes the best version of all indexes, uv by default the first index that has the package.
			variables["UV_INDEX_STRATEGY"] = "unsafe-best-match"
		case "PIP_FIND_LINKS":
			variables["UV_FIND_LINKS"] = strings.Join(existingLinks(value), ",")
		case "PIP_NO_INDEX":
			variables["UV_NO_INDEX"] = value
		case "PIP_TRUSTED_HOST":
			variables["UV_INSECURE_HOST"] = value
		case "PIP_CERT":
			variables["SSL_CERT_FILE"] = value
		case "PIP_CLIENT_CERT":
			variables["SSL_CLIENT_CERT"] = value
		case "PIP_PROXY":
			variables["ALL_PROXY"] = value
		case "PIP_CONSTRAINT":
			variables["UV_CONSTRAINT"] = value
		default:
			if !slices.Contains(harmless, name) && !slices.Contains(moving, name) {
				return nil, name
			}
		}
	}
	return variables, ""
}

// existingLinks leaves out directories that are not there: pip warns about them, uv gives up.
func existingLinks(value string) []string {
	return slices.DeleteFunc(strings.Fields(value), func(link string) bool {
		if strings.Contains(link, "://") {
			return false
		}
		_, err := os.Stat(link)
		return err != nil
	})
}

// inputs are the settings that change what is installed, credentials left out.
func (c pipConfig) inputs(in Input) []envcache.KeyInput {
	var all []envcache.KeyInput
	for _, name := range slices.Sorted(maps.Keys(c)) {
		if slices.Contains(harmless, name) || slices.Contains(moving, name) || isCredential(name) ||
			slices.Contains([]string{"PIP_CERT", "PIP_CLIENT_CERT", "PIP_PROXY", "PIP_TRUSTED_HOST"}, name) {
			continue
		}
		all = append(all, envcache.KeyInput{Name: "setting:" + name, Value: withoutCredentials(c[name])})
	}
	return append(all, variables(in, "UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_NO_INDEX",
		"UV_INDEX_STRATEGY", "UV_CONSTRAINT", "UV_OVERRIDE", "UV_EXCLUDE_NEWER", "UV_PRERELEASE", "UV_RESOLUTION", "UV_NO_BINARY",
		"UV_NO_BUILD", "UV_CONFIG_FILE")...)
}
