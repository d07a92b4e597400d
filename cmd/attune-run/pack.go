package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/config"
	"github.com/attune-run/attune/internal/packtest"
	"github.com/attune-run/attune/internal/show"
	"github.com/attune-run/attune/pack"
)

type packCmd struct {
	List     packListCmd     `cmd:"" help:"List the packs that are found."`
	Show     packShowCmd     `cmd:"" help:"Show a pack's actions, or an action's parameters."`
	Validate packValidateCmd `cmd:"" help:"Check packs; every problem with file, line and column."`
	Test     packTestCmd     `cmd:"" help:"Run the tests of packs."`
	New      packNewCmd      `cmd:"" help:"Create a pack that works."`
	Install  packInstallCmd  `cmd:"" help:"Install a pack from a directory, an archive or a git repository."`
	Sign     packSignCmd     `cmd:"" help:"Sign a pack."`
	Verify   packVerifyCmd   `cmd:"" help:"Check the signatures of packs."`
	Keygen   packKeygenCmd   `cmd:"" help:"Make a key to sign packs with."`
}

// finder looks where the configuration says.
func (a *app) finder() (pack.Finder, error) {
	cfg, err := config.Load(a.cli.flags(), config.Defaults{}, os.Environ())
	return pack.Finder{Dirs: cfg.Packs}, err
}

type packListCmd struct{ show.Format }

// Run lists packs; a pack that cannot be read is a warning, not the end.
func (c *packListCmd) Run(a *app) error {
	finder, err := a.finder()
	if err != nil {
		return err
	}
	packs, problems := finder.List()
	for _, problem := range problems {
		_, _ = fmt.Fprintf(a.std.err, "%s: warning: %v\n", a.name, problem)
	}
	type row struct {
		Ref         string   `json:"ref"`
		Version     string   `json:"version"`
		Description string   `json:"description"`
		Dir         string   `json:"dir"`
		Actions     []string `json:"actions"`
	}
	all, table := []row{}, [][]string{}
	for _, p := range packs {
		r := row{Ref: p.Ref, Version: p.Version, Description: p.Description, Dir: p.Dir, Actions: []string{}}
		actions, _ := p.Actions()
		for _, action := range actions {
			r.Actions = append(r.Actions, action.Name)
		}
		all = append(all, r)
		table = append(table, []string{r.Ref, r.Version, strings.Join(r.Actions, " "), r.Dir})
	}
	if len(packs) == 0 && c.Output == "table" {
		_, _ = fmt.Fprintf(a.std.err, "%s: no packs in %s\n", a.name, strings.Join(finder.Dirs, ", "))
	}
	return c.Show(a.std.out, all, []string{"PACK", "VERSION", "ACTIONS", "DIRECTORY"}, table)
}

type packShowCmd struct {
	Name string `arg:"" name:"pack|action" predictor:"either" help:"A pack, or one of its actions."`
	show.Format
}

// Run shows what somebody needs to know to run it.
func (c *packShowCmd) Run(a *app) error {
	finder, err := a.finder()
	if err != nil {
		return err
	}
	if strings.Contains(strings.SplitN(c.Name, "@", 2)[0], ".") {
		action, err := finder.Action(c.Name)
		if err != nil {
			return loadError{err}
		}
		return c.showAction(a, action)
	}
	ref, constraint, _ := strings.Cut(c.Name, "@")
	p, err := finder.Pack(ref, constraint)
	if err != nil {
		return loadError{err}
	}
	actions, problems := p.Actions()
	rows, all := [][]string{}, []map[string]any{}
	for _, action := range actions {
		rows = append(rows, []string{action.Ref, action.Runtime, action.Description})
		all = append(all, map[string]any{"ref": action.Ref, "runtime": action.Runtime, "description": action.Description})
	}
	for _, problem := range problems {
		_, _ = fmt.Fprintf(a.std.err, "%s: warning: %v\n", a.name, problem)
	}
	if c.Output == "table" {
		_, _ = fmt.Fprintf(a.std.out, "%s %s  %s\n%s\n\n", p.Ref, p.Version, p.Dir, p.Description)
	}
	return c.Show(a.std.out, map[string]any{"ref": p.Ref, "version": p.Version, "description": p.Description, "dir": p.Dir, "actions": all},
		[]string{"ACTION", "RUNTIME", "DESCRIPTION"}, rows)
}

