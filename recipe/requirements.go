package recipe

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/attune-run/attune/envcache"
)

// pythonDeps is what a pack or script says it needs.
type pythonDeps struct {
	manifest string   // as in errors: "requirements.txt"
	path     string   // of a requirements file that an installer can take as it is; else empty
	lines    []string // what the manifest and the files it includes say: nothing editable, a localMark for each of copies
	copies   []string // local packages' directories
	uvFile   string   // path of a pyproject.toml or script whose [tool.uv] says more than its requirements do; else empty
	script   bool     // uvFile is a script
	uvLock   bool
	locked   bool
	inputs   []envcache.KeyInput
	locals   []envcache.KeyInput // those of inputs that are local packages
	remote   []string            // requirements and links that name an address of their own
	secrets  []string            // credentials in the requirements
	vars     []string            // variables of the host that the requirements name
}

func (d pythonDeps) empty() bool { return d.manifest == "" }

// pythonDependencies reads the script's own block (PEP 723), else requirements.txt, else pyproject.toml. The result is
// empty where nothing is required.
func pythonDependencies(in Input) (pythonDeps, error) {
	if in.AdHoc && in.Script != "" {
		metadata, ok, err := readScriptMetadata(in.Script)
		if err != nil {
			return pythonDeps{}, err
		}
		if ok {
			deps, err := fromLines(in.PackDir, "the script's dependencies", metadata.Dependencies)
			if metadata.usesUV() && !deps.empty() {
				deps.uvFile, deps.script = in.Script, true
				deps.inputs = append(deps.inputs, content("script metadata", withoutCredentialsIn(metadata.block)))
			}
			return deps, err
		}
	}
	requirements, err := readRequirements(in.PackDir, "requirements.txt")
	if err != nil {
		return pythonDeps{}, err
	}
	if requirements != nil {
		deps := requirements.deps("requirements.txt")
		if !requirements.editable && len(deps.copies) == 0 {
			deps.path = filepath.Join(in.PackDir, "requirements.txt")
		}
		return deps, nil
	}
	return fromProject(in.PackDir)
}

func fromLines(dir, manifest string, lines []string) (pythonDeps, error) {
	r := &requirements{seen: map[string]bool{}}
	for _, line := range lines {
		if err := r.line(dir, manifest, strings.TrimSpace(line)); err != nil {
			return pythonDeps{}, err
		}
	}
	deps := r.deps(manifest)
	deps.locked = false
	if !deps.empty() {
		deps.inputs = append(deps.inputs, envcache.KeyInput{Name: "requirements", Value: withoutCredentials(strings.Join(lines, "\n"))})
	}
	return deps, nil
}

// pyproject is the part of a pyproject.toml that says what is needed.
type pyproject struct {
	Project struct {
		Dependencies []string `toml:"dependencies"`
		Dynamic      []string `toml:"dynamic"`
	} `toml:"project"`
	Tool struct {
		UV     map[string]any `toml:"uv"`
		Poetry struct {
			Dependencies map[string]any `toml:"dependencies"`
		} `toml:"poetry"`
	} `toml:"tool"`
}

// fromProject takes the dependencies of pyproject.toml; the project itself is not installed: a pack's scripts are run, not
// packaged.
func fromProject(dir string) (pythonDeps, error) {
	data, found, err := readManifest(dir, "pyproject.toml")
	if err != nil || !found {
		return pythonDeps{}, err
	}
	path := filepath.Join(dir, "pyproject.toml")
	var document pyproject
	if err := toml.Unmarshal(data, &document); err != nil {
		return pythonDeps{}, fmt.Errorf("%s: %w", path, err)
	}
	if err := document.readable(); err != nil {
		return pythonDeps{}, fmt.Errorf("%s: %w", path, err)
	}
	deps, err := fromLines(dir, "pyproject.toml", document.Project.Dependencies)
	if err != nil || deps.empty() {
		return pythonDeps{}, err
	}
	lock, locked, err := readManifest(dir, "uv.lock")
	switch {
	case err != nil:
		return pythonDeps{}, err
	case locked:
		deps.uvLock, deps.locked = true, true
		deps.manifest = "uv.lock"
		deps.inputs = append(deps.locals, content("pyproject.toml", withoutCredentialsIn(data)), content("uv.lock", lock))
	case len(document.Tool.UV) > 0:
		deps.uvFile = path
		deps.inputs = append(deps.inputs, content("pyproject.toml", withoutCredentialsIn(data)))
	}
	return deps, nil
}

