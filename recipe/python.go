package recipe

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/proc"
	"github.com/attune-run/attune/runtime"
)

// python makes virtual environments (PEP 405), filled by uv where it is found, else with the base interpreter's pip.
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
	var missing *ToolError
	if err != nil && !errors.As(err, &missing) { // a missing tool matters once something is built: a layer may have it
		return nil, err
	}
	inputs := append(deps.inputs, envcache.KeyInput{Name: "installer", Value: tool.identity()})
	if tool.uv != "" {
		inputs = append(inputs, asSettings(uvInputs(in)...)...)
	}
	return append(inputs, settings.inputs(in)...), nil
}

// pythonTool is what installs: uv, or the base interpreter's pip.
type pythonTool struct {
	uv      string // path; empty: pip
	version string // of either; empty: the interpreter has no pip, ensurepip brings one
}

func (t pythonTool) identity() string {
	switch {
	case t.uv != "":
		return "uv " + t.version
	case t.version == "":
		return "ensurepip"
	}
	return "pip " + t.version
}

// choosePythonTool prefers uv unless pip is configured in a way that uv cannot follow: a mirror is never left silently. uv
// cannot compile for interpreters before 3.7.
func choosePythonTool(ctx context.Context, in Input, deps pythonDeps, settings pipConfig) (pythonTool, error) {
	only := "" // what only uv can install
	switch {
	case deps.uvLock:
		only = "uv.lock"
	case deps.uvFile != "":
		only = "[tool.uv] in " + deps.uvFile
	}
	path, found := lookPath(in.hostVar("PATH"), "uv")
	_, odd := settings.forUV(in)
	if found && odd == "" && runtime.CompareVersions(in.Interpreter.Version, "3.7") >= 0 {
		version, err := in.toolVersion(ctx, "uv", path, uvPattern)
		if err == nil {
			return pythonTool{uv: path, version: version}, nil
		}
		if only != "" {
			return pythonTool{}, fmt.Errorf("%s needs uv, and %s does not tell its version: %w", only, path, err)
		}
	}
	switch {
	case only == "":
		return pythonTool{version: basePipVersion(in)}, nil
	case found && odd != "":
		return pythonTool{}, fmt.Errorf("%s needs uv, which cannot follow pip's setting %s; take the setting out of pip's configuration", only, odd)
	}
	return pythonTool{}, &ToolError{Tool: "uv", Manifest: only, Remedy: "install uv, or list what is needed in a requirements.txt (`uv export` writes one with hashes)"}
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

func (p python) Build(ctx context.Context, in Input, site envcache.Site) (built envcache.Built, err error) {
	deps, err := pythonDependencies(in)
	if err != nil {
		return built, err
	}
	settings := pipSettings(in)
	tool, err := choosePythonTool(ctx, in, deps, settings)
	if err != nil {
		return built, err
	}
	if err := writeVirtualenv(in, site.Dir); err != nil {
		return built, err
	}
	work := filepath.Join(site.Dir, ".build")
	if err := os.Mkdir(work, 0o700); err != nil {
		return built, err
	}
	site.Phase("installing " + deps.manifest + " with " + tool.identity())
	if tool.uv != "" {
		err = uvBuild{in, site, deps, settings, tool, work}.install(ctx)
	} else {
		err = pipBuild{in, site, deps, settings, tool, work}.install(ctx)
	}
	if err = cmp.Or(err, os.RemoveAll(work)); err != nil {
		return built, err
	}
	packages := filepath.Join("lib", pythonName(in), "site-packages")
	built = envcache.Built{Locked: deps.locked, Sentinels: []string{"pyvenv.cfg", "bin/python"}, Complete: []string{packages}}
	built.Resolved, err = installedDistributions(filepath.Join(site.Dir, packages))
	return built, err
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
