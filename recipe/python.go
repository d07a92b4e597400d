package recipe

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/proc"
	"github.com/attune-run/attune/runtime"
)

// python makes virtual environments (PEP 405), filled by uv where it is found, else by the base interpreter's pip.
type python struct{}

const uvPattern = `^uv (?P<version>\d+\.\d+\.\d+)`

func (python) Inputs(ctx context.Context, in Input) ([]envcache.KeyInput, error) {
	deps, err := pythonDependencies(in)
	if err != nil || deps.empty() {
		return nil, err
	}
	if in.Locked && !deps.locked {
		return nil, &NotLockedError{Manifest: deps.manifest, Remedy: "add --hash to every requirement (`uv pip compile --generate-hashes`), or use pyproject.toml with uv.lock"}
	}
	settings := pipSettings(in)
	tool, err := choosePythonTool(ctx, in, deps, settings)
	if err != nil {
		return nil, err
	}
	inputs := append(deps.inputs, envcache.KeyInput{Name: "installer", Value: tool.identity()})
	return append(inputs, settings.inputs(in)...), nil
}

// pythonTool is what installs: uv, or the base interpreter's pip.
type pythonTool struct {
	uv      string // path; empty: pip
	version string // of either; may be empty for pip
}

func (t pythonTool) identity() string {
	if t.uv != "" {
		return "uv " + t.version
	}
	return strings.TrimSpace("pip " + t.version)
}

// choosePythonTool prefers uv unless pip is configured in a way that uv cannot follow: a mirror is never left silently.
func choosePythonTool(ctx context.Context, in Input, deps pythonDeps, settings pipConfig) (pythonTool, error) {
	path, found := lookPath(in.hostVar("PATH"), "uv")
	if _, odd := settings.forUV(); found && odd == "" {
		version, err := in.toolVersion(ctx, "uv", path, uvPattern)
		if err == nil {
			return pythonTool{uv: path, version: version}, nil
		}
	}
	if deps.uvLock {
		return pythonTool{}, &ToolError{Tool: "uv", Manifest: "uv.lock", Remedy: "install uv, or give hashes in a requirements.txt"}
	}
	return pythonTool{version: basePipVersion(in)}, nil
}

// basePipVersion reads the version of the base interpreter's pip from the name of its metadata directory, without
// starting it; empty when there is none.
func basePipVersion(in Input) string {
	prefix := filepath.Dir(filepath.Dir(in.Interpreter.Path))
	for _, dir := range []string{
		filepath.Join(prefix, "lib", pythonName(in), "site-packages"),
		"/usr/lib/python3/dist-packages", // Debian's, for /usr/bin/python3 only
	} {
		if dir == "/usr/lib/python3/dist-packages" && prefix != "/usr" {
			continue
		}
		found, err := filepath.Glob(filepath.Join(dir, "pip-*.dist-info"))
		if err == nil && len(found) > 0 {
			return strings.TrimSuffix(strings.TrimPrefix(filepath.Base(found[len(found)-1]), "pip-"), ".dist-info")
		}
	}
	return ""
}

// pythonName is "python3.12", or "python3.13t" for a free-threaded build.
func pythonName(in Input) string {
	parts := strings.SplitN(in.Interpreter.Version, ".", 3)
	name := "python" + strings.Join(parts[:min(len(parts), 2)], ".")
	if strings.HasSuffix(filepath.Base(in.Interpreter.Path), "t") {
		name += "t"
	}
	return name
}

func (p python) Build(ctx context.Context, in Input, site envcache.Site) (envcache.Built, error) {
	deps, err := pythonDependencies(in)
	if err != nil {
		return envcache.Built{}, err
	}
	settings := pipSettings(in)
	tool, err := choosePythonTool(ctx, in, deps, settings)
	if err != nil {
		return envcache.Built{}, err
	}
	if err := writeVirtualenv(in, site.Dir); err != nil {
		return envcache.Built{}, err
	}
	requirements, err := deps.requirementsFile(in, site.Dir)
	if err != nil {
		return envcache.Built{}, err
	}
	site.Phase("installing " + deps.manifest + " with " + tool.identity())
	switch {
	case tool.uv != "":
		err = p.installWithUV(ctx, in, site, tool, deps, settings, requirements)
	case runtime.CompareVersions(tool.version, "22.3") >= 0: // the first with --python
		err = p.installWithPip(ctx, in, site, deps, requirements, in.Interpreter.Path, "-m", "pip", "--python", pythonBinary(site.Dir))
	default:
		err = p.installWithOwnPip(ctx, in, site, deps, requirements)
	}
	if err != nil {
		return envcache.Built{}, err
	}
	resolved, err := installedDistributions(filepath.Join(site.Dir, "lib", pythonName(in), "site-packages"))
	return envcache.Built{
		Resolved: resolved, Locked: deps.locked, Sentinels: []string{"pyvenv.cfg", "bin/python"},
	}, err
}

func pythonBinary(dir string) string { return filepath.Join(dir, "bin", "python") }

