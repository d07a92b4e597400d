package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/nearest"
	"github.com/attune-run/attune/pack"
	"github.com/attune-run/attune/queue"
	"github.com/attune-run/attune/runtime"
)

// offersFor is how long what the catalog said is believed. What it did not say is asked again each time: a worker may have come.
const offersFor = 2 * time.Second

// offers are the actions of one pack, in all its versions.
type offers struct {
	at  time.Time
	all []queue.CatalogEntry
}

// target is what a request runs, and what that needs.
type target struct {
	action      string // "pack.name", or "script:…"
	pin         queue.Pin
	requirement executor.Requirement
	defaults    executor.Defaults
	schema      *pack.Schema // nil: unknown, or a script
}

// resolve finds the one version of an action that a request means: of what workers have offered, else of the local packs.
func (c *Client) resolve(ctx context.Context, req executor.Request) (target, error) {
	if req.Script != nil {
		return c.resolveScript(ctx, req)
	}
	entry, err := c.offered(ctx, req)
	if err != nil {
		return target{}, err
	}
	if entry == nil {
		return c.resolveLocal(ctx, req)
	}
	t := target{action: entry.Action, pin: entry.Pack}
	if err := json.Unmarshal(entry.Requirement, &t.requirement); err != nil {
		return t, fmt.Errorf("catalog: %s: requirement: %w", entry.Action, err)
	}
	t.defaults = executor.Defaults{Retries: entry.Retries, Backoff: time.Duration(entry.BackoffMS) * time.Millisecond, Limit: entry.Limit}
	if len(entry.Affinity) > 0 {
		if err := json.Unmarshal(entry.Affinity, &t.defaults.Affinity); err != nil {
			return t, fmt.Errorf("catalog: %s: affinity: %w", entry.Action, err)
		}
	}
	if t.schema, err = c.schema(entry); err != nil {
		return t, err
	}
	return c.adjust(t, req)
}

// adjust lays what the request asks for over what its action says.
func (c *Client) adjust(t target, req executor.Request) (target, error) {
	var err error
	if t.requirement, err = t.requirement.With(req); err != nil {
		return t, err
	}
	t.defaults, err = t.defaults.With(req)
	return t, err
}

func (c *Client) resolveScript(ctx context.Context, req executor.Request) (target, error) {
	if c.cfg.Service == nil {
		return target{}, refuse("submit it where attune-worker runs", "scripts cannot be submitted here: no runtimes are known")
	}
	requirement, defaults, err := c.cfg.Service.Requirement(ctx, req)
	name := "script:inline"
	if req.Script.Path != "" {
		name = "script:" + req.Script.Path
	}
	return target{action: name, requirement: requirement, defaults: defaults}, err
}

// resolveLocal asks the packs of this machine, where there are any.
func (c *Client) resolveLocal(ctx context.Context, req executor.Request) (target, error) {
	if c.cfg.Service == nil {
		return target{}, c.unknownAction(ctx, req.Action)
	}
	requirement, defaults, err := c.cfg.Service.Requirement(ctx, req)
	var missing *pack.NotFoundError
	if errors.As(err, &missing) {
		return target{}, c.unknownAction(ctx, req.Action)
	}
	if err != nil {
		return target{}, err
	}
	schema, err := c.cfg.Service.Parameters(req.Action)
	return target{
		action: bareAction(req.Action), pin: queue.Pin(requirement.Pack), requirement: requirement, defaults: defaults, schema: schema,
	}, err
}

// offered is the catalog's entry that fits best: the highest version, of one version what was offered last. Nil: there is none.
func (c *Client) offered(ctx context.Context, req executor.Request) (*queue.CatalogEntry, error) {
	name, constraint, _ := strings.Cut(req.Action, "@")
	wanted, err := runtime.ParseConstraint(constraint)
	if err != nil {
		return nil, refuse("", "action %s: %w", req.Action, err)
	}
	fits := func(e queue.CatalogEntry) bool {
		return e.Action == name && wanted.Match(e.Pack.Version) && (req.Pack.Digest == "" || req.Pack.Digest == e.Pack.Digest)
	}
	all, err := c.catalog(ctx, name, fits)
	if err != nil {
		return nil, err
	}
	var best *queue.CatalogEntry
	var versions []string
	for i := range all {
		e := &all[i]
		if e.Action == name {
			versions = append(versions, e.Pack.Version)
		}
		if fits(*e) && (best == nil || newer(e, best)) {
			best = e
		}
	}
	if best == nil && len(versions) > 0 && c.cfg.Service == nil {
		slices.Sort(versions)
		return nil, &RefusedError{Err: fmt.Errorf("no worker has offered %s%s; there is %s", req.Action, pinned(req.Pack), strings.Join(slices.Compact(versions), ", ")),
			Todo: "`attune-worker packs push DIR` adds a version", Exit: executor.ExitNotFound}
	}
	return best, nil
}

