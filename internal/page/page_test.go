package page

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/report"
)

const hostile = `</td></table><script>window.pwned=1</script><img src=http://127.0.0.1:9/x onerror="window.pwned=1"><style>*{display:none}</style>{{.}}`

// nightly is a run with everything in it.
func nightly() *report.Run {
	started := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	good := executor.Result{
		ID: "01", Action: "etl.load", Status: executor.Succeeded, DurationMS: 4200, Result: map[string]any{"rows": 42, "note": hostile},
		Timings: executor.Timings{Spawn: 100}, Runtime: executor.RuntimeInfo{Name: "python", Version: "3.13.1", Path: "/usr/bin/python3.13"},
		Environment: executor.EnvironmentInfo{Key: "py-4f2a", State: "built", Path: "/cache/py-4f2a", Locked: true},
		Isolation:   executor.IsolationInfo{Requested: "strict", Applied: "strict", Guarantees: map[string]string{"net": "namespace"}},
		Limits:      []executor.LimitInfo{{Name: "memory", Limit: 1 << 20, Used: 1 << 19, EnforcedBy: "cgroup v2"}},
	}
	bad := executor.Result{
		ID: "02", Action: "etl." + hostile, Status: executor.Failed, ExitCode: 3, DurationMS: 1500,
		Error: &executor.Error{Kind: "exit", Message: "etl.check exited with 3 " + hostile, Hint: "look at " + hostile},
	}
	return &report.Run{Title: "nightly.yaml " + hostile, Started: started, Finished: started.Add(6 * time.Second), Executions: []report.Execution{
		{
			Name: "load", Started: started, Result: good,
			Spans: []report.Span{
				{Stage: "detect", Offset: 0, Duration: 200 * time.Millisecond},
				{Stage: "environment", Offset: 200 * time.Millisecond, Duration: 3 * time.Second},
				{Stage: "run", Offset: 3200 * time.Millisecond, Duration: time.Second},
			},
			Log: []report.Line{{At: 3300 * time.Millisecond, Text: "\x1b[31mred\x1b[0m and \x1b[1;38;5;208morange\x1b[0m"}, {Text: "10%\r100%"}},
		},
		{
			Name: "check", Started: started.Add(4200 * time.Millisecond), Result: bad, Needs: []string{"load"},
			Log: []report.Line{
				{Stderr: true, Text: hostile},
				{Text: "\x1b]8;;http://127.0.0.1:9/\x1b\\link\x1b]8;;\x1b\\ \x1b]1338;url=http://127.0.0.1:9/i.png;alt=x\x07image"},
				{Text: "\x1b_bk;t=1\x07 \x9b31m bad utf-8 \xff \x00 \u202egnp.exe \x1b[999999999C\x1b[99999999Bfar"},
			},
		},
		{Name: "publish", Skipped: "check failed"},
	}}
}

func TestNothingOfAnActionIsMarkup(t *testing.T) {
	content, err := render(nightly())
	require.NoError(t, err)
	text := string(content)
	assert.Equal(t, 1, strings.Count(text, "<style"))
	for _, tag := range []string{"<script", "<img", "<link", "<iframe", `href="http`} {
		assert.NotContains(t, text, tag)
	}
	for _, r := range "\x00\x1b\u202e\u009b" {
		assert.NotContains(t, text, string(r))
	}
	assert.Contains(t, text, "<td>512KiB of 1MiB, by cgroup v2</td>")
	assert.Contains(t, text, ">100%<", "a line shows what a terminal would show last")
}

func TestALineStaysALine(t *testing.T) {
	long := strings.Repeat("0123456789", 300)
	assert.Equal(t, long, strings.ReplaceAll(string(ansi(long)), "\n", ""))
	assert.Less(t, len(ansi("\x1b[999999999C\x1b[99999999B\x1b[9999Efar")), 400, "an action cannot blow the page up")
	assert.NotContains(t, string(ansi("a\x1b[9Bb\x1b[9Ec")), "\n")
}

func TestALongLogIsWrittenSwiftly(t *testing.T) {
	run := nightly()
	for range 20000 {
		run.Executions[0].Log = append(run.Executions[0].Log, report.Line{Text: "\x1b[32mok\x1b[0m a line of a usual length, as builds print them"})
	}
	begun := time.Now()
	_, err := render(run)
	require.NoError(t, err)
	assert.Less(t, time.Since(begun), 20*time.Second)
}

