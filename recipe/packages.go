package recipe

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/attune-run/attune/envcache"
)

// packageJSON is the part of package.json that decides what is installed.
type packageJSON struct {
	Name                 string            `json:"name"`
	Version              string            `json:"version"`
	Dependencies         map[string]string `json:"dependencies"`
	OptionalDependencies map[string]string `json:"optionalDependencies"`
	PeerDependencies     map[string]string `json:"peerDependencies"`
	PackageManager       string            `json:"packageManager"`
	Workspaces           workspaces        `json:"workspaces"`
	Patched              map[string]string `json:"patchedDependencies"`
	PNPM                 struct {
		Patched map[string]string `json:"patchedDependencies"`
	} `json:"pnpm"`
}

// workspaces are globs, given as a list or below "packages".
type workspaces []string

func (w *workspaces) UnmarshalJSON(data []byte) error {
	if err := json.Unmarshal(data, (*[]string)(w)); err == nil {
		return nil
	}
	var detailed struct {
		Packages []string `json:"packages"`
	}
	err := json.Unmarshal(data, &detailed)
	*w = detailed.Packages
	return err
}

// required are the names that must be there after an installation, sorted.
func (m packageJSON) required() []string {
	names := slices.Sorted(maps.Keys(m.Dependencies))
	return slices.DeleteFunc(names, func(name string) bool { _, optional := m.OptionalDependencies[name]; return optional })
}

// readPackageJSON reads dir's package.json; found is false when there is none.
func readPackageJSON(dir string) (manifest packageJSON, data []byte, found bool, err error) {
	data, found, err = readManifest(dir, "package.json")
	if err != nil || !found || len(bytes.TrimSpace(data)) == 0 {
		return packageJSON{}, data, false, err
	}
	if err := json.Unmarshal(data, &manifest); err != nil {
		return packageJSON{}, nil, false, fmt.Errorf("%s: %w", at(filepath.Join(dir, "package.json"), data, err), err)
	}
	return manifest, data, true, nil
}

// at is "path:line:column" where the error of encoding/json knows it.
func at(path string, data []byte, err error) string {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	offset := int64(0)
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
	case errors.As(err, &kind):
		offset = kind.Offset
	default:
		return path
	}
	before := data[:min(int(offset), len(data))]
	return fmt.Sprintf("%s:%d:%d", path, bytes.Count(before, []byte("\n"))+1, len(before)-bytes.LastIndexByte(before, '\n')-1)
}

// packages is what a pack's package.json asks for, and who installs it.
type packages struct {
	in       Input
	manifest packageJSON
	data     []byte
	tool     jsTool
	lock     string   // the lock file's name; empty without one
	local    []string // files and directories of the pack that become part of the environment, relative
	settings jsSettings
}

// jsLocks are the lock files and who reads them, in the order in which they are looked for.
var jsLocks = []struct{ file, tool string }{
	{"npm-shrinkwrap.json", "npm"}, {"package-lock.json", "npm"}, {"pnpm-lock.yaml", "pnpm"}, {"yarn.lock", "yarn"}, {"bun.lock", "bun"}, {"bun.lockb", "bun"},
}

// findPackages reads the pack's package.json; nil when nothing has to be installed. usual is the runtime's own
// installer, for a package.json without a lock file.
func findPackages(in Input, usual string) (*packages, error) {
	manifest, data, found, err := readPackageJSON(in.PackDir)
	if err != nil || !found || len(manifest.Dependencies)+len(manifest.OptionalDependencies) == 0 {
		return nil, err
	}
	p := &packages{in: in, manifest: manifest, data: data}
	wanted, _, _ := strings.Cut(manifest.PackageManager, "@")
	// One pack may hold several lock files: packageManager decides, then the runtime's own, then their order.
	for _, preferred := range []string{wanted, usual, ""} {
		for _, lock := range jsLocks {
			if p.lock == "" && (preferred == "" || preferred == lock.tool) && exists(in.PackDir, lock.file) {
				p.lock, p.tool = lock.file, jsTools[lock.tool]
			}
		}
	}
	if p.lock == "" {
		tool, known := jsTools[wanted]
		if p.tool = tool; !known {
			p.tool = jsTools[usual]
		}
	}
	if err := p.chooseYarn(); err != nil {
		return nil, err
	}
	if p.lock == "" && in.Locked {
		return nil, &NotLockedError{Manifest: "package.json", Remedy: fmt.Sprintf("run `%s` and keep %s beside it", p.tool.relock, p.tool.locks)}
	}
	p.settings = readJSSettings(in, p.tool)
	p.local, err = p.localFiles()
	return p, err
}

