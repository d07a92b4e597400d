package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/requestflags"
	"github.com/attune-run/attune/internal/show"
	"github.com/attune-run/attune/pack"
	"github.com/attune-run/attune/queue"
	"github.com/attune-run/attune/worker"
)

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

type packsCmd struct {
	Push   packsPushCmd   `cmd:"" help:"Store a pack in the pool, where workers fetch it by its digest."`
	List   packsListCmd   `cmd:"" name:"ls" aliases:"list" help:"List the packs that were pushed, or the actions that are offered."`
	Remove packsRemoveCmd `cmd:"" name:"rm" aliases:"remove" help:"Take pushed packs away."`
}

type packsPushCmd struct {
	Dir []string `arg:"" type:"existingdir" predictor:"pack" help:"Directories of packs."`
	show.Format
}

// Run pushes packs.
func (c *packsPushCmd) Run(a *app) error {
	client, closer, err := a.client(signFlag{}, false)
	if err != nil {
		return err
	}
	defer closer()
	var pushed []queue.PackEntry
	for _, dir := range c.Dir {
		entry, err := c.push(a, client, dir)
		if err != nil {
			return fmt.Errorf("push %s: %w", dir, err)
		}
		pushed = append(pushed, entry)
	}
	return c.Show(a.std.out, pushed, packsHeader, packRows(pushed))
}

// push makes an engine that sees this pack before any other of its name.
func (c *packsPushCmd) push(a *app, client *worker.Client, dir string) (queue.PackEntry, error) {
	p, err := pack.Load(dir)
	if err != nil {
		return queue.PackEntry{}, hinted(err, "`attune-run pack validate` shows every problem of a pack with its place")
	}
	cfg, err := a.config()
	if err != nil {
		return queue.PackEntry{}, err
	}
	cfg.Packs = append([]string{filepath.Dir(p.Dir)}, cfg.Packs...)
	service, err := executor.New(cfg.Executor())
	if err != nil {
		return queue.PackEntry{}, err
	}
	return client.PushPack(a.ctx, p, service)
}

var packsHeader = []string{"PACK", "VERSION", "DIGEST", "SIZE", "PUSHED", "BY"}

func packRows(all []queue.PackEntry) [][]string {
	var rows [][]string
	for _, e := range all {
		rows = append(rows, []string{e.Pack.Ref, e.Pack.Version, e.Pack.Digest, show.Size(e.Size), show.Age(e.PushedAt), e.PushedBy})
	}
	return rows
}

type packsListCmd struct {
	Actions bool `help:"The actions that workers offer, pushed or not."`
	show.Format
}

// Run lists packs or actions.
func (c *packsListCmd) Run(a *app) error {
	return a.withClient(func(client *worker.Client) error {
		if c.Actions {
			return c.actions(a, client)
		}
		all, err := client.Packs(a.ctx)
		if err != nil {
			return err
		}
		return c.Show(a.std.out, show.OrEmpty(all), packsHeader, packRows(all))
	})
}

func (c *packsListCmd) actions(a *app, client *worker.Client) error {
	all, err := client.Catalog(a.ctx, "")
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b queue.CatalogEntry) int {
		return cmp.Or(cmp.Compare(a.Action, b.Action), cmp.Compare(a.Pack.Version, b.Pack.Version), cmp.Compare(a.Pack.Digest, b.Pack.Digest))
	})
	var rows [][]string
	for _, e := range all {
		rows = append(rows, []string{e.Action, e.Pack.Version, e.Pack.Digest, show.Age(e.UpdatedAt)})
	}
	return c.Show(a.std.out, show.OrEmpty(all), []string{"ACTION", "VERSION", "DIGEST", "OFFERED"}, rows)
}

type packsRemoveCmd struct {
	Name  []string `arg:"" help:"pack, pack@version, or the beginning of a digest."`
	Force bool     `help:"Also where executions still wait for it."`
}

