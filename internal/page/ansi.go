package page

import (
	"fmt"
	"html/template"
	"regexp"
	"strings"

	terminal "github.com/buildkite/terminal-to-html/v3"
)

// commands are what a terminal is told beside text and colours: titles, links, images (ECMA-48: OSC, DCS, APC, PM, SOS). An action
// has no business linking or embedding anything in a report.
var commands = regexp.MustCompile("(?s)\x1b[\\]P_^X].*?(?:\x07|\x1b\\\\|$)")

// ansi shows a line as a terminal would, in its colours; the rest of what could steer a terminal or turn the direction of text is
// made visible or dropped.
func ansi(text string) template.HTML {
	text = strings.Map(visible, commands.ReplaceAllString(strings.ToValidUTF8(text, "\uFFFD"), ""))
	screen, err := terminal.NewScreen(terminal.WithSize(200, 1))
	if err != nil {
		return template.HTML(template.HTMLEscapeString(text))
	}
	_, _ = screen.Write([]byte(text)) // never fails
	return template.HTML(screen.AsHTML())
}

func visible(r rune) rune {
	switch {
	case r == '\t' || r == '\r' || r == '\b' || r == '\x1b':
		return r
	case r < ' ' || r >= 0x7f && r < 0xa0: // controls, C1 included: some terminals take U+009B for an escape
		return '\uFFFD'
	case r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069: // Unicode UAX #9: text that reads as something else
		return '\uFFFD'
	}
	return r
}

// colours are the rules for the 256 colours of xterm, in terminal-to-html's classes.
func colours() string {
	var css strings.Builder
	for i := range 256 {
		rgb := xterm(i)
		fmt.Fprintf(&css, ".term-fgx%d{color:%s}.term-bgx%d{background:%s}\n", i, rgb, i, rgb)
	}
	return css.String()
}

// xterm is a colour of xterm's palette: sixteen named ones, a cube of 6×6×6, and greys.
func xterm(i int) string {
	switch {
	case i < 16:
		return fmt.Sprintf("var(--ansi%d)", i)
	case i < 232:
		level := func(n int) int {
			if n == 0 {
				return 0
			}
			return 55 + 40*n
		}
		i -= 16
		return fmt.Sprintf("#%02x%02x%02x", level(i/36), level(i/6%6), level(i%6))
	default:
		grey := 8 + 10*(i-232)
		return fmt.Sprintf("#%02x%02x%02x", grey, grey, grey)
	}
}
