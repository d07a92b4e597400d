package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/attune-run/attune/internal/packtest"
	"github.com/attune-run/attune/pack"
	"github.com/attune-run/attune/runtime"
)

type packTestCmd struct {
	Packs  []string `arg:"" optional:"" name:"pack|dir" predictor:"pack" help:"Packs or their directories; all that are found when none is named."`
	Matrix []string `placeholder:"RUNTIME=V,V" sep:"none" help:"Run each case of a runtime with each of these versions (repeatable)."`

	batchFlags `embed:""`
	Output     string `enum:"stream,json" default:"stream" help:"stream: the actions' output, each line behind its case's name; json: a document of all results on stdout."`
}

// Help shows a test under `pack test --help`.
func (packTestCmd) Help() string {
	return `Examples:
  attune-run pack test mine
  attune-run pack test ./packs/mine --matrix python=3.10,3.13 --junit results.xml

A pack's tests/greet.yaml tests its action greet:
  cases:
    - name: greets by name
      parameters: {name: you}
      expect: {result: {greeting: "Hello, you!"}}
    - name: wants a name
      expect: {status: error, error: "name.*required"}

expect may hold status, exit_code, result (the whole of it), and regular expressions for stdout, stderr and error. Without a status,
exit code or error an action must succeed. Exit codes: 0 all passed, 1 something did not, 125 the tests cannot be run.`
}

// Run runs the cases of all packs that are named.
func (c *packTestCmd) Run(a *app) error {
	finder, err := a.finder()
	if err != nil {
		return err
	}
	named := packValidateCmd{Packs: c.Packs}
	packs, problems, err := named.packs(finder)
	if err := errors.Join(append(problems, err)...); err != nil {
		return err
	}
	for _, name := range c.Packs { // one that is named as a directory is found there before all others of its name
		if info, err := os.Stat(name); err == nil && info.IsDir() {
			absolute, err := filepath.Abs(name)
			if err != nil {
				return err
			}
			finder.Dirs = append([]string{filepath.Dir(absolute)}, finder.Dirs...)
		}
	}
	a.cli.Packs = finder.Dirs
	b, err := c.prepare(a, "pack test", c.Output == "json")
	if err != nil {
		return err
	}
	defer b.close()
	catalog, err := b.service.Catalog()
	if err != nil {
		return err
	}
	suite, err := c.suite(packs, catalog)
	if err != nil {
		return err
	}
	if len(suite.Plan.Entries) == 0 {
		_, _ = fmt.Fprintf(a.std.err, "%s: no tests; a pack's are in its tests/*.yaml, see %s pack test --help\n", a.name, a.name)
		return exitCode(1)
	}
	b.judge = suite.Judge
	run, err := b.run(&suite.Plan, true)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		if err := batchDocument(a.std.out, run); err != nil {
			return err
		}
	}
	return exit(run)
}

func (c *packTestCmd) suite(packs []*pack.Pack, catalog runtime.Catalog) (*packtest.Suite, error) {
	rows, err := c.matrix()
	if err != nil {
		return nil, err
	}
	suite, known, names := &packtest.Suite{}, map[string]bool{}, catalog.Names()
	var problems []error
	for _, p := range packs {
		own, err := p.Catalog(catalog)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		names = append(names, own.Names()...)
		versions := packtest.Versions{}
		for _, row := range rows {
			if spec, ok := own.Lookup(row.runtime); ok {
				known[row.runtime] = true
				versions[spec.Name] = append(versions[spec.Name], row.versions...)
			}
		}
		problems = append(problems, suite.Add(p, own, versions))
	}
	for _, row := range rows {
		if !known[row.runtime] && len(packs) > 0 {
			problems = append(problems, fmt.Errorf("--matrix: there is no runtime %q%s", row.runtime, suggestion(row.runtime, names)))
		}
	}
	return suite, errors.Join(problems...)
}

type matrixRow struct {
	runtime  string
	versions []string
}

// matrix reads --matrix.
func (c *packTestCmd) matrix() ([]matrixRow, error) {
	var rows []matrixRow
	for _, text := range c.Matrix {
		name, list, ok := strings.Cut(text, "=")
		if !ok || name == "" || list == "" {
			return nil, fmt.Errorf("--matrix %s: write it as runtime=version,version", text)
		}
		row := matrixRow{name, strings.Split(list, ",")}
		for _, version := range row.versions {
			if _, err := runtime.ParseConstraint(version); err != nil {
				return nil, fmt.Errorf("--matrix %s: %w", text, err)
			}
		}
		rows = append(rows, row)
	}
	return rows, nil
}