// chooseYarn tells yarn 2 and newer from yarn 1: by the lock file, else by packageManager.
func (p *packages) chooseYarn() error {
	if p.tool.name != "yarn" {
		return nil
	}
	_, version, _ := strings.Cut(p.manifest.PackageManager, "@")
	berry := version != "" && !strings.HasPrefix(version, "1.")
	if p.lock != "" {
		data, _, err := readManifest(p.in.PackDir, p.lock)
		if err != nil {
			return err
		}
		berry = bytes.Contains(data, []byte("\n__metadata:"))
	}
	if berry {
		p.tool = jsTools["berry"]
	}
	return nil
}

// inputs are the key's.
func (p *packages) inputs(ctx context.Context) ([]envcache.KeyInput, error) {
	program, err := p.find(ctx)
	var missing *ToolError
	if err != nil && !errors.As(err, &missing) { // a missing tool matters once something is built
		return nil, err
	}
	inputs := []envcache.KeyInput{content("package.json", p.data), {Name: "installer", Value: strings.TrimSpace(p.tool.name + " " + program.version)}}
	if p.lock != "" {
		data, err := os.ReadFile(filepath.Join(p.in.PackDir, p.lock))
		if err != nil {
			return nil, err
		}
		inputs = append(inputs, content(p.lock, data))
	}
	for _, name := range p.local {
		input, err := tree(name, filepath.Join(p.in.PackDir, name), p.source)
		if err != nil {
			return nil, err
		}
		inputs = append(inputs, input)
	}
	return append(inputs, p.settings.inputs...), nil
}

// source leaves out the settings files as well.
func (p *packages) source(path string, item fs.DirEntry) bool {
	relative, err := filepath.Rel(p.in.PackDir, path)
	return err == nil && isJSSource(path, item) && !slices.Contains(p.settings.files, relative)
}

// isJSSource leaves out what an installer or version control made.
func isJSSource(_ string, item fs.DirEntry) bool {
	return !isVersionControl(item) && !(item.IsDir() && item.Name() == "node_modules")
}

// build installs the packages into site.Dir.
func (p *packages) build(ctx context.Context, site envcache.Site) (envcache.Built, error) {
	program, err := p.find(ctx)
	if err != nil {
		return envcache.Built{}, err
	}
	for _, name := range append([]string{"package.json", p.lock}, p.local...) {
		if name == "" {
			continue
		}
		if err := copyFiles(filepath.Join(p.in.PackDir, name), filepath.Join(site.Dir, name), p.source); err != nil {
			return envcache.Built{}, err
		}
	}
	if p.lock == "" && p.tool.locks == "yarn.lock" { // an empty one tells yarn 2 that the project is here and not further up
		if err := os.WriteFile(filepath.Join(site.Dir, "yarn.lock"), nil, 0o600); err != nil {
			return envcache.Built{}, err
		}
	}
	i := p.installer(program, site.Dir)
	phase := fmt.Sprintf("installing %s with %s %s", cmp.Or(p.lock, "package.json"), p.tool.name, program.version)
	if asked := p.manifest.PackageManager; asked != "" && asked != p.tool.program+"@"+program.version {
		phase += " (packageManager asks for " + asked + "; attune uses what is installed)"
	}
	site.Phase(phase)
	unlink, err := p.settings.link(p.in.PackDir, site.Dir)
	if err != nil {
		return envcache.Built{}, err
	}
	err = p.run(ctx, i, site, append(program.argv, p.tool.args(p, program.version)...))
	if err := errors.Join(err, unlink()); err != nil {
		return envcache.Built{}, err
	}
	for _, name := range p.tool.leavings {
		_ = os.Remove(filepath.Join(site.Dir, name)) // they name the build's paths and registries
	}
	return p.built(site.Dir)
}

