package worker

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/pack"
	"github.com/attune-run/attune/queue"
)

// PushPack stores a pack by its digest, and offers its actions. The same pack pushed again changes nothing; service, one that finds the
// pack among its own, says what its actions require.
func (c *Client) PushPack(ctx context.Context, p *pack.Pack, service *executor.Service) (queue.PackEntry, error) {
	entries, err := catalogOf(ctx, p, service)
	if err != nil {
		return queue.PackEntry{}, err
	}
	pin := entries[0].Pack
	var bundle bytes.Buffer
	if err := p.WriteBundle(&bundle); err != nil {
		return queue.PackEntry{}, fmt.Errorf("bundle pack %s: %w", p.Ref, err)
	}
	if digest, err := p.Digest(); err != nil || digest != pin.Digest {
		return queue.PackEntry{}, errors.Join(err, fmt.Errorf("pack %s changed while it was read", p.Ref))
	}
	c.lookAtClock(ctx)
	now := c.cfg.Now().UTC()
	e := queue.PackEntry{Pack: pin, Object: queue.PackObject(pin.Digest), Size: int64(bundle.Len()), PushedBy: c.who(), PushedAt: now}
	if err := c.broker.Objects().Put(ctx, e.Object, &bundle); err != nil {
		return e, fmt.Errorf("store pack %s: %w", p.Ref, err)
	}
	value, err := encode(e)
	if err != nil {
		return e, err
	}
	if _, err := c.broker.Table(queue.Packs).Put(ctx, queue.PackKey(pin), value); err != nil {
		return e, fmt.Errorf("list pack %s: %w", p.Ref, err)
	}
	for _, entry := range entries {
		entry.UpdatedAt = now
		value, err := encode(entry)
		if err != nil {
			return e, err
		}
		if _, err := c.broker.Table(queue.Catalog).Put(ctx, queue.CatalogKey(pin, entry.Action), value); err != nil {
			return e, fmt.Errorf("offer %s: %w", entry.Action, err)
		}
	}
	return e, c.audit(ctx, queue.AuditLine{What: "packs.push", Digest: pin.Digest, Detail: pin.Ref + " " + pin.Version})
}

// catalogOf are the actions of a pack that a service has, with what they require. Disabled ones are left out.
func catalogOf(ctx context.Context, p *pack.Pack, service *executor.Service) ([]queue.CatalogEntry, error) {
	actions, problems := p.Actions()
	if len(problems) > 0 {
		return nil, &RefusedError{Err: errors.Join(problems...), Todo: "`attune-run pack validate` shows every problem of a pack with its place"}
	}
	var entries []queue.CatalogEntry
	for _, action := range actions {
		if !action.Enabled {
			continue
		}
		requirement, defaults, err := service.Requirement(ctx, executor.Request{Action: action.Ref})
		if err != nil {
			return nil, fmt.Errorf("action %s: %w", action.Ref, err)
		}
		entry, err := catalogEntry(executor.Offer{Action: action.Ref, Requirement: requirement, Defaults: defaults, Parameters: action.Parameters})
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry)
	}
	if len(entries) == 0 {
		return nil, refuse("", "pack %s has no action that is enabled", p.Ref)
	}
	return entries, nil
}

// Packs are those that were pushed, by name and version.
func (c *Client) Packs(ctx context.Context) ([]queue.PackEntry, error) {
	var all []queue.PackEntry
	for entry, err := range c.broker.Table(queue.Packs).List(ctx, "") {
		if err != nil {
			return nil, err
		}
		var e queue.PackEntry
		if err := json.Unmarshal(entry.Value, &e); err != nil {
			return nil, fmt.Errorf("pack %s: %w", entry.Key, err)
		}
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b queue.PackEntry) int {
		return cmp.Or(cmp.Compare(a.Pack.Ref, b.Pack.Ref), cmp.Compare(a.Pack.Version, b.Pack.Version), cmp.Compare(a.Pack.Digest, b.Pack.Digest))
	})
	return all, nil
}

// RemovePack takes away the pushed packs that a name means: "ref", "ref@version", or the beginning of a digest. One that executions
// still wait for is kept unless force is given.
func (c *Client) RemovePack(ctx context.Context, name string, force bool) ([]queue.PackEntry, error) {
	all, err := c.Packs(ctx)
	if err != nil {
		return nil, err
	}
	chosen := slices.DeleteFunc(all, func(e queue.PackEntry) bool { return !means(name, e.Pack) })
	if len(chosen) == 0 {
		return nil, &RefusedError{Err: fmt.Errorf("no pack %s was pushed", name), Todo: "`attune-worker packs ls` shows them", Exit: executor.ExitNotFound}
	}
	if !force {
		if err := c.unused(ctx, chosen); err != nil {
			return nil, err
		}
	}
	for _, e := range chosen {
		if err := c.removePack(ctx, e); err != nil {
			return nil, fmt.Errorf("remove pack %s %s: %w", e.Pack.Ref, e.Pack.Version, err)
		}
	}
	return chosen, nil
}

// digestMin is how much of a digest names a pack.
const digestMin = 8

func means(name string, pin queue.Pin) bool {
	digest := strings.TrimPrefix(name, "sha256:")
	return name == pin.Ref || name == pin.Ref+"@"+pin.Version ||
		len(digest) >= digestMin && strings.HasPrefix(strings.TrimPrefix(pin.Digest, "sha256:"), digest)
}

// unused refuses while an execution that is not over is pinned to one of the packs.
func (c *Client) unused(ctx context.Context, packs []queue.PackEntry) error {
	for entry, err := range c.broker.Table(queue.Runs).List(ctx, "") {
		if err != nil {
			return err
		}
		r, err := readRecord(entry.Value)
		if err != nil || r.State == queue.Done {
			continue
		}
		var need executor.Requirement
		if json.Unmarshal(r.Requirement, &need) != nil {
			continue
		}
		if slices.ContainsFunc(packs, func(e queue.PackEntry) bool { return e.Pack == queue.Pin(need.Pack) }) {
			return refuse("--force removes it: what waits for it becomes unroutable", "execution %s is %s and needs %s %s", r.ID, r.State, need.Pack.Ref, need.Pack.Version)
		}
	}
	return nil
}

func (c *Client) removePack(ctx context.Context, e queue.PackEntry) error {
	if err := c.broker.Table(queue.Packs).Delete(ctx, queue.PackKey(e.Pack), 0); err != nil {
		return err
	}
	catalog := c.broker.Table(queue.Catalog)
	for entry, err := range catalog.List(ctx, queue.PackKey(e.Pack)) {
		if err != nil {
			return err
		}
		if err := catalog.Delete(ctx, entry.Key, 0); err != nil {
			return err
		}
	}
	if err := c.broker.Objects().Delete(ctx, e.Object); err != nil {
		return err
	}
	return c.audit(ctx, queue.AuditLine{What: "packs.rm", Digest: e.Pack.Digest, Detail: e.Pack.Ref + " " + e.Pack.Version})
}
