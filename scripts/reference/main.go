// Command reference writes docs/reference from the code: the programs' command lines as they describe themselves, the configuration from its
// types, the documents from their JSON Schemas.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:generate go run . ../..

func main() {
	root := "."
	if len(os.Args) > 1 {
		root = os.Args[1]
	}
	if err := run(root); err != nil {
		fmt.Fprintln(os.Stderr, "reference:", err)
		os.Exit(1)
	}
}

func run(root string) error {
	pages, err := generate(root)
	if err != nil {
		return err
	}
	dir := filepath.Join(root, "docs", "reference")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var failures []error
	for name, text := range pages {
		failures = append(failures, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	return errors.Join(failures...)
}

// generate makes the pages, by name.
func generate(root string) (map[string]string, error) {
	pages, err := commandLines(root)
	if err != nil {
		return nil, err
	}
	if pages["configuration.md"], err = configuration(root); err != nil {
		return nil, err
	}
	pages["schemas.md"], err = documents(root)
	return pages, err
}

// programs are how each program is asked for its manual.
var programs = map[string][]string{
	"attune-run":    {"man", "--format", "markdown"},
	"attune-worker": {"man", "--format", "markdown"},
	"attune-lambda": {"--man", "markdown"},
}

// guides say where a program is explained.
var guides = map[string]string{
	"attune-run":    "Guides: [quick start](../quick-start.md), [packs](../packs.md), [many actions](../batch.md), [CI systems](../ci.md), [results and exit codes](../results.md).",
	"attune-worker": "Guides: [the worker pool](../worker.md), [exactly one result](../exactly-one-result.md), [scaling](../scaling.md).",
	"attune-lambda": "Guide: [AWS Lambda, and other functions](../lambda.md).",
}

// commandLines builds the programs and asks them.
func commandLines(root string) (map[string]string, error) {
	bin, err := os.MkdirTemp("", "attune-reference-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(bin) }()
	build := exec.Command("go", "build", "-o", bin, "./cmd/attune-run", "./cmd/attune-worker", "./cmd/attune-lambda")
	build.Dir = root
	if said, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the programs: %w: %s", err, said)
	}
	pages := map[string]string{}
	for name, args := range programs {
		page, err := exec.Command(filepath.Join(bin, name), args...).Output()
		if err != nil {
			return nil, fmt.Errorf("%s %v: %w", name, args, err)
		}
		title, rest, _ := strings.Cut(string(page), "\n")
		pages[name+".md"] = title + "\n\n" + guides[name] + "\n" + rest
	}
	return pages, nil
}