// Run removes packs.
func (c *packsRemoveCmd) Run(a *app) error {
	return a.withClient(func(client *worker.Client) error {
		for _, name := range c.Name {
			removed, err := client.RemovePack(a.ctx, name, c.Force)
			if err != nil {
				return err
			}
			for _, e := range removed {
				if _, err := fmt.Fprintf(a.std.out, "removed %s %s %s\n", e.Pack.Ref, e.Pack.Version, e.Pack.Digest); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

type scheduleCmd struct {
	Add    scheduleAddCmd    `cmd:"" help:"Submit an action again and again."`
	List   scheduleListCmd   `cmd:"" name:"ls" aliases:"list" help:"List the schedules with their next times."`
	Remove scheduleRemoveCmd `cmd:"" name:"rm" aliases:"remove" help:"Take schedules away."`
}

type scheduleAddCmd struct {
	Name   string   `arg:"" help:"Name of the schedule: letters, digits, _ and -."`
	Cron   string   `arg:"" help:"Five fields as in crontab(5), in quotes, @hourly and its like, or \"@every 90s\"."`
	Target string   `arg:"" name:"action|script" predictor:"action" help:"What it submits."`
	Args   []string `arg:"" optional:"" help:"The script's own arguments, behind --."`

	Zone    string `placeholder:"ZONE" help:"Time zone whose clocks count, like Europe/Berlin; UTC unless said."`
	Missed  string `enum:",skip,once,all" default:"" placeholder:"M" help:"skip (default), once or all: what happens to times at which nobody was there."`
	Replace bool   `help:"Replace the schedule of that name."`

	requestflags.Flags `embed:""`
	placementFlags     `embed:""`
	signFlag           `embed:""`
	show.Format
}

// Run adds a schedule.
func (c *scheduleAddCmd) Run(a *app) error {
	client, closer, err := a.client(c.signFlag, len(a.cli.Packs) > 0 || requestflags.IsScript(c.Target) || c.Runtime != "")
	if err != nil {
		return err
	}
	defer closer()
	req, err := c.Request(c.Target, c.Args, a.std.in)
	if err != nil {
		return err
	}
	if err := c.fill(&req); err != nil {
		return err
	}
	s, err := client.AddSchedule(a.ctx, worker.NewSchedule{Name: c.Name, Cron: c.Cron, Zone: c.Zone, Missed: c.Missed, Request: req}, c.Replace)
	if err != nil {
		return err
	}
	return c.Show(a.std.out, s, scheduleHeader, scheduleRows([]worker.ScheduleStatus{s}))
}

var scheduleHeader = []string{"NAME", "CRON", "ZONE", "MISSED", "ACTION", "LAST", "NEXT", "BY"}

func scheduleRows(all []worker.ScheduleStatus) [][]string {
	var rows [][]string
	for _, s := range all {
		rows = append(rows, []string{s.Name, s.Cron, cmp.Or(s.Zone, "UTC"), cmp.Or(s.Missed, worker.MissedSkip), s.Action(), never(s.LastTick), never(s.Next), s.CreatedBy})
	}
	return rows
}

func never(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return show.Moment(t)
}

type scheduleListCmd struct{ show.Format }

// Run lists schedules.
func (c *scheduleListCmd) Run(a *app) error {
	return a.withClient(func(client *worker.Client) error {
		all, err := client.Schedules(a.ctx)
		if err != nil {
			return err
		}
		if err := c.Show(a.std.out, show.OrEmpty(all), scheduleHeader, scheduleRows(all)); err != nil || c.Output == "json" {
			return err
		}
		for _, s := range all {
			if trouble := s.Trouble(); trouble != "" {
				a.say("%s submits nothing: %s", s.Name, trouble)
			}
		}
		return nil
	})
}

type scheduleRemoveCmd struct {
	Name []string `arg:"" help:"Names of schedules."`
}

// Run removes schedules.
func (c *scheduleRemoveCmd) Run(a *app) error {
	return a.withClient(func(client *worker.Client) error {
		for _, name := range c.Name {
			if err := client.RemoveSchedule(a.ctx, name); err != nil {
				return err
			}
		}
		return nil
	})
}

type auditCmd struct {
	Since  timeFlag `placeholder:"TIME" help:"Since then: 2026-01-31T15:04:05Z, 2026-01-31, or 90m for so long ago."`
	Follow bool     `short:"f" help:"And what comes."`
}

// Run prints who did what, one JSON document on each line.
func (c *auditCmd) Run(a *app) error {
	return a.withClient(func(client *worker.Client) error {
		for line, err := range client.Audit(a.ctx, c.Since.Time, c.Follow) {
			if err != nil {
				return err
			}
			if err := show.Line(a.std.out, line); err != nil {
				return err
			}
		}
		return nil
	})
}

type keysCmd struct {
	New keysNewCmd `cmd:"" help:"Make a key that submissions are signed with."`
}

type keysNewCmd struct {
	File string `arg:"" type:"path" help:"Where the private key goes; the public one goes beside it, with .pub behind its name."`
}

// Run makes a key.
func (c *keysNewCmd) Run(a *app) error {
	key, err := pack.GenerateKey(c.File)
	if errors.Is(err, os.ErrExist) {
		return hinted(err, "remove it, or name another file")
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.std.out, "%s\n", key)
	return err
}

type dlqCmd struct {
	List  dlqListCmd  `cmd:"" name:"ls" aliases:"list" help:"List the executions that used up their attempts, and what could not be read."`
	Show  dlqShowCmd  `cmd:"" help:"Show one, as a document."`
	Retry dlqRetryCmd `cmd:"" help:"Submit them again, as new executions."`
	Drop  dlqDropCmd  `cmd:"" help:"Forget them."`
}

type dlqListCmd struct{ show.Format }

// Run lists dead letters.
func (c *dlqListCmd) Run(a *app) error {
	return a.withClient(func(client *worker.Client) error {
		all, err := client.DeadLetters(a.ctx)
		if err != nil {
			return err
		}
		var rows [][]string
		for _, d := range all {
			rows = append(rows, []string{d.ID, show.Age(d.At), d.Reason})
		}
		return c.Format.Show(a.std.out, show.OrEmpty(all), []string{"ID", "SINCE", "REASON"}, rows)
	})
}

type dlqShowCmd struct{ idArg }

// Run shows a dead letter.
func (c *dlqShowCmd) Run(a *app) error {
	return a.withClient(func(client *worker.Client) error {
		d, err := client.DeadLetter(a.ctx, c.ID)
		if err != nil {
			return err
		}
		return show.JSON(a.std.out, d)
	})
}

// letters are the ids of a command, or all there are.
type letters struct {
	ID  []string `arg:"" optional:"" name:"id" help:"Their ids."`
	All bool     `help:"All there are."`
}

func (l letters) each(a *app, do func(*worker.Client, string) error) error {
	if l.All == (len(l.ID) > 0) {
		return errors.New("name some, or say --all")
	}
	return a.withClient(func(client *worker.Client) error {
		ids := l.ID
		if l.All {
			all, err := client.DeadLetters(a.ctx)
			if err != nil {
				return err
			}
			for _, d := range all {
				ids = append(ids, d.ID)
			}
		}
		for _, id := range ids {
			if err := do(client, id); err != nil {
				return err
			}
		}
		return nil
	})
}

type dlqRetryCmd struct{ letters }

// Run submits dead letters again.
func (c *dlqRetryCmd) Run(a *app) error {
	return c.each(a, func(client *worker.Client, id string) error {
		accepted, err := client.RetryDead(a.ctx, id)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.std.out, "%s is now %s\n", id, accepted.ID)
		return err
	})
}

type dlqDropCmd struct{ letters }

// Run drops dead letters.
func (c *dlqDropCmd) Run(a *app) error {
	return c.each(a, func(client *worker.Client, id string) error { return client.DropDead(a.ctx, id) })
}

type queueCmd struct {
	Info    queueInfoCmd    `cmd:"" help:"Show what waits, on which route, and who could run it."`
	Promote queuePromoteCmd `cmd:"" help:"Bring what an embedded server holds to a cluster."`
}

type queueInfoCmd struct{ show.Format }

// Run shows the routes.
func (c *queueInfoCmd) Run(a *app) error {
	return a.withClient(func(client *worker.Client) error {
		info, err := client.QueueInfo(a.ctx)
		if err != nil {
			return err
		}
		var rows [][]string
		for _, r := range info.Routes {
			rows = append(rows, []string{r.Route, r.Needs, strconv.FormatUint(r.Waiting, 10), strconv.FormatUint(r.Taken, 10), strconv.Itoa(r.Workers), never(r.Oldest)})
		}
		if err := c.Show(a.std.out, info, []string{"ROUTE", "NEEDS", "WAITING", "TAKEN", "WORKERS", "OLDEST"}, rows); err != nil || c.Output == "json" {
			return err
		}
		_, err = fmt.Fprintf(a.std.out, "\nscheduler: %s\n", show.OrNone(strings.TrimSpace(info.Scheduler.Worker)))
		return err
	})
}
