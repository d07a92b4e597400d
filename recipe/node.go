package recipe

import (
	"bytes"
	"context"
	_ "embed"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/runtime"
)

// node runs scripts with the packages of a package.json. CommonJS finds them through NODE_PATH; ES modules do not look
// there, so they get a hook.
type node struct{}

func (node) Inputs(ctx context.Context, in Input) ([]envcache.KeyInput, error) {
	p, err := findPackages(in, "npm")
	if err != nil || p == nil {
		return nil, err
	}
	return p.inputs(ctx)
}

func (node) Build(ctx context.Context, in Input, site envcache.Site) (envcache.Built, error) {
	p, err := findPackages(in, "npm")
	if err != nil || p == nil {
		return envcache.Built{}, err
	}
	return p.build(ctx, site)
}

func (node) Check(_ context.Context, _ Input, dir string) error { return checkPackages(dir) }

func (node) Command(in Input, env *envcache.Env) (Command, error) {
	command, err := interpreted(in, in.Interpreter.Path, runtime.Vars{})
	if err != nil || env == nil && (in.AdHoc || !exists(in.PackDir, "lib")) {
		return command, err
	}
	command.Argv = slices.Insert(command.Argv, 1, importHook(in)...)
	if env != nil {
		command.Env = packageVars
	}
	return command, nil
}

// packageVars lead to the environment's packages and their programs.
var packageVars = []runtime.EnvVar{
	{Name: "NODE_PATH", Value: "{env_dir}/node_modules", Operation: runtime.Append},
	{Name: "PATH", Value: "{env_dir}/node_modules/.bin", Operation: runtime.Prepend},
}

// The hooks let `import` find what NODE_PATH names; which one fits depends on node's version
// (https://nodejs.org/api/module.html#customization-hooks).
var (
	//go:embed hook_sync.mjs
	hookSync []byte // module.registerHooks: 22.15, 23.5 and newer
	//go:embed hook_async.mjs
	hookAsync []byte // module.register: 18.19, 20.6 and newer; as a --loader before
)

// importHook are the options that let ES modules find packages as NODE_PATH says. On a node without synchronous hooks
// they cost a thread and some 20 ms, so only a script that imports gets them there.
func importHook(in Input) []string {
	version := in.Interpreter.Version
	within := func(from, below string) bool {
		return runtime.CompareVersions(version, from) >= 0 && (below == "" || runtime.CompareVersions(version, below) < 0)
	}
	switch {
	case within("23.5", "") || within("22.15", "23.0"):
		return []string{"--import", moduleURL(hookSync)}
	case !imports(in.Script):
		return nil
	case within("20.6", "") || within("18.19", "19.0"):
		return []string{"--import", moduleURL(hookAsync)}
	case within("16.12", "18.0") || within("18.6", ""): // 18.0 to 18.5 take no loader from a data: URL
		return []string{"--experimental-loader", moduleURL(hookAsync)} // node warns of it, once
	}
	return nil
}

// imports tells whether a script may use ES modules; a CommonJS file without import() does not.
func imports(script string) bool {
	if script == "" || strings.HasSuffix(script, ".mjs") {
		return true
	}
	data, err := os.ReadFile(script)
	return err != nil || bytes.Contains(data, []byte("import"))
}

// moduleURL is a module as a data: URL: it needs no file, so a pack without an environment can have it as well. Stack
// traces show its short name instead of the URL.
func moduleURL(source []byte) string {
	var b strings.Builder
	for line := range strings.Lines(string(source)) {
		if text := strings.TrimSpace(line); text != "" && !strings.HasPrefix(text, "//") {
			b.WriteString(line)
		}
	}
	b.WriteString("//# sourceURL=attune-import-hook.mjs")
	return "data:text/javascript," + strings.NewReplacer("%", "%25", "?", "%3F", "#", "%23", "\n", "%0A").Replace(b.String())
}

// beside is PATH with the interpreter's own directory first: an npm that lies there belongs to it.
func beside(in Input) string {
	return filepath.Dir(in.Interpreter.Path) + string(os.PathListSeparator) + in.hostVar("PATH")
}
