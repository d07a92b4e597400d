package recipe

import (
	"bytes"
	"cmp"
	"context"
	"debug/buildinfo"
	"fmt"
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	stdruntime "runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/modfile"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/runtime"
)

// golang compiles the action once; running it is an exec. The program carries no path of the store (-trimpath).
type golang struct{}

const goBinary = "bin/action"

// goProgram is what is compiled.
type goProgram struct {
	module *goModule // nil: the files are a program without modules
	files  []string  // the script first; absolute
	whole  bool      // the script's whole package, with whatever else belongs to it
	embeds bool      // the source names other files of the directory
	cgo    bool
}

// goModule is the go.mod that governs a script.
type goModule struct {
	dir      string
	file     *modfile.File
	vendored bool
}

func program(in Input) (goProgram, error) {
	source, err := os.ReadFile(in.Script)
	if err != nil {
		return goProgram{}, err
	}
	script, err := parser.ParseFile(token.NewFileSet(), in.Script, source, parser.SkipObjectResolution)
	if script == nil || script.Name == nil { // a syntax error further down is left to the compiler's words
		return goProgram{}, &ManifestError{File: in.Script, Problem: fmt.Sprintf("is no Go source: %v", err)}
	}
	if script.Name.Name != "main" && script.Name.Name != "_" { // "_" stands for a name that could not be read
		return goProgram{}, &ManifestError{File: in.Script,
			Problem: fmt.Sprintf("is of package %s, so it is no program; a program's package is main", script.Name.Name)}
	}
	p := goProgram{files: []string{in.Script}, embeds: bytes.Contains(source, []byte("//go:embed")), cgo: importsPackage(script, "C")}
	if p.cgo && goSettings(in)["CGO_ENABLED"] == "0" {
		return goProgram{}, &ManifestError{File: in.Script, Problem: "imports C, and CGO_ENABLED is 0"}
	}
	if p.module, err = governing(in, script); err != nil || in.AdHoc {
		return p, err // `go run script.go` compiles that file alone
	}
	return p, p.addHelpers(in)
}

// governing finds the go.mod of a script, nil without one. A pack's lies in the pack. A bare script is governed by the one above it, as
// with `go run`, but only if it imports what the standard library does not have: whoever runs a small script
// somewhere in a large repository does not want all of it compiled, or digested.
func governing(in Input, script *ast.File) (*goModule, error) {
	for dir := filepath.Dir(in.Script); ; dir = filepath.Dir(dir) {
		if !exists(dir, "go.mod") {
			if dir == "/" || dir == in.PackDir && !in.AdHoc {
				return nil, nil
			}
			continue
		}
		data, _, err := readManifest(dir, "go.mod")
		if err != nil {
			return nil, err
		}
		path := filepath.Join(dir, "go.mod")
		file, err := modfile.Parse(path, data, nil)
		if err != nil {
			return nil, &ManifestError{File: path, Problem: strings.TrimPrefix(err.Error(), path+":")}
		}
		if in.AdHoc && !slices.ContainsFunc(script.Imports, func(i *ast.ImportSpec) bool { return foreign(file, i) }) {
			return nil, nil
		}
		return &goModule{dir: dir, file: file, vendored: exists(dir, "vendor/modules.txt")}, nil
	}
}

// foreign is true for an import that the standard library cannot have.
func foreign(file *modfile.File, spec *ast.ImportSpec) bool {
	path, _ := strconv.Unquote(spec.Path.Value)
	first, _, _ := strings.Cut(path, "/")
	return strings.Contains(first, ".") || file.Module != nil && (path == file.Module.Mod.Path || strings.HasPrefix(path, file.Module.Mod.Path+"/"))
}

func importsPackage(file *ast.File, path string) bool {
	return slices.ContainsFunc(file.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == strconv.Quote(path) })
}

// addHelpers adds the files beside the script that are no program of their own. Where the script is the only program, its directory is
// an ordinary package.
func (p *goProgram) addHelpers(in Input) error {
	dir := filepath.Dir(in.Script)
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	tags := buildTags(in)
	p.whole = p.module != nil
	for _, item := range files {
		path := filepath.Join(dir, item.Name())
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, _ := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.SkipObjectResolution)
		match := file != nil && belongs(item.Name(), file, tags) // what is broken is left to the compiler, if it comes to see it
		if path == in.Script {
			p.whole = p.whole && match // a script with `//go:build ignore` runs by its name only
			continue
		}
		switch {
		case !match || file.Name == nil || file.Name.Name != "main":
		case declaresMain(file):
			p.whole = false
		default:
			p.files = append(p.files, path)
			p.embeds = p.embeds || importsPackage(file, "embed")
			p.cgo = p.cgo || importsPackage(file, "C")
		}
	}
	return nil
}

