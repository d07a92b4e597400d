// Command attune-run runs one automation action, or one script, and reports how it ended.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/alecthomas/kong"

	"github.com/attune-run/attune/executor"
)

func main() {
	os.Exit(run(context.Background(), os.Args, stdio{os.Stdin, os.Stdout, os.Stderr}))
}

// stdio are the files a command line starts with. They are files, not interfaces: a script in the
// host profile gets them as they are.
type stdio struct{ in, out, err *os.File }

// exitCode is how a command ends without an error of its own: nothing more is printed.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// run is the whole program: parse, dispatch, exit code.
func run(ctx context.Context, args []string, std stdio) int {
	name := filepath.Base(args[0])
	if code, ok := sibling(name, args[1:]); ok {
		return code
	}
	var cli cli
	exited := -1
	parser, err := kong.New(&cli, append(grammar(args[1:]),
		kong.Name(name),
		description,
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Writers(std.out, std.err),
		kong.Exit(func(code int) { exited = code; panic(exitCode(code)) }),
	)...)
	if err != nil {
		return conclude(std.err, name, err)
	}
	if answerCompletion(parser) {
		return 0
	}
	invocation, err := parse(parser, args[1:])
	switch {
	case exited >= 0: // --help
		return exited
	case err != nil:
		return conclude(std.err, name, err)
	}
	return conclude(std.err, name, invocation.Run(&app{ctx: ctx, name: name, std: std, cli: &cli, parser: parser}))
}

// parse reads the arguments; kong's exit after --help becomes an ordinary return.
func parse(parser *kong.Kong, args []string) (invocation *kong.Context, err error) {
	defer func() {
		if r := recover(); r != nil {
			code, ok := r.(exitCode)
			if !ok {
				panic(r)
			}
			err = code
		}
	}()
	args, err = normalize(parser.Model, args)
	if err != nil {
		return nil, err
	}
	return parser.Parse(args)
}

// conclude prints an error with its remedy and gives the exit code.
func conclude(w io.Writer, name string, err error) int {
	var code exitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	}
	_, _ = fmt.Fprintf(w, "%s: error: %v\n", name, err)
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) && hinted.Hint() != "" {
		_, _ = fmt.Fprintf(w, "  hint: %s\n", hinted.Hint())
	}
	var usage *kong.ParseError // has an exit code of kong's own
	var coded interface{ ExitCode() int }
	if !errors.As(err, &usage) && errors.As(err, &coded) {
		return coded.ExitCode()
	}
	return executor.ExitAttune
}
