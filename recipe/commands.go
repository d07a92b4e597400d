package recipe

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/runtime"
)

// commands runs the lists of a spec of somebody's own: create_command, and with a manifest install_command, one after the other, in
// the pack's directory, with the environment's bin first in PATH. A spec that names no manifest has one environment for all packs.
//
// A command gets what every installer gets (PATH, HOME, proxies, certificates) and the variables of its own program's name: LUAROCKS_*
// for luarocks. Offline, proxies lead nowhere.
type commands struct{}

// createOnly is a spec's word for an environment that depends on no manifest.
func createOnly(in Input) bool {
	return in.Spec.Dependencies == nil || len(in.Spec.Dependencies.ManifestFiles) == 0
}

func (commands) Inputs(_ context.Context, in Input) ([]envcache.KeyInput, error) {
	environment, dependencies := in.Spec.Environment, in.Spec.Dependencies
	inputs := []envcache.KeyInput{
		{Name: "runtime", Value: in.Spec.Name},
		{Name: "commands", Value: fmt.Sprintf("%q", environment.CreateCommands)},
		{Name: "interpreter-path", Value: environment.InterpreterPath},
	}
	if dependencies != nil {
		inputs = append(inputs, envcache.KeyInput{Name: "install-commands", Value: fmt.Sprintf("%q", dependencies.InstallCommands)})
	}
	lists := commandLists(in)
	if len(lists) == 0 {
		return nil, fmt.Errorf("runtime %s (%s): an environment of type commands needs create_command or install_command", in.Spec.Name, in.Spec.Origin)
	}
	if !createOnly(in) {
		manifest, err := manifestAndLocks(in)
		if err != nil || manifest == nil {
			return nil, err
		}
		inputs = append(inputs, manifest...)
	}
	files, err := referencesOf(in, lists).inputs(in.PackDir)
	if err != nil {
		return nil, err
	}
	return append(append(inputs, files...), commandVariables(in, lists)...), nil
}

// commandLists are the commands to run, as templates.
func commandLists(in Input) [][]string {
	lists := in.Spec.Environment.CreateCommands
	if in.Spec.Dependencies != nil {
		lists = append(lists[:len(lists):len(lists)], in.Spec.Dependencies.InstallCommands...)
	}
	return lists
}

// manifestAndLocks are the inputs that the pack's own files are; none without a manifest that says something.
func manifestAndLocks(in Input) ([]envcache.KeyInput, error) {
	manifest := manifestOf(in)
	if manifest == "" {
		return nil, nil
	}
	data, _, err := readManifest(in.PackDir, manifest)
	if err != nil || len(bytes.TrimSpace(data)) == 0 {
		return nil, err
	}
	inputs := []envcache.KeyInput{content(manifest, data)}
	for _, name := range in.Spec.Dependencies.LockFiles {
		data, found, err := readManifest(in.PackDir, name)
		if err != nil {
			return nil, err
		}
		if found {
			inputs = append(inputs, content(name, data))
		}
	}
	if in.Locked && len(inputs) == 1 {
		remedy := "keep " + strings.Join(in.Spec.Dependencies.LockFiles, " or ") + " beside it"
		if len(in.Spec.Dependencies.LockFiles) == 0 {
			remedy = fmt.Sprintf("name its lock file in lock_files of runtime %s (%s)", in.Spec.Name, in.Spec.Origin)
		}
		return nil, &NotLockedError{Manifest: manifest, Remedy: remedy}
	}
	return inputs, nil
}

// manifestOf is the first of the spec's manifests that the pack has.
func manifestOf(in Input) string {
	if in.Spec.Dependencies == nil {
		return ""
	}
	for _, name := range in.Spec.Dependencies.ManifestFiles {
		if exists(in.PackDir, name) {
			return name
		}
	}
	return ""
}

// referencesOf are the pack's files that commands name. A command that is given the pack's directory may read all of it.
func referencesOf(in Input, lists [][]string) references {
	var all references
	for _, list := range lists {
		for _, word := range list {
			rest, whole := strings.CutPrefix(word, "{pack_dir}/")
			switch {
			case whole && filepath.IsLocal(rest) && exists(in.PackDir, rest):
				all = append(all, filepath.Clean(rest))
			case strings.Contains(word, "{pack_dir}"):
				all = append(all, ".")
			case strings.Contains(word, "{action_file}"):
				if relative, err := filepath.Rel(in.PackDir, in.Script); err == nil && filepath.IsLocal(relative) {
					all = append(all, relative)
				}
			}
		}
	}
	return all
}

