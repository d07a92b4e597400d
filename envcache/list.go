package envcache

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// item is one file, link or directory of a generation as it was published.
type item struct {
	kind    byte // 'f', 'd', 'l', 'o' (anything else)
	size    int64
	seconds int64 // of the modification time: archives keep no more
	path    string
	target  string // of a link
}

// tree is a whole generation, in lexical order.
type tree []item

func (t tree) size() (sum int64) {
	for _, i := range t {
		sum += i.size
	}
	return sum
}

// survey looks at every file of a finished generation, and opens it to those the store is for: what an installer makes
// under a strict umask would be of no use to another uid.
func (s *Store) survey(dir string) (tree, error) {
	var all tree
	open := s.mode.Perm() & 0o077
	err := walk(dir, func(i item, info fs.FileInfo) error {
		all = append(all, i)
		if mode := info.Mode(); open != 0 && i.kind != 'l' && mode.Perm() != opened(mode.Perm(), open) {
			return os.Chmod(filepath.Join(dir, i.path), opened(mode.Perm(), open)|mode&(fs.ModeSetgid|fs.ModeSetuid|fs.ModeSticky))
		}
		return nil
	})
	if err == nil && open != 0 {
		err = os.Chmod(dir, s.mode)
	}
	return all, err
}

// opened gives group and others what the owner has, within what the store grants them.
func opened(mode, granted fs.FileMode) fs.FileMode {
	owner := mode & 0o700
	return mode | (owner>>3|owner>>6)&granted
}

// walk visits everything below dir.
func walk(dir string, visit func(item, fs.FileInfo) error) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		i := item{kind: 'o', seconds: info.ModTime().Unix(), path: path[len(dir)+1:]}
		switch {
		case info.Mode().IsRegular():
			i.kind, i.size = 'f', info.Size()
		case info.IsDir():
			i.kind = 'd'
		case info.Mode()&fs.ModeSymlink != 0:
			i.kind = 'l'
			if i.target, err = os.Readlink(path); err != nil {
				return err
			}
		}
		return visit(i, info)
	})
}

// taken is what a tree takes, as far as it can be read.
func taken(dir string) (r room) {
	_ = walk(dir, func(i item, _ fs.FileInfo) error {
		r.bytes += i.size
		r.files++
		return nil
	})
	return r
}

// encode writes a tree, an item a line.
func (t tree) encode() []byte {
	var b bytes.Buffer
	for _, i := range t {
		_, _ = fmt.Fprintf(&b, "%c %d %d %q", i.kind, i.size, i.seconds, i.path)
		if i.kind == 'l' {
			_, _ = fmt.Fprintf(&b, " %q", i.target)
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// writeList records a tree.
func (s *Store) writeList(path string, t tree) error {
	return s.write(path, t.encode())
}

func readList(path string) (tree, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("the list of its files is missing")
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var all tree
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		i := item{}
		format, into := "%c %d %d %q", []any{&i.kind, &i.size, &i.seconds, &i.path}
		if strings.HasPrefix(lines.Text(), "l") {
			format, into = format+" %q", append(into, &i.target)
		}
		if _, err := fmt.Sscanf(lines.Text(), format, into...); err != nil {
			return nil, fmt.Errorf("the list of its files is damaged: line %d", len(all)+1)
		}
		all = append(all, i)
	}
	return all, lines.Err()
}
