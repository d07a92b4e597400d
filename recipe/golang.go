package recipe

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/runtime"
)

// golang compiles the action once; running it is an exec.
type golang struct{}

const goBinary = "bin/action"

// goModule is the directory of the go.mod that governs the script; empty for a single file.
func goModule(in Input) string {
	for dir := filepath.Dir(in.Script); ; dir = filepath.Dir(dir) {
		if exists(dir, "go.mod") {
			return dir
		}
		if dir == in.PackDir || dir == "/" || !strings.HasPrefix(dir, in.PackDir) {
			return ""
		}
	}
}

func (golang) Inputs(_ context.Context, in Input) ([]envcache.KeyInput, error) {
	if in.Script == "" {
		return nil, nil
	}
	source, err := os.ReadFile(in.Script)
	if err != nil {
		return nil, err
	}
	inputs := []envcache.KeyInput{content("script", source)}
	switch module := goModule(in); {
	case module != "":
		if in.Locked && !exists(module, "go.sum") && exists(module, "go.mod") && requires(module) {
			return nil, &NotLockedError{Manifest: "go.mod", Remedy: "run `go mod tidy` and keep go.sum beside it"}
		}
		script, err := filepath.Rel(module, in.Script)
		if err != nil {
			return nil, err
		}
		sources, err := tree("module", module, func(_ string, item fs.DirEntry) bool { return !isVersionControl(item) })
		if err != nil {
			return nil, err
		}
		inputs = append(inputs, envcache.KeyInput{Name: "main", Value: script}, sources)
	case bytes.Contains(source, []byte("//go:embed")):
		embedded, err := tree("embedded", filepath.Dir(in.Script), func(_ string, item fs.DirEntry) bool { return !isVersionControl(item) })
		if err != nil {
			return nil, err
		}
		inputs = append(inputs, embedded)
	}
	return append(inputs, variables(in, "GOFLAGS", "GOPROXY", "GOEXPERIMENT", "CGO_ENABLED", "GOAMD64", "GOARM64", "CGO_CFLAGS", "CGO_LDFLAGS")...), nil
}

func requires(module string) bool {
	data, err := os.ReadFile(filepath.Join(module, "go.mod"))
	return err == nil && bytes.Contains(data, []byte("require"))
}

func (golang) Build(ctx context.Context, in Input, site envcache.Site) (envcache.Built, error) {
	module := goModule(in)
	tool := newInstaller(in, "go build", "GOPROXY", "GOPRIVATE", "GONOPROXY", "GONOSUMDB", "GONOSUMCHECK", "GOSUMDB", "GOINSECURE", "GOAUTH", "GOFLAGS",
		"GOEXPERIMENT", "GOAMD64", "GOARM64", "GOVCS", "CGO_", "CC", "CXX", "PKG_CONFIG_PATH")
	tool.dir = filepath.Dir(in.Script)
	tool.set("GOCACHE", filepath.Join(in.Downloads, "go-build"))
	tool.set("GOMODCACHE", filepath.Join(in.Downloads, "go-mod"))
	tool.set("GOTOOLCHAIN", "local")
	tool.set("GOWORK", "off")
	if in.Network == Offline {
		tool.set("GOPROXY", "off")
	}
	target, err := goTarget(in)
	if err != nil {
		return envcache.Built{}, err
	}
	argv := []string{in.Interpreter.Path, "build", "-trimpath", "-buildvcs=false", "-o", filepath.Join(site.Dir, goBinary)}
	if module != "" {
		mode := "-mod=readonly"
		if exists(module, "vendor/modules.txt") {
			mode = "-mod=vendor"
		}
		argv = append(argv, mode, "-modcacherw")
	} else {
		tool.set("GO111MODULE", "off")
	}
	site.Phase("compiling " + filepath.Base(in.Script))
	if err := tool.run(ctx, site, append(argv, target)...); err != nil {
		return envcache.Built{}, err
	}
	resolved, err := linkedModules(filepath.Join(site.Dir, goBinary))
	return envcache.Built{Resolved: resolved, Locked: true, Sentinels: []string{goBinary}}, err
}

// goTarget is what is compiled: the script alone where every file of its directory is a program of its own, else the
// whole package.
func goTarget(in Input) (string, error) {
	files, err := filepath.Glob(filepath.Join(filepath.Dir(in.Script), "*.go"))
	if err != nil {
		return "", err
	}
	main := regexp.MustCompile(`(?m)^func main\(\)`)
	programs, others := 0, 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		if main.Match(source) {
			programs++
		} else {
			others++
		}
	}
	if goModule(in) != "" && programs == 1 && others > 0 {
		return ".", nil
	}
	return filepath.Base(in.Script), nil
}

func (golang) Check(_ context.Context, _ Input, dir string) error {
	info, err := os.Stat(filepath.Join(dir, goBinary))
	if err == nil && info.Mode()&0o111 == 0 {
		err = fmt.Errorf("%s is no program: the script's package is not main", goBinary)
	}
	return err
}

func (golang) Command(in Input, env *envcache.Env) (Command, error) {
	if env == nil {
		return interpreted(in, in.Interpreter.Path, runtime.Vars{})
	}
	return Command{Argv: []string{filepath.Join(env.Dir, goBinary)}}, nil
}

// linkedModules are what the linker noted in the program, "path==version".
func linkedModules(path string) ([]string, error) {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the modules of %s: %w", path, err)
	}
	var all []string
	for _, module := range info.Deps {
		if module.Replace != nil {
			module = module.Replace
		}
		all = append(all, module.Path+"=="+module.Version)
	}
	slices.Sort(all)
	return all, nil
}
