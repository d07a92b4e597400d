package envcache

import (
	"archive/tar"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// An export is a gzip-compressed tar archive. Its first entry says what it is; the others lie below v1/envs, so that an
// archive that is unpacked into the root of a store by other means is found there as well.
const (
	exportHeader = "attune-export.json"
	exportSchema = "attune.export/v1"
	exportEnvs   = "v1/envs"
	exportMax    = 64 << 30 // bytes that Import unpacks
)

type exportInfo struct {
	Schema string   `json:"schema"`
	OS     string   `json:"os"`
	Arch   string   `json:"arch"`
	Root   string   `json:"root,omitempty"` // the only root it is of use at; empty: any
	IDs    []string `json:"ids"`
}

// Export writes environments, named as in Get, for another machine. forRoot is the store's root there, which may be empty for
// the same as here. One that is bound to another root is refused.
func (s *Store) Export(ctx context.Context, w io.Writer, ids []string, forRoot string) error {
	header := exportInfo{Schema: exportSchema, OS: runtime.GOOS, Arch: runtime.GOARCH}
	var parts []exported
	defer func() {
		for _, p := range parts {
			_ = p.use.Close()
		}
	}()
	for _, id := range ids {
		p, err := s.hold(ctx, id)
		if err != nil {
			return err
		}
		parts = append(parts, p)
		if p.ready.Root != "" && forRoot != "" && forRoot != p.ready.Root {
			return fmt.Errorf("environment %s carries the path of its store and is of use at %s only, not at %s; build it there, or warm a cache of that name", p.entry.id, p.ready.Root, forRoot)
		}
		if p.ready.Root != "" {
			header.Root = p.ready.Root
		}
		header.IDs = append(header.IDs, p.entry.id)
	}
	zip := gzip.NewWriter(w)
	archive := tar.NewWriter(zip)
	data, err := json.Marshal(header)
	if err == nil {
		err = addBytes(archive, exportHeader, data)
	}
	for _, p := range parts {
		if err == nil {
			err = p.add(ctx, archive)
		}
	}
	return errors.Join(err, archive.Close(), zip.Close())
}

// exported is one environment while it is held for an export.
type exported struct {
	entry entry
	ready ready
	data  []byte // of ready.json
	use   *os.File
}

func (s *Store) hold(ctx context.Context, id string) (exported, error) {
	info, err := s.Get(id)
	if err != nil {
		return exported{}, err
	}
	holder := s.holding(info)
	e := holder.entry(info.ID)
	r, data, err := e.read()
	if err == nil {
		err = e.intact(r)
	}
	if err != nil {
		return exported{}, fmt.Errorf("environment %s: %w", info.ID, err)
	}
	use, err := holder.lockShared(ctx, e.useFile(r.Generation), true)
	if err != nil {
		return exported{}, fmt.Errorf("environment %s: %w", info.ID, err)
	}
	return exported{entry: e, ready: r, data: data, use: use}, nil
}

func (p exported) add(ctx context.Context, archive *tar.Writer) error {
	base := path.Join(exportEnvs, p.entry.id[:2], p.entry.id)
	dir := p.entry.generation(p.ready.Generation)
	list, err := os.ReadFile(p.entry.listFile(p.ready.Generation))
	if err == nil {
		err = addBytes(archive, path.Join(base, p.ready.Generation+".list"), list)
	}
	if err == nil {
		err = addBytes(archive, path.Join(base, p.ready.Generation+".use"), nil)
	}
	if err == nil {
		err = addFile(archive, path.Join(base, p.ready.Generation), dir, "")
	}
	if err == nil {
		err = walk(dir, func(i item, _ fs.FileInfo) error {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return addFile(archive, path.Join(base, p.ready.Generation, i.path), filepath.Join(dir, i.path), i.target)
		})
	}
	if err == nil { // last: an archive that is cut short brings no environment
		err = addBytes(archive, path.Join(base, "ready.json"), p.data)
	}
	return err
}

func addBytes(archive *tar.Writer, name string, data []byte) error {
	if err := archive.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(data))}); err != nil {
		return err
	}
	_, err := archive.Write(data)
	return err
}

