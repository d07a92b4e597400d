package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/posener/complete"
	"github.com/willabides/kongplete"

	"github.com/attune-run/attune/internal/config"
	"github.com/attune-run/attune/pack"
)

// completing is set by the shell when it asks for completions (bash(1), complete -C).
const completing = "COMP_LINE"

// answerCompletion answers the shell's question, if it asks one.
func answerCompletion(parser *kong.Kong) bool {
	if os.Getenv(completing) == "" {
		return false
	}
	impliedRun()
	answered := false
	kongplete.Complete(parser,
		kongplete.WithPredictors(map[string]complete.Predictor{
			"action": complete.PredictOr(complete.PredictFunc(actionNames), complete.PredictFiles("*")),
			"pack":   complete.PredictOr(complete.PredictFunc(packNames), complete.PredictDirs("*")),
			"either": complete.PredictOr(complete.PredictFunc(packNames), complete.PredictFunc(actionNames)),
			"file":   complete.PredictFiles("*"),
		}),
		kongplete.WithExitFunc(func(int) { answered = true }),
	)
	return answered
}

// impliedRun completes "attune-run core.e" as "attune-run run core.e".
func impliedRun() {
	line := os.Getenv(completing)
	program, rest, ok := strings.Cut(line, " ")
	word, _, more := strings.Cut(rest, " ")
	if !ok || !strings.ContainsAny(word, "./") && !more || strings.HasPrefix(word, "-") || isCommand(word) {
		return
	}
	_ = os.Setenv(completing, program+" run "+rest)
	if point, err := strconv.Atoi(os.Getenv("COMP_POINT")); err == nil {
		_ = os.Setenv("COMP_POINT", strconv.Itoa(point+len("run ")))
	}
}

func installedPacks() []*pack.Pack {
	cfg, err := config.Load(config.Flags{}, config.Defaults{}, os.Environ())
	if err != nil {
		return nil
	}
	packs, _ := pack.Finder{Dirs: cfg.Packs}.List()
	return packs
}

func packNames(complete.Args) []string {
	var names []string
	for _, p := range installedPacks() {
		names = append(names, p.Ref)
	}
	return names
}

func actionNames(complete.Args) []string {
	var names []string
	for _, p := range installedPacks() {
		actions, _ := p.Actions()
		for _, action := range actions {
			names = append(names, action.Ref)
		}
	}
	return names
}

type completionCmd struct {
	Shell   string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
	Program string `placeholder:"PATH" help:"Where attune-run will lie, when it is not this one."`
}

// Help says where the script goes.
func (completionCmd) Help() string {
	return `Load it in the shell's start-up file:
  bash  source <(attune-run completion bash)
  zsh   source <(attune-run completion zsh)
  fish  attune-run completion fish | source`
}

// Run prints a script that makes the shell ask this binary.
func (c *completionCmd) Run(a *app) error {
	self := c.Program
	if self == "" {
		var err error
		if self, err = os.Executable(); err != nil {
			return fmt.Errorf("find this program's own path: %w", err)
		}
	}
	var failed error
	switch c.Shell {
	case "fish":
		for _, name := range []string{"attune-run", "attune"} {
			_, failed = fmt.Fprintf(a.std.out, "complete -c %s -f -a '(env COMP_LINE=(commandline -cp) COMP_POINT=(string length (commandline -cp)) %q)'\n", name, self)
		}
	default:
		if c.Shell == "zsh" {
			_, _ = fmt.Fprintln(a.std.out, "autoload -U +X bashcompinit && bashcompinit")
		}
		_, failed = fmt.Fprintf(a.std.out, "complete -o default -C %q attune-run\ncomplete -o default -C %q attune\n", self, self)
	}
	return failed
}
