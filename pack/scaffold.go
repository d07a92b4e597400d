package pack

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// scaffold holds one script that works for each language.
//
//go:embed scaffold
var scaffold embed.FS

// starters are the scripts of new packs: where each is embedded, its name in the pack, and how it takes parameters.
var starters = map[string]struct{ source, script, format string }{
	"shell":  {"hello.sh", "hello.sh", "dotenv"},
	"python": {"hello.py", "hello.py", "json"},
	"node":   {"hello.js", "hello.js", "json"},
	"go":     {"hello.go.txt", "hello.go", "json"},
	"perl":   {"hello.pl", "hello.pl", "json"},
	"ruby":   {"hello.rb", "hello.rb", "json"},
	"java":   {"hello.java", "hello.java", "dotenv"},
}

// Scaffold creates a pack with one action that works and its test, in a directory that must not exist yet.
func Scaffold(dir, ref, runtime string) error {
	if !regexp.MustCompile(`^[a-z][a-z0-9_-]*$`).MatchString(ref) {
		return fmt.Errorf("%q is no name for a pack: lower-case letters, digits, - and _, a letter first", ref)
	}
	starter, ok := starters[runtime]
	if !ok {
		names := make([]string, 0, len(starters))
		for name := range starters {
			names = append(names, name)
		}
		slices.Sort(names)
		return fmt.Errorf("no starter for runtime %q; there are %s", runtime, strings.Join(names, ", "))
	}
	script, err := scaffold.ReadFile("scaffold/" + starter.source)
	if err != nil {
		return err
	}
	files := map[string]string{
		"pack.yaml": fmt.Sprintf("ref: %s\nlabel: %s\ndescription: What this pack is for.\nversion: 0.1.0\n", ref, ref),
		"actions/hello.yaml": fmt.Sprintf(`ref: %s.hello
description: Greets somebody.
runner_type: %s
entry_point: %s
parameter_format: %s
output_format: json
parameters:
  name:
    type: string
    description: Who is greeted.
    default: world
`, ref, runtime, starter.script, starter.format),
		"actions/" + starter.script: string(script),
		"tests/hello.yaml": `cases:
  - name: greets the world
    expect: {result: {greeting: "Hello, world!"}}
  - name: greets by name
    parameters: {name: you}
    expect: {result: {greeting: "Hello, you!"}}
`,
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is there already; choose another name, or --dir", dir)
	}
	for _, name := range []string{"pack.yaml", "actions/hello.yaml", "actions/" + starter.script, "tests/hello.yaml"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("create pack: %w", err)
		}
		if err := os.WriteFile(path, []byte(files[name]), 0o644); err != nil {
			return fmt.Errorf("create pack: %w", err)
		}
	}
	return nil
}