func addFile(archive *tar.Writer, name, file, target string) error {
	info, err := os.Lstat(file)
	if err != nil {
		return err
	}
	header, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	// The list and compiled bytecode know times to the second, rounded down; the archive would round to the nearest one.
	header.ModTime = header.ModTime.Truncate(time.Second)
	// The owner is whoever unpacks it.
	header.Name, header.Uid, header.Gid, header.Uname, header.Gname = name, 0, 0, "", ""
	if info.IsDir() {
		header.Name += "/"
	}
	if err := archive.WriteHeader(header); err != nil || header.Typeflag != tar.TypeReg {
		return err
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	_, err = io.Copy(archive, f)
	return err
}

// Import adds the environments of an export. libc tells this machine's C library, as a key's inputs name it, from an
// interpreter's path; it is empty where the interpreter is not there. An archive of another platform or for another root is refused before anything is written. It returns the IDs that are there
// afterwards; those that were there before are left as they are.
func (s *Store) Import(ctx context.Context, r io.Reader, libc func(interpreter string) string) ([]string, error) {
	unzipped, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("it is no export: %w", err)
	}
	archive := tar.NewReader(unzipped)
	header, err := readHeader(archive)
	if err != nil {
		return nil, err
	}
	switch {
	case header.OS != runtime.GOOS || header.Arch != runtime.GOARCH:
		return nil, fmt.Errorf("it was made for %s/%s, and this is %s/%s", header.OS, header.Arch, runtime.GOOS, runtime.GOARCH)
	case header.Root != "" && header.Root != s.root:
		return nil, fmt.Errorf("it is of use at the root %s only, and this store is %s; name it with --cache, or export from a store of this name", header.Root, s.root)
	}
	in := importer{store: s, libc: libc, left: exportMax, started: map[string]*arrival{}}
	defer in.abandon()
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = context.Cause(ctx)
		}
		if err == nil {
			err = in.take(ctx, h, archive)
		}
		if err != nil {
			return in.done, fmt.Errorf("import: %w", err)
		}
	}
	if len(in.done) != len(header.IDs) {
		return in.done, fmt.Errorf("import: the archive is cut short: %d of %d environments are in it", len(in.done), len(header.IDs))
	}
	return in.done, nil
}

func readHeader(archive *tar.Reader) (exportInfo, error) {
	var info exportInfo
	h, err := archive.Next()
	if err != nil || h.Name != exportHeader {
		return info, errors.New("it is no export of environments")
	}
	data, err := io.ReadAll(io.LimitReader(archive, 1<<20))
	if err == nil {
		err = json.Unmarshal(data, &info)
	}
	if err == nil && info.Schema != exportSchema {
		err = fmt.Errorf("its schema %q is not known here", info.Schema)
	}
	return info, err
}

// importer unpacks one archive.
type importer struct {
	store   *Store
	libc    func(interpreter string) string
	left    int64
	started map[string]*arrival
	done    []string
}

// arrival is one environment that is being unpacked, in the place it will stay.
type arrival struct {
	g    generation
	lock *os.File
	root *os.Root // of the entry
	skip bool     // it is there already
}

// take unpacks one member.
func (in *importer) take(ctx context.Context, h *tar.Header, content io.Reader) error {
	parts := strings.SplitN(path.Clean(h.Name), "/", 5)
	if len(parts) != 5 || path.Join(parts[:2]...) != exportEnvs || !isID(parts[3]) || parts[3][:2] != parts[2] {
		return fmt.Errorf("%q is no part of an environment", h.Name)
	}
	id, name := parts[3], parts[4]
	a, err := in.arrival(ctx, id, name)
	if err != nil || a.skip {
		return err
	}
	if name == "ready.json" {
		return in.finish(ctx, id, a, content)
	}
	if first, _, _ := strings.Cut(name, "/"); strings.TrimSuffix(strings.TrimSuffix(first, ".list"), ".use") != a.g.name {
		return fmt.Errorf("%q belongs to no environment of the archive", h.Name)
	}
	return in.unpack(a, h, name, content)
}

