package main

import (
	"os"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/attune-run/attune/internal/completion"
)

// answerCompletion answers the shell's question, if it asks one.
func answerCompletion(parser *kong.Kong) bool {
	if completion.Asked() {
		impliedRun()
	}
	return completion.Answer(parser)
}

// impliedRun completes "attune-run core.e" as "attune-run run core.e".
func impliedRun() {
	program, rest, ok := strings.Cut(os.Getenv(completion.Line), " ")
	word, _, more := strings.Cut(rest, " ")
	if !ok || !strings.ContainsAny(word, "./") && !more || strings.HasPrefix(word, "-") || isCommand(word) {
		return
	}
	_ = os.Setenv(completion.Line, program+" run "+rest)
	if point, err := strconv.Atoi(os.Getenv(completion.Point)); err == nil {
		_ = os.Setenv(completion.Point, strconv.Itoa(point+len("run ")))
	}
}

type completionCmd struct{ completion.Command }

// Help says where the script goes.
func (completionCmd) Help() string { return completion.Help("attune-run") }

// Run prints a script that makes the shell ask this binary.
func (c *completionCmd) Run(a *app) error { return c.Print(a.std.out, "attune-run", "attune") }
