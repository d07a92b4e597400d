package pack

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits bound what is unpacked. Zero fields are those of DefaultLimits.
type Limits struct {
	Files int   // files, links and directories
	Bytes int64 // of all files, unpacked
	Ratio int64 // unpacked bytes to packed ones, once ratioFrom bytes are unpacked
	Depth int   // parts of a path
}

// DefaultLimits are far above any pack that was written by hand.
var DefaultLimits = Limits{Files: 10_000, Bytes: 512 << 20, Ratio: 100, Depth: 32}

// ratioFrom is how many bytes may be unpacked whatever they were packed as: a small file of blanks is no bomb.
const ratioFrom = 8 << 20

func (l Limits) withDefaults() Limits {
	if l.Files == 0 {
		l.Files = DefaultLimits.Files
	}
	if l.Bytes == 0 {
		l.Bytes = DefaultLimits.Bytes
	}
	if l.Ratio == 0 {
		l.Ratio = DefaultLimits.Ratio
	}
	if l.Depth == 0 {
		l.Depth = DefaultLimits.Depth
	}
	return l
}

// EntryError says which entry of a source was refused, and why.
type EntryError struct{ Name, Reason string }

// Error names the entry, quoted: it may hold anything.
func (e *EntryError) Error() string { return fmt.Sprintf("entry %q %s", e.Name, e.Reason) }

// unpacker writes entries below a root and refuses whatever could reach beyond it, hide another, or fill the disk.
type unpacker struct {
	root   *os.Root
	limits Limits
	packed func() int64 // bytes read of the packed form; nil where there is none

	kinds  map[string]byte   // name → d, f or l
	folded map[string]string // name without case → name
	links  map[string]string // made last: nothing is written through one
	bytes  int64
	buffer []byte
}

func newUnpacker(root *os.Root, limits Limits) *unpacker {
	return &unpacker{root: root, limits: limits.withDefaults(), kinds: map[string]byte{}, folded: map[string]string{}, links: map[string]string{}, buffer: make([]byte, 32<<10)}
}