// run runs the installer and gives its failure the words that the tool has not.
func (p *packages) run(ctx context.Context, i *installer, site envcache.Site, argv []string) error {
	var last tail
	site.Log = io.MultiWriter(site.Log, &last)
	err := i.run(ctx, site, argv...)
	said := last.buffer.Bytes()
	reclassify(err, said)
	if found := p.tool.stale().FindSubmatch(said); p.lock != "" && found != nil {
		return &LockMismatchError{Manifest: "package.json", Lock: p.lock, Reason: strings.TrimSpace(string(found[len(found)-1])),
			Remedy: "run `" + p.tool.relock + "`", Err: err}
	}
	if p.in.Network == Offline {
		return offlineFailure(cmp.Or(p.lock, "package.json"), err)
	}
	return err
}

// LockMismatchError is a lock file that was not made of its manifest.
type LockMismatchError struct {
	Manifest string
	Lock     string
	Reason   string // in the installer's words; may be empty
	Remedy   string
	Err      error // the installer's failure; may be nil
}

// Error names both files and the remedy.
func (e *LockMismatchError) Error() string {
	reason := ""
	if e.Reason != "" {
		reason = " (" + e.Reason + ")"
	}
	return fmt.Sprintf("%s does not match %s%s; %s", e.Lock, e.Manifest, reason, e.Remedy)
}

// Unwrap is the installer's failure.
func (e *LockMismatchError) Unwrap() error { return e.Err }

// Class is Permanent: nothing but a change of the files helps.
func (e *LockMismatchError) Class() envcache.Class { return envcache.Permanent }

// built lists what is in node_modules.
func (p *packages) built(dir string) (envcache.Built, error) {
	modules := filepath.Join(dir, "node_modules")
	if err := os.MkdirAll(modules, 0o755); err != nil { // where every optional dependency was left out
		return envcache.Built{}, err
	}
	found := installed{root: dir}
	if err := found.walk(modules); err != nil {
		return envcache.Built{}, err
	}
	slices.Sort(found.packages)
	built := envcache.Built{Resolved: slices.Compact(found.packages), Locked: p.lock != "", Complete: found.dirs}
	for _, name := range p.manifest.required() {
		built.Sentinels = append(built.Sentinels, filepath.Join("node_modules", name, "package.json"))
	}
	return built, nil
}

// installed are the packages of a node_modules tree.
type installed struct {
	root     string
	packages []string // "name==version"
	dirs     []string // the outermost directories that hold packages, relative
}

