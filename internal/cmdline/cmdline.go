// Package cmdline is what the programs' command lines have in common: how arguments are read, and how a program ends.
package cmdline

import (
	"errors"
	"fmt"
	"io"

	"github.com/alecthomas/kong"

	"github.com/attune-run/attune/executor"
)

// ExitCode is how a command ends without an error of its own: nothing more is printed.
type ExitCode int

// Error is for those who do not know the type.
func (e ExitCode) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// Exit makes a parser leave Parse, instead of the program, once it has printed its help.
func Exit() kong.Option { return kong.Exit(func(code int) { panic(ExitCode(code)) }) }

// Parse reads arguments with a parser that was made with Exit. The error is an ExitCode where help was asked for.
func Parse(parser *kong.Kong, args []string) (invocation *kong.Context, err error) {
	defer func() {
		if r := recover(); r != nil {
			code, ok := r.(ExitCode)
			if !ok {
				panic(r)
			}
			err = code
		}
	}()
	return parser.Parse(args)
}

// Conclude prints an error with its remedy and gives the exit code: the error's own (an ExitCode, or a method ExitCode), else
// executor.ExitAttune; kong's own never.
func Conclude(w io.Writer, name string, err error) int {
	var code ExitCode
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
	var usage *kong.ParseError
	var coded interface{ ExitCode() int }
	if !errors.As(err, &usage) && errors.As(err, &coded) {
		return coded.ExitCode()
	}
	return executor.ExitAttune
}
