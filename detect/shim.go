package detect

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	stdruntime "runtime"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/attune-run/attune/runtime"
)

// A shim is a small program that a version manager puts into PATH; it looks up which version is meant here and
// starts that. attune looks it up itself: a shim costs 0.1 s an execution and its answer depends on the
// working directory. What it reads is documented by each manager:
// pyenv, rbenv and nodenv: <NAME>_VERSION, then .<language>-version upwards, then $<NAME>_ROOT/version;
// asdf and mise: ASDF_<TOOL>_VERSION or MISE_<TOOL>_VERSION, then .tool-versions (mise.toml) upwards, then the home's.
type manager struct {
	name     string // of the manager
	root     string // its directory
	installs string // below root, before the version
	file     string // names the version, in the working directory or above
	variable string // names the version
	tool     string // the tool's name in .tool-versions
}

// resolve follows path to the real binary. A shim that names no version here is no interpreter; its
// manager's installations are found by the spec's locations.
func (d *Detector) resolve(spec *runtime.Spec, path string) (string, bool) {
	if m, ok := d.managerOf(spec, path); ok {
		for _, version := range d.versionsOf(m) {
			if target, err := realBinary(filepath.Join(m.root, m.installs, version, "bin", filepath.Base(path))); err == nil {
				return target, true
			}
		}
		return "", false
	}
	if stdruntime.GOOS == "darwin" && path == applePython {
		return developerTool("/", d.opt.Env["DEVELOPER_DIR"], filepath.Base(path))
	}
	target, err := realBinary(path)
	return target, err == nil
}

// applePython is no interpreter: it starts the one of the developer tools that are chosen (xcode-select(1)). Where there are none, it opens a
// window that offers to install them.
const applePython = "/usr/bin/python3"

// developerTool is a program of the developer tools that are chosen: by DEVELOPER_DIR, by a link that xcode-select makes, or because they are
// there. root is "/" outside tests.
func developerTool(root, chosen, name string) (string, bool) {
	link, _ := os.Readlink(filepath.Join(root, "var/db/xcode_select_link"))
	for _, dir := range []string{chosen, link, "/Applications/Xcode.app/Contents/Developer", "/Library/Developer/CommandLineTools"} {
		if dir == "" {
			continue
		}
		if target, err := realBinary(filepath.Join(root, dir, "usr/bin", name)); err == nil {
			return target, true
		}
	}
	return "", false
}

// managerOf tells a shim by its directory ("…/shims/…") and its manager by what the directory lies in or, for
// mise, by what it links to.
func (d *Detector) managerOf(spec *runtime.Spec, path string) (manager, bool) {
	dir := filepath.Dir(path)
	if link, err := os.Readlink(path); err == nil && strings.HasPrefix(filepath.Base(link), "mise") {
		return d.toolVersions("mise", d.dataDir("MISE_DATA_DIR", ".local/share/mise"), spec.Bare()), true
	}
	if filepath.Base(dir) != "shims" {
		return manager{}, false
	}
	root := filepath.Dir(dir)
	switch script := shimText(path); {
	case strings.Contains(script, "asdf"):
		return d.toolVersions("asdf", root, spec.Bare()), true
	case strings.Contains(script, "mise"):
		return d.toolVersions("mise", root, spec.Bare()), true
	}
	language := map[string]string{"python": "pyenv", "ruby": "rbenv", "node": "nodenv", "perl": "plenv", "go": "goenv"}[spec.Bare()]
	if language == "" {
		return manager{}, false
	}
	return manager{name: language, root: root, installs: "versions",
		file: "." + spec.Bare() + "-version", variable: strings.ToUpper(language) + "_VERSION"}, true
}

func (d *Detector) toolVersions(name, root, runtimeName string) manager {
	tool := toolName(name, runtimeName)
	return manager{name: name, root: root, installs: filepath.Join("installs", tool), file: ".tool-versions", tool: tool,
		variable: strings.ToUpper(name + "_" + tool + "_VERSION")}
}

// toolName is what a manager calls a runtime: asdf names its plugins golang and nodejs.
func toolName(manager, runtimeName string) string {
	if manager == "asdf" {
		switch runtimeName {
		case "go":
			return "golang"
		case "node":
			return "nodejs"
		}
	}
	return runtimeName
}

func (d *Detector) dataDir(variable, below string) string {
	if dir := d.opt.Env[variable]; dir != "" {
		return dir
	}
	return filepath.Join(d.opt.Home, below)
}

// shimText is the head of a shim that is a script.
func shimText(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	head := make([]byte, 1024)
	n, _ := f.Read(head)
	if !strings.HasPrefix(string(head[:n]), "#!") {
		return ""
	}
	return string(head[:n])
}

// versionsOf are the versions the manager would use here, in its order of preference.
func (d *Detector) versionsOf(m manager) []string {
	if value := d.opt.Env[m.variable]; value != "" {
		return strings.FieldsFunc(value, func(r rune) bool { return r == ':' || r == ' ' })
	}
	for dir := d.opt.Dir; dir != ""; dir = parent(dir) {
		if versions := m.read(filepath.Join(dir, m.file)); len(versions) > 0 {
			return versions
		}
		if m.name == "mise" {
			if versions := miseVersions(filepath.Join(dir, "mise.toml"), m.tool); len(versions) > 0 {
				return versions
			}
		}
	}
	if m.tool == "" {
		return m.read(filepath.Join(m.root, "version"))
	}
	if versions := m.read(filepath.Join(d.opt.Home, m.file)); len(versions) > 0 || m.name != "mise" {
		return versions
	}
	return miseVersions(filepath.Join(d.opt.Home, ".config/mise/config.toml"), m.tool)
}

func parent(dir string) string {
	if up := filepath.Dir(dir); up != dir {
		return up
	}
	return ""
}

// read takes the versions from a file: every line of a .python-version, or the words behind the tool's name.
func (m manager) read(file string) []string {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	var versions []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line, _, _ := strings.Cut(lines.Text(), "#")
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
		case m.tool == "":
			versions = append(versions, words...)
		case words[0] == m.tool || words[0] == toolName("asdf", m.tool): // mise takes asdf's names as well
			return words[1:]
		}
	}
	return versions
}

// miseVersions reads `tool = "version"` of a mise.toml's [tools] table.
func miseVersions(file, tool string) []string {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	var config struct {
		Tools map[string]any `toml:"tools"`
	}
	if toml.Unmarshal(data, &config) != nil {
		return nil
	}
	switch value := config.Tools[tool].(type) {
	case string:
		return []string{value}
	case []any:
		var versions []string
		for _, item := range value {
			versions = append(versions, fmt.Sprint(item))
		}
		return versions
	}
	return nil
}