func declaresMain(file *ast.File) bool {
	return slices.ContainsFunc(file.Decls, func(d ast.Decl) bool {
		f, ok := d.(*ast.FuncDecl)
		return ok && f.Name.Name == "main" && f.Recv == nil
	})
}

// buildTags are the build constraints that hold here (https://pkg.go.dev/cmd/go#hdr-Build_constraints), GOFLAGS' own included. The
// package go/build knows them as well, but costs every start of attune 0.2 ms.
func buildTags(in Input) func(tag string) bool {
	settings := goSettings(in)
	tags := []string{stdruntime.GOOS, stdruntime.GOARCH, "unix", "gc"}
	if settings["CGO_ENABLED"] != "0" {
		tags = append(tags, "cgo")
	}
	for flag := range strings.FieldsSeq(settings["GOFLAGS"]) {
		if list, found := strings.CutPrefix(strings.TrimLeft(flag, "-"), "tags="); found {
			tags = append(tags, strings.Split(list, ",")...)
		}
	}
	return func(tag string) bool {
		if version, found := strings.CutPrefix(tag, "go1."); found {
			_, own, _ := strings.Cut(in.Interpreter.Version, ".")
			own, _, _ = strings.Cut(own, ".")
			wanted, errWanted := strconv.Atoi(version)
			minor, errOwn := strconv.Atoi(own)
			return errWanted == nil && errOwn == nil && wanted <= minor
		}
		return slices.Contains(tags, tag)
	}
}

// Names of systems and machines, as a file's name may end in them (`go tool dist list`, and those of old).
var (
	goSystems = []string{"aix", "android", "darwin", "dragonfly", "freebsd", "hurd", "illumos", "ios", "js", "linux", "nacl", "netbsd",
		"openbsd", "plan9", "solaris", "wasip1", "windows", "zos"}
	goMachines = []string{"386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv", "riscv64",
		"s390x", "sparc", "sparc64", "wasm"}
)

// belongs is true for a file whose name and whose //go:build line fit.
func belongs(name string, file *ast.File, tags func(tag string) bool) bool {
	words := strings.Split(strings.TrimSuffix(name, ".go"), "_")
	if strings.HasPrefix(name, "_") || strings.HasPrefix(name, ".") {
		return false
	}
	words = words[1:]
	if n := len(words); n > 0 && slices.Contains(goMachines, words[n-1]) {
		if !tags(words[n-1]) {
			return false
		}
		words = words[:n-1]
	}
	if n := len(words); n > 0 && slices.Contains(goSystems, words[n-1]) && !tags(words[n-1]) {
		return false
	}
	for _, group := range file.Comments {
		for _, comment := range group.List {
			if comment.Pos() < file.Package && constraint.IsGoBuild(comment.Text) {
				expression, err := constraint.Parse(comment.Text)
				return err == nil && expression.Eval(tags)
			}
		}
	}
	return !importsPackage(file, "C") || tags("cgo")
}

// goDecisive are go's settings that change what is compiled. Where modules come from is not among them: go.sum says what they hold.
var goDecisive = []string{
	"GOFLAGS", "GOEXPERIMENT", "GOFIPS140", "GO386", "GOAMD64", "GOARM", "GOARM64", "GOPPC64", "GORISCV64", "CC", "CXX",
	"CGO_ENABLED", "CGO_CFLAGS", "CGO_CPPFLAGS", "CGO_CXXFLAGS", "CGO_LDFLAGS", "PKG_CONFIG_PATH",
}

// goSettings are the host's variables over what `go env -w` wrote down (https://pkg.go.dev/cmd/go#hdr-Environment_variables).
func goSettings(in Input) map[string]string {
	settings := map[string]string{}
	add := func(entry string) {
		if name, value, _ := strings.Cut(entry, "="); value != "" {
			settings[name] = value
		}
	}
	path := in.hostVar("GOENV")
	if path == "" {
		path = filepath.Join(cmp.Or(in.hostVar("XDG_CONFIG_HOME"), filepath.Join(in.hostVar("HOME"), ".config")), "go/env")
	}
	if data, err := os.ReadFile(path); err == nil && path != "off" {
		for line := range strings.Lines(string(data)) {
			add(strings.TrimRight(line, "\r\n"))
		}
	}
	for _, entry := range in.HostEnv {
		add(entry)
	}
	return settings
}

func (golang) Inputs(_ context.Context, in Input) ([]envcache.KeyInput, error) {
	if in.Script == "" {
		return nil, nil
	}
	p, err := program(in)
	if err != nil {
		return nil, err
	}
	var inputs []envcache.KeyInput
	if p.module != nil {
		inputs, err = p.module.inputs(in)
	} else {
		inputs, err = p.inputs()
	}
	if err != nil {
		return nil, err
	}
	settings := goSettings(in)
	for _, name := range goDecisive {
		if value := settings[name]; value != "" {
			inputs = append(inputs, envcache.KeyInput{Name: "variable:" + name, Value: withoutCredentials(value)})
		}
	}
	return inputs, nil
}

