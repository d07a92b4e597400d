// Package manpage writes a program's manual page from the model of its command line.
package manpage

import (
	"io"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/muesli/roff"
)

// Write writes the page for section 1, with every command that is not hidden. Its date is the given one, so that the same
// program always has the same page.
func Write(w io.Writer, app *kong.Application, date time.Time) error {
	p := page{roff.NewDocument()}
	p.Heading(1, strings.ToUpper(app.Name), app.Name, date)
	p.Section("Name")
	p.Text(app.Name + " - " + strings.TrimSuffix(app.Help, "."))
	p.Section("Synopsis")
	p.TextBold(app.Name)
	p.Text(" COMMAND [ARGUMENT...]")
	p.Section("Options")
	p.flags(app.Flags)
	p.Section("Commands")
	for _, command := range app.Leaves(true) {
		p.command(command)
	}
	_, err := io.WriteString(w, p.String()+"\n")
	return err
}

type page struct{ *roff.Document }

func (p page) command(node *kong.Node) {
	p.entry(node.Path()+arguments(node), node.Help)
	p.Indent(7)
	for _, argument := range node.Positional {
		if argument.Help != "" {
			p.entry(argument.Summary(), argument.Help)
		}
	}
	p.flags(node.Flags)
	if node.Detail != "" {
		p.Paragraph()
		p.EndSection()
		p.Text(node.Detail)
	}
	p.IndentEnd()
}

func arguments(node *kong.Node) string {
	var text strings.Builder
	for _, argument := range node.Positional {
		text.WriteString(" " + argument.Summary())
	}
	return text.String()
}

func (p page) flags(flags []*kong.Flag) {
	for _, flag := range flags {
		if !flag.Hidden {
			p.entry(flag.String(), flag.Help)
		}
	}
}

func (p page) entry(name, help string) {
	p.TaggedParagraph(-1)
	p.TextBold(name)
	p.EndSection()
	p.Text(help)
}
