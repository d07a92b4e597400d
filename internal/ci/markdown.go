package ci

import (
	"fmt"
	"html"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/attune-run/attune/internal/report"
)

const (
	tailLines  = 20      // of a failed action's stderr that a summary shows
	messageMax = 4 << 10 // bytes of a message, or of a tail
	cutNote    = "\n\n… cut: the summary would be too long\n"
)

// Markdown is a table of a run's executions, and the last words of those that failed; at most max bytes, cut at a line.
func Markdown(run *report.Run, max int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "### %s\n\n", markdown(run.Title))
	if len(run.Executions) > 1 {
		fmt.Fprintf(&b, "%s\n\n", Totals(run))
	}
	b.WriteString("| | Execution | Result | Duration | Environment |\n|---|---|---|---:|---|\n")
	for i := range run.Executions {
		e := &run.Executions[i]
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", mark(e), markdown(e.Name), markdown(result(e)), duration(e), markdown(environment(e)))
	}
	for i := range run.Executions {
		if e := &run.Executions[i]; e.Outcome() == report.OutcomeFailed || e.Outcome() == report.OutcomeError {
			failure(&b, e)
		}
	}
	b.WriteString("\n")
	return cut(b.String(), max)
}

// Totals says in one line how many executions ended how.
func Totals(run *report.Run) string {
	var parts []string
	for _, o := range []struct {
		outcome report.Outcome
		word    string
	}{{report.OutcomeOK, "succeeded"}, {report.OutcomeFailed, "failed"}, {report.OutcomeError, "in error"}, {report.OutcomeSkipped, "skipped"}} {
		if n := run.Count(o.outcome); n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, o.word))
		}
	}
	built, hit := 0, 0
	for i := range run.Executions {
		switch run.Executions[i].Result.Environment.State {
		case "built":
			built++
		case "hit", "waited":
			hit++
		}
	}
	if built+hit > 0 {
		parts = append(parts, fmt.Sprintf("environments: %d of %d from the cache", hit, built+hit))
	}
	return strings.Join(append(parts, run.Finished.Sub(run.Started).Round(time.Millisecond).String()), ", ")
}

func mark(e *report.Execution) string {
	switch e.Outcome() {
	case report.OutcomeOK:
		return "✅"
	case report.OutcomeSkipped:
		return "⏭️"
	case report.OutcomeFailed:
		return "❌"
	default:
		return "💥"
	}
}

func result(e *report.Execution) string {
	if e.Outcome() == report.OutcomeFailed && e.Result.ExitCode != 0 {
		return fmt.Sprintf("%s (%d)", e.Status(), e.Result.ExitCode)
	}
	return e.Status()
}

func duration(e *report.Execution) string {
	if e.Skipped != "" {
		return ""
	}
	return e.Duration().Round(time.Millisecond).String()
}

func environment(e *report.Execution) string {
	if e.Skipped != "" || e.Result.Environment.State == "none" {
		return ""
	}
	return e.Result.Environment.State
}

func failure(b *strings.Builder, e *report.Execution) {
	fmt.Fprintf(b, "\n<details><summary>%s</summary>\n\n%s\n", html.EscapeString(oneLine(e.Name)), fenced(cut(e.Message(), messageMax)))
	if e.Result.Error != nil && e.Result.Error.Hint != "" {
		fmt.Fprintf(b, "\n%s\n", markdown(e.Result.Error.Hint))
	}
	if text := tail(e.Result.Stderr); text != "" {
		fmt.Fprintf(b, "\nThe end of stderr:\n\n%s\n", fenced(text))
	}
	b.WriteString("\n</details>\n")
}

// tail is the end of an output, in whole lines where they are short enough.
func tail(text string) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	text = strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
	if len(text) > messageMax {
		text = "…" + strings.ToValidUTF8(text[len(text)-messageMax:], "")
	}
	return text
}

// fenced is text as it is, in a fence that is longer than any in it. Escape sequences and other control characters are left out.
func fenced(text string) string {
	text = plain(text)
	fence := "```"
	for strings.Contains(text, fence) {
		fence += "`"
	}
	return fence + "text\n" + text + "\n" + fence
}

// plain is text without escape sequences of terminals and without control characters but tab and newline.
func plain(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); {
		if text[i] == 0x1b {
			i += escapeLength(text[i:])
			continue
		}
		r, size := utf8.DecodeRuneInString(text[i:])
		if r >= ' ' && r != 0x7f && (r < 0x80 || r > 0x9f) || r == '\n' || r == '\t' {
			b.WriteRune(r)
		}
		i += size
	}
	return b.String()
}

// escapeLength is the length of the escape sequence that text begins with (ECMA-48: CSI, strings up to BEL or ST, two-byte escapes).
func escapeLength(text string) int {
	if len(text) < 2 {
		return len(text)
	}
	switch text[1] {
	case '[':
		for i := 2; i < len(text); i++ {
			if text[i] >= 0x40 && text[i] <= 0x7e {
				return i + 1
			}
			if text[i] < 0x20 {
				return i // broken off
			}
		}
		return len(text)
	case ']', 'P', '_', '^', 'X':
		if end := strings.IndexAny(text[2:], "\a\x1b\n"); end >= 0 {
			if text[2+end] == '\a' {
				return 2 + end + 1
			}
			return 2 + end
		}
		return len(text)
	}
	return 2
}

// markdown is text on one line that means nothing in Markdown or HTML.
func markdown(text string) string {
	var b strings.Builder
	for _, r := range html.EscapeString(oneLine(plain(text))) {
		if strings.ContainsRune("\\`*_{}[]!|~$", r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// cut shortens text to max bytes at the end of a line, and says so.
func cut(text string, max int) string {
	if len(text) <= max {
		return text
	}
	room := max - len(cutNote)
	if room <= 0 {
		return ""
	}
	text = text[:room]
	if end := strings.LastIndexByte(text, '\n'); end > 0 {
		text = text[:end]
	}
	return strings.ToValidUTF8(text, "") + cutNote
}
