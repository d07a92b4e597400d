package detect

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// question is a probe of a binary as it is now.
type question struct {
	candidate candidate
	id        string // the binary's path, the command's where it is another, and a digest of the probe's definition
	stat      string // of the binary, and of the command where it is another
	size      int64  // of the binary, bytes

	digest func() (string, error) // of the content, read once
}

// ask puts a candidate's question; it reads no more than the stat. A binary that is not there is an error.
func ask(c candidate) (*question, error) {
	q := &question{candidate: c, id: c.target}
	var err error
	if q.stat, q.size, err = statOf(c.target); err != nil {
		return nil, err
	}
	files := []string{c.target}
	if c.command != c.target {
		stat, _, err := statOf(c.command)
		if err != nil {
			return nil, err
		}
		q.id, q.stat, files = q.id+" "+c.command, q.stat+" "+stat, append(files, c.command)
	}
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%q %d %q", c.probe.Args, c.probe.ExitCode, c.probe.Pattern.String())
	q.id += " " + hex.EncodeToString(h.Sum(nil)[:8])
	q.digest = sync.OnceValues(func() (string, error) { return contentDigest(files) })
	return q, nil
}

func statOf(path string) (text string, size int64, err error) {
	var stat unix.Stat_t
	for err = unix.Stat(path, &stat); err == unix.EINTR; {
		err = unix.Stat(path, &stat)
	}
	if err != nil {
		return "", 0, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return fmt.Sprintf("%d:%d %d %d.%d %d.%d", stat.Dev, stat.Ino, stat.Size,
		stat.Mtim.Sec, stat.Mtim.Nsec, stat.Ctim.Sec, stat.Ctim.Nsec), stat.Size, nil
}

// contentDigest is the SHA-256 over the files' content and that of the libraries which a binary brings along: python3.12 and
// java are a few lines in front of a library, and stay the same when that is upgraded.
func contentDigest(files []string) (string, error) {
	h := sha256.New()
	for _, file := range files {
		if err := addContent(h, file); err != nil {
			return "", err
		}
		for _, library := range ownLibraries(file) {
			if err := addContent(h, library); err != nil {
				return "", err
			}
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// ownLibraries are the libraries of a binary that lie in its own prefix.
func ownLibraries(file string) []string {
	var found []string
	prefix := filepath.Dir(filepath.Dir(file))
	for _, name := range importedLibraries(file) {
		for _, dir := range libraryDirs {
			if path := filepath.Join(prefix, dir, filepath.Base(name)); isRegular(path) {
				found = append(found, path)
				break
			}
		}
	}
	return found
}

func isRegular(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// Of each stride of a large file, the first sample is read, and the file's last: node has 100 MB, which take longer to read than its
// probe takes to run. Whatever is built anew moves something in every sample, the build ID in the first.
const (
	stride = 1 << 20
	sample = 16 << 10
)

// addContent adds a file's size and content: all of it up to one stride, samples beyond.
func addContent(h hash.Hash, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	_, _ = fmt.Fprintf(h, "%d ", size)
	if size <= stride {
		_, err := io.Copy(h, f)
		return err
	}
	for at := int64(0); at < size; at += stride {
		if _, err := io.Copy(h, io.NewSectionReader(f, at, sample)); err != nil {
			return err
		}
	}
	_, err = io.Copy(h, io.NewSectionReader(f, size-sample, sample))
	return err
}
