package bundle

import (
	"archive/zip"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"
)

// entry is one directory, link or file of a bundle.
type entry struct {
	name    string // with slashes
	mode    fs.FileMode
	content func() ([]byte, error) // of a link: its target; nil for a directory
}

// epoch is the time of all files: the first that a zip archive can express (APPNOTE.TXT 4.4.6).
var epoch = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)

// fixed is the content of a file or link that is at hand.
func fixed[T string | []byte](content T) func() ([]byte, error) {
	return func() ([]byte, error) { return []byte(content), nil }
}

// arrange sorts entries and adds the directories they lie in.
func arrange(entries []entry) ([]entry, error) {
	seen := map[string]bool{}
	for _, e := range entries {
		if seen[e.name] {
			return nil, fmt.Errorf("%s would be twice in the bundle", e.name)
		}
		seen[e.name] = true
	}
	for _, e := range slices.Clone(entries) {
		for dir := path.Dir(e.name); dir != "." && !seen[dir]; dir = path.Dir(dir) {
			seen[dir] = true
			entries = append(entries, entry{name: dir, mode: fs.ModeDir | 0o755})
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Compare(a.name, b.name) })
	return entries, nil
}

// size is what was written.
type size struct {
	files    int   // files and links
	unpacked int64 // bytes
	packed   int64 // bytes; 0 for a directory
}

// write makes output of the entries: a zip archive where its name ends in .zip, else a directory, which must be empty or not be there yet. accept decides
// about the size before anything can be seen.
func write(output string, entries []entry, accept func(size) error) (size, error) {
	if strings.HasSuffix(output, ".zip") {
		return writeZip(output, entries, accept)
	}
	return writeDir(output, entries, accept)
}

func writeZip(output string, entries []entry, accept func(size) error) (s size, err error) {
	file, err := renameio.NewPendingFile(output, renameio.WithPermissions(0o644))
	if err != nil {
		return s, err
	}
	defer func() { _ = file.Cleanup() }()
	archive := zip.NewWriter(file)
	for _, e := range entries {
		if err := e.zip(archive, &s); err != nil {
			return s, fmt.Errorf("%s: %w", e.name, err)
		}
	}
	if err := archive.Close(); err != nil {
		return s, err
	}
	info, err := file.Stat()
	if err != nil {
		return s, err
	}
	s.packed = info.Size()
	if err := accept(s); err != nil {
		return s, err
	}
	return s, file.CloseAtomicallyReplace()
}

func (e entry) zip(archive *zip.Writer, s *size) error {
	header := &zip.FileHeader{Name: e.name, Method: zip.Deflate, Modified: epoch}
	header.SetMode(e.mode)
	if e.mode.IsDir() {
		header.Name, header.Method = e.name+"/", zip.Store
		_, err := archive.CreateHeader(header)
		return err
	}
	data, err := e.content()
	if err != nil {
		return err
	}
	w, err := archive.CreateHeader(header)
	if err != nil {
		return err
	}
	s.files++
	s.unpacked += int64(len(data))
	_, err = w.Write(data)
	return err
}

func writeDir(output string, entries []entry, accept func(size) error) (s size, err error) {
	if err := os.MkdirAll(output, 0o755); err != nil {
		return s, err
	}
	if found, err := os.ReadDir(output); err != nil || len(found) > 0 {
		return s, errors.Join(err, fmt.Errorf("%s is not empty; a bundle that is a directory wants one of its own (an archive's name ends in .zip)", output))
	}
	defer func() {
		if err != nil {
			_ = emptyDir(output)
		}
	}()
	for _, e := range entries {
		if err := e.put(output, &s); err != nil {
			return s, err
		}
	}
	return s, accept(s)
}

// put writes an entry below dir.
func (e entry) put(dir string, s *size) error {
	target := filepath.Join(dir, filepath.FromSlash(e.name))
	if e.mode.IsDir() {
		return errors.Join(os.Mkdir(target, e.mode.Perm()), os.Chmod(target, e.mode.Perm())) // whatever the umask is
	}
	data, err := e.content()
	if err != nil {
		return fmt.Errorf("%s: %w", e.name, err)
	}
	s.files++
	s.unpacked += int64(len(data))
	if e.mode&fs.ModeSymlink != 0 {
		return os.Symlink(string(data), target)
	}
	if err := os.WriteFile(target, data, e.mode.Perm()); err != nil {
		return err
	}
	return errors.Join(os.Chmod(target, e.mode.Perm()), os.Chtimes(target, epoch, epoch))
}

// emptyDir removes what a directory holds.
func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

// maxUnpacked bytes are unpacked of an archive that is tried out here: more than Lambda would take.
const maxUnpacked = 1 << 30

// unpack writes a zip archive below dir, and nowhere else.
func unpack(file, dir string) error {
	archive, err := zip.OpenReader(file)
	if err != nil {
		return fmt.Errorf("%s is no bundle: %w", file, err)
	}
	defer func() { _ = archive.Close() }()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	left := int64(maxUnpacked)
	for _, f := range archive.File {
		if err := unpackOne(root, f, &left); err != nil {
			return fmt.Errorf("%s: %s: %w", file, f.Name, err)
		}
	}
	return nil
}

func unpackOne(root *os.Root, f *zip.File, left *int64) error {
	name := path.Clean(f.Name)
	if f.Mode().IsDir() {
		return root.MkdirAll(name, 0o755)
	}
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	content, err := f.Open()
	if err != nil {
		return err
	}
	defer func() { _ = content.Close() }()
	data, err := io.ReadAll(io.LimitReader(content, *left+1))
	if err != nil {
		return err
	}
	if *left -= int64(len(data)); *left < 0 {
		return fmt.Errorf("it holds more than %d bytes", int64(maxUnpacked))
	}
	if f.Mode()&fs.ModeSymlink != 0 {
		return root.Symlink(string(data), name)
	}
	if err := root.WriteFile(name, data, f.Mode().Perm()); err != nil {
		return err
	}
	return root.Chmod(name, f.Mode().Perm())
}