func (i *installed) walk(modules string) error {
	entries, err := os.ReadDir(modules)
	if err != nil {
		return err
	}
	relative, err := filepath.Rel(i.root, modules)
	if err != nil {
		return err
	}
	if relative == "node_modules" || strings.HasPrefix(filepath.Base(modules), "@") && filepath.Dir(relative) == "node_modules" || filepath.Base(modules) == ".pnpm" {
		i.dirs = append(i.dirs, relative)
	}
	for _, item := range entries {
		path := filepath.Join(modules, item.Name())
		switch {
		case item.Type()&fs.ModeSymlink != 0:
			err = i.inside(path)
		case !item.IsDir() || strings.HasPrefix(item.Name(), ".") && item.Name() != ".pnpm":
		case filepath.Base(modules) == ".pnpm" && item.Name() != "node_modules": // <name>@<version>/node_modules
			err = i.walk(filepath.Join(path, "node_modules"))
		case strings.HasPrefix(item.Name(), "@") || item.Name() == ".pnpm" || item.Name() == "node_modules":
			err = i.walk(path)
		default:
			err = i.pack(path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// pack notes one package and goes on to those below it.
func (i *installed) pack(dir string) error {
	data, err := os.ReadFile(filepath.Join(dir, "package.json"))
	var manifest packageJSON
	if err == nil && json.Unmarshal(data, &manifest) == nil && manifest.Name != "" {
		i.packages = append(i.packages, manifest.Name+"=="+manifest.Version)
	}
	if err := i.walk(filepath.Join(dir, "node_modules")); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// inside refuses a link that leads out of the environment: it would not live as long as the link.
func (i *installed) inside(link string) error {
	target, err := os.Readlink(link)
	if err != nil {
		return err
	}
	joined := filepath.Join(filepath.Dir(link), target)
	if relative, err := filepath.Rel(i.root, joined); filepath.IsAbs(target) || err != nil || !filepath.IsLocal(relative) {
		return fmt.Errorf("the installer linked %s to %s, outside the environment; use file: for a package of your own, and no global store", strings.TrimPrefix(link, i.root+"/"), target)
	}
	return nil
}

// checkPackages looks for what package.json asks for.
func checkPackages(dir string) error {
	manifest, _, _, err := readPackageJSON(dir)
	if err != nil {
		return err
	}
	for _, name := range manifest.required() {
		if _, err := os.Stat(filepath.Join(dir, "node_modules", name)); err != nil {
			return fmt.Errorf("the installer left no node_modules/%s, which package.json asks for", name)
		}
	}
	return nil
}

// localPath is the path of a dependency that is no registry's: "file:lib/x", "./x.tgz".
var localPath = lazy(`^(?:(?:file|link|portal):(?://)?)(.+)$|^(\.{1,2}/.*|/.+|~/.+)$`)

// localFiles are the files beside package.json that the installer reads: packages of the pack's own, workspaces,
// patches. Their contents are inputs of the key, and they are copied into the environment.
func (p *packages) localFiles() ([]string, error) {
	var found []string
	add := func(name, why string) error {
		name = filepath.Clean(name)
		if !filepath.IsLocal(name) {
			return fmt.Errorf("%s: %s lies outside the pack (%s); only the pack's own files can be installed: copy it into the pack", filepath.Join(p.in.PackDir, "package.json"), why, name)
		}
		if !exists(p.in.PackDir, name) {
			return fmt.Errorf("%s: %s is not there: %s", filepath.Join(p.in.PackDir, "package.json"), why, filepath.Join(p.in.PackDir, name))
		}
		if !slices.Contains(found, name) {
			found = append(found, name)
		}
		return nil
	}
	members, err := p.workspaceMembers()
	if err != nil {
		return nil, err
	}
	for _, member := range members {
		if err := add(member, "workspace "+member); err != nil {
			return nil, err
		}
	}
	if err := p.localDependencies(p.manifest, ".", add); err != nil {
		return nil, err
	}
	for i := 0; i < len(found); i++ { // grows: a local package may have local packages
		manifest, _, _, err := readPackageJSON(filepath.Join(p.in.PackDir, found[i]))
		if errors.Is(err, fs.ErrNotExist) || isFile(filepath.Join(p.in.PackDir, found[i])) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := p.localDependencies(manifest, found[i], add); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Concat(p.tool.reads, slices.Sorted(maps.Values(p.manifest.Patched)), slices.Sorted(maps.Values(p.manifest.PNPM.Patched))) {
		if exists(p.in.PackDir, name) {
			if err := add(name, name); err != nil {
				return nil, err
			}
		}
	}
	return withoutNested(found), nil
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir()
}

// localDependencies are those of the package in dir.
func (p *packages) localDependencies(manifest packageJSON, dir string, add func(name, why string) error) error {
	for _, all := range []map[string]string{manifest.Dependencies, manifest.OptionalDependencies} {
		for _, name := range slices.Sorted(maps.Keys(all)) {
			m := localPath().FindStringSubmatch(all[name])
			if m == nil {
				continue
			}
			path := cmp.Or(m[1], m[2])
			if !filepath.IsAbs(path) && !strings.HasPrefix(path, "~") {
				path = filepath.Join(dir, path)
			}
			if err := add(path, fmt.Sprintf("dependency %s (%s)", name, all[name])); err != nil {
				return err
			}
		}
	}
	return nil
}

// withoutNested drops what lies below another.
func withoutNested(all []string) []string {
	slices.Sort(all)
	return slices.DeleteFunc(all, func(name string) bool {
		return slices.ContainsFunc(all, func(other string) bool { return strings.HasPrefix(name, other+"/") })
	})
}

// copyFiles copies a file or a directory, as far as wanted. Modes are kept; of a link its content is copied.
func copyFiles(from, to string, wanted func(path string, item fs.DirEntry) bool) error {
	return filepath.WalkDir(from, func(path string, item fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path != from && !wanted(path, item) {
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
		info, err := os.Stat(path) // follows a link: its content is what the key knows
		switch {
		case err != nil:
			return err
		case item.IsDir():
			return os.MkdirAll(target, 0o755)
		case !info.Mode().IsRegular():
			return fmt.Errorf("%s is no regular file (nor a link to one); it cannot become part of an environment", path)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		return os.WriteFile(target, data, info.Mode().Perm()|0o600)
	})
}
