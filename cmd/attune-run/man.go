package main

import (
	"github.com/alecthomas/kong"

	"github.com/attune-run/attune/internal/cmdline"
)

type manCmd struct{ cmdline.Man }

// Help says how the page is read.
func (manCmd) Help() string {
	return `Examples:
  attune-run man | man -l -
  attune-run man > /usr/local/share/man/man1/attune-run.1
  attune-run man --format markdown`
}

// Run prints the manual of all commands.
func (c manCmd) Run(a *app) error {
	whole, err := kong.New(&cli{}, append(grammar(nil), kong.Name("attune-run"), description)...)
	if err != nil {
		return err
	}
	return c.Print(a.std.out, whole.Model)
}
