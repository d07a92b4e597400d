package main

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/alecthomas/kong"

	"github.com/attune-run/attune/internal/cmdline"
	"github.com/attune-run/attune/internal/completion"
	"github.com/attune-run/attune/internal/config"
	"github.com/attune-run/attune/internal/version"
)

// cli is what is true of every command; the rest stands with its command.
type cli struct {
	globals
}

// Help shows examples under `--help`.
func (cli) Help() string {
	return `Examples:
  attune-worker serve                                        (in one terminal)
  attune-worker submit core.echo -p message=hello --wait     (in another)
  attune-worker ls --state running`
}

// globals are the flags every command takes. Their defaults come from the configuration.
type globals struct {
	config.BrokerFlags

	Packs []string `help:"Directory that holds packs (repeatable; first match wins). [$ATTUNE_PACKS]" placeholder:"DIR" sep:"none" type:"path"`
	Cache string   `help:"Root of the environment cache. [$ATTUNE_CACHE]" placeholder:"DIR" type:"path"`
}

// command is one word of the command line.
type command struct {
	name, help string
	make       func() any
}

// commands are all there are, in the order of the help.
var commands = []command{
	{"serve", "Take executions from the pool and run them.", func() any { return &serveCmd{} }},
	{"submit", "Submit an action or a script to the pool.", func() any { return &submitCmd{} }},
	{"status", "Show how one execution stands.", func() any { return &statusCmd{} }},
	{"logs", "Print what an execution printed.", func() any { return &logsCmd{} }},
	{"result", "Print the result document of an execution.", func() any { return &resultCmd{} }},
	{"artifacts", "List or copy the files that an execution left behind.", func() any { return &artifactsCmd{} }},
	{"cancel", "End executions, whether they run or wait.", func() any { return &cancelCmd{} }},
	{"ls", "List executions.", func() any { return &listCmd{} }},
	{"workers", "List the workers of the pool.", func() any { return &workersCmd{} }},
	{"packs", "Store packs in the pool, list and remove them.", func() any { return &packsCmd{} }},
	{"schedule", "Submit an action again and again.", func() any { return &scheduleCmd{} }},
	{"audit", "Print who did what.", func() any { return &auditCmd{} }},
	{"keys", "Make keys that submissions are signed with.", func() any { return &keysCmd{} }},
	{"dlq", "Look after executions that used up their attempts.", func() any { return &dlqCmd{} }},
	{"queue", "Show what waits; move it to a cluster.", func() any { return &queueCmd{} }},
	{"version", "Show the version.", func() any { return &versionCmd{} }},
	{"completion", "Print a completion script for a shell.", func() any { return &completionCmd{} }},
	{"man", "Print the manual page.", func() any { return &manCmd{} }},
}

var description = kong.Description("A pool of workers that run automation actions: serve it, submit to it, look into it.")

// grammar is the part of the command line that the arguments can mean: Kong takes milliseconds to read all of it.
func grammar(args []string) []kong.Option {
	only := ""
	if len(args) > 0 && !completion.Asked() && slices.ContainsFunc(commands, func(c command) bool { return c.name == args[0] }) {
		only = args[0]
	}
	var options []kong.Option
	for _, c := range commands {
		if only == "" || c.name == only {
			options = append(options, kong.DynamicCommand(c.name, c.help, "", c.make()))
		}
	}
	return options
}

// app is what a command works with.
type app struct {
	ctx  context.Context
	name string
	std  stdio
	cli  *cli
}

// config reads the configuration; what it says about the pool is asked of it with Broker and Worker.
func (a *app) config() (config.Config, error) {
	return config.Load(config.Flags{Packs: a.cli.Packs, Cache: a.cli.Cache}, config.Defaults{}, os.Environ())
}

// say tells a person something beside a command's output.
func (a *app) say(format string, args ...any) {
	_, _ = fmt.Fprintf(a.std.err, a.name+": "+format+"\n", args...)
}

type versionCmd struct{}

// Run shows the version.
func (*versionCmd) Run(a *app) error {
	_, err := fmt.Fprintln(a.std.out, version.String())
	return err
}

type completionCmd struct{ completion.Command }

// Help says where the script goes.
func (completionCmd) Help() string { return completion.Help("attune-worker") }

// Run prints a script that makes the shell ask this binary.
func (c *completionCmd) Run(a *app) error { return c.Print(a.std.out, "attune-worker") }

type manCmd struct{ cmdline.Man }

// Run prints the manual of all commands.
func (c *manCmd) Run(a *app) error {
	whole, err := kong.New(&cli{}, append(grammar(nil), kong.Name("attune-worker"), description)...)
	if err != nil {
		return err
	}
	return c.Print(a.std.out, whole.Model)
}
