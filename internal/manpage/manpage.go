// Package manpage describes a program's command line, and writes it as a manual page or as a page of Markdown.
package manpage

import (
	"io"
	"strings"
	"time"

	"github.com/muesli/roff"
)

// Page is a program's manual. It knows no library of command lines: a program that links none has one as well.
type Page struct {
	Name     string // "attune-run"
	Summary  string // what it does, in one line without a full stop
	Synopsis string // what stands behind the name
	Examples string // as they are to be shown; empty: none
	Sections []Section
}

// Section is a part of a Page with a title.
type Section struct {
	Title   string
	Text    string // before the entries
	Entries []Entry
}

// Entry is a command, an argument, a flag or a variable.
type Entry struct {
	Name    string
	Help    string
	Detail  string  // examples, as they are to be shown
	Entries []Entry // a command's arguments and flags
}

// Roff writes the page for section 1 of the manual. Its date is the given one, so that the same program always has the same page.
func (p Page) Roff(w io.Writer, date time.Time) error {
	d := &document{Document: roff.NewDocument()}
	d.Heading(1, strings.ToUpper(p.Name), p.Name, date)
	d.Section("Name")
	d.Text(p.Name + " - " + p.Summary)
	d.Section("Synopsis")
	d.TextBold(p.Name)
	d.Text(" " + p.Synopsis)
	if p.Examples != "" {
		d.Section("Examples")
		d.asItIs(p.Examples)
	}
	for _, section := range p.Sections {
		d.Section(section.Title)
		if section.Text != "" {
			d.Text(section.Text)
		}
		d.entries(section.Entries)
	}
	_, err := io.WriteString(w, d.before.String()+d.String()+"\n")
	return err
}

// document is a page as it is written.
type document struct {
	*roff.Document                 // what is written now
	before         strings.Builder // what was written before the last example
}

// asItIs keeps lines and spaces, with the macros nf and fi (groff_man(7)) that the library has no words for.
func (d *document) asItIs(text string) {
	d.EndSection()
	d.before.WriteString(d.String() + ".nf\n")
	for line := range strings.SplitSeq(text, "\n") {
		one := roff.NewDocument()
		one.Text(line)
		d.before.WriteString(one.String() + "\n")
	}
	d.before.WriteString(".fi\n")
	d.Document = roff.NewDocument()
}

func (d *document) entries(entries []Entry) {
	for _, e := range entries {
		d.TaggedParagraph(-1)
		d.TextBold(e.Name)
		d.EndSection()
		d.Text(e.Help)
		if len(e.Entries) == 0 && e.Detail == "" {
			continue
		}
		d.Indent(7)
		d.entries(e.Entries)
		if e.Detail != "" {
			d.Paragraph()
			d.asItIs(e.Detail)
		}
		d.IndentEnd()
	}
}