// claim checks an entry's name and takes it and its parents. skip is set for what a digest leaves out.
func (u *unpacker) claim(raw string, kind byte) (name string, skip bool, err error) {
	name = path.Clean(strings.TrimSuffix(raw, "/"))
	parts := strings.Split(raw, "/")
	refuse := func(format string, args ...any) (string, bool, error) {
		return "", false, &EntryError{raw, fmt.Sprintf(format, args...)}
	}
	switch {
	case !utf8.ValidString(raw) || strings.ContainsFunc(raw, unicode.IsControl) || strings.Contains(raw, `\`):
		return refuse("has a name with a backslash, a control character or what is no UTF-8")
	case strings.HasPrefix(raw, "/"):
		return refuse("has an absolute name")
	case raw == "" || !filepath.IsLocal(name) || slices.Contains(parts, ".."):
		return refuse("has a name that leads out")
	case len(strings.Split(name, "/")) > u.limits.Depth:
		return refuse("lies deeper than %d directories", u.limits.Depth)
	}
	if name == "." {
		return name, true, nil
	}
	for _, part := range strings.Split(name, "/") {
		if len(part) > 255 {
			return refuse("has a name of more than 255 bytes")
		}
	}
	for at := 0; at < len(name); at++ {
		if name[at] == '/' {
			if err := u.take(raw, name[:at], 'd'); err != nil {
				return "", false, err
			}
		}
	}
	return name, undigested(name), u.take(raw, name, kind)
}

func (u *unpacker) take(raw, name string, kind byte) error {
	if before, ok := u.kinds[name]; ok {
		if before == 'd' && kind == 'd' {
			return nil
		}
		if kind == 'd' {
			return &EntryError{raw, "lies below " + name + ", which is no directory"}
		}
		return &EntryError{raw, "comes twice"}
	}
	fold := strings.ToLower(strings.ToUpper(name))
	if other, ok := u.folded[fold]; ok {
		return &EntryError{raw, "differs from " + other + " in upper and lower case alone"}
	}
	u.kinds[name], u.folded[fold] = kind, name
	if len(u.kinds) > u.limits.Files {
		return fmt.Errorf("there are more than %d files and directories", u.limits.Files)
	}
	return nil
}

func (u *unpacker) dir(raw string) error {
	name, skip, err := u.claim(raw, 'd')
	if err != nil || skip {
		return err
	}
	return u.root.MkdirAll(name, 0o755)
}

// file writes a regular file; of its mode only whether somebody may execute it is kept.
func (u *unpacker) file(raw string, mode fs.FileMode, content io.Reader) error {
	name, skip, err := u.claim(raw, 'f')
	if err != nil {
		return err
	}
	if skip {
		return u.copy(io.Discard, content)
	}
	if err := u.root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	permissions := fs.FileMode(0o644)
	if mode&0o111 != 0 {
		permissions = 0o755
	}
	f, err := u.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, permissions)
	if err != nil {
		return err
	}
	if err := errors.Join(u.copy(f, content), f.Close()); err != nil {
		return fmt.Errorf("entry %q: %w", raw, err)
	}
	return nil
}

// copy counts what it copies against the limits.
func (u *unpacker) copy(to io.Writer, from io.Reader) error {
	for {
		n, err := from.Read(u.buffer)
		if u.bytes += int64(n); u.bytes > u.limits.Bytes {
			return fmt.Errorf("the files have more than %d bytes together", u.limits.Bytes)
		}
		if u.packed != nil && u.bytes > ratioFrom && u.bytes/u.limits.Ratio > u.packed() {
			return fmt.Errorf("it unpacks to more than %d times its size", u.limits.Ratio)
		}
		if _, failed := to.Write(u.buffer[:n]); failed != nil {
			return failed
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (u *unpacker) link(raw, target string) error {
	name, skip, err := u.claim(raw, 'l')
	if err != nil || skip {
		return err
	}
	if target == "" || path.IsAbs(target) || strings.ContainsAny(target, "\\\x00") || !filepath.IsLocal(path.Join(path.Dir(name), target)) {
		return &EntryError{raw, fmt.Sprintf("is a link that leads out, to %q", target)}
	}
	u.links[name] = target
	return nil
}

// finish makes the links.
func (u *unpacker) finish() error {
	for name, target := range u.links {
		if err := u.root.MkdirAll(path.Dir(name), 0o755); err != nil {
			return err
		}
		if err := u.root.Symlink(target, name); err != nil {
			return err
		}
	}
	return nil
}

// tar unpacks a stream (POSIX.1-2001 pax, ustar, GNU). Directories, regular files and symbolic links are all it may hold.
func (u *unpacker) tar(r io.Reader) error {
	entries := tar.NewReader(r)
	for {
		h, err := entries.Next()
		if err == io.EOF {
			return u.finish()
		}
		if err != nil {
			return fmt.Errorf("is no tar archive, or a broken one: %w", err)
		}
		switch h.Typeflag {
		case tar.TypeXGlobalHeader: // a comment: git puts the commit there
		case tar.TypeDir:
			err = u.dir(h.Name)
		case tar.TypeReg:
			err = u.file(h.Name, h.FileInfo().Mode(), entries)
		case tar.TypeSymlink:
			err = u.link(h.Name, h.Linkname)
		case tar.TypeLink:
			err = &EntryError{h.Name, "is a hard link"}
		default:
			err = &EntryError{h.Name, "is no file, directory or link"}
		}
		if err != nil {
			return err
		}
	}
}

// meter counts what was read through it.
type meter struct {
	io.Reader
	n int64
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.Reader.Read(p)
	m.n += int64(n)
	return n, err
}

func (u *unpacker) tarGzip(r io.Reader) error {
	packed := &meter{Reader: r}
	u.packed = func() int64 { return packed.n }
	unzipped, err := gzip.NewReader(bufio.NewReader(packed))
	if err != nil {
		return fmt.Errorf("is no gzip file: %w", err)
	}
	return u.tar(unzipped)
}

func (u *unpacker) zip(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	u.packed = info.Size
	archive, err := zip.NewReader(f, info.Size())
	if err != nil {
		return fmt.Errorf("is no zip archive, or a broken one: %w", err)
	}
	for _, entry := range archive.File {
		if err := u.zipEntry(entry); err != nil {
			return err
		}
	}
	return u.finish()
}

func (u *unpacker) zipEntry(entry *zip.File) error {
	mode := entry.Mode()
	switch {
	case entry.Flags&1 != 0:
		return &EntryError{entry.Name, "is encrypted"}
	case strings.HasSuffix(entry.Name, "/") || mode.IsDir():
		return u.dir(entry.Name)
	case mode&fs.ModeType != 0 && mode&fs.ModeType != fs.ModeSymlink:
		return &EntryError{entry.Name, "is no file, directory or link"}
	}
	content, err := entry.Open()
	if err != nil {
		return fmt.Errorf("entry %q: %w", entry.Name, err)
	}
	defer func() { _ = content.Close() }()
	if mode&fs.ModeSymlink == 0 {
		return u.file(entry.Name, mode, content)
	}
	target, err := io.ReadAll(io.LimitReader(content, 4097))
	if err != nil || len(target) > 4096 {
		return &EntryError{entry.Name, "is a link that cannot be read"}
	}
	return u.link(entry.Name, string(target))
}

// tree copies a directory.
func (u *unpacker) tree(dir string) error {
	from, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }()
	err = fs.WalkDir(from.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && name != "." && undigested(name):
			return fs.SkipDir
		case entry.IsDir():
			return u.dir(name)
		case entry.Type()&fs.ModeSymlink != 0:
			target, err := from.Readlink(name)
			if err != nil {
				return err
			}
			return u.link(name, target)
		case !entry.Type().IsRegular():
			return &EntryError{name, "is no file, directory or link"}
		}
		f, info, err := openRegular(from, name)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		return u.file(name, info.Mode(), f)
	})
	if err != nil {
		return err
	}
	return u.finish()
}