func pinned(pin executor.PackPin) string {
	if pin.Digest == "" {
		return ""
	}
	return " with digest " + pin.Digest
}

func newer(a, b *queue.CatalogEntry) bool {
	if order := runtime.CompareVersions(a.Pack.Version, b.Pack.Version); order != 0 {
		return order > 0
	}
	return a.UpdatedAt.After(b.UpdatedAt)
}

// catalog is what is offered of the pack of an action. What is remembered is enough where something in it fits.
func (c *Client) catalog(ctx context.Context, action string, fits func(queue.CatalogEntry) bool) ([]queue.CatalogEntry, error) {
	ref, _, ok := strings.Cut(action, ".")
	if !ok || ref == "" {
		return nil, c.unknownAction(ctx, action)
	}
	c.mu.Lock()
	known := c.offers[ref]
	c.mu.Unlock()
	if c.cfg.Now().Sub(known.at).Abs() < offersFor && slices.ContainsFunc(known.all, fits) {
		return known.all, nil
	}
	asked := c.asking.DoChan(ref, func() (any, error) { return c.lookUp(ctx, ref) })
	select {
	case answer := <-asked:
		all, _ := answer.Val.([]queue.CatalogEntry)
		return all, answer.Err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// lookUp asks the catalog, once for all who ask at the same time.
func (c *Client) lookUp(ctx context.Context, ref string) ([]queue.CatalogEntry, error) {
	at := c.cfg.Now()
	all, err := c.Catalog(context.WithoutCancel(ctx), ref)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offers[ref] = offers{at, all}
	return all, nil
}

// Catalog lists the actions that workers have offered, of one pack or with an empty ref of all. What cannot be read is left out:
// a newer attune may have written it.
func (c *Client) Catalog(ctx context.Context, ref string) ([]queue.CatalogEntry, error) {
	var all []queue.CatalogEntry
	for entry, err := range c.broker.Table(queue.Catalog).List(ctx, ref) {
		if err != nil {
			return nil, fmt.Errorf("catalog: %w", err)
		}
		var e queue.CatalogEntry
		if json.Unmarshal(entry.Value, &e) == nil && e.Schema == queue.CatalogSchema {
			all = append(all, e)
		}
	}
	return all, nil
}

func (c *Client) schema(e *queue.CatalogEntry) (*pack.Schema, error) {
	if len(e.Parameters) == 0 || string(e.Parameters) == "null" {
		return nil, nil
	}
	key := queue.CatalogKey(e.Pack, e.Action)
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.schemas[key]; known != nil {
		return known, nil
	}
	schema, err := pack.ParseSchema(e.Parameters)
	if err != nil {
		return nil, fmt.Errorf("catalog: %s: parameters: %w", e.Action, err)
	}
	c.schemas[key] = schema
	return schema, nil
}

// unknownAction names the action that was probably meant.
func (c *Client) unknownAction(ctx context.Context, name string) error {
	all, err := c.Catalog(ctx, "")
	if err != nil {
		return err
	}
	var names []string
	for _, e := range all {
		names = append(names, e.Action)
	}
	refused := &RefusedError{Err: fmt.Errorf("no worker has offered an action %s", name), Exit: executor.ExitNotFound,
		Todo: "`attune-worker packs ls --actions` shows what is offered; `attune-worker packs push DIR` adds a pack"}
	if near := nearest.Name(bareAction(name), names); near != "" {
		refused.Err = fmt.Errorf("%w; did you mean %s?", refused.Err, near)
	}
	if len(names) == 0 {
		refused.Todo = "no worker has been here yet: start one with `attune-worker serve`, or push packs with `attune-worker packs push DIR`"
	}
	return refused
}
