package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/attune-run/attune/detect"
	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/nearest"
	"github.com/attune-run/attune/internal/version"
	"github.com/attune-run/attune/runtime"
)

// format is the flag of every command that shows something.
type format struct {
	Output string `short:"o" enum:"table,json" default:"table" help:"table or json."`
}

// show prints rows as a table, or value as JSON.
func (f format) show(w io.Writer, value any, header []string, rows [][]string) error {
	if f.Output == "json" {
		return printJSON(w, value)
	}
	return printTable(w, header, rows)
}

func printJSON(w io.Writer, value any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(value)
}

// printTable prints rows in columns; on a terminal, lines end at its edge.
func printTable(w io.Writer, header []string, rows [][]string) error {
	var b bytes.Buffer
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{header}, rows...) {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = printable(cell)
		}
		_, _ = fmt.Fprintln(table, strings.TrimRight(strings.Join(cells, "\t"), "\t"))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	width, _ := terminal(w)
	for line := range strings.Lines(b.String()) {
		if _, err := fmt.Fprintln(w, cut(strings.TrimSuffix(line, "\n"), width)); err != nil {
			return err
		}
	}
	return nil
}

type detectCmd struct{ format }

// Run shows the interpreters of this machine. Finding none is no failure.
func (c *detectCmd) Run(a *app) error {
	service, cfg, err := a.service()
	if err != nil {
		return err
	}
	found, problems, err := service.Detect(a.ctx)
	if err != nil {
		return err
	}
	a.warn(problems)
	c.missing(a, service, cfg, found)
	rows := make([][]string, 0, len(found))
	for _, i := range found {
		mark := ""
		if i.OnPath {
			mark = "PATH"
		}
		rows = append(rows, []string{i.Runtime, i.Version, i.Path, mark})
	}
	if found == nil {
		return c.show(a.std.out, []any{}, []string{"RUNTIME", "VERSION", "PATH", "FIRST IN"}, rows)
	}
	return c.show(a.std.out, found, []string{"RUNTIME", "VERSION", "PATH", "FIRST IN"}, rows)
}

// warn prints what is wrong and ends nothing.
func (a *app) warn(problems []error) {
	for _, problem := range problems {
		_, _ = fmt.Fprintf(a.std.err, "%s: warning: %v\n", a.name, problem)
	}
}

// missing says by name what the configuration asks for and this machine, or attune, does not have.
func (c *detectCmd) missing(a *app, service *executor.Service, cfg config, found []runtime.Interpreter) {
	if cfg.runtimes == "" {
		return
	}
	known, _ := service.Known()
	wanted, unknown := detect.Restrict(known, cfg.runtimes)
	for _, name := range unknown {
		_, _ = fmt.Fprintf(a.std.err, "%s: warning: ATTUNE_WORKER_RUNTIMES names %s, which is no runtime%s\n", a.name, name, suggestion(name, service.RuntimeNames()))
	}
	for _, spec := range wanted {
		if !slices.ContainsFunc(found, func(i runtime.Interpreter) bool { return i.Runtime == spec.Name }) {
			_, _ = fmt.Fprintf(a.std.err, "%s: warning: ATTUNE_WORKER_RUNTIMES names %s, which was not found here\n", a.name, spec.Name)
		}
	}
}

func suggestion(name string, names []string) string {
	if near := nearest.Name(name, names); near != "" {
		return fmt.Sprintf("; did you mean %s?", near)
	}
	return ""
}

type runtimesCmd struct {
	Explain bool `help:"Show whose specification won, over which others, and what this machine has of each."`
	format
}

// Run shows what attune knows, whether or not this machine has it.
func (c *runtimesCmd) Run(a *app) error {
	service, _, err := a.service()
	if err != nil {
		return err
	}
	if c.Explain {
		return c.explain(a, service)
	}
	specs, problems := service.Runtimes()
	if specs == nil && len(problems) > 0 {
		return errors.Join(problems...)
	}
	a.warn(problems)
	all, table := []executor.RuntimeState{}, [][]string{}
	for _, spec := range specs {
		r := executor.State(spec)
		all = append(all, r)
		table = append(table, []string{r.Name, strings.Join(r.Aliases, " "), strings.Join(r.Extensions, " "), r.Environment, r.Origin})
	}
	return c.show(a.std.out, all, []string{"NAME", "ALIASES", "FILES", "ENVIRONMENT", "ORIGIN"}, table)
}

// explain shows a line for each interpreter, and one for a runtime that has none here.
func (c *runtimesCmd) explain(a *app, service *executor.Service) error {
	states, problems, err := service.ExplainRuntimes(a.ctx)
	if err != nil {
		return err
	}
	a.warn(problems)
	table := [][]string{}
	for _, r := range states {
		overrides := strings.Join(r.Overrides, ", ")
		if len(r.Interpreters) == 0 {
			table = append(table, []string{r.Name, "", "(none found)", r.Environment, r.Origin, overrides})
		}
		for _, i := range r.Interpreters {
			table = append(table, []string{r.Name, i.Version, i.Path, i.Environment, r.Origin, overrides})
		}
	}
	return c.show(a.std.out, states, []string{"NAME", "VERSION", "INTERPRETER", "ENVIRONMENT", "FROM", "OVERRIDES"}, table)
}

type explainCmd struct {
	target `embed:""`
	format
}

// Run shows what a run would use, and exits with 1 when it would fail.
func (c *explainCmd) Run(a *app) error {
	req, err := c.request(a)
	if err != nil {
		return err
	}
	service, _, err := a.service()
	if err != nil {
		return err
	}
	e, err := service.Explain(a.ctx, req)
	if err != nil {
		return err
	}
	rows := [][]string{
		{"action", e.Action, ""}, {"pack", strings.TrimSpace(e.Pack.Ref + " " + e.Pack.Version), e.PackDir},
		{"script", e.Script, ""}, {"runtime", e.Runtime, "constraint: " + orNone(e.Constraint)},
		{"interpreter", e.Interpreter.Version, e.Interpreter.Path},
		{"environment", e.Environment.State, strings.TrimSpace(e.Environment.Key + " " + e.Environment.Path)},
	}
	for _, s := range e.Settings {
		rows = append(rows, []string{s.Name, s.Value, s.Why})
	}
	for _, problem := range e.Problems {
		rows = append(rows, []string{"problem", problem, ""})
	}
	if err := c.show(a.std.out, e, []string{"WHAT", "VALUE", "WHY"}, rows); err != nil {
		return err
	}
	if len(e.Problems) > 0 {
		return exitCode(1)
	}
	return nil
}

func orNone(text string) string {
	if text == "" {
		return "none"
	}
	return text
}

type configCmd struct{ format }

// Run shows every setting with its source.
func (c *configCmd) Run(a *app) error {
	cfg, err := loadConfig(a.cli.globals, os.Environ())
	if err != nil {
		return err
	}
	slices.SortFunc(cfg.settings, func(a, b setting) int { return strings.Compare(a.Key, b.Key) })
	rows := [][]string{{"(file)", orNone(cfg.file), "ATTUNE_CONFIG"}}
	for _, s := range cfg.settings {
		rows = append(rows, []string{s.Key, s.Value, s.Source})
	}
	return c.show(a.std.out, map[string]any{"file": cfg.file, "settings": cfg.settings}, []string{"KEY", "VALUE", "FROM"}, rows)
}

type versionCmd struct{}

// Run prints one line.
func (versionCmd) Run(a *app) error {
	_, err := fmt.Fprintln(a.std.out, a.name, version.String())
	return err
}