// inputs of a program without modules are its files, and all of its directory where the source may name anything there.
func (p goProgram) inputs() ([]envcache.KeyInput, error) {
	inputs := []envcache.KeyInput{{Name: "main", Value: filepath.Base(p.files[0])}}
	for _, path := range p.files {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		inputs = append(inputs, content(filepath.Base(path), data))
	}
	if p.embeds || p.cgo {
		beside, err := p.beside()
		return append(inputs, beside), err
	}
	return inputs, nil
}

// beside is everything in the script's directory.
func (p goProgram) beside() (envcache.KeyInput, error) {
	return tree("beside", filepath.Dir(p.files[0]), isGoSource)
}

// inputs of a module are all its files (any of them may be embedded), and those of the directories that replace modules.
func (m *goModule) inputs(in Input) ([]envcache.KeyInput, error) {
	if in.Locked && !m.vendored && !exists(m.dir, "go.sum") && m.downloads() {
		return nil, &NotLockedError{Manifest: filepath.Join(m.dir, "go.mod"), Remedy: "run `go mod tidy` and keep go.sum beside it"}
	}
	script, err := filepath.Rel(m.dir, in.Script)
	if err != nil {
		return nil, err
	}
	sources, err := tree("module", m.dir, isGoSource)
	inputs := []envcache.KeyInput{{Name: "main", Value: script}, sources}
	for _, dir := range m.replacements() {
		if err != nil {
			break
		}
		path := dir
		if !filepath.IsAbs(dir) {
			path = filepath.Join(m.dir, dir)
		}
		if !exists(path, "go.mod") {
			return nil, &ManifestError{File: filepath.Join(m.dir, "go.mod"),
				Problem: fmt.Sprintf("replaces a module with %s, where there is no go.mod; put the module there, or drop the replace line", dir)}
		}
		var replacement envcache.KeyInput
		replacement, err = tree("replacement "+dir, path, isGoSource)
		inputs = append(inputs, replacement)
	}
	return inputs, err
}

