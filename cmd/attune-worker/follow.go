package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/google/renameio/v2"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/show"
	"github.com/attune-run/attune/queue"
	"github.com/attune-run/attune/worker"
)

// userName is who does things where neither a key nor the broker says so.
func userName() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return "uid " + strconv.Itoa(os.Getuid())
}

type idArg struct {
	ID string `arg:"" name:"id" help:"Id of the execution, or its idempotency key."`
}

func (i idArg) id() string { return worker.IDOf(i.ID) }

type statusCmd struct {
	idArg
	show.Format
}

// Run shows how one execution stands.
func (c *statusCmd) Run(a *app) error {
	return a.withClient(func(client *worker.Client) error {
		s, err := client.Status(a.ctx, c.id())
		if err != nil {
			return err
		}
		rows := [][]string{{"id", s.ID}, {"action", s.Action}, {"state", string(s.State)}}
		add := func(name, value string) {
			if value != "" {
				rows = append(rows, []string{name, value})
			}
		}
		add("outcome", s.Outcome)
		add("waits for", s.Waits)
		if s.State == queue.Parked && !s.NotBefore.IsZero() {
			add("not before", show.Moment(s.NotBefore))
		}
		for _, why := range s.Unroutable {
			add("unroutable", why)
		}
		if len(s.Unroutable) > 0 && !s.Record.Unroutable.IsZero() {
			add("fails at", show.Moment(s.Record.Unroutable))
		}
		add("submitted", show.Moment(s.SubmittedAt)+" by "+show.OrNone(s.SubmittedBy))
		if s.Schedule != nil {
			add("schedule", s.Schedule.Name+" "+show.Moment(s.Schedule.At))
		}
		add("worker", s.Worker)
		if !s.ClaimedAt.IsZero() {
			add("claimed", show.Moment(s.ClaimedAt))
		}
		if !s.FinishedAt.IsZero() {
			add("finished", show.Moment(s.FinishedAt))
		}
		add("attempt", fmt.Sprintf("%d of %d, epoch %d", s.Attempt, s.Retries+1, s.Epoch))
		add("last error", s.LastError)
		return c.Show(a.std.out, s, []string{"WHAT", "VALUE"}, rows)
	})
}

type logsCmd struct {
	idArg
	Follow bool `short:"f" help:"Until it is done."`
}

// Run prints what an execution printed: its stdout on stdout, its stderr on stderr.
func (c *logsCmd) Run(a *app) error {
	return a.withClient(func(client *worker.Client) error {
		if _, err := client.Record(a.ctx, c.id()); err != nil {
			return err
		}
		err := showLogs(a.ctx, client, c.id(), c.Follow, func(chunk queue.LogChunk) error {
			out := a.std.out
			if chunk.Stream == "stderr" {
				out = a.std.err
			}
			_, err := out.Write(chunk.Data)
			return err
		}, a.say)
		if errors.Is(err, syscall.EPIPE) {
			return nil
		}
		return err
	})
}

type resultCmd struct {
	idArg
	Wait bool `help:"Until it is done."`
}

// Run prints the result document.
func (c *resultCmd) Run(a *app) error {
	return a.withClient(func(client *worker.Client) error {
		_, document, err := resultOf(a.ctx, client, c.id(), c.Wait)
		if err != nil {
			return err
		}
		_, err = a.std.out.Write(append(bytes.TrimRight(document, "\n"), '\n'))
		return err
	})
}

func resultOf(ctx context.Context, client *worker.Client, id string, wait bool) (*queue.Record, json.RawMessage, error) {
	r, err := client.Record(ctx, id)
	if err == nil && wait {
		r, err = client.Wait(ctx, id)
	}
	if err != nil {
		return nil, nil, err
	}
	document, err := client.Result(ctx, r)
	return r, document, err
}

type artifactsCmd struct {
	List artifactsListCmd `cmd:"" aliases:"ls" help:"List the files that an execution left behind."`
	Get  artifactsGetCmd  `cmd:"" help:"Copy them to a directory."`
}

func artifactsOf(ctx context.Context, client *worker.Client, id string) ([]executor.Artifact, error) {
	_, document, err := resultOf(ctx, client, id, false)
	if err != nil {
		return nil, err
	}
	var result struct{ Artifacts []executor.Artifact }
	return result.Artifacts, json.Unmarshal(document, &result)
}

type artifactsListCmd struct {
	idArg
	show.Format
}

// Run lists artifacts.
func (c *artifactsListCmd) Run(a *app) error {
	return a.withClient(func(client *worker.Client) error {
		all, err := artifactsOf(a.ctx, client, c.id())
		if err != nil {
			return err
		}
		var rows [][]string
		for _, one := range all {
			rows = append(rows, []string{one.Path, show.Size(one.Size), one.Digest})
		}
		return c.Show(a.std.out, show.OrEmpty(all), []string{"PATH", "SIZE", "DIGEST"}, rows)
	})
}

type artifactsGetCmd struct {
	idArg
	Path []string `arg:"" optional:"" help:"Those to copy; all of them unless said."`
	Into string   `default:"." type:"path" placeholder:"DIR" help:"Directory that receives them; . unless said."`
}

