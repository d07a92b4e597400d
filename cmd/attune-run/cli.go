package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/completion"
	"github.com/attune-run/attune/internal/config"
	"github.com/attune-run/attune/internal/nearest"
	"github.com/attune-run/attune/internal/requestflags"
)

// cli is what is true of every command; the rest stands with its command.
type cli struct {
	globals
}

// Help shows examples under `--help`.
func (cli) Help() string {
	return `Examples:
  attune-run core.echo -p message=hello              (an action of a pack)
  attune-run ./report.py --day 2026-01-01            (a script; everything behind it is its own)
  attune-run pack list
  attune-run explain core.echo`
}

// command is one word of the command line.
type command struct {
	name, help string
	make       func() any
}

// commands are all there are, in the order of the help.
var commands = []command{
	{"run", "Run an action or a script (the default command).", func() any { return &runCmd{} }},
	{"batch", "Run a plan of many actions, in the order they need each other.", func() any { return &batchCmd{} }},
	{"explain", "Show what a run would use and why; run nothing.", func() any { return &explainCmd{} }},
	{"redact", "Mask secrets in what passes from stdin to stdout.", func() any { return &redactCmd{} }},
	{"detect", "Show the interpreters this machine has.", func() any { return &detectCmd{} }},
	{"runtimes", "Show the runtimes attune knows.", func() any { return &runtimesCmd{} }},
	{"pack", "List, show, check and create packs.", func() any { return &packCmd{} }},
	{"env", "List, show, warm, check, move and remove environments.", func() any { return &envCmd{} }},
	{"bundle", "Make a function of packs, with their environments, for AWS Lambda.", func() any { return &bundleCmd{} }},
	{"lambda", "Run a bundle on this machine; the rest is attune-lambda's.", func() any { return &lambdaCmd{} }},
	{"doctor", "Show what isolation and which limits this machine offers.", func() any { return &doctorCmd{} }},
	{"config", "Show the configuration and where each value comes from.", func() any { return &configCmd{} }},
	{"version", "Show the version.", func() any { return &versionCmd{} }},
	{"completion", "Print a completion script for a shell.", func() any { return &completionCmd{} }},
	{"man", "Print the manual page.", func() any { return &manCmd{} }},
}

func isCommand(word string) bool {
	return slices.ContainsFunc(commands, func(c command) bool { return c.name == word })
}

// grammar is the part of the command line that the arguments can mean. Kong takes milliseconds to read all of it, which
// every execution would pay for; the whole is needed only where the first argument is a flag, or help is asked for.
func grammar(args []string) []kong.Option {
	only := ""
	if len(args) > 0 && !completion.Asked() {
		switch {
		case isCommand(args[0]):
			only = args[0]
		case !strings.HasPrefix(args[0], "-"):
			only = "run"
		}
	}
	var options []kong.Option
	for _, c := range commands {
		if only == "" || c.name == only {
			options = append(options, kong.DynamicCommand(c.name, c.help, "", c.make()))
		}
	}
	return options
}

var description = kong.Description("Run an automation action or a script, with its dependencies, anywhere.")

// globals are the flags every command takes. Their defaults come from the configuration.
type globals struct {
	Packs []string `help:"Directory that holds packs (repeatable; first match wins). [$ATTUNE_PACKS]" placeholder:"DIR" sep:"none" type:"path"`
	Cache string   `help:"Root of the environment cache. [$ATTUNE_CACHE]" placeholder:"DIR" type:"path"`

	Layer  []string `help:"Read-only cache below it, of an image for one (repeatable, asked in this order). [$ATTUNE_LAYERS]" placeholder:"DIR" sep:"none" type:"path"`
	Shared bool     `help:"The cache belongs to its group. [$ATTUNE_SHARED]"`
}

func (g globals) flags() config.Flags {
	return config.Flags{Packs: g.Packs, Cache: g.Cache, Layers: g.Layer, Shared: g.Shared}
}

// app is what a command works with.
type app struct {
	ctx    context.Context
	name   string
	std    stdio
	cli    *cli
	parser *kong.Kong
}

