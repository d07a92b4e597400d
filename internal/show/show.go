// Package show prints what commands found out, as a table for people or as JSON.
package show

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"
)

// Format is the flag of every command that shows something.
type Format struct {
	Output string `short:"o" enum:"table,json" default:"table" help:"table or json."`
}

// Show prints rows as a table, or value as JSON.
func (f Format) Show(w io.Writer, value any, header []string, rows [][]string) error {
	if f.Output == "json" {
		return JSON(w, value)
	}
	return Table(w, header, rows)
}

// JSON prints an indented document.
func JSON(w io.Writer, value any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(value)
}

// Line prints a document on one line.
func Line(w io.Writer, value any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(value)
}

// Table prints aligned columns; on a terminal, lines end at its edge.
func Table(w io.Writer, header []string, rows [][]string) error {
	var b bytes.Buffer
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{header}, rows...) {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = Printable(cell)
		}
		_, _ = fmt.Fprintln(table, strings.TrimRight(strings.Join(cells, "\t"), "\t"))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	width, _ := Terminal(w)
	for line := range strings.Lines(b.String()) {
		if _, err := fmt.Fprintln(w, Cut(strings.TrimSuffix(line, "\n"), width)); err != nil {
			return err
		}
	}
	return nil
}

// Terminal tells whether a writer is a terminal, and how many columns it has; 0 where that is not known.
func Terminal(w io.Writer) (width int, is bool) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0, false
	}
	width, _, _ = term.GetSize(int(f.Fd()))
	return width, true
}

// Cut shortens text to width columns; a width that is not known cuts nothing.
func Cut(text string, width int) string {
	runes := []rune(text)
	if width <= 0 || len(runes) <= width {
		return text
	}
	return string(runes[:width-1]) + "…"
}

// Printable drops what could move the cursor.
func Printable(line string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, line)
}

// OrEmpty keeps an empty list from being null in JSON.
func OrEmpty[T any](all []T) []T {
	if all == nil {
		return []T{}
	}
	return all
}

// OrNone is "none" for an empty text.
func OrNone(text string) string {
	if text == "" {
		return "none"
	}
	return text
}

// Moment is a time in UTC; "unknown" for none.
func Moment(t time.Time) string {
	if t.IsZero() {
		return "unknown"
	}
	return t.UTC().Format(time.RFC3339)
}

// Size is a number of bytes with the largest unit that says enough.
func Size(n int64) string {
	const units = "BKMGT"
	size, unit := float64(n), 0
	for size >= 1024 && unit < len(units)-1 {
		size, unit = size/1024, unit+1
	}
	if unit == 0 {
		return fmt.Sprintf("%dB", n)
	}
	return fmt.Sprintf("%.1f%c", size, units[unit])
}

// Age is how long ago something was, to the largest unit that says enough.
func Age(t time.Time) string {
	if t.IsZero() {
		return "unknown"
	}
	d := max(time.Since(t), 0)
	switch {
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd ago", int(d.Hours()/24))
	}
}
