package main

import (
	"fmt"
	"io"
	"sync"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/show"
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
	p.width, p.tty = show.Terminal(out)
	return p
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
	line := fmt.Sprintf("%s · %.1fs · %s", text, now.Elapsed.Seconds(), show.Printable(now.Line))
	_, _ = fmt.Fprintf(p.out, "\r\x1b[K%s", show.Cut(line, p.width-1))
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
