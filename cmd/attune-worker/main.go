// Command attune-worker serves a pool that runs automation actions, and submits to it.
package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/alecthomas/kong"

	"github.com/attune-run/attune/internal/cmdline"
	"github.com/attune-run/attune/internal/completion"
)

func main() {
	os.Exit(run(context.Background(), os.Args, stdio{os.Stdin, os.Stdout, os.Stderr}))
}

// stdio are the files a command line starts with.
type stdio struct{ in, out, err *os.File }

// exitCode is how a command ends without an error of its own: nothing more is printed.
type exitCode = cmdline.ExitCode

// run is the whole program: parse, dispatch, exit code.
func run(ctx context.Context, args []string, std stdio) int {
	var cli cli
	name := filepath.Base(args[0])
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
	if completion.Answer(parser) {
		return 0
	}
	invocation, err := cmdline.Parse(parser, args[1:])
	if err != nil {
		return cmdline.Conclude(std.err, name, err)
	}
	return cmdline.Conclude(std.err, name, invocation.Run(&app{ctx: ctx, name: name, std: std, cli: &cli}))
}