// service makes the engine from the configuration, in agent mode.
func (a *app) service() (*executor.Service, config.Config, error) {
	cfg, err := config.Load(a.cli.flags(), config.Defaults{}, os.Environ())
	if err != nil {
		return nil, config.Config{}, err
	}
	service, err := executor.New(cfg.Executor())
	if err != nil {
		return nil, config.Config{}, err
	}
	return service, cfg, service.Start(a.ctx)
}

// normalize makes run the default command, and leaves everything behind a script's name to the script.
// A first word that holds a dot or a slash, or is a file, is something to run; a command wins over a
// file of its name.
func normalize(model *kong.Application, args []string) ([]string, error) {
	nodes := map[string]*kong.Node{}
	for _, node := range model.Children {
		nodes[node.Name] = node
	}
	at := firstWord(args, 0, valueFlags(model.Node, nodes["run"]))
	if len(args) == 0 {
		return nil, errors.New("nothing to run; name an action (pack.action), a script or a command, or see --help")
	}
	if at == len(args) {
		return args, nil
	}
	word := args[at]
	if !isCommand(word) {
		if !runnable(word) {
			return nil, unknownCommand(word)
		}
		args, at = slices.Insert(slices.Clone(args), 0, "run"), at+1
	} else if word == "run" || word == "explain" {
		at = firstWord(args, at+1, valueFlags(model.Node, nodes[word]))
	} else {
		return args, nil
	}
	if at < len(args) && requestflags.IsScript(args[at]) && (at == 0 || args[at-1] != "--") {
		args = slices.Insert(slices.Clone(args), at+1, "--")
	}
	return args, nil
}

// firstWord is the index of the first argument that is no flag and no flag's value.
func firstWord(args []string, from int, takesValue map[string]bool) int {
	for i := from; i < len(args); i++ {
		switch arg := args[i]; {
		case arg == "--":
			return min(i+1, len(args))
		case !strings.HasPrefix(arg, "-") || arg == "-":
			return i
		case takesValue[arg]:
			i++
		}
	}
	return len(args)
}

// valueFlags are the flags whose value may be the next argument: "--packs", "-p".
func valueFlags(nodes ...*kong.Node) map[string]bool {
	flags := map[string]bool{}
	for _, node := range nodes {
		if node == nil {
			continue
		}
		for _, flag := range node.Flags {
			if flag.IsBool() {
				continue
			}
			flags["--"+flag.Name] = true
			if flag.Short != 0 {
				flags["-"+string(flag.Short)] = true
			}
		}
	}
	return flags
}

func runnable(word string) bool {
	return strings.ContainsAny(word, "./") || requestflags.IsFile(word)
}

func unknownCommand(word string) error {
	names := make([]string, len(commands))
	for i, c := range commands {
		names[i] = c.name
	}
	if near := nearest.Name(word, names); near != "" {
		return fmt.Errorf("there is no command, and no file, %q; did you mean %q?", word, near)
	}
	return fmt.Errorf("there is no command, and no file, %q; an action is named pack.action, the commands are %s", word, strings.Join(names, ", "))
}

// sibling starts attune-worker or attune-lambda from beside this binary when called as
// `attune worker …`, as git does with its commands. `attune lambda invoke` is this program's own: what runs in a function has no
// use for it.
func sibling(name string, args []string) (int, bool) {
	if len(args) == 0 || (args[0] != "worker" && args[0] != "lambda") || requestflags.IsFile(args[0]) || len(args) > 1 && args[0] == "lambda" && args[1] == "invoke" {
		return 0, false
	}
	self, err := os.Executable()
	if err != nil {
		self = name
	}
	path := filepath.Join(filepath.Dir(self), "attune-"+args[0])
	if _, err := os.Stat(path); err != nil {
		if path, err = exec.LookPath("attune-" + args[0]); err != nil {
			fmt.Fprintf(os.Stderr, "%s: error: attune-%s is not installed: it is looked for beside %s and in PATH\n", name, args[0], self)
			return executor.ExitAttune, true
		}
	}
	err = syscall.Exec(path, append([]string{path}, args[1:]...), os.Environ())
	fmt.Fprintf(os.Stderr, "%s: error: start %s: %v\n", name, path, err)
	return executor.ExitAttune, true
}
