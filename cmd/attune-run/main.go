// Command attune-run runs one automation action, or one script, and reports how it ended.
package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/alecthomas/kong"

	"github.com/attune-run/attune/internal/cmdline"
)

func main() {
	os.Exit(run(context.Background(), os.Args, stdio{os.Stdin, os.Stdout, os.Stderr}))
}

// stdio are the files a command line starts with. They are files, not interfaces: a script in the
// host profile gets them as they are.
type stdio struct{ in, out, err *os.File }

// exitCode is how a command ends without an error of its own: nothing more is printed.
type exitCode = cmdline.ExitCode

// run is the whole program: parse, dispatch, exit code.
func run(ctx context.Context, args []string, std stdio) int {
	name := filepath.Base(args[0])
	if code, ok := sibling(name, args[1:]); ok {
		return code
	}
	var cli cli
	parser, err := kong.New(&cli, append(grammar(args[1:]),
		kong.Name(name),
		description,
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Writers(std.out, std.err),
		cmdline.Exit(),
	)...)
	if err != nil {
		return cmdline.Conclude(std.err, name, err)
	}
	if answerCompletion(parser) {
		return 0
	}
	invocation, err := parse(parser, args[1:])
	if err != nil {
		return cmdline.Conclude(std.err, name, err)
	}
	return cmdline.Conclude(std.err, name, invocation.Run(&app{ctx: ctx, name: name, std: std, cli: &cli, parser: parser}))
}

// parse reads the arguments, a script's own left alone.
func parse(parser *kong.Kong, args []string) (*kong.Context, error) {
	args, err := normalize(parser.Model, args)
	if err != nil {
		return nil, err
	}
	return cmdline.Parse(parser, args)
}