// writeVirtualenv makes an empty virtual environment as PEP 405 describes it. The standard library's venv takes
// tens of milliseconds for the same few files, and Debian ships it apart.
func writeVirtualenv(in Input, dir string) error {
	name := pythonName(in)
	for _, sub := range []string{"bin", "include", filepath.Join("lib", name, "site-packages")} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	config := fmt.Sprintf("home = %s\ninclude-system-site-packages = false\nversion = %s\nexecutable = %s\n",
		filepath.Dir(in.Interpreter.Path), in.Interpreter.Version, in.Interpreter.Path)
	if err := os.WriteFile(filepath.Join(dir, "pyvenv.cfg"), []byte(config), 0o644); err != nil {
		return err
	}
	links := map[string]string{"bin/python": in.Interpreter.Path, "bin/python3": "python", "lib64": "lib"}
	links["bin/"+name] = "python"
	for link, target := range links {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			return err
		}
	}
	return nil
}

func (python) installWithUV(ctx context.Context, in Input, site envcache.Site, tool pythonTool, deps pythonDeps, settings pipConfig, requirements string) error {
	uv := newInstaller(in, "uv", "UV_", "NETRC")
	translated, _ := settings.forUV()
	for name, value := range translated {
		if uv.env[name] == "" {
			uv.set(name, value)
		}
	}
	uv.set("UV_CACHE_DIR", filepath.Join(in.Downloads, "uv"))
	uv.set("UV_PYTHON_DOWNLOADS", "never")
	uv.set("UV_NO_PROGRESS", "1")
	uv.set("VIRTUAL_ENV", site.Dir)
	flags := []string{"--compile-bytecode"}
	if in.Network == Offline {
		flags = append(flags, "--offline")
	}
	if deps.uvLock {
		uv.set("UV_PROJECT_ENVIRONMENT", site.Dir)
		argv := []string{tool.uv, "sync", "--frozen", "--no-install-project", "--no-dev", "--project", in.PackDir, "--python", pythonBinary(site.Dir)}
		return uv.run(ctx, site, append(argv, flags...)...)
	}
	argv := []string{tool.uv, "pip", "install", "--python", pythonBinary(site.Dir), "-r", requirements}
	if deps.locked {
		argv = append(argv, "--require-hashes")
	}
	return uv.run(ctx, site, append(argv, flags...)...)
}

func (python) installWithPip(ctx context.Context, in Input, site envcache.Site, deps pythonDeps, requirements string, pip ...string) error {
	i := newInstaller(in, "pip", "PIP_")
	i.set("PIP_CACHE_DIR", filepath.Join(in.Downloads, "pip"))
	argv := append(pip, "install", "--no-input", "--disable-pip-version-check", "--no-warn-script-location", "--progress-bar", "off", "-r", requirements)
	if deps.locked {
		argv = append(argv, "--require-hashes")
	}
	if in.Network == Offline {
		argv = append(argv, "--no-index")
	}
	return i.run(ctx, site, argv...)
}

// installWithOwnPip is for base interpreters without a usable pip: the environment gets one of its own.
func (p python) installWithOwnPip(ctx context.Context, in Input, site envcache.Site, deps pythonDeps, requirements string) error {
	i := newInstaller(in, "ensurepip")
	if err := i.run(ctx, site, pythonBinary(site.Dir), "-m", "ensurepip", "--default-pip"); err != nil {
		return fmt.Errorf("%s has no pip that attune can use, and %w; install uv, or pip 22.3 or newer", in.Interpreter.Path, err)
	}
	return p.installWithPip(ctx, in, site, deps, requirements, pythonBinary(site.Dir), "-m", "pip")
}

// installedDistributions are "name==version", from the names of the metadata directories.
func installedDistributions(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, item := range entries {
		if stem, ok := strings.CutSuffix(item.Name(), ".dist-info"); ok {
			name, version, _ := strings.Cut(stem, "-")
			all = append(all, strings.ToLower(name)+"=="+version)
		}
	}
	slices.Sort(all)
	return all, nil
}

func (python) Check(ctx context.Context, in Input, dir string) error {
	var out bytes.Buffer
	exit, err := proc.Run(ctx, proc.Spec{
		Argv:   []string{pythonBinary(dir), "-I", "-c", "import sys; print(sys.prefix)"},
		Stdout: &out, Stderr: &out,
	})
	if err != nil {
		return err
	}
	if got := strings.TrimSpace(out.String()); exit.Code != 0 || got != dir {
		return fmt.Errorf("%s says %q (exit %d), not that it is the environment's", pythonBinary(dir), got, exit.Code)
	}
	return nil
}

func (python) Command(in Input, env *envcache.Env) (Command, error) {
	if env == nil {
		return interpreted(in, in.Interpreter.Path, runtime.Vars{})
	}
	binary := pythonBinary(env.Dir)
	if template := in.Spec.Environment.InterpreterPath; template != "" {
		var err error
		if binary, err = runtime.Expand(template, runtime.Vars{EnvDir: env.Dir, PackDir: in.PackDir}); err != nil {
			return Command{}, err
		}
	}
	command, err := interpreted(in, binary, runtime.Vars{EnvDir: env.Dir})
	command.Env = []runtime.EnvVar{
		{Name: "VIRTUAL_ENV", Value: "{env_dir}", Operation: runtime.Set},
		{Name: "PATH", Value: "{env_dir}/bin", Operation: runtime.Prepend},
	}
	return command, err
}
