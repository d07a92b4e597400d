package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/bundle"
	"github.com/attune-run/attune/internal/config"
	"github.com/attune-run/attune/internal/show"
	"github.com/attune-run/attune/recipe"
)

type bundleCmd struct {
	For     string   `required:"" placeholder:"TARGET" help:"lambda:provided.al2023, lambda:python3.13, lambda:nodejs22.x or lambda:image; -x86_64 or -arm64 behind it for another machine than this."`
	Output  string   `short:"o" required:"" placeholder:"FILE" type:"path" help:"The archive, FILE.zip; else a directory, for an image."`
	Actions []string `placeholder:"GLOB" help:"Actions to bundle, with their packs (repeatable): ops.*; all of all packs without any."`

	As                  string `enum:"function,layer" default:"function" placeholder:"KIND" help:"function, or layer, which several functions may share (${default})."`
	Bootstrap           string `placeholder:"FILE" type:"existingfile" help:"attune-lambda for the target; looked for beside attune without it."`
	RequireEnvironments bool   `help:"Fail where an environment cannot be in the bundle."`
	Concurrency         int    `placeholder:"N" help:"Environments built at once; the number of processors without it."`
	Locked              bool   `help:"Refuse dependencies without a lock file or hashes."`
	Network             string `enum:",online,prefer-offline,offline" default:"" placeholder:"N" help:"online, prefer-offline or offline."`
	Quiet               bool   `short:"q" help:"No progress, and no table."`
	JSON                bool   `name:"json" help:"Print the report as JSON."`

	Here bool `hidden:"" help:"The bundle's cache is where it will be at the target, or may be made there."`
}

// Help shows examples under `bundle --help`.
func (bundleCmd) Help() string {
	return `Examples:
  attune bundle --for lambda:provided.al2023-arm64 --actions 'core.*' -o fn.zip
  attune bundle --for lambda:python3.13 --packs ./packs --actions 'ops.*' -o fn.zip    (in that runtime's base image)
  attune bundle --for lambda:python3.13 --as layer -o layer.zip
  attune lambda invoke --local fn.zip --event event.json

An environment is in the bundle when it can be built for the target here; what is left out, and why, is said. Where namespaces
or root allow it, it is built at the path it will have, and nothing of this machine is touched.`
}

// Run makes the bundle; where the machine allows it, in a second process that sees the target's paths.
func (c *bundleCmd) Run(a *app) error {
	target, err := bundle.ParseTarget(c.For)
	if err != nil {
		return err
	}
	ctx, _ := signals(a.ctx)
	if !c.Here {
		if code, ok, err := bundle.Rerun(ctx, target, c.As == "layer", "--here"); ok {
			if err == nil {
				err = exitCode(code)
			}
			return err
		}
	}
	cfg, err := config.Load(a.cli.flags(), config.Defaults{}, os.Environ())
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	bootstrap, err := bundle.FindBootstrap(target, c.Bootstrap, filepath.Dir(self))
	if err != nil {
		return err
	}
	report, err := bundle.Build(ctx, bundle.Options{
		Target: target, Layer: c.As == "layer", Output: c.Output, Bootstrap: bootstrap, Actions: c.Actions, Engine: cfg.Executor(),
		Prepare: executor.PrepareOptions{
			Concurrency: c.Concurrency, Locked: c.Locked, Network: recipe.Network(c.Network), Progress: progressOf(a, c.Quiet),
		},
		RequireEnvironments: c.RequireEnvironments,
	})
	if err != nil {
		return err
	}
	return c.report(a, target, report)
}

func (c *bundleCmd) report(a *app, target bundle.Target, report bundle.Report) error {
	for _, warning := range report.Warnings {
		_, _ = fmt.Fprintf(a.std.err, "%s: warning: %s\n", a.name, warning)
	}
	table, actions := [][]string{}, map[string][]string{} // by state
	for _, e := range slices.Concat(report.Environments, report.Others) {
		table = append(table, []string{strings.Join(e.Actions, " "), e.Runtime, e.Version, e.State, e.Reason})
		actions[e.State] = append(actions[e.State], e.Actions...)
	}
	if names := actions[bundle.NoUse]; len(names) > 0 {
		_, _ = fmt.Fprintf(a.std.err, "%s: warning: %s: the target has no runtime for that\n", a.name, strings.Join(names, ", "))
	}
	if names := actions[bundle.LeftOut]; len(names) > 0 {
		_, _ = fmt.Fprintf(a.std.err, "%s: warning: %s: no environment in the bundle; the function builds it when it is needed, if it can\n  hint: %s\n",
			a.name, strings.Join(names, ", "), target.Remedy())
	}
	if c.JSON {
		return show.JSON(a.std.out, report)
	}
	if c.Quiet {
		return nil
	}
	if err := show.Table(a.std.out, []string{"ACTIONS", "RUNTIME", "VERSION", "ENVIRONMENT", "REASON"}, table); err != nil {
		return err
	}
	size := show.Size(report.Unpacked) + " unpacked"
	if report.Packed > 0 {
		size = show.Size(report.Packed) + ", " + size
	}
	_, err := fmt.Fprintf(a.std.out, "%s: %d files, %s\n", report.Output, report.Files, size)
	return err
}
