package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/config"
	"github.com/attune-run/attune/internal/show"
	"github.com/attune-run/attune/recipe"
)

type envCmd struct {
	List    envListCmd    `cmd:"" help:"List the environments of the cache and its layers."`
	Show    envShowCmd    `cmd:"" help:"Show one environment: what is in it, and who uses it."`
	Path    envPathCmd    `cmd:"" help:"Print the directory of an action's or a script's environment."`
	Key     envKeyCmd     `cmd:"" help:"Print the key of an action's or a script's environment."`
	Explain envExplainCmd `cmd:"" help:"Show everything that decides the key."`
	Du      envDuCmd      `cmd:"" help:"Show how much room environments take."`
	Warm    envWarmCmd    `cmd:"" help:"Build the environments of packs now, into an image's layer for one."`
	Verify  envVerifyCmd  `cmd:"" help:"Compare environments with how they were built."`
	Prune   envPruneCmd   `cmd:"" help:"Remove environments that were not used for long, or that do not fit."`
	Remove  envRemoveCmd  `cmd:"" help:"Remove environments by key."`
	Export  envExportCmd  `cmd:"" help:"Pack environments for another machine with the same root."`
	Import  envImportCmd  `cmd:"" help:"Unpack what env export packed."`
}

// store opens the environment store.
func (a *app) store() (*envcache.Store, error) {
	service, _, err := a.service()
	if err != nil {
		return nil, err
	}
	return service.Store()
}

type envListCmd struct{ show.Format }

// Run lists what the store holds.
func (c *envListCmd) Run(a *app) error {
	store, err := a.store()
	if err != nil {
		return err
	}
	infos, err := store.List(a.ctx, c.Output == "json")
	if err != nil {
		return err
	}
	rows := make([][]string, 0, len(infos))
	for _, i := range infos {
		rows = append(rows, []string{i.ID, i.State, kind(i), i.Interpreter.Version, show.Size(i.Size), show.Age(i.LastUsed), users(i), i.Layer})
	}
	return c.Show(a.std.out, show.OrEmpty(infos), []string{"KEY", "STATE", "KIND", "INTERPRETER", "SIZE", "LAST USED", "USED BY", "LAYER"}, rows)
}

// kind is what made the environment, without the recipe's version: "virtualenv".
func kind(i envcache.Info) string {
	name, _, _ := strings.Cut(i.Kind, "/")
	return name
}

// users says who uses an environment now.
func users(i envcache.Info) string {
	if !i.InUse {
		return ""
	}
	if len(i.UsedBy) == 0 {
		return "somebody"
	}
	names := make([]string, len(i.UsedBy))
	for n, p := range i.UsedBy {
		names[n] = fmt.Sprintf("%d (%s)", p.PID, p.Command)
	}
	return strings.Join(names, ", ")
}

type envShowCmd struct {
	Key string `arg:"" help:"Key, or a prefix that names one environment."`
	show.Format
}

// Run shows all that is recorded of one environment.
func (c *envShowCmd) Run(a *app) error {
	store, err := a.store()
	if err != nil {
		return err
	}
	info, err := store.Get(c.Key)
	if err != nil {
		return err
	}
	rows := [][]string{
		{"key", info.ID}, {"state", strings.TrimSpace(info.State + " " + info.Problem)}, {"path", info.Dir}, {"layer", show.OrNone(info.Layer)},
		{"interpreter", strings.TrimSpace(info.Interpreter.Version + " " + info.Interpreter.Path)},
		{"size", fmt.Sprintf("%s in %d files", show.Size(info.Size), info.Files)},
		{"built", show.Moment(info.CreatedAt)}, {"last used", show.Moment(info.LastUsed)}, {"used by", show.OrNone(users(info))},
		{"locked", strconv.FormatBool(info.Built.Locked)},
	}
	if !info.RetryAt.IsZero() {
		rows = append(rows, []string{"tried again", show.Moment(info.RetryAt)})
	}
	for _, input := range info.Inputs {
		rows = append(rows, []string{"input " + input.Name, input.Value})
	}
	for _, name := range info.Built.Resolved {
		rows = append(rows, []string{"installed", name})
	}
	return c.Show(a.std.out, info, []string{"WHAT", "VALUE"}, rows)
}

// environmentOf is what the three commands about one environment share.
type environmentOf struct {
	target `embed:""`
}

func (c *environmentOf) explain(a *app) (executor.Explanation, error) {
	req, err := c.request(a)
	if err != nil {
		return executor.Explanation{}, err
	}
	service, _, err := a.service()
	if err != nil {
		return executor.Explanation{}, err
	}
	e, err := service.Explain(a.ctx, req)
	switch {
	case err != nil:
		return e, err
	case len(e.Problems) > 0:
		return e, errors.New(strings.Join(e.Problems, "; "))
	case e.Environment.State == "none":
		return e, fmt.Errorf("%s needs no environment", e.Action)
	}
	return e, nil
}