func (c *packShowCmd) showAction(a *app, action *pack.Action) error {
	type parameter struct {
		Name        string `json:"name"`
		Type        string `json:"type"`
		Required    bool   `json:"required"`
		Secret      bool   `json:"secret"`
		Default     any    `json:"default"`
		Description string `json:"description"`
	}
	schema := action.Parameters
	all, rows := []parameter{}, [][]string{}
	for _, name := range schema.Names() {
		p := parameter{Name: name, Type: schema.Type(name), Required: schema.Required(name), Secret: schema.IsSecret(name), Description: schema.Description(name)}
		notes := []string{}
		if value, ok := schema.Default(name); ok && !p.Secret {
			p.Default = value
			notes = append(notes, fmt.Sprintf("default %v", value))
		}
		if p.Required {
			notes = append(notes, "required")
		}
		if p.Secret {
			notes = append(notes, "secret")
		}
		all, rows = append(all, p), append(rows, []string{name, p.Type, strings.Join(notes, ", "), p.Description})
	}
	if c.Output == "table" {
		_, _ = fmt.Fprintf(a.std.out, "%s  (%s, output %s)  %s\n%s\n\n", action.Ref, action.Runtime, action.OutputFormat, action.EntryPoint, action.Description)
	}
	return c.Show(a.std.out, map[string]any{
		"ref": action.Ref, "description": action.Description, "runtime": action.Runtime, "entry_point": action.EntryPoint,
		"output_format": action.OutputFormat, "timeout_ms": action.Timeout.Milliseconds(), "parameters": all,
	}, []string{"PARAMETER", "TYPE", "", "DESCRIPTION"}, rows)
}

// loadError gives what pack could not find the exit code it has in a run.
type loadError struct{ error }

func (e loadError) Unwrap() error { return e.error }

// ExitCode is 127 for what is not there.
func (e loadError) ExitCode() int {
	var missing *pack.NotFoundError
	if errors.As(e.error, &missing) {
		return executor.ExitNotFound
	}
	return executor.ExitAttune
}

type packValidateCmd struct {
	Packs []string `arg:"" optional:"" name:"pack|dir" predictor:"pack" help:"Packs or their directories; all that are found when none is named."`
}

// Run exits with 1 when it found a problem.
func (c *packValidateCmd) Run(a *app) error {
	finder, err := a.finder()
	if err != nil {
		return err
	}
	service, _, err := a.service()
	if err != nil {
		return err
	}
	catalog, err := service.Catalog()
	if err != nil {
		return err
	}
	packs, problems, err := c.packs(finder)
	if err != nil {
		return err
	}
	for _, problem := range problems {
		_, _ = fmt.Fprintln(a.std.out, problem)
	}
	found := len(problems)
	for _, p := range packs {
		list := slices.Concat(pack.Validate(p, finder, catalog), unbuildable(p))
		for _, problem := range list {
			_, _ = fmt.Fprintln(a.std.out, problem.String())
		}
		tests := (&packtest.Suite{}).Add(p, catalog, nil)
		if tests != nil {
			_, _ = fmt.Fprintln(a.std.out, tests)
			found++
		}
		if len(list) == 0 && tests == nil {
			_, _ = fmt.Fprintf(a.std.out, "%s %s: ok\n", p.Ref, p.Version)
		}
		found += len(list)
	}
	if found > 0 {
		_, _ = fmt.Fprintf(a.std.err, "%s: %d problem(s)\n", a.name, found)
		return exitCode(1)
	}
	return nil
}

// unbuildable are the environments of a pack's runtimes that attune cannot make.
func unbuildable(p *pack.Pack) []pack.Problem {
	specs, _ := p.RuntimeSpecs() // what cannot be read has been reported
	var problems []pack.Problem
	for _, spec := range specs {
		problems = append(problems, executor.CheckEnvironment(spec)...)
	}
	return problems
}

func (c *packValidateCmd) packs(finder pack.Finder) (packs []*pack.Pack, problems []error, err error) {
	if len(c.Packs) == 0 {
		packs, problems = finder.List()
		return packs, problems, nil
	}
	for _, name := range c.Packs {
		var p *pack.Pack
		if info, statErr := os.Stat(name); statErr == nil && info.IsDir() {
			p, err = pack.Load(name)
		} else {
			ref, constraint, _ := strings.Cut(name, "@")
			p, err = finder.Pack(ref, constraint)
		}
		switch {
		case errors.As(err, new(*pack.NotFoundError)):
			return nil, nil, loadError{err}
		case err != nil:
			problems = append(problems, err)
		default:
			packs = append(packs, p)
		}
	}
	return packs, problems, nil
}

// Help shows examples under `pack new --help`.
func (packNewCmd) Help() string {
	return `Examples:
  attune-run pack new mine
  attune-run pack new mine --runtime shell --dir ./packs`
}

type packNewCmd struct {
	Ref     string `arg:"" help:"Name of the pack."`
	Runtime string `default:"python" help:"Runtime of its first action: shell, python, node, go, perl, java."`
	Dir     string `default:"packs" type:"path" help:"Directory of packs to create it in."`
}

// Run creates a pack and says how to run it.
func (c *packNewCmd) Run(a *app) error {
	dir := filepath.Join(c.Dir, c.Ref)
	if err := pack.Scaffold(dir, c.Ref, c.Runtime); err != nil {
		return err
	}
	_, err := fmt.Fprintf(a.std.out, "created %s\ntry it: %s run --packs %s %s.hello -p name=you\ntest it: %s pack test %s\n", dir, a.name, c.Dir, c.Ref, a.name, dir)
	return err
}