// readable refuses what would install nothing without a word.
func (p pyproject) readable() error {
	if slices.Contains(p.Project.Dynamic, "dependencies") {
		return errors.New("its dependencies are dynamic, which only its build tool can read; list them in [project] dependencies, or in a requirements.txt")
	}
	delete(p.Tool.Poetry.Dependencies, "python")
	if len(p.Tool.Poetry.Dependencies) > 0 && len(p.Project.Dependencies) == 0 {
		return errors.New("its dependencies are for Poetry only; list them in [project] dependencies, or write a requirements.txt with `poetry export`")
	}
	return nil
}

// requirementsFile is a path that pip and uv can read; it lies in dir unless the pack has it. Local packages are built in a copy
// below dir: build tools write beside what they build, and a pack is only ever read.
func (d pythonDeps) requirementsFile(dir string) (string, error) {
	if d.path != "" {
		return d.path, nil
	}
	text := strings.Join(d.lines, "\n") + "\n"
	for i, from := range d.copies {
		to := filepath.Join(dir, "local", fmt.Sprint(i), filepath.Base(from))
		if err := cmp.Or(os.RemoveAll(to), copyTree(from, to)); err != nil {
			return "", fmt.Errorf("copy of %s: %w", from, err)
		}
		address := (&url.URL{Scheme: "file", Path: to}).String()
		text = strings.ReplaceAll(text, "@ "+localMark(i), "@ "+address)
		if strings.ContainsAny(to, " []") { // blanks and brackets end a path
			to = address
		}
		text = strings.ReplaceAll(text, localMark(i), to)
	}
	path := filepath.Join(dir, "requirements.txt")
	return path, os.WriteFile(path, []byte(text), 0o600)
}

// localMark stands for the copy of a local package.
func localMark(i int) string { return fmt.Sprintf("\x00%d\x00", i) }

// isSource are the files of a local package that count.
func isSource(_ string, item fs.DirEntry) bool {
	return !isVersionControl(item) && !slices.Contains([]string{"__pycache__", "build"}, item.Name()) && !strings.HasSuffix(item.Name(), ".egg-info")
}

// copyTree copies the files that count, and .git, from which some build tools take the version.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, item fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path != from && item.Name() != ".git" && !strings.Contains(path, "/.git/") && !isSource(path, item) {
			if item.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, relative)
		if item.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		info, err := os.Stat(path)
		switch {
		case err != nil || !info.Mode().IsRegular() && !info.IsDir():
			return nil //nolint:nilerr // a dangling link, a socket: nothing to build from
		case info.IsDir():
			return os.Symlink(path, target)
		}
		if err := copyFile(path, target); err != nil {
			return err
		}
		return os.Chmod(target, info.Mode().Perm()|0o600)
	})
}

// requirements is what a requirements file and those it includes hold.
type requirements struct {
	count, hashed         int
	inputs, locals        []envcache.KeyInput
	remote, secrets, vars []string
	lines, copies         []string
	editable              bool
	seen                  map[string]bool
}