type envPathCmd struct{ environmentOf }

// Run prints the directory; one that is not built yet is an error.
func (c *envPathCmd) Run(a *app) error {
	e, err := c.explain(a)
	if err != nil {
		return err
	}
	if e.Environment.Path == "" {
		return fmt.Errorf("the environment %s of %s is not built yet; the first run builds it", e.Environment.Key, e.Action)
	}
	_, err = fmt.Fprintln(a.std.out, e.Environment.Path)
	return err
}

type envKeyCmd struct{ environmentOf }

// Run prints the key.
func (c *envKeyCmd) Run(a *app) error {
	e, err := c.explain(a)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.std.out, e.Environment.Key)
	return err
}

type envExplainCmd struct {
	environmentOf
	show.Format
}

// Run shows the inputs of the key.
func (c *envExplainCmd) Run(a *app) error {
	e, err := c.explain(a)
	if err != nil {
		return err
	}
	rows := [][]string{{"key", e.Environment.Key}, {"state", strings.TrimSpace(e.Environment.State + " " + e.Environment.Layer)}}
	for _, input := range e.Environment.Inputs {
		rows = append(rows, []string{input.Name, input.Value})
	}
	return c.Show(a.std.out, e.Environment, []string{"INPUT", "VALUE"}, rows)
}

type envDuCmd struct {
	All bool `help:"Walk the installers' download caches, the logs and the trash as well; sizes of environments are recorded."`
	show.Format
}

// Run shows sizes, largest first.
func (c *envDuCmd) Run(a *app) error {
	store, err := a.store()
	if err != nil {
		return err
	}
	infos, err := store.List(a.ctx, false)
	if err != nil {
		return err
	}
	slices.SortStableFunc(infos, func(a, b envcache.Info) int { return int(min(max(b.Size-a.Size, -1), 1)) })
	type row struct {
		What  string `json:"what"`
		Size  int64  `json:"size"` // bytes
		Files int    `json:"files,omitempty"`
		Layer string `json:"layer,omitempty"`
	}
	all, total := []row{}, int64(0)
	for _, i := range infos {
		all = append(all, row{i.ID, i.Size, i.Files, i.Layer})
		total += i.Size
	}
	if c.All {
		for name, size := range store.Overhead() {
			all = append(all, row{What: name, Size: size})
			total += size
		}
	}
	table := make([][]string, 0, len(all)+1)
	for _, r := range all {
		files := ""
		if r.Files > 0 {
			files = strconv.Itoa(r.Files)
		}
		table = append(table, []string{r.What, show.Size(r.Size), files, r.Layer})
	}
	table = append(table, []string{"total", show.Size(total), "", ""})
	return c.Show(a.std.out, map[string]any{"total": total, "items": all}, []string{"WHAT", "SIZE", "FILES", "LAYER"}, table)
}

type envVerifyCmd struct {
	Keys   []string `arg:"" optional:"" name:"key" help:"Keys, or prefixes that name one environment; all without any."`
	Repair bool     `help:"Give damaged environments up, so that the next run builds them again."`
	show.Format
}

// Run walks environments and exits with 1 when one is damaged.
func (c *envVerifyCmd) Run(a *app) error {
	store, err := a.store()
	if err != nil {
		return err
	}
	if len(c.Keys) == 0 {
		infos, err := store.List(a.ctx, false)
		if err != nil {
			return err
		}
		for _, i := range infos {
			if i.State == envcache.Ready || i.State == envcache.Broken {
				c.Keys = append(c.Keys, i.ID)
			}
		}
	}
	all, rows, damaged := []envcache.Verification{}, [][]string{}, false
	for _, key := range c.Keys {
		v, err := store.Verify(a.ctx, key)
		if err != nil {
			return err
		}
		result := "ok"
		if len(v.Problems) > 0 {
			result, damaged = strings.Join(v.Problems, "; "), true
			if c.Repair {
				if err := store.GiveUp(a.ctx, v.ID, v.Problems[0]); err != nil {
					return err
				}
				result += " (given up)"
			}
		}
		all, rows = append(all, v), append(rows, []string{v.ID, strconv.Itoa(v.Files), result})
	}
	if err := c.Show(a.std.out, all, []string{"KEY", "FILES", "RESULT"}, rows); err != nil {
		return err
	}
	if damaged {
		return exitCode(1)
	}
	return nil
}

