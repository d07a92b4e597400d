package manpage

import (
	"fmt"
	"io"
	"strings"
)

// Markdown writes the page for a site: a heading for each command, a table of its arguments and flags, its examples.
func (p Page) Markdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n%s.\n\n```text\n%s %s\n```\n", p.Name, p.Summary, p.Name, p.Synopsis)
	if p.Examples != "" {
		fmt.Fprintf(&b, "\n```text\n%s\n```\n", p.Examples)
	}
	for _, section := range p.Sections {
		fmt.Fprintf(&b, "\n## %s\n", section.Title)
		if section.Text != "" {
			fmt.Fprintf(&b, "\n%s\n", section.Text)
		}
		table(&b, plain(section.Entries))
		for _, e := range section.Entries {
			if isPlain(e) {
				continue
			}
			words, _, _ := strings.Cut(e.Name, " <")
			words, _, _ = strings.Cut(words, " [")
			fmt.Fprintf(&b, "\n### %s %s\n\n%s\n", p.Name, words, e.Help)
			if words != e.Name {
				fmt.Fprintf(&b, "\n```text\n%s %s\n```\n", p.Name, e.Name)
			}
			table(&b, e.Entries)
			if e.Detail != "" {
				fmt.Fprintf(&b, "\n```text\n%s\n```\n", e.Detail)
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// isPlain tells an entry that is one row of a table from a command.
func isPlain(e Entry) bool { return len(e.Entries) == 0 && e.Detail == "" }

func plain(entries []Entry) (all []Entry) {
	for _, e := range entries {
		if isPlain(e) {
			all = append(all, e)
		}
	}
	return all
}

var cell = strings.NewReplacer("|", `\|`, "\n", " ", "<", "&lt;")

func table(b *strings.Builder, entries []Entry) {
	if len(entries) == 0 {
		return
	}
	b.WriteString("\n| | |\n|---|---|\n")
	for _, e := range entries {
		fmt.Fprintf(b, "| `%s` | %s |\n", strings.ReplaceAll(e.Name, "|", `\|`), cell.Replace(e.Help))
	}
}