func (r *requirements) deps(manifest string) pythonDeps {
	if r.count == 0 {
		return pythonDeps{}
	}
	return pythonDeps{
		lines: r.lines, copies: r.copies, manifest: manifest, locked: r.hashed == r.count, inputs: slices.Concat(r.inputs, r.locals), locals: r.locals,
		remote: r.remote, secrets: r.secrets, vars: r.vars,
	}
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

// hostVariable is how requirements name a variable of the host
// (https://pip.pypa.io/en/stable/reference/requirements-file-format/#using-environment-variables).
var hostVariable = regexp.MustCompile(`\$\{([A-Z0-9_]+)\}`)

func (r *requirements) line(dir, from, line string) error {
	for _, found := range hostVariable.FindAllStringSubmatch(line, -1) {
		r.vars = append(r.vars, found[1])
	}
	r.secrets = append(r.secrets, urlPasswords(line)...)
	option, value := splitOption(line)
	if strings.Contains(value, "://") && !strings.Contains(value, "file://") && !slices.Contains([]string{"-i", "--index-url", "--extra-index-url"}, option) {
		r.remote = append(r.remote, line)
	}
	switch option {
	case "-r", "--requirement", "-c", "--constraint":
		return r.include(dir, from, value, strings.HasSuffix(option, "c") || option == "--constraint")
	case "-e", "--editable":
		r.editable = true
	case "":
	case "-f", "--find-links":
		if near := filepath.Join(dir, filepath.Dir(from), value); !strings.Contains(value, "://") && exists(near, "") {
			value = near
		}
		r.lines = append(r.lines, "--find-links="+value)
		return nil
	default:
		r.lines = append(r.lines, line)
		return nil
	}
	r.count++
	if strings.Contains(line, "--hash=") || strings.Contains(line, "--hash ") {
		r.hashed++
	}
	value, err := r.local(dir, from, value)
	r.lines = append(r.lines, value)
	return err
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
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s includes %s, which is not there", from, absolute)
	}
	if err == nil {
		data, err = decodeText(absolute, data)
	}
	if err != nil {
		return fmt.Errorf("%s includes %s: %w", from, name, err)
	}
	before := *r
	err = r.read(dir, path, data)
	if constraint {
		r.count, r.hashed, r.editable, r.copies = before.count, before.hashed, before.editable, before.copies
		r.lines = append(before.lines, "--constraint="+absolute)
	}
	return err
}

// local adds the content of a local package: a directory, a wheel, an archive. It returns the requirement with a mark for a
// directory.
func (r *requirements) local(dir, from, requirement string) (string, error) {
	named, _, _ := strings.Cut(requirement, " ")
	if _, address, ok := strings.Cut(requirement, "@ "); ok {
		named, _, _ = strings.Cut(strings.TrimSpace(address), " ")
	}
	path := strings.TrimPrefix(named, "file://")
	if unescaped, err := url.PathUnescape(path); err == nil && path != named {
		path = unescaped
	}
	path, extras, _ := strings.Cut(path, "[")
	if strings.Contains(path, "://") || !strings.ContainsAny(path, "/") && !strings.HasPrefix(path, ".") && !strings.HasSuffix(path, ".whl") {
		return requirement, nil
	}
	// pip takes paths from its working directory, which is the pack's.
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s requires %s, which is not there", from, path)
	}
	if err != nil {
		return "", err
	}
	if info.IsDir() {
		if extras != "" {
			extras = "[" + extras
		}
		requirement = strings.Replace(requirement, named, localMark(len(r.copies))+extras, 1)
		r.copies = append(r.copies, path)
	}
	if r.seen[path] {
		return requirement, nil
	}
	r.seen[path] = true
	name, err := filepath.Rel(dir, path)
	if err != nil {
		name = path
	}
	var input envcache.KeyInput
	if info.IsDir() {
		input, err = tree(name, path, isSource)
	} else {
		var sum string
		sum, err = fileDigest(path)
		input = envcache.KeyInput{Name: "file:" + name, Value: "sha256:" + sum}
	}
	r.locals = append(r.locals, input)
	return requirement, err
}

// passOn gives an installer the variables that the requirements name, and keeps their values and other credentials out of its
// log.
func (d pythonDeps) passOn(in Input, i *installer) {
	i.secrets = append(slices.Clone(d.secrets), netrcPasswords(in)...)
	for _, name := range d.vars {
		if value := in.hostVar(name); value != "" {
			i.set(name, value)
			i.secrets = append(i.secrets, value)
		}
	}
}
