package recipe

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/runtime"
)

// The languages of this file have one tool that installs a whole manifest into a directory.

// manifestInputs are a manifest and its lock file; none without the manifest, or with an empty one.
func manifestInputs(in Input, manifest, lock string) ([]envcache.KeyInput, error) {
	data, found, err := readManifest(in.PackDir, manifest)
	if err != nil || !found || len(data) == 0 {
		return nil, err
	}
	inputs := []envcache.KeyInput{content(manifest, data)}
	locked, found, err := readManifest(in.PackDir, lock)
	switch {
	case err != nil:
		return nil, err
	case found:
		inputs = append(inputs, content(lock, locked))
	case in.Locked && lock != manifest:
		return nil, &NotLockedError{Manifest: manifest, Remedy: "keep " + lock + " beside it"}
	}
	return inputs, nil
}

// perl installs a cpanfile with cpanm.
type perl struct{}

func (perl) Inputs(_ context.Context, in Input) ([]envcache.KeyInput, error) {
	inputs, err := manifestInputs(in, "cpanfile", "cpanfile.snapshot")
	if err != nil || inputs == nil {
		return nil, err
	}
	return append(inputs, variables(in, "PERL_CPANM_OPT")...), nil
}

func (perl) Build(ctx context.Context, in Input, site envcache.Site) (envcache.Built, error) {
	tool := newInstaller(in, "cpanm", "PERL_CPANM_OPT")
	cpanm, found := tool.lookPath("cpanm")
	if !found {
		return envcache.Built{}, &ToolError{Tool: "cpanm", Manifest: "cpanfile", Remedy: "install App::cpanminus (Debian: cpanminus)"}
	}
	tool.set("PERL_CPANM_HOME", filepath.Join(in.Downloads, "cpanm"))
	site.Phase("installing cpanfile with cpanm")
	err := tool.run(ctx, site, in.Interpreter.Path, cpanm, "--notest", "--local-lib-contained", site.Dir, "--installdeps", in.PackDir)
	return envcache.Built{Locked: exists(in.PackDir, "cpanfile.snapshot")}, err
}

func (perl) Check(context.Context, Input, string) error { return nil }

func (perl) Command(in Input, env *envcache.Env) (Command, error) {
	command, err := interpreted(in, in.Interpreter.Path, runtime.Vars{})
	if env != nil {
		command.Env = []runtime.EnvVar{
			{Name: "PERL5LIB", Value: "{env_dir}/lib/perl5", Operation: runtime.Append},
			{Name: "PATH", Value: "{env_dir}/bin", Operation: runtime.Prepend},
		}
	}
	return command, err
}

// ruby installs a Gemfile with bundler.
type ruby struct{}

func (ruby) Inputs(_ context.Context, in Input) ([]envcache.KeyInput, error) {
	return manifestInputs(in, "Gemfile", "Gemfile.lock")
}

func (ruby) Build(ctx context.Context, in Input, site envcache.Site) (envcache.Built, error) {
	tool := newInstaller(in, "bundle", "BUNDLE_", "GEM_HOST_API_KEY")
	bundle, found := lookPath(filepath.Dir(in.Interpreter.Path)+string(os.PathListSeparator)+tool.env["PATH"], "bundle")
	if !found {
		return envcache.Built{}, &ToolError{Tool: "bundle", Manifest: "Gemfile", Remedy: "install bundler"}
	}
	for _, name := range []string{"Gemfile", "Gemfile.lock"} {
		if exists(in.PackDir, name) {
			if err := copyFile(filepath.Join(in.PackDir, name), filepath.Join(site.Dir, name)); err != nil {
				return envcache.Built{}, err
			}
		}
	}
	tool.dir = site.Dir
	tool.set("BUNDLE_PATH", filepath.Join(site.Dir, "gems"))
	tool.set("BUNDLE_GEMFILE", filepath.Join(site.Dir, "Gemfile"))
	tool.set("BUNDLE_USER_CACHE", filepath.Join(in.Downloads, "bundle"))
	argv := []string{in.Interpreter.Path, bundle, "install"}
	if in.Network == Offline || exists(in.PackDir, "vendor/cache") {
		argv = append(argv, "--local")
	}
	site.Phase("installing Gemfile with bundle")
	err := tool.run(ctx, site, argv...)
	return envcache.Built{Locked: exists(in.PackDir, "Gemfile.lock"), Sentinels: []string{"Gemfile"}}, err
}

func (ruby) Check(context.Context, Input, string) error { return nil }