func TestAPageIsWrittenWholeOrNotAtAll(t *testing.T) {
	require.Error(t, Write(filepath.Join(t.TempDir(), "missing", "out.html"), nightly()))
	path := filepath.Join(t.TempDir(), "out.html")
	require.NoError(t, Write(path, nightly()))
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	assert.Len(t, entries, 1)
}

// browser opens a page in Chromium and gives the addresses that it asked for, and what its console said.
func browser(t *testing.T, path string) (ctx context.Context, requests, console func() []string) {
	t.Helper()
	program, err := exec.LookPath("chromium")
	require.NoError(t, err, "scripts/bootstrap tests installs it")
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program), chromedp.NoSandbox, chromedp.WindowSize(1200, 1400), chromedp.WSURLReadTimeout(time.Minute))
	allocated, stop := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(allocated)
	t.Cleanup(cancel)
	var mu sync.Mutex
	var asked, said []string
	require.NoError(t, chromedp.Listen(ctx, func(event any) {
		mu.Lock()
		defer mu.Unlock()
		switch e := event.(type) {
		case *network.EventRequestWillBeSent:
			asked = append(asked, e.Request.URL)
		case *log.EventEntryAdded:
			said = append(said, e.Entry.Text)
		}
	}))
	require.NoError(t, chromedp.Do(ctx,
		chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
			_, err := cdp.Call(ctx, t, network.Enable, network.EnableParams{})
			return err
		}),
		chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
			_, err := cdp.Call(ctx, t, log.Enable, cdp.Empty{})
			return err
		}),
		chromedp.Navigate("file://"+path),
	))
	copied := func(list *[]string) func() []string {
		return func() []string {
			mu.Lock()
			defer mu.Unlock()
			return append([]string(nil), *list...)
		}
	}
	return ctx, copied(&asked), copied(&said)
}

// see does one thing in the page and gives what came of it.
func see[T any](t *testing.T, ctx context.Context, action chromedp.Action[T]) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	value, err := chromedp.Run(ctx, action)
	require.NoError(t, err)
	return value
}

func TestInABrowser(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out.html")
	require.NoError(t, Write(path, nightly()))
	ctx, requests, console := browser(t, path)

	assert.False(t, see(t, ctx, chromedp.Evaluate[bool](`"pwned" in window`)))
	assert.Equal(t, "nightly.yaml "+hostile+": 1 succeeded, 1 failed, 1 skipped", see(t, ctx, chromedp.Title()))
	assert.Equal(t, "rgb(179, 20, 31)", see(t, ctx, chromedp.Evaluate[string](`getComputedStyle(document.querySelector(".term-fg31")).color`)))
	assert.Equal(t, []bool{false, true, false}, see(t, ctx, chromedp.Evaluate[[]bool](`[...document.querySelectorAll("details.execution")].map(d => d.open)`)), "only what failed is unfolded")
	shown := see(t, ctx, chromedp.Text(chromedp.CSS("#x2 .log")))
	assert.Contains(t, shown, hostile)
	assert.NotContains(t, shown, "i.png")
	picture := see(t, ctx, chromedp.FullScreenshot(100))
	require.NoError(t, os.WriteFile(filepath.Join(t.ArtifactDir(), "report.png"), picture, 0o644))

	assert.Equal(t, []string{"file://" + path}, requests())
	assert.Empty(t, console(), "nothing offends against the page's own policy")
}

func TestByKeyboard(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out.html")
	require.NoError(t, Write(path, nightly()))
	ctx, _, _ := browser(t, path)

	press := func(key string) { see(t, ctx, chromedp.KeyEvent(key)) }
	first := func() bool {
		return see(t, ctx, chromedp.Evaluate[bool](`document.querySelector("details.execution").open`))
	}
	press(kb.Tab)
	assert.Equal(t, "load", see(t, ctx, chromedp.Evaluate[string](`document.activeElement.textContent`)), "the overview comes first")
	press(kb.Enter)
	require.Eventually(t, first, 10*time.Second, 20*time.Millisecond, "its link unfolds the execution")

	see(t, ctx, chromedp.Focus(chromedp.CSS("details.execution > summary")))
	press(kb.Enter)
	require.Eventually(t, func() bool { return !first() }, 10*time.Second, 20*time.Millisecond, "its heading folds it")
	press(" ")
	require.Eventually(t, first, 10*time.Second, 20*time.Millisecond)
}
