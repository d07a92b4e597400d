package doctest

import (
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/syntax"
)

// CheckPages looks at every call of a program on every page, run or not, in prose as well, and in the files below deploy, and fails the test where one names
// a command or a flag that the program does not have. It returns how many calls there were.
func CheckPages(t *testing.T, app *kong.Application, programs ...string) (checked int) {
	t.Helper()
	commands := deployed(t)
	for _, page := range All(t) {
		for _, block := range page.Blocks {
			commands = append(commands, command{page.Place(block), block.shell()})
		}
		commands = append(commands, page.prose()...)
	}
	for _, c := range commands {
		calls, err := Invocations(c.text, programs...)
		require.NoError(t, err, c.place)
		for _, call := range calls {
			checked++
			assert.NoError(t, CheckFlags(app, call[1:]), "%s: %s", c.place, call)
		}
	}
	return checked
}

var inline = regexp.MustCompile("`(attune(?:-run|-worker)? [^`]+)`")

// prose are the commands between backquotes in a page's text.
func (p Page) prose() (all []command) {
	for _, found := range inline.FindAllStringSubmatch(p.Text, -1) {
		all = append(all, command{"docs/" + p.Name, found[1]})
	}
	return all
}

// CheckExamples fails the test where a program, or one of its commands, shows no examples in its help, or one that names what the program does
// not have. It returns how many commands there are.
func CheckExamples(t *testing.T, app *kong.Application, programs ...string) (commands int) {
	t.Helper()
	require.NoError(t, kong.Visit(app, func(node kong.Visitable, next kong.Next) error {
		command, ok := node.(*kong.Node)
		if whole, is := node.(*kong.Application); is {
			command, ok = whole.Node, true
		}
		if !ok {
			return next(nil)
		}
		commands++
		assert.Regexp(t, `(Examples|Load it in the shell's start-up file):\n  `, command.Detail, command.Path())
		for line := range strings.SplitSeq(command.Detail, "\n") {
			text, example := strings.CutPrefix(line, "  ")
			text, _, _ = strings.Cut(text, "   (") // what is said about it
			if !example || !strings.Contains(text, app.Name) {
				continue
			}
			calls, err := Invocations(text, programs...)
			assert.NoError(t, err, line)
			for _, call := range calls {
				assert.NoError(t, CheckFlags(app, call[1:]), "%s: %s", command.Path(), line)
			}
		}
		return next(nil)
	}))
	return commands
}

// shell is what of a block a shell reads.
func (b Block) shell() string {
	switch b.Language {
	case "sh":
		return b.Text
	case "console":
		var text strings.Builder
		for _, step := range b.Steps() {
			text.WriteString(step.Command + "\n")
		}
		return text.String()
	}
	return ""
}

// Invocations are the calls of programs in some shell, each with the program in front, whatever its directory, wherever they stand: in
// pipes, in lists, in substitutions. What is expanded when they run is empty.
func Invocations(text string, programs ...string) ([][]string, error) {
	file, err := syntax.NewParser().Parse(strings.NewReader(text), "")
	if err != nil {
		return nil, err
	}
	var all [][]string
	syntax.Walk(file, func(node syntax.Node) bool {
		call, ok := node.(*syntax.CallExpr)
		if !ok {
			return true
		}
		words := make([]string, len(call.Args))
		for i, arg := range call.Args {
			words[i], _ = expand.Literal(unexpanded, arg)
		}
		// A wrapper (env, docker run) may stand in front.
		if at := slices.IndexFunc(words, func(word string) bool { return slices.Contains(programs, path.Base(word)) }); at >= 0 {
			all = append(all, words[at:])
		}
		return true
	})
	return all, nil
}

// unexpanded leaves what only a run would tell empty.
var unexpanded = &expand.Config{
	CmdSubst:  func(io.Writer, *syntax.CmdSubst) error { return nil },
	ProcSubst: func(*syntax.ProcSubst) (string, error) { return "", nil },
}

// CheckFlags tells which command or flag of a call the program does not know; nil when it knows all. What stands behind a script's name,
// or behind "--", is the script's own.
func CheckFlags(app *kong.Application, words []string) error {
	node := app.Node
	for _, word := range words {
		switch {
		case word == "--" || isScript(word):
			return nil
		case strings.HasPrefix(word, "--"):
			if name, _, _ := strings.Cut(word[2:], "="); !hasFlag(node, name) && !hasFlag(implied(node), name) {
				return fmt.Errorf("%s has no flag --%s", node.FullPath(), name)
			}
		case strings.HasPrefix(word, "-") || len(node.Children) == 0:
		default:
			child := childOf(node, word)
			if child == nil && node.Parent == nil {
				child = implied(node)
			}
			if child == nil || child == node {
				return fmt.Errorf("%s has no command %s", node.FullPath(), word)
			}
			node = child
		}
	}
	return nil
}

// implied is the command that goes without saying at the top of a program.
func implied(node *kong.Node) *kong.Node {
	if run := childOf(node, "run"); run != nil && node.Parent == nil {
		return run
	}
	return node
}

func isScript(word string) bool {
	return strings.HasPrefix(word, "./") || strings.HasSuffix(word, ".py") || strings.HasSuffix(word, ".sh")
}

func childOf(node *kong.Node, name string) *kong.Node {
	for _, child := range node.Children {
		if child.Name == name || slices.Contains(child.Aliases, name) {
			return child
		}
	}
	return nil
}

func hasFlag(node *kong.Node, name string) bool {
	for _, flag := range slices.Concat(node.AllFlags(false)...) {
		if name == flag.Name || name == "no-"+flag.Name || slices.Contains(flag.Aliases, name) {
			return true
		}
	}
	return false
}
