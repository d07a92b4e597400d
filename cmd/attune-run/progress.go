package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/executor"
)

// progress tells a person what attune itself is doing, on stderr: a line that is rewritten on a terminal,
// a few plain ones elsewhere. It never touches stdout.
type progress struct {
	out   io.Writer
	name  string
	quiet bool
	tty   bool
	width int

	mu    sync.Mutex // events come from several goroutines
	shown bool       // a line stands on the terminal
	said  string     // the last phase that was printed off a terminal
}

func newProgress(out io.Writer, name string, quiet bool) *progress {
	p := &progress{out: out, name: name, quiet: quiet}
	p.width, p.tty = terminal(out)
	return p
}

// terminal is the width of a terminal in columns, 0 where it is not known.
func terminal(out io.Writer) (width int, is bool) {
	f, ok := out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0, false
	}
	width, _, _ = term.GetSize(int(f.Fd()))
	return width, true
}

func (p *progress) event(e executor.Event) {
	if p.quiet {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e.Kind {
	case executor.EnvironmentProgress:
		p.environment(*e.Progress)
	case executor.StageFinished:
		p.clear()
	case executor.Warning:
		p.clear()
		_, _ = fmt.Fprintf(p.out, "%s: warning: %s\n", p.name, e.Message)
	}
}

func (p *progress) environment(now envcache.Progress) {
	text := "environment: " + now.Phase
	if now.Holder != "" {
		text += " for " + now.Holder
	}
	if !p.tty {
		if text != p.said {
			p.said = text
			_, _ = fmt.Fprintf(p.out, "%s: %s\n", p.name, text)
		}
		return
	}
	line := fmt.Sprintf("%s · %.1fs · %s", text, now.Elapsed.Seconds(), printable(now.Line))
	_, _ = fmt.Fprintf(p.out, "\r\x1b[K%s", cut(line, p.width-1))
	p.shown = true
}

func (p *progress) clear() {
	if p.shown {
		_, _ = fmt.Fprint(p.out, "\r\x1b[K")
		p.shown = false
	}
}

// finish says how an execution ended when the action itself could not.
func (p *progress) finish(result *executor.Result) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	if result.LeftoverProcesses > 0 && !p.quiet {
		_, _ = fmt.Fprintf(p.out, "%s: warning: %d process(es) outlived the action and were ended\n", p.name, result.LeftoverProcesses)
	}
	if result.Error == nil || result.Error.Kind == "exit" && result.Error.Hint == "" {
		return // the action's own words are on stderr already
	}
	_, _ = fmt.Fprintf(p.out, "%s: %s: %s\n", p.name, result.Status, result.Error.Message)
	if result.Error.Hint != "" {
		_, _ = fmt.Fprintf(p.out, "  hint: %s\n", result.Error.Hint)
	}
}

// printable drops what could move the cursor.
func printable(line string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, line)
}

// cut shortens text to width columns; a width that is not known cuts nothing.
func cut(text string, width int) string {
	runes := []rune(text)
	if width <= 0 || len(runes) <= width {
		return text
	}
	return string(runes[:width-1]) + "…"
}
