package manpage

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var page = Page{Name: "tool", Summary: "Does things", Synopsis: "COMMAND", Examples: "  tool x", Sections: []Section{
	{Title: "Options", Text: "Of all:", Entries: []Entry{{Name: "--mode=a|b", Help: "a <b> | c."}}},
	{Title: "Commands", Entries: []Entry{{Name: "env warm [<action> ...]", Help: "Build.", Detail: "Examples:\n  tool env warm", Entries: []Entry{{Name: "--quiet", Help: "No word."}}}}},
}}

func TestRoff(t *testing.T) {
	var b strings.Builder
	require.NoError(t, Print(&b, page, "roff", "1700000000"))
	for _, want := range []string{`.TH TOOL 1 "2023-11-14"`, ".SH OPTIONS", `\fB--mode=a|b\fP`, `\fBenv warm [<action>`, "tool env warm"} {
		assert.Contains(t, b.String(), want)
	}
}

func TestMarkdown(t *testing.T) {
	var b strings.Builder
	require.NoError(t, Print(&b, page, "markdown", ""))
	assert.Equal(t, "# tool\n\nDoes things.\n\n```text\ntool COMMAND\n```\n\n```text\n  tool x\n```\n\n## Options\n\nOf all:\n\n| | |\n|---|---|\n| `--mode=a\\|b` | a &lt;b> \\| c. |\n"+
		"\n## Commands\n\n### tool env warm\n\nBuild.\n\n```text\ntool env warm [<action> ...]\n```\n\n| | |\n|---|---|\n| `--quiet` | No word. |\n"+
		"\n```text\nExamples:\n  tool env warm\n```\n", b.String())
}

func TestPrintRefuses(t *testing.T) {
	assert.ErrorContains(t, Print(&strings.Builder{}, page, "html", ""), "roff or markdown")
	assert.ErrorContains(t, Print(&strings.Builder{}, page, "roff", "yesterday"), "SOURCE_DATE_EPOCH=yesterday")
	require.NoError(t, page.Roff(&strings.Builder{}, time.Now()))
}