type envPruneCmd struct {
	MaxSize   config.Size       `placeholder:"SIZE" help:"Keep at most this much, the most recently used: 500M, 10G."`
	MaxAge    executor.Duration `placeholder:"DURATION" help:"Remove what was not used for this long: 720h."`
	Downloads bool              `help:"Remove the installers' download caches as well."`
	DryRun    bool              `help:"Only show what would be removed."`
	NetworkFS bool              `name:"network-fs" help:"Prune on a network file system, where what other hosts use cannot be seen."`
	show.Format
}

// Run removes what the flags name, and always what nobody needs: abandoned builds, trash, old logs.
func (c *envPruneCmd) Run(a *app) error {
	store, err := a.store()
	if err != nil {
		return err
	}
	if c.MaxAge < 0 {
		return fmt.Errorf("--max-age %s is negative", time.Duration(c.MaxAge))
	}
	report, err := store.Prune(a.ctx, envcache.Policy{
		MaxSize: int64(c.MaxSize), MaxAge: time.Duration(c.MaxAge), Downloads: c.Downloads, DryRun: c.DryRun, Network: c.NetworkFS,
	})
	if err != nil {
		return err
	}
	rows := [][]string{}
	done, freed := "removed", "freed"
	if c.DryRun {
		done, freed = "would remove", "would free"
	}
	for _, r := range report.Removed {
		rows = append(rows, []string{done, r.ID, show.Size(r.Size), r.Why})
	}
	for _, r := range report.Kept {
		rows = append(rows, []string{"kept", r.ID, show.Size(r.Size), r.Why})
	}
	rows = append(rows, []string{freed, "", show.Size(report.Freed), show.Size(report.Left) + " left"})
	return c.Show(a.std.out, report, []string{"WHAT", "KEY", "SIZE", "WHY"}, rows)
}

type envRemoveCmd struct {
	Keys []string `arg:"" name:"key" help:"Keys, or prefixes that name one environment."`
}

// Run removes all that can be removed and says what could not.
func (c *envRemoveCmd) Run(a *app) error {
	store, err := a.store()
	if err != nil {
		return err
	}
	var failures []error
	for _, key := range c.Keys {
		info, err := store.Get(key)
		if err == nil {
			err = store.Remove(a.ctx, info.ID)
		}
		if err != nil {
			failures = append(failures, err)
			continue
		}
		_, _ = fmt.Fprintf(a.std.out, "removed %s (%s)\n", info.ID, show.Size(info.Size))
	}
	return errors.Join(failures...)
}

type envExportCmd struct {
	What   []string `arg:"" name:"key|action" help:"Keys or prefixes of them, actions (pack.action) or scripts whose environments are built." predictor:"action"`
	Output string   `short:"o" required:"" placeholder:"FILE" type:"path" help:"The archive (tar.gz); - is stdout."`
	Root   string   `placeholder:"DIR" help:"Root of the cache on the other machine; the same as here without it."`
}

// Run packs environments.
func (c *envExportCmd) Run(a *app) error {
	service, _, err := a.service()
	if err != nil {
		return err
	}
	store, err := service.Store()
	if err != nil {
		return err
	}
	var keys []string
	for _, what := range c.What {
		key := what
		if runnable(what) {
			of := environmentOf{target{Target: what}}
			e, err := of.explain(a)
			if err != nil {
				return err
			}
			if key = e.Environment.Key; e.Environment.Path == "" {
				return fmt.Errorf("the environment %s of %s is not built yet; run it, or use env warm", key, what)
			}
		}
		keys = append(keys, key)
	}
	if c.Output == "-" {
		return store.Export(a.ctx, a.std.out, keys, c.Root)
	}
	f, err := renameio.NewPendingFile(c.Output, renameio.WithPermissions(0o644))
	if err != nil {
		return err
	}
	defer func() { _ = f.Cleanup() }()
	if err := store.Export(a.ctx, f, keys, c.Root); err != nil {
		return err
	}
	return f.CloseAtomicallyReplace()
}

type envImportCmd struct {
	File string `arg:"" help:"An archive of env export; - is stdin."`
}

// Run unpacks environments into the cache.
func (c *envImportCmd) Run(a *app) error {
	store, err := a.store()
	if err != nil {
		return err
	}
	in := a.std.in
	if c.File != "-" {
		if in, err = os.Open(c.File); err != nil {
			return err
		}
		defer func() { _ = in.Close() }()
	}
	ids, err := store.Import(a.ctx, in, recipe.LibC)
	for _, id := range ids {
		_, _ = fmt.Fprintf(a.std.out, "imported %s\n", id)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", c.File, err)
	}
	return nil
}
