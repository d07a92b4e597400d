package recipe

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/attune-run/attune/envcache"
)

// pythonDeps is what a pack or script says it needs.
type pythonDeps struct {
	manifest string   // as in errors: "requirements.txt"
	path     string   // of a requirements file; empty when lines hold the requirements
	lines    []string // of a pyproject.toml or a script's own block
	uvLock   bool
	locked   bool
	inputs   []envcache.KeyInput
}

func (d pythonDeps) empty() bool { return d.manifest == "" }

// pythonDependencies reads the script's own block (PEP 723), else requirements.txt, else pyproject.toml. The result is
// empty where nothing is required.
func pythonDependencies(in Input) (pythonDeps, error) {
	if in.AdHoc && in.Script != "" {
		_, lines, ok, err := ScriptMetadata(in.Script)
		if err != nil {
			return pythonDeps{}, err
		}
		if ok {
			return fromLines("the script's dependencies", lines), nil
		}
	}
	requirements, err := readRequirements(in.PackDir, "requirements.txt")
	if err != nil {
		return pythonDeps{}, err
	}
	if requirements != nil {
		return fromRequirements(in.PackDir, requirements), nil
	}
	return fromProject(in.PackDir)
}

func fromLines(manifest string, lines []string) pythonDeps {
	if len(lines) == 0 {
		return pythonDeps{}
	}
	return pythonDeps{manifest: manifest, lines: lines, inputs: []envcache.KeyInput{{Name: "requirements", Value: strings.Join(lines, "\n")}}}
}

func fromRequirements(dir string, r *requirements) pythonDeps {
	if r.count == 0 {
		return pythonDeps{}
	}
	return pythonDeps{
		manifest: "requirements.txt", path: filepath.Join(dir, "requirements.txt"),
		locked: r.hashed == r.count, inputs: r.inputs,
	}
}

// fromProject takes the dependencies of pyproject.toml; the project itself is not installed: a pack's scripts are run, not
// packaged.
func fromProject(dir string) (pythonDeps, error) {
	data, found, err := readManifest(dir, "pyproject.toml")
	if err != nil || !found {
		return pythonDeps{}, err
	}
	var document struct {
		Project struct {
			Dependencies []string `toml:"dependencies"`
		} `toml:"project"`
	}
	if err := toml.Unmarshal(data, &document); err != nil {
		return pythonDeps{}, fmt.Errorf("%s: %w", filepath.Join(dir, "pyproject.toml"), err)
	}
	lock, locked, err := readManifest(dir, "uv.lock")
	if err != nil {
		return pythonDeps{}, err
	}
	deps := fromLines("pyproject.toml", document.Project.Dependencies)
	if locked && !deps.empty() {
		deps.uvLock, deps.locked = true, true
		deps.manifest = "uv.lock"
		deps.inputs = []envcache.KeyInput{content("pyproject.toml", data), content("uv.lock", lock)}
	}
	return deps, nil
}

// requirementsFile is a path that pip and uv can read.
func (d pythonDeps) requirementsFile(in Input, dir string) (string, error) {
	if d.path != "" || d.uvLock {
		return d.path, nil
	}
	path := filepath.Join(dir, "requirements.txt")
	return path, os.WriteFile(path, []byte(strings.Join(d.lines, "\n")+"\n"), 0o600)
}

// requirements is what a requirements file and those it includes hold.
type requirements struct {
	count, hashed int
	inputs        []envcache.KeyInput
	seen          map[string]bool
}

// readRequirements is nil when there is no such file. The format is pip's: options, comments, continued lines,
// requirements, and paths of local packages, whose content counts.
func readRequirements(dir, name string) (*requirements, error) {
	data, found, err := readManifest(dir, name)
	if err != nil || !found {
		return nil, err
	}
	r := &requirements{seen: map[string]bool{}}
	return r, r.read(dir, name, data)
}

func (r *requirements) read(dir, name string, data []byte) error {
	if r.seen[name] {
		return nil
	}
	r.seen[name] = true
	r.inputs = append(r.inputs, content(name, data))
	for line := range strings.Lines(strings.ReplaceAll(strings.ReplaceAll(string(data), "\r\n", "\n"), "\\\n", " ")) {
		line, _, _ = strings.Cut(" "+strings.TrimSpace(line), " #")
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := r.line(dir, name, line); err != nil {
			return err
		}
	}
	return nil
}

func (r *requirements) line(dir, from, line string) error {
	option, value := splitOption(line)
	switch option {
	case "-r", "--requirement", "-c", "--constraint":
		return r.include(dir, from, value, strings.HasSuffix(option, "c") || option == "--constraint")
	case "-e", "--editable", "":
	default:
		return nil
	}
	r.count++
	if strings.Contains(line, "--hash=") || strings.Contains(line, "--hash ") {
		r.hashed++
	}
	return r.local(dir, from, value)
}

// splitOption separates "-r file", "-rfile" and "--requirement=file".
func splitOption(line string) (option, value string) {
	if !strings.HasPrefix(line, "-") {
		return "", line
	}
	if !strings.HasPrefix(line, "--") && len(line) > 2 {
		return line[:2], strings.TrimSpace(line[2:])
	}
	at := strings.IndexAny(line, "= \t")
	if at < 0 {
		return line, ""
	}
	return line[:at], strings.TrimSpace(line[at+1:])
}

// include reads a further file; constraints install nothing.
func (r *requirements) include(dir, from, name string, constraint bool) error {
	if strings.Contains(name, "://") {
		return fmt.Errorf("%s includes %s: only files can be included, so that the environment's key knows them", from, withoutCredentials(name))
	}
	path := filepath.Join(filepath.Dir(from), name)
	if filepath.IsAbs(name) {
		path = name
	}
	absolute := path
	if !filepath.IsAbs(absolute) {
		absolute = filepath.Join(dir, path)
	}
	data, err := os.ReadFile(absolute)
	if err != nil {
		return fmt.Errorf("%s includes %s: %w", from, name, err)
	}
	count, hashed := r.count, r.hashed
	err = r.read(dir, path, data)
	if constraint {
		r.count, r.hashed = count, hashed
	}
	return err
}

// local adds the content of a local package: a directory, a wheel, an archive.
func (r *requirements) local(dir, from, requirement string) error {
	path, _, _ := strings.Cut(requirement, " ")
	if _, address, ok := strings.Cut(requirement, "@ "); ok {
		path = strings.TrimSpace(address)
	}
	path = strings.TrimPrefix(path, "file://")
	path, _, _ = strings.Cut(path, "[")
	if strings.Contains(path, "://") || !strings.ContainsAny(path, "/") && !strings.HasPrefix(path, ".") && !strings.HasSuffix(path, ".whl") {
		return nil
	}
	// pip takes paths from its working directory, which is the pack's.
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s requires %s, which is not there", from, path)
	}
	if err != nil {
		return err
	}
	if r.seen[path] {
		return nil
	}
	r.seen[path] = true
	name, err := filepath.Rel(dir, path)
	if err != nil {
		name = path
	}
	var input envcache.KeyInput
	if info.IsDir() {
		input, err = tree(name, path, func(_ string, item fs.DirEntry) bool {
			return !isVersionControl(item) && !slices.Contains([]string{"__pycache__", "build"}, item.Name()) && !strings.HasSuffix(item.Name(), ".egg-info")
		})
	} else {
		var sum string
		sum, err = fileDigest(path)
		input = envcache.KeyInput{Name: "file:" + name, Value: "sha256:" + sum}
	}
	r.inputs = append(r.inputs, input)
	return err
}
