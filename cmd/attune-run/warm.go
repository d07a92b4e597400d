package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/config"
	"github.com/attune-run/attune/internal/show"
	"github.com/attune-run/attune/recipe"
)

type envWarmCmd struct {
	Actions []string `arg:"" optional:"" name:"action" help:"Globs of actions: examples.*; all of all packs without any."`

	Concurrency   int    `placeholder:"N" help:"Environments built at once; the number of processors without it."`
	KeepDownloads bool   `help:"Keep what installers downloaded, logs too, in a cache that this makes."`
	Locked        bool   `help:"Refuse dependencies without a lock file or hashes."`
	Network       string `enum:",online,prefer-offline,offline" default:"" placeholder:"N" help:"online, prefer-offline or offline."`
	RetryFailed   bool   `help:"Build although the last build failed a moment ago."`
	Quiet         bool   `short:"q" help:"No progress."`
	show.Format
}

// Help shows examples under `env warm --help`.
func (envWarmCmd) Help() string {
	return `Examples:
  attune-run env warm                                              (fill the own cache)
  attune-run env warm --packs ./packs --cache /opt/attune/cache    (while an image is built: a layer for --layer)

A cache that this makes can be read by everybody, and holds no downloads.`
}

// Run builds everything the actions could need here; it fails when something could not be built.
func (c *envWarmCmd) Run(a *app) error {
	cfg, err := config.Load(a.cli.flags(), config.Defaults{}, os.Environ())
	if err != nil {
		return err
	}
	_, missing := os.Stat(filepath.Join(cfg.Cache, "v1"))
	engine := cfg.Executor()
	engine.Readable = true // unless it is there already
	service, err := executor.New(engine)
	if err != nil {
		return err
	}
	if err := service.Start(a.ctx); err != nil {
		return err
	}
	store, err := service.Store()
	if err != nil {
		return err
	}
	ctx, _ := signals(a.ctx)
	rows, err := service.Prepare(ctx, executor.PrepareOptions{
		Actions: c.Actions, Concurrency: c.Concurrency, Locked: c.Locked, Network: recipe.Network(c.Network), RetryFailed: c.RetryFailed,
		Progress: progressOf(a, c.Quiet),
	})
	if err != nil {
		return err
	}
	if missing != nil && !c.KeepDownloads {
		if err := store.Strip(ctx); err != nil {
			return err
		}
	}
	return c.report(a, rows)
}

// progressOf prints a line for each phase of each build.
func progressOf(a *app, quiet bool) func(executor.Prepared, envcache.Progress) {
	if quiet {
		return nil
	}
	var mu sync.Mutex
	said := map[string]string{}
	return func(row executor.Prepared, p envcache.Progress) {
		mu.Lock()
		defer mu.Unlock()
		if said[row.Key] != p.Phase {
			said[row.Key] = p.Phase
			_, _ = fmt.Fprintf(a.std.err, "%s: %s: %s\n", a.name, strings.Join(row.Actions, ", "), p.Phase)
		}
	}
}

func (c *envWarmCmd) report(a *app, rows []executor.Prepared) error {
	table, failed := [][]string{}, 0
	for _, r := range rows {
		reason, _, _ := strings.Cut(r.Reason, "\n")
		table = append(table, []string{strings.Join(r.Actions, " "), r.Runtime, r.Version, r.State, r.Key, reason})
		if r.Err != nil {
			failed++
			_, _ = fmt.Fprintf(a.std.err, "%s: error: %s: %s\n", a.name, strings.Join(r.Actions, ", "), r.Reason)
		}
	}
	if err := c.Show(a.std.out, show.OrEmpty(rows), []string{"ACTIONS", "RUNTIME", "VERSION", "STATE", "KEY", "REASON"}, table); err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d could not be made ready", failed, len(rows))
	}
	return nil
}