// commandFamily is how the variables begin that set up a command's program.
func commandFamily(in Input, argv []string) string {
	name := strings.TrimRight(filepath.Base(strings.ReplaceAll(argv[0], "{interpreter}", in.Interpreter.Path)), "0123456789.")
	return strings.ToUpper(strings.ReplaceAll(name, "-", "_")) + "_"
}

func commandVariables(in Input, lists [][]string) []envcache.KeyInput {
	var names []string
	for _, list := range lists {
		family := commandFamily(in, list)
		for _, entry := range in.HostEnv {
			if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, family) && len(family) > 1 {
				names = append(names, name)
			}
		}
	}
	return variables(in, names...)
}

func (commands) Build(ctx context.Context, in Input, site envcache.Site) (envcache.Built, error) {
	vars := runtime.Vars{PackDir: in.PackDir, EnvDir: site.Dir, Interpreter: in.Interpreter.Path, ActionFile: in.Script}
	if manifest := manifestOf(in); manifest != "" {
		vars.ManifestPath = filepath.Join(in.PackDir, manifest)
	}
	for _, list := range commandLists(in) {
		if err := runCommand(ctx, in, site, list, vars); err != nil {
			return envcache.Built{}, fmt.Errorf("runtime %s (%s): command %q: %w", in.Spec.Name, in.Spec.Origin, list, err)
		}
	}
	built := envcache.Built{Complete: append([]string{"."}, existingDirs(site.Dir, site.Dir, "*/")...)}
	if in.Spec.Dependencies != nil {
		for _, name := range in.Spec.Dependencies.LockFiles {
			built.Locked = built.Locked || exists(in.PackDir, name)
		}
	}
	interpreter, err := commandInterpreter(in, site.Dir)
	if relative, outside := filepath.Rel(site.Dir, interpreter); outside == nil && filepath.IsLocal(relative) {
		built.Sentinels = []string{relative}
	}
	return built, err
}

func runCommand(ctx context.Context, in Input, site envcache.Site, list []string, vars runtime.Vars) error {
	argv, err := expandAll(list, vars)
	if err != nil {
		return err
	}
	tool := newInstaller(in, filepath.Base(argv[0]), commandFamily(in, list)).mayMiss(in.Network)
	path := filepath.Join(site.Dir, "bin") + string(os.PathListSeparator) + tool.env["PATH"]
	if in.Interpreter.Path != "" {
		path += string(os.PathListSeparator) + filepath.Dir(in.Interpreter.Path)
	}
	tool.set("PATH", path)
	if in.Network == Offline {
		tool.cutOff()
	}
	switch {
	case filepath.IsAbs(argv[0]):
	case strings.Contains(argv[0], "/"):
		argv[0] = filepath.Join(in.PackDir, argv[0])
	default:
		found := false
		if argv[0], found = tool.lookPath(argv[0]); !found {
			return &ToolError{Tool: tool.name, Manifest: "runtime " + in.Spec.Name, Remedy: "install it"}
		}
	}
	site.Phase("running " + tool.name)
	return tool.run(ctx, site, argv...)
}

func expandAll(templates []string, vars runtime.Vars) ([]string, error) {
	all := make([]string, len(templates))
	for i, template := range templates {
		var err error
		if all[i], err = runtime.Expand(template, vars); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// commandInterpreter is what runs a script with the environment in dir.
func commandInterpreter(in Input, dir string) (string, error) {
	if in.Spec.Environment.InterpreterPath == "" {
		return in.Interpreter.Path, nil
	}
	return runtime.Expand(in.Spec.Environment.InterpreterPath, runtime.Vars{PackDir: in.PackDir, EnvDir: dir, Interpreter: in.Interpreter.Path, ActionFile: in.Script})
}

// Check promises that the environment's own interpreter, if the spec has one, answers as the spec says.
func (commands) Check(ctx context.Context, in Input, dir string) error {
	interpreter, err := commandInterpreter(in, dir)
	if err != nil || interpreter == in.Interpreter.Path || in.Probe == nil {
		return err
	}
	_, err = in.Probe(ctx, in.Spec, interpreter)
	return err
}

func (commands) Command(in Input, env *envcache.Env) (Command, error) {
	if env == nil {
		return interpreted(in, in.Interpreter.Path, runtime.Vars{})
	}
	interpreter, err := commandInterpreter(in, env.Dir)
	if err != nil {
		return Command{}, err
	}
	command, err := interpreted(in, interpreter, runtime.Vars{EnvDir: env.Dir})
	command.Env = []runtime.EnvVar{{Name: "PATH", Value: "{env_dir}/bin", Operation: runtime.Prepend}}
	return command, err
}
