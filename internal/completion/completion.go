// Package completion answers a shell that asks how a command line goes on, and prints the script that makes it ask.
package completion

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/posener/complete"
	"github.com/willabides/kongplete"

	"github.com/attune-run/attune/internal/config"
	"github.com/attune-run/attune/pack"
)

// Line and Point are the variables in which a shell hands over the command line, and where in it the cursor is (bash(1), complete -C).
const (
	Line  = "COMP_LINE"
	Point = "COMP_POINT"
)

// Asked tells whether a shell asks.
func Asked() bool { return os.Getenv(Line) != "" }

// Answer answers the shell's question, if it asks one. Arguments and flags say with their tag "predictor" what completes them: action, pack,
// either or file.
func Answer(parser *kong.Kong) bool {
	if !Asked() {
		return false
	}
	answered := false
	dirs := packDirs(strings.Fields(os.Getenv(Line)))
	hideValues(parser.Model)
	kongplete.Complete(parser,
		kongplete.WithPredictors(map[string]complete.Predictor{
			"action": complete.PredictOr(dirs.actions(), complete.PredictFiles("*")),
			"pack":   complete.PredictOr(dirs.names(), complete.PredictDirs("*")),
			"either": complete.PredictOr(dirs.names(), dirs.actions()),
			"file":   complete.PredictFiles("*"),
		}),
		kongplete.WithExitFunc(func(int) { answered = true }),
	)
	return answered
}

// hideValues takes the flags that every command has, with their values, out of the question: kongplete would count a value that stands
// behind a command's name as the command's argument.
func hideValues(app *kong.Application) {
	line := os.Getenv(Line)
	if point, err := strconv.Atoi(os.Getenv(Point)); err == nil && point >= 0 && point < len(line) {
		line = line[:point]
	}
	words := strings.Split(line, " ")
	for i := len(words) - 3; i > 0; i-- {
		for _, flag := range app.Flags {
			if words[i] == "--"+flag.Name && !flag.IsBool() {
				words = slices.Delete(words, i, i+2)
				break
			}
		}
	}
	_ = os.Setenv(Line, strings.Join(words, " "))
	_ = os.Unsetenv(Point)
}

// directories hold packs; none means where the configuration says.
type directories []string

// packDirs are those that a command line names with --packs.
func packDirs(words []string) (dirs directories) {
	for i, word := range words {
		if dir, ok := strings.CutPrefix(word, "--packs="); ok {
			dirs = append(dirs, dir)
		} else if word == "--packs" && i+1 < len(words) {
			dirs = append(dirs, words[i+1])
		}
	}
	return dirs
}

func (d directories) packs() []*pack.Pack {
	cfg, err := config.Load(config.Flags{Packs: d}, config.Defaults{}, os.Environ())
	if err != nil {
		return nil
	}
	all, _ := pack.Finder{Dirs: cfg.Packs}.List()
	return all
}

func (d directories) names() complete.Predictor {
	return complete.PredictFunc(func(complete.Args) (names []string) {
		for _, p := range d.packs() {
			names = append(names, p.Ref)
		}
		return names
	})
}

func (d directories) actions() complete.Predictor {
	return complete.PredictFunc(func(complete.Args) (names []string) {
		for _, p := range d.packs() {
			actions, _ := p.Actions()
			for _, action := range actions {
				names = append(names, action.Ref)
			}
		}
		return names
	})
}

// Command is the command that prints a shell's script.
type Command struct {
	Shell   string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
	Program string `placeholder:"PATH" help:"Where the program will lie, when it is not this one."`
}

// Help says where a program's script goes.
func Help(program string) string {
	return strings.ReplaceAll(`Load it in the shell's start-up file:
  bash  source <(PROGRAM completion bash)
  zsh   source <(PROGRAM completion zsh)
  fish  PROGRAM completion fish | source`, "PROGRAM", program)
}

// Print writes a script that makes the shell ask the program for the command lines of these names.
func (c Command) Print(w io.Writer, names ...string) error {
	self := c.Program
	if self == "" {
		var err error
		if self, err = os.Executable(); err != nil {
			return fmt.Errorf("find this program's own path: %w", err)
		}
	}
	var script strings.Builder
	if c.Shell == "zsh" {
		script.WriteString("autoload -U +X bashcompinit && bashcompinit\n")
	}
	for _, name := range names {
		if c.Shell == "fish" {
			fmt.Fprintf(&script, "complete -c %s -f -a '(env COMP_LINE=(commandline -cp) COMP_POINT=(string length (commandline -cp)) %q)'\n", name, self)
		} else {
			fmt.Fprintf(&script, "complete -o default -C %q %s\n", self, name)
		}
	}
	_, err := io.WriteString(w, script.String())
	return err
}
