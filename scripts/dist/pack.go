package main

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb" // the formats register themselves
	"github.com/goreleaser/nfpm/v2/files"
	_ "github.com/goreleaser/nfpm/v2/rpm"
)

// file is one file of an archive or a package.
type file struct {
	path   string // below the prefix: bin/attune-run
	source string
	link   string // target, instead of a source
	mode   fs.FileMode
}

// tree is all that is installed, in a fixed order.
func (r *release) tree(p platform) ([]file, error) {
	var tree []file
	made := func(name string) string { return filepath.Join(r.work, name) }
	zsh := map[string]string{"linux": "vendor-completions", "darwin": "site-functions"}[p.os] // of Debian, and of Homebrew
	for _, program := range r.programsFor(p) {
		script := program + "-" + p.os
		tree = append(tree,
			file{path: "bin/" + program, source: r.program(program, p), mode: 0o755},
			file{path: "share/man/man1/" + program + ".1.gz", source: made(program + ".1.gz"), mode: 0o644})
		if len(completed(program)) > 0 {
			tree = append(tree,
				file{path: "share/bash-completion/completions/" + program, source: made(script + ".bash"), mode: 0o644},
				file{path: "share/zsh/" + zsh + "/_" + program, source: made(script + ".zsh"), mode: 0o644},
				file{path: "share/fish/vendor_completions.d/" + program + ".fish", source: made(script + ".fish"), mode: 0o644})
		}
	}
	tree = append(tree,
		file{path: "bin/attune", link: "attune-run"},
		file{path: "share/man/man1/attune.1.gz", link: "attune-run.1.gz"},
		file{path: "share/bash-completion/completions/attune", link: "attune-run"},
		file{path: "share/fish/vendor_completions.d/attune.fish", link: "attune-run.fish"},
		file{path: "share/doc/attune/copyright", source: "LICENSE", mode: 0o644},
		file{path: "share/doc/attune/README.md", source: "README.md", mode: 0o644},
		file{path: "share/doc/attune/CHANGELOG.md", source: "CHANGELOG.md", mode: 0o644},
	)
	packs, err := packFiles("packs/core")
	return append(tree, packs...), err
}

// packFiles are the files of a pack that ships with attune.
func packFiles(dir string) (found []file, err error) {
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		found = append(found, file{path: filepath.ToSlash(path), source: path, mode: 0o644 | info.Mode()&0o111})
		return nil
	})
	return found, err
}

// pack makes the archive of one platform, and for Linux its packages.
func (r *release) pack(p platform) error {
	tree, err := r.tree(p)
	if err != nil {
		return err
	}
	if err := r.archive(tree, p); err != nil || p.os != "linux" {
		return err
	}
	for _, format := range []string{"deb", "rpm"} {
		if err := r.packageAs(format, tree, p.arch); err != nil {
			return fmt.Errorf("%s for %s: %w", format, p.arch, err)
		}
	}
	return nil
}

// archive writes attune-VERSION-linux-amd64.tar.gz: unpacked anywhere, it works.
func (r *release) archive(tree []file, p platform) error {
	name := "attune-" + r.version + "-" + p.String()
	return r.write(name+".tar.gz", func(w io.Writer) error {
		zipped := gzip.NewWriter(w)
		archive := tar.NewWriter(zipped)
		for _, f := range tree {
			if err := r.add(archive, name+"/"+f.path, f); err != nil {
				return fmt.Errorf("%s: %w", f.path, err)
			}
		}
		return errors.Join(archive.Close(), zipped.Close())
	})
}

func (r *release) add(archive *tar.Writer, name string, f file) error {
	header := &tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: f.link, Mode: 0o777, ModTime: r.date, Format: tar.FormatUSTAR}
	if f.link != "" {
		return archive.WriteHeader(header)
	}
	content, err := os.ReadFile(f.source)
	if err != nil {
		return err
	}
	header.Typeflag, header.Mode, header.Size = tar.TypeReg, int64(f.mode), int64(len(content))
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err = archive.Write(content)
	return err
}

// packageAs writes a package in the format's own naming: attune_1.2.3_amd64.deb, attune-1.2.3-1.x86_64.rpm.
func (r *release) packageAs(format string, tree []file, arch string) error {
	packager, err := nfpm.Get(format)
	if err != nil {
		return err
	}
	info := nfpm.WithDefaults(&nfpm.Info{
		Name: "attune", Arch: arch, Platform: "linux", Version: r.version, Section: "utils", Priority: "optional", MTime: r.date,
		Maintainer: "The attune authors <attune@localhost>", License: "Apache-2.0", Vendor: "attune",
		Description:  "Runs automation actions, with their dependencies, the same way everywhere\nOne static program: it finds the interpreter, builds the environment once, isolates and supervises the action and reports in one document.",
		Overridables: nfpm.Overridables{Contents: contents(tree), RPM: nfpm.RPM{BuildHost: "localhost", Summary: "Runs automation actions the same way everywhere"}},
	})
	if err := nfpm.PrepareForPackager(info, format); err != nil {
		return err
	}
	return r.write(packager.ConventionalFileName(info), func(w io.Writer) error { return packager.Package(info, w) })
}

// contents puts the tree where distributions have it; packs go where attune looks for them.
func contents(tree []file) files.Contents {
	var all files.Contents
	for _, f := range tree {
		content := &files.Content{Source: f.source, Destination: "/usr/" + f.path, FileInfo: &files.ContentFileInfo{Mode: f.mode}}
		if strings.HasPrefix(f.path, "packs/") {
			content.Destination = "/opt/attune/" + f.path
		}
		if f.link != "" {
			content.Source, content.Type, content.FileInfo = f.link, files.TypeSymlink, &files.ContentFileInfo{}
		}
		all = append(all, content)
	}
	return append(all, ownDirectories(all)...)
}

// ownDirectories are the ones that no other package has; RPM removes only what a package says is its own.
func ownDirectories(contents files.Contents) (own files.Contents) {
	seen := map[string]bool{}
	for _, content := range contents {
		for dir := path.Dir(content.Destination); strings.Contains(dir, "/attune"); dir = path.Dir(dir) {
			if !seen[dir] {
				seen[dir] = true
				own = append(own, &files.Content{Destination: dir, Type: files.TypeDir, FileInfo: &files.ContentFileInfo{Mode: 0o755}})
			}
		}
	}
	return own
}

// compress keeps a gzipped text in the working directory, without a name or a date inside.
func (r *release) compress(name, text string) error {
	f, err := os.Create(filepath.Join(r.work, name))
	if err != nil {
		return err
	}
	zipped, _ := gzip.NewWriterLevel(f, gzip.BestCompression) // the level is valid
	_, err = io.WriteString(zipped, text+"\n")
	return errors.Join(err, zipped.Close(), f.Close())
}

// write makes one file of the release.
func (r *release) write(name string, fill func(io.Writer) error) error {
	f, err := os.Create(filepath.Join(r.out, name))
	if err != nil {
		return err
	}
	return errors.Join(fill(f), f.Close())
}
