package bundle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/attune-run/attune/detect"
	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/recipe"
)

// openStore makes an empty cache where it will be at the target, else somewhere.
func (b *builder) openStore(context.Context) error {
	made, err := claim(b.layout.cache())
	if err == nil {
		b.cleanup = append(b.cleanup, made.release)
	} else {
		b.unplaced = err.Error()
	}
	scratch, err := os.MkdirTemp("", "attune-bundle-*")
	if err != nil {
		return err
	}
	b.cleanup = append(b.cleanup, func() { _ = os.RemoveAll(scratch) })
	b.engine = b.Engine
	b.engine.CacheDir, b.engine.TempDir = b.layout.cache(), filepath.Join(scratch, "tmp")
	if b.unplaced != "" {
		b.engine.CacheDir = filepath.Join(scratch, "cache")
	}
	b.engine.Layers, b.engine.Shared, b.engine.Readable, b.engine.Reproducible = nil, false, true, true
	b.engine.RuntimeFiles = detect.HostFiles(b.layout.root) // what the function will read
	return nil
}

// addEnvironments builds what can be built for the target.
func (b *builder) addEnvironments(ctx context.Context) error {
	service, err := executor.New(b.engine)
	if err != nil {
		return err
	}
	if err := service.Start(ctx); err != nil {
		return err
	}
	prepare := b.Prepare
	prepare.Actions = b.Actions
	prepare.Refuse = func(row executor.Prepared, key envcache.Key) string { return b.Target.refuse(row, key, b.unplaced) }
	rows, err := service.Prepare(ctx, prepare)
	if err != nil {
		return err
	}
	ids, err := b.settle(rows)
	if err != nil {
		return err
	}
	return b.bake(ctx, service, ids)
}

// settle decides about each row, and which environments come along.
func (b *builder) settle(rows []executor.Prepared) (ids []string, err error) {
	var failures, missing []error
	for _, row := range rows {
		e := Environment{Actions: row.Actions, Runtime: row.Runtime, Version: row.Version, State: None}
		about := strings.Join(row.Actions, ", ")
		switch {
		case row.Err != nil && len(row.Actions) == 0:
			continue // a pack that cannot be loaded, of which was told
		case row.Err != nil:
			failures = append(failures, fmt.Errorf("%s: %w", about, row.Err))
		case row.State == executor.PreparedSkipped && !b.anyEnabled(row.Actions):
			continue
		case row.State == executor.PreparedSkipped:
			if e.State, e.Reason = LeftOut, row.Reason; !b.Target.has(row.Runtime) {
				e.State = NoUse
			}
			missing = append(missing, fmt.Errorf("%s: %s", about, row.Reason))
		case row.Key != "":
			e.State, e.Key = Bundled, row.Key
			ids = append(ids, row.Key)
		}
		if e.State == Bundled {
			b.manifest.Environments = append(b.manifest.Environments, e)
		} else {
			b.others = append(b.others, e)
		}
	}
	if len(failures) > 0 {
		return nil, fmt.Errorf("environments cannot be built: %w", errors.Join(failures...))
	}
	if b.RequireEnvironments && len(missing) > 0 {
		return nil, &MissingError{Target: b.Target, Reasons: missing}
	}
	return ids, nil
}

func (b *builder) anyEnabled(actions []string) bool {
	return slices.ContainsFunc(actions, func(name string) bool {
		ref, _, _ := strings.Cut(name, "@")
		return b.enabled[ref]
	})
}

// MissingError is a bundle without environments that were required.
type MissingError struct {
	Target  Target
	Reasons []error
}

// Error lists them all.
func (e *MissingError) Error() string {
	return "environments are required and cannot be in the bundle:\n" + errors.Join(e.Reasons...).Error()
}

// Hint says where they could be built.
func (e *MissingError) Hint() string { return e.Target.Remedy() }

// Remedy says where environments for the target can be built.
func (t Target) Remedy() string {
	if t.image {
		return "run this in an image of that architecture, as root, with interpreters that every user can reach"
	}
	return "environments for a runtime of Lambda are built in its own base image: run this there (docs/lambda.md shows how)"
}

// bake adds environments, and what is known about interpreters, as a layer holds them.
func (b *builder) bake(ctx context.Context, service *executor.Service, ids []string) error {
	if b.Target.image || len(ids) > 0 { // else this machine's interpreters are not the target's
		memory, err := detect.Bake(envcache.DetectFile(b.engine.CacheDir))
		if err != nil {
			return err
		}
		if memory != nil {
			b.add(path.Join(cacheName, "v1", "detect.json"), 0o644, fixed(memory))
		}
	}
	if len(ids) == 0 {
		return nil
	}
	store, err := service.Store()
	if err != nil {
		return err
	}
	slices.Sort(ids)
	baked, release, err := store.Bake(ctx, slices.Compact(ids), b.layout.cache())
	if err != nil {
		return err
	}
	b.cleanup = append(b.cleanup, release)
	for _, one := range baked {
		b.add(path.Join(cacheName, one.Name), one.Mode, content(one))
	}
	return nil
}

func content(one envcache.Baked) func() ([]byte, error) {
	switch {
	case one.Mode.IsDir():
		return nil
	case one.Target != "":
		return fixed(one.Target)
	case path.Ext(one.Name) == ".pyc":
		return func() ([]byte, error) {
			data, err := one.Content()
			return recipe.SealBytecode(data), err
		}
	}
	return one.Content
}
