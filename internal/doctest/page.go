// Package doctest reads the pages of the documentation, runs their commands and compares what they print. What a fence says behind its
// language decides what becomes of it:
//
//	```console                 commands behind "$ ", and what they print; "..." stands for anything. They are run.
//	```yaml file=PATH          a file of that name, there for the commands that follow.
//	```sh not run: REASON      commands that cannot be run in a test, and why. Their flags are checked.
//
// Every other fence is for reading. Indented blocks are files and layouts, never commands.
package doctest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// AttuneRun and AttuneWorker are the pages with commands, by the program whose tests run them.
var (
	AttuneRun = []string{
		"../README.md", "batch.md", "cache.md", "ci.md", "deploying.md", "environments.md", "installing.md", "isolation.md", "lambda.md", "migrating.md", "packs.md",
		"quick-start.md", "results.md", "runtimes.md", "secrets.md",
	}
	AttuneWorker = []string{"exactly-one-result.md", "worker.md"}
)

// Page is one page of the documentation.
type Page struct {
	Name   string // its path below docs
	Text   string
	Blocks []Block
}

// Block is what stands in one fence.
type Block struct {
	Line     int    // of the fence, from 1
	Language string // "console"
	Note     string // what stands behind the language
	Text     string // with a newline at its end
}

// Root is the module's directory.
func Root(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	require.NoError(t, err)
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		require.NotEqual(t, "/", dir, "a module's directory")
		dir = filepath.Dir(dir)
	}
}

// Read reads a page; its name is its path below docs.
func Read(t *testing.T, name string) Page {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(Root(t), "docs", name))
	require.NoError(t, err)
	return parse(name, string(text))
}

// All reads every page, README.md of the module among them ("../README.md").
func All(t *testing.T) []Page {
	t.Helper()
	docs := filepath.Join(Root(t), "docs")
	pages := []Page{Read(t, "../README.md")}
	for _, pattern := range []string{"*.md", "reference/*.md"} {
		files, err := filepath.Glob(filepath.Join(docs, pattern))
		require.NoError(t, err)
		for _, file := range files {
			name, err := filepath.Rel(docs, file)
			require.NoError(t, err)
			pages = append(pages, Read(t, name))
		}
	}
	return pages
}

func parse(name, text string) Page {
	page := Page{Name: name, Text: text}
	var open *Block
	for i, line := range strings.Split(text, "\n") {
		switch info, fence := strings.CutPrefix(line, "```"); {
		case fence && open == nil:
			language, note, _ := strings.Cut(info, " ")
			page.Blocks = append(page.Blocks, Block{Line: i + 1, Language: language, Note: note})
			open = &page.Blocks[len(page.Blocks)-1]
		case fence:
			open = nil
		case open != nil:
			open.Text += line + "\n"
		}
	}
	return page
}

// Place is where a block begins.
func (p Page) Place(b Block) string { return fmt.Sprintf("docs/%s:%d", p.Name, b.Line) }

// Step is one command and what it prints.
type Step struct {
	Line            int
	Command, Output string
}

// Steps are the commands of a console block, each with its here-document or the lines that a backslash continues.
func (b Block) Steps() []Step {
	var steps []Step
	number := b.Line
	for _, text := range strings.Split("\n"+strings.TrimRight(b.Text, "\n"), "\n$ ") {
		lines := strings.Split(text, "\n")
		if text != "" {
			end := commandEnd(lines)
			steps = append(steps, Step{Line: number, Command: strings.Join(lines[:end], "\n"), Output: strings.Join(lines[end:], "\n")})
		}
		number += len(lines)
	}
	return steps
}

// commandEnd is how many of the lines are the command.
func commandEnd(lines []string) int {
	end := 1
	for end < len(lines) && strings.HasSuffix(lines[end-1], `\`) {
		end++
	}
	if _, word, ok := strings.Cut(lines[0], "<<'"); ok {
		word, _, _ = strings.Cut(word, "'")
		for end < len(lines) && lines[end-1] != word {
			end++
		}
	}
	return end
}