// arrival begins an environment with its first member.
func (in *importer) arrival(ctx context.Context, id, name string) (*arrival, error) {
	if a, ok := in.started[id]; ok {
		return a, nil
	}
	s := in.store
	e := s.entry(id)
	if err := s.makeDirs(e); err != nil {
		return nil, err
	}
	lock, _, err := s.lockKey(ctx, e, func(holder) {}, nil)
	var unlockable *LockError
	if err != nil && !errors.As(err, &unlockable) {
		return nil, err
	}
	a := &arrival{lock: lock}
	in.started[id] = a
	if r, _, err := e.read(); err == nil && e.intact(r) == nil {
		a.skip = true
		if !slices.Contains(in.done, id) {
			in.done = append(in.done, id)
		}
		return a, nil
	}
	if err == nil {
		s.sweep(e)
	}
	generationName, _, _ := strings.Cut(name, ".")
	if !isGeneration(generationName) {
		return nil, fmt.Errorf("environment %s does not begin with its generation", id)
	}
	a.g = generation{store: s, entry: e, name: generationName}
	if err := a.g.make(); err != nil {
		return nil, &StoreError{Path: s.root, Err: err}
	}
	a.root, err = os.OpenRoot(e.dir)
	return a, err
}

// unpack writes one file, link or directory, never outside the entry.
func (in *importer) unpack(a *arrival, h *tar.Header, name string, content io.Reader) error {
	if in.left -= h.Size; in.left < 0 {
		return fmt.Errorf("it holds more than %d bytes", int64(exportMax))
	}
	mode := fs.FileMode(h.Mode).Perm()
	var err error
	switch h.Typeflag {
	case tar.TypeDir:
		if err = a.root.Mkdir(name, mode|0o700); errors.Is(err, fs.ErrExist) {
			err = a.root.Chmod(name, mode|0o700)
		}
		return err
	case tar.TypeSymlink:
		return a.root.Symlink(h.Linkname, name)
	case tar.TypeReg:
		var f *os.File
		if f, err = a.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode|0o200); err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		err = errors.Join(err, f.Chmod(mode), f.Close())
		if err == nil && strings.Contains(name, "/") {
			err = a.root.Chtimes(name, h.ModTime, h.ModTime)
		}
		return err
	default:
		return fmt.Errorf("%q is neither a file nor a link nor a directory", h.Name)
	}
}

// finish publishes what was unpacked.
func (in *importer) finish(ctx context.Context, id string, a *arrival, content io.Reader) error {
	data, err := io.ReadAll(io.LimitReader(content, 64<<20))
	if err != nil {
		return err
	}
	r, err := decodeReady(data)
	if err != nil || r.ID != id || r.Generation != a.g.name || r.Schema != readySchema {
		return fmt.Errorf("environment %s: its ready.json is not its own", id)
	}
	inputs := r.details().Inputs
	if built, here := valueOf(inputs, LibCInput), in.libc(r.Interpreter.Path); built != here {
		return fmt.Errorf("environment %s was built for %s, and this machine has %s", id, cmp.Or(built, "no C library"), cmp.Or(here, "none"))
	}
	if id != idOf(inputs) {
		return fmt.Errorf("environment %s: its inputs are those of another", id)
	}
	if _, err := in.store.survey(a.g.dir()); err != nil { // the modes of the store it comes from may be narrower
		return &StoreError{Path: in.store.root, Err: err}
	}
	if _, problems, err := compare(ctx, a.g.entry, a.g.name); err != nil || len(problems) > 0 {
		return errors.Join(err, fmt.Errorf("environment %s is not as it was published: %s", id, strings.Join(problems, ", ")))
	}
	env, err := a.g.publish(ctx, r, noBuilder{})
	if err != nil {
		return err
	}
	in.done = append(in.done, id)
	a.g.use = nil
	return env.Close()
}

// abandon removes what was not finished.
func (in *importer) abandon() {
	for _, a := range in.started {
		if a.root != nil {
			_ = a.root.Close()
		}
		if a.g.use != nil {
			_ = a.g.use.Close()
			in.store.discard(a.g.entry, a.g.name)
		}
		_ = a.lock.Close()
	}
}

// noBuilder stands for a builder where nothing is built: any interpreter of the recorded path will do until an execution asks.
type noBuilder struct{ Builder }

func (noBuilder) Probe(context.Context, string) (Interpreter, error) {
	return Interpreter{}, syscall.ENOSYS
}
