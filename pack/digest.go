package pack

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
)

// Digest is "sha256:<hex>" over the pack's files: for each, sorted by its path, a line of its kind (x for an executable
// file, f for another, l for a symbolic link), the length and bytes of its path, and the length and bytes of its content or link
// target. Left out is the signature, and what tools leave behind: .git, __pycache__ and *.pyc. Anything that is neither file,
// directory nor link is an error.
func (p *Pack) Digest() (string, error) { return p.digest(false) }

// digest refuses, when it is whole, what Digest leaves out: Python would run a *.pyc nobody signed.
func (p *Pack) digest(whole bool) (string, error) {
	root, err := os.OpenRoot(p.Dir)
	if err != nil {
		return "", err
	}
	defer func() { _ = root.Close() }()
	sum := sha256.New()
	buffer := make([]byte, 32<<10)
	err = fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case undigested(name) && whole:
			return fmt.Errorf("%s is not covered by a signature; remove it", name)
		case undigested(name) && entry.IsDir():
			return fs.SkipDir
		case entry.IsDir() || undigested(name) || name == SignatureFile:
			return nil
		case entry.Type()&fs.ModeSymlink != 0:
			target, err := root.Readlink(name)
			if err != nil {
				return err
			}
			return digestEntry(sum, "l", name, int64(len(target)), strings.NewReader(target), buffer)
		}
		return digestFile(sum, root, name, buffer)
	})
	if err != nil {
		return "", err
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
}

// openRegular opens a regular file, and refuses what else bears the name: a fifo would keep whoever opens it.
func openRegular(root *os.Root, name string) (*os.File, fs.FileInfo, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", name)
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, info, nil
}

func digestFile(sum hash.Hash, root *os.Root, name string, buffer []byte) error {
	f, info, err := openRegular(root, name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	kind := "f"
	if info.Mode()&0o111 != 0 {
		kind = "x"
	}
	return digestEntry(sum, kind, name, info.Size(), f, buffer)
}

func digestEntry(sum hash.Hash, kind, name string, size int64, content io.Reader, buffer []byte) error {
	_, _ = fmt.Fprintf(sum, "%s %d %s %d ", kind, len(name), name, size)
	n, err := io.CopyBuffer(struct{ io.Writer }{sum}, content, buffer)
	if err == nil && n != size {
		err = fmt.Errorf("%s changed while it was read", name)
	}
	return err
}

// undigested tells what a digest leaves out, with all below it.
func undigested(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if part == ".git" || part == "__pycache__" {
			return true
		}
	}
	return path.Ext(name) == ".pyc"
}

// Files lists the pack's files and links, sorted, with slashes: those that its digest covers, and its signature.
func (p *Pack) Files() ([]string, error) {
	var names []string
	err := fs.WalkDir(os.DirFS(p.Dir), ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case undigested(name) && entry.IsDir():
			return fs.SkipDir
		case !entry.IsDir() && !undigested(name):
			names = append(names, name)
		}
		return nil
	})
	return names, err
}
