package cmdline

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/attune-run/attune/internal/manpage"
)

// Man is the command that prints a program's manual.
type Man struct {
	Format string `enum:"roff,markdown" default:"roff" placeholder:"F" help:"roff, which man(1) reads, or markdown."`
}

// Print writes the manual of a command line; its date is SOURCE_DATE_EPOCH's, else today.
func (m Man) Print(w io.Writer, app *kong.Application) error {
	return manpage.Print(w, Manual(app), m.Format, os.Getenv("SOURCE_DATE_EPOCH"))
}

// Manual is the manual of a command line, without what is hidden.
func Manual(app *kong.Application) manpage.Page {
	var commands []manpage.Entry
	for _, node := range app.Leaves(true) {
		commands = append(commands, command(node))
	}
	return manpage.Page{
		Name: app.Name, Summary: strings.TrimSuffix(app.Help, "."), Synopsis: "COMMAND [ARGUMENT...]", Examples: strings.TrimPrefix(app.Detail, "Examples:\n"),
		Sections: []manpage.Section{
			{Title: "Options", Text: "Of every command:", Entries: flags(app.Flags)},
			{Title: "Commands", Entries: commands},
		},
	}
}

func command(node *kong.Node) manpage.Entry {
	e := manpage.Entry{Name: words(node), Help: node.Help, Detail: node.Detail}
	for _, argument := range node.Positional {
		e.Name += " " + argument.Summary()
		if argument.Help != "" {
			e.Entries = append(e.Entries, manpage.Entry{Name: argument.Summary(), Help: argument.Help})
		}
	}
	e.Entries = append(e.Entries, flags(node.Flags)...)
	return e
}

// words are a command's own, without its arguments: "env prune".
func words(node *kong.Node) string {
	if node.Parent == nil || node.Parent.Type == kong.ApplicationNode {
		return node.Name
	}
	return fmt.Sprintf("%s %s", words(node.Parent), node.Name)
}

func flags(all []*kong.Flag) (entries []manpage.Entry) {
	for _, flag := range all {
		if !flag.Hidden {
			entries = append(entries, manpage.Entry{Name: flag.String(), Help: flag.Help})
		}
	}
	return entries
}