// Run copies artifacts, each whole or not at all.
func (c *artifactsGetCmd) Run(a *app) error {
	return a.withClient(func(client *worker.Client) error {
		all, err := artifactsOf(a.ctx, client, c.id())
		if err != nil {
			return err
		}
		known := map[string]executor.Artifact{}
		for _, one := range all {
			known[one.Path] = one
		}
		names := c.Path
		if len(names) == 0 {
			for _, one := range all {
				names = append(names, one.Path)
			}
		}
		for _, name := range names {
			one, ok := known[name]
			if !ok {
				return hinted(fmt.Errorf("execution %s left no artifact %s", c.id(), name), "`attune-worker artifacts ls "+c.id()+"` lists them")
			}
			if err := c.copy(a, client, one); err != nil {
				return fmt.Errorf("artifact %s: %w", name, err)
			}
		}
		return nil
	})
}

// copy writes one file below Into; its path comes from the action and stays below it, also through links.
func (c *artifactsGetCmd) copy(a *app, client *worker.Client, one executor.Artifact) error {
	if !filepath.IsLocal(one.Path) {
		return errors.New("its path leads out of the directory")
	}
	target := filepath.Join(c.Into, one.Path)
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	root, err := filepath.EvalSymlinks(c.Into)
	if err != nil {
		return err
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(target))
	if err != nil {
		return err
	}
	if inside, err := filepath.Rel(root, parent); err != nil || !filepath.IsLocal(inside) {
		return errors.New("its path leads out of the directory through a link")
	}
	r, err := client.Artifact(a.ctx, c.id(), one)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	f, err := renameio.NewPendingFile(target, renameio.WithPermissions(0o644))
	if err != nil {
		return err
	}
	defer func() { _ = f.Cleanup() }()
	if _, err := io.Copy(f, r); err != nil {
		return err
	}
	return f.CloseAtomicallyReplace()
}

type cancelCmd struct {
	ID []string `arg:"" name:"id" help:"Ids of executions, or their idempotency keys."`
}

// Run cancels executions.
func (c *cancelCmd) Run(a *app) error {
	return a.withClient(func(client *worker.Client) error {
		for _, id := range c.ID {
			r, err := client.Cancel(a.ctx, worker.IDOf(id))
			if err != nil {
				return err
			}
			word := "canceled"
			switch {
			case r.State == queue.Running:
				word = "its worker " + r.Worker + " was told to end it"
			case r.Outcome != string(executor.Canceled):
				word = "it was over already: " + r.Outcome
			}
			if _, err := fmt.Fprintf(a.std.out, "%s: %s\n", r.ID, word); err != nil {
				return err
			}
		}
		return nil
	})
}

type listCmd struct {
	State      string   `enum:",queued,parked,running,done" default:"" placeholder:"S" help:"queued, parked, running or done."`
	Action     string   `placeholder:"GLOB" predictor:"action" help:"Like core.* or core.echo."`
	Worker     string   `placeholder:"NAME" help:"Who runs it or ran it last."`
	Outcome    string   `enum:",succeeded,failed,timed_out,canceled,interrupted,error" default:"" placeholder:"S" help:"succeeded, failed, timed_out, canceled, interrupted or error."`
	Since      timeFlag `placeholder:"TIME" help:"Submitted since then: 2026-01-31T15:04:05Z, 2026-01-31, or 90m for so long ago."`
	Unroutable bool     `help:"Those that no live worker is able to run."`
	Limit      int      `default:"100" placeholder:"N" help:"The newest N (100); 0 means all."`
	show.Format
}

// Run lists executions, the newest first.
func (c *listCmd) Run(a *app) error {
	return a.withClient(func(client *worker.Client) error {
		all, err := client.List(a.ctx, worker.Filter{
			State: queue.State(c.State), Action: c.Action, Worker: c.Worker, Outcome: c.Outcome, Since: c.Since.Time,
			Unroutable: c.Unroutable, Limit: c.Limit,
		})
		if err != nil {
			return err
		}
		var rows [][]string
		for _, s := range all {
			rows = append(rows, []string{s.ID, s.Action, outcome(s.Record), s.Worker, strconv.Itoa(s.Attempt), show.Age(s.SubmittedAt), note(s)})
		}
		return c.Show(a.std.out, show.OrEmpty(all), []string{"ID", "ACTION", "STATE", "WORKER", "ATTEMPT", "SUBMITTED", "NOTE"}, rows)
	})
}

// note says why something does not go on.
func note(s worker.Status) string {
	switch {
	case len(s.Unroutable) > 0:
		return "unroutable: " + s.Unroutable[0]
	case s.State == queue.Parked && s.Waits == queue.WaitsForPlace:
		return fmt.Sprintf("waits for one of %d places", s.Limit)
	case s.State == queue.Parked:
		return "not before " + show.Moment(s.NotBefore)
	case s.State == queue.Done:
		return ""
	}
	return s.LastError
}

type workersCmd struct{ show.Format }

// Run lists the workers that were heard of lately.
func (c *workersCmd) Run(a *app) error {
	return a.withClient(func(client *worker.Client) error {
		all, err := client.Workers(a.ctx)
		if err != nil {
			return err
		}
		var rows [][]string
		for _, w := range all {
			state := "serving"
			if w.Draining {
				state = "draining"
			}
			rows = append(rows, []string{w.Name, state, fmt.Sprintf("%d/%d", w.Busy, w.Slots), w.Mode, labels(w.Labels), w.Version, w.Host, show.Age(w.SeenAt)})
		}
		return c.Show(a.std.out, show.OrEmpty(all), []string{"NAME", "STATE", "BUSY", "MODE", "LABELS", "VERSION", "HOST", "SEEN"}, rows)
	})
}

func labels(all map[string]string) string {
	var words []string
	for _, name := range sorted(all) {
		words = append(words, name+"="+all[name])
	}
	return strings.Join(words, " ")
}