func (ruby) Command(in Input, env *envcache.Env) (Command, error) {
	if env == nil {
		return interpreted(in, in.Interpreter.Path, runtime.Vars{})
	}
	command, err := interpreted(in, in.Interpreter.Path, runtime.Vars{EnvDir: env.Dir})
	command.Env = []runtime.EnvVar{
		{Name: "BUNDLE_GEMFILE", Value: "{env_dir}/Gemfile", Operation: runtime.Set},
		{Name: "BUNDLE_PATH", Value: "{env_dir}/gems", Operation: runtime.Set},
		{Name: "RUBYOPT", Value: "-rbundler/setup", Operation: runtime.Append, Separator: " "},
	}
	return command, err
}

// renv restores a renv.lock.
type renv struct{}

func (renv) Inputs(_ context.Context, in Input) ([]envcache.KeyInput, error) {
	return manifestInputs(in, "renv.lock", "renv.lock")
}

func (renv) Build(ctx context.Context, in Input, site envcache.Site) (envcache.Built, error) {
	tool := newInstaller(in, "renv", "RENV_", "R_")
	tool.set("RENV_PATHS_CACHE", filepath.Join(in.Downloads, "renv"))
	site.Phase("restoring renv.lock")
	code := fmt.Sprintf("renv::restore(lockfile=%q, library=%q, prompt=FALSE)", filepath.Join(in.PackDir, "renv.lock"), filepath.Join(site.Dir, "library"))
	err := tool.run(ctx, site, in.Interpreter.Path, "--vanilla", "-e", code)
	return envcache.Built{Locked: true, Sentinels: []string{"library"}}, err
}

func (renv) Check(context.Context, Input, string) error { return nil }

func (renv) Command(in Input, env *envcache.Env) (Command, error) {
	command, err := interpreted(in, in.Interpreter.Path, runtime.Vars{})
	if env != nil {
		command.Env = []runtime.EnvVar{{Name: "R_LIBS", Value: "{env_dir}/library", Operation: runtime.Prepend}}
	}
	return command, err
}

// commands runs the lists of a spec of somebody's own.
type commands struct{}

func (commands) Inputs(_ context.Context, in Input) ([]envcache.KeyInput, error) {
	inputs := []envcache.KeyInput{{Name: "commands", Value: fmt.Sprintf("%q", in.Spec.Environment.CreateCommands)}}
	if in.Spec.Dependencies == nil {
		return inputs, nil
	}
	inputs = append(inputs, envcache.KeyInput{Name: "install-commands", Value: fmt.Sprintf("%q", in.Spec.Dependencies.InstallCommands)})
	manifest := manifestOf(in)
	if manifest == "" {
		return nil, nil
	}
	for _, name := range append([]string{manifest}, in.Spec.Dependencies.LockFiles...) {
		data, found, err := readManifest(in.PackDir, name)
		if err != nil {
			return nil, err
		}
		if found {
			inputs = append(inputs, content(name, data))
		}
	}
	return inputs, nil
}

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

func (commands) Build(ctx context.Context, in Input, site envcache.Site) (envcache.Built, error) {
	vars := runtime.Vars{PackDir: in.PackDir, EnvDir: site.Dir, Interpreter: in.Interpreter.Path, ActionFile: in.Script}
	lists := in.Spec.Environment.CreateCommands
	if manifest := manifestOf(in); manifest != "" {
		vars.ManifestPath = filepath.Join(in.PackDir, manifest)
		lists = append(lists[:len(lists):len(lists)], in.Spec.Dependencies.InstallCommands...)
	}
	for _, list := range lists {
		argv, err := expandAll(list, vars)
		if err != nil {
			return envcache.Built{}, err
		}
		tool := newInstaller(in, argv[0])
		if !filepath.IsAbs(argv[0]) {
			path, found := tool.lookPath(argv[0])
			if !found {
				return envcache.Built{}, &ToolError{Tool: argv[0], Manifest: "runtime " + in.Spec.Name, Remedy: "install it"}
			}
			argv[0] = path
		}
		site.Phase("running " + filepath.Base(argv[0]))
		if err := tool.run(ctx, site, argv...); err != nil {
			return envcache.Built{}, err
		}
	}
	return envcache.Built{}, nil
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

func (commands) Check(context.Context, Input, string) error { return nil }

func (commands) Command(in Input, env *envcache.Env) (Command, error) {
	interpreter := in.Interpreter.Path
	vars := runtime.Vars{}
	if env != nil {
		vars = runtime.Vars{PackDir: in.PackDir, EnvDir: env.Dir, Interpreter: interpreter, ActionFile: in.Script}
		if template := in.Spec.Environment.InterpreterPath; template != "" {
			var err error
			if interpreter, err = runtime.Expand(template, vars); err != nil {
				return Command{}, err
			}
		}
	}
	return interpreted(in, interpreter, vars)
}
