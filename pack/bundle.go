package pack

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// WriteBundle writes the pack as a .tar.gz that Installer.Archive takes: what its digest covers, and its signature. The same pack gives
// the same bytes.
func (p *Pack) WriteBundle(w io.Writer) error {
	root, err := os.OpenRoot(p.Dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	zip := gzip.NewWriter(w)
	archive := tar.NewWriter(zip)
	err = fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case undigested(name) && entry.IsDir():
			return fs.SkipDir
		case entry.IsDir() || undigested(name):
			return nil
		}
		if err := bundleEntry(archive, root, name, entry); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
	return errors.Join(err, archive.Close(), zip.Close())
}

func bundleEntry(archive *tar.Writer, root *os.Root, name string, entry fs.DirEntry) error {
	if entry.Type()&fs.ModeSymlink != 0 {
		target, err := root.Readlink(name)
		if err != nil {
			return err
		}
		return archive.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777})
	}
	f, info, err := openRegular(root, name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	mode := int64(0o644)
	if info.Mode()&0o111 != 0 {
		mode = 0o755
	}
	if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: info.Size(), Mode: mode}); err != nil {
		return err
	}
	_, err = io.Copy(archive, f)
	return err
}