// replacements are the local directories that stand for modules, as go.mod writes them.
func (m *goModule) replacements() []string {
	if m.vendored {
		return nil
	}
	var dirs []string
	for _, r := range m.file.Replace {
		if r.New.Version == "" {
			dirs = append(dirs, r.New.Path)
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// downloads is true when a requirement comes from elsewhere.
func (m *goModule) downloads() bool {
	return slices.ContainsFunc(m.file.Require, func(r *modfile.Require) bool {
		return !slices.ContainsFunc(m.file.Replace, func(by *modfile.Replace) bool {
			return by.Old.Path == r.Mod.Path && (by.Old.Version == "" || by.Old.Version == r.Mod.Version) && by.New.Version == ""
		})
	})
}

// isGoSource leaves out what version control keeps beside the files.
func isGoSource(_ string, item fs.DirEntry) bool {
	return !item.IsDir() || !slices.Contains([]string{".git", ".hg", ".svn", ".bzr", ".jj"}, item.Name())
}

func (golang) Build(ctx context.Context, in Input, site envcache.Site) (envcache.Built, error) {
	p, err := program(in)
	if err != nil {
		return envcache.Built{}, err
	}
	tool := goTool(in)
	flags, targets := []string{"-trimpath", "-buildvcs=false", "-modcacherw"}, p.files
	tool.dir = site.Dir // outside of any module: one above the pack does not govern it
	if p.module != nil {
		tool.dir = filepath.Dir(in.Script)
		mode := "-mod=readonly" // also when GOFLAGS says otherwise: go.mod and go.sum are what was reviewed
		if p.module.vendored {
			mode = "-mod=vendor"
		}
		flags = append(flags, mode)
	}
	if p.whole {
		targets = []string{"."}
	} else if p.cgo {
		// Of a program named by its files go's cache does not know the headers; as a flag it does.
		beside, err := p.beside()
		if err != nil {
			return envcache.Built{}, err
		}
		tool.set("CGO_CPPFLAGS", strings.TrimSpace(goSettings(in)["CGO_CPPFLAGS"]+" -DATTUNE_BESIDE="+beside.Value))
	}
	if p.module != nil && !p.module.vendored && len(p.module.file.Require) > 0 {
		site.Phase("downloading the modules of " + filepath.Base(in.Script))
		list := append([]string{in.Interpreter.Path, "list", "-deps", "-f", "{{/* only loaded */}}"}, flags...)
		if err := tool.run(ctx, site, append(list, targets...)...); err != nil {
			return envcache.Built{}, err
		}
	}
	site.Phase("compiling " + filepath.Base(in.Script))
	tool.local = true // everything is there
	tool.offlineModules("off")
	compile := append([]string{in.Interpreter.Path, "build", "-o", filepath.Join(site.Dir, goBinary)}, flags...)
	if err := tool.run(ctx, site, append(compile, targets...)...); err != nil {
		return envcache.Built{}, err
	}
	resolved, err := linkedModules(filepath.Join(site.Dir, goBinary))
	return envcache.Built{Resolved: resolved, Locked: true, Sentinels: []string{goBinary}}, err
}

// goTool is go with the user's settings, and caches of the store's.
func goTool(in Input) *installer {
	tool := newInstaller(in, "go", slices.Concat(goDecisive, []string{"GOENV", "GOPROXY", "GOPRIVATE", "GONOPROXY", "GONOSUMDB", "GOSUMDB",
		"GOINSECURE", "GOAUTH", "GOVCS", "CGO_", "PKG_CONFIG_", "GIT_SSH", "GIT_ASKPASS", "GIT_CONFIG_", "GIT_SSL_"})...)
	tool.mayMiss(in.Network)
	settings := goSettings(in)
	tool.secrets = netrcPasswords(in)
	tool.set("GOOS", stdruntime.GOOS) // `go env -w` may say otherwise
	tool.set("GOARCH", stdruntime.GOARCH)
	tool.set("GOCACHE", filepath.Join(in.Downloads, "go-build"))
	tool.set("GOMODCACHE", filepath.Join(in.Downloads, "go-mod"))
	tool.set("GOTOOLCHAIN", "local")
	tool.set("GOWORK", "off")
	tool.set("GIT_TERMINAL_PROMPT", "0")
	downloaded := userModules(settings)
	switch in.Network {
	case Offline:
		tool.offlineModules(downloaded)
	case PreferOffline:
		// A go before 1.21 does not tell its default; its own module cache comes first anyway.
		if proxies := cmp.Or(settings["GOPROXY"], defaultProxies(in.Interpreter.Path)); proxies != "" && downloaded != "off" {
			tool.set("GOPROXY", downloaded+","+proxies)
		}
	}
	return tool
}

// offlineModules lets go take modules from the given proxies and nowhere else; private ones would be fetched directly.
func (i *installer) offlineModules(proxies string) {
	i.set("GOPROXY", proxies)
	i.set("GONOPROXY", "none")
	i.set("GOVCS", "*:off")
	i.set("GOSUMDB", "off") // go.sum has all sums, or go says which is missing
}

// defaultProxies are those of go's installation ($GOROOT/go.env).
func defaultProxies(goPath string) string {
	real, err := filepath.EvalSymlinks(goPath)
	if err != nil {
		return ""
	}
	data, _ := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(real)), "go.env"))
	for line := range strings.Lines(string(data)) {
		if value, found := strings.CutPrefix(line, "GOPROXY="); found {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// userModules is the proxy that the user's own module cache is: what is in there was downloaded before, too. "off" without one.
// https://go.dev/ref/mod#module-cache
func userModules(settings map[string]string) string {
	path := cmp.Or(settings["GOPATH"], filepath.Join(settings["HOME"], "go"))
	first, _, _ := strings.Cut(path, string(os.PathListSeparator))
	dir := filepath.Join(cmp.Or(settings["GOMODCACHE"], filepath.Join(first, "pkg/mod")), "cache/download")
	if !exists(dir, "") {
		return "off"
	}
	address := url.URL{Scheme: "file", Path: dir}
	return strings.NewReplacer(",", "%2C", "|", "%7C").Replace(address.String()) // which separate proxies
}

func (golang) Check(_ context.Context, _ Input, dir string) error {
	info, err := os.Stat(filepath.Join(dir, goBinary))
	if err == nil && info.Mode()&0o111 == 0 {
		err = fmt.Errorf("%s is no program", goBinary)
	}
	return err
}

func (golang) Command(in Input, env *envcache.Env) (Command, error) {
	if env == nil {
		return interpreted(in, in.Interpreter.Path, runtime.Vars{})
	}
	return Command{Argv: []string{filepath.Join(env.Dir, goBinary)}}, nil
}

// linkedModules are what the linker noted in the program, "path==version"; a local directory has no version.
func linkedModules(path string) ([]string, error) {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the modules of %s: %w", path, err)
	}
	var all []string
	for _, module := range info.Deps {
		if by := module.Replace; by != nil && by.Version != "" && by.Version != "(devel)" {
			module = by
		} else if by != nil {
			module.Version = "local"
		}
		all = append(all, module.Path+"=="+module.Version)
	}
	slices.Sort(all)
	return all, nil
}
