package envcache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"
)

// Baked is one entry of a layer: a directory, a link, or a file.
type Baked struct {
	Name   string      // below the layer's root, with slashes
	Mode   fs.FileMode // with its type; whoever may read a layer may read all of it
	Target string      // of a link
	Data   []byte      // a file's content, unless it is Path's
	Path   string      // where a file's content is now
}

// unknownTime stands in a list for the time of a file whose times are not kept.
const unknownTime = -1

// Bake lists what a layer holds of environments, named as in Get, that does not keep times and inodes: an archive that is unpacked by
// somebody else. root is the layer's, where environments that carry their path must have been built. The same environments
// give the same entries whenever and wherever they were built, as far as their installers do. What Path names is there until release.
func (s *Store) Bake(ctx context.Context, ids []string, root string) (entries []Baked, release func(), err error) {
	var held []exported
	release = func() {
		for _, p := range held {
			_ = p.use.Close()
		}
	}
	defer func() {
		if err != nil {
			release()
			release = nil
		}
	}()
	for _, id := range ids {
		p, err := s.hold(ctx, id)
		if err != nil {
			return nil, release, err
		}
		held = append(held, p)
		if p.ready.Root != "" && p.ready.Root != root {
			return nil, release, fmt.Errorf("environment %s carries the path of its store and is of use at %s only, not at %s", p.entry.id, p.ready.Root, root)
		}
		own, err := p.bake(ctx)
		if err != nil {
			return nil, release, fmt.Errorf("environment %s: %w", p.entry.id, err)
		}
		entries = append(entries, own...)
	}
	return entries, release, nil
}

func (p exported) bake(ctx context.Context) ([]Baked, error) {
	r := p.ready
	base, dir := path.Join(exportEnvs, p.entry.id[:2], p.entry.id), p.entry.generation(r.Generation)
	entries := []Baked{{Name: path.Join(base, r.Generation), Mode: fs.ModeDir | readableMode}}
	var listed tree
	err := walk(dir, func(i item, info fs.FileInfo) error {
		if i.kind == 'o' {
			return fmt.Errorf("%s is neither a file nor a link nor a directory", i.path)
		}
		i.seconds = unknownTime
		listed = append(listed, i)
		one := Baked{Name: path.Join(base, r.Generation, i.path), Mode: info.Mode().Type() | opened(info.Mode().Perm(), 0o055), Target: i.target}
		if i.kind == 'f' {
			one.Path = filepath.Join(dir, i.path)
		}
		entries = append(entries, one)
		return context.Cause(ctx)
	})
	if err != nil {
		return nil, err
	}
	list := Baked{Name: path.Join(base, r.Generation+".list"), Mode: 0o644, Data: listed.encode()}
	pointer, err := timeless(r).encode()
	asked := Baked{Name: path.Join("v1", "asked", askedOf(r.details().Inputs)), Mode: 0o644, Data: []byte(r.ID)}
	return append(entries, list, Baked{Name: path.Join(base, "ready.json"), Mode: 0o644, Data: pointer}, asked), err
}

// timeless leaves out what is true of one copy only. The interpreter is compared by its content.
func timeless(r ready) ready {
	r.CreatedAt, r.Stat = time.Time{}, fileStat{Size: r.Stat.Size}
	counts := make(map[string]census, len(r.Complete))
	for name, c := range r.Complete {
		counts[name] = census{Entries: c.Entries}
	}
	r.Complete = counts
	return r
}

// Content is what a file holds.
func (b Baked) Content() ([]byte, error) {
	if b.Path == "" {
		return b.Data, nil
	}
	data, err := os.ReadFile(b.Path)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%s was removed while it was read", b.Path)
	}
	return data, err
}
