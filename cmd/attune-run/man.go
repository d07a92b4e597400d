package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/alecthomas/kong"

	"github.com/attune-run/attune/internal/manpage"
)

type manCmd struct{}

// Help says how the page is read.
func (manCmd) Help() string {
	return `Examples:
  attune-run man | man -l -
  attune-run man > /usr/local/share/man/man1/attune-run.1`
}

// Run prints the manual page of all commands.
func (manCmd) Run(a *app) error {
	date, err := sourceDate(os.Getenv("SOURCE_DATE_EPOCH"))
	if err != nil {
		return err
	}
	whole, err := kong.New(&cli{}, append(grammar(nil), kong.Name("attune-run"), description)...)
	if err != nil {
		return err
	}
	return manpage.Write(a.std.out, whole.Model, date)
}

// sourceDate is the date that a reproducible build asks for (reproducible-builds.org, SOURCE_DATE_EPOCH), else today.
func sourceDate(epoch string) (time.Time, error) {
	if epoch == "" {
		return time.Now().UTC(), nil
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH=%s is no number of seconds", epoch)
	}
	return time.Unix(seconds, 0).UTC(), nil
}
