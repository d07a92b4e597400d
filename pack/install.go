package pack

import (
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

	"golang.org/x/sys/unix"
)

// Installer puts packs into a directory of packs. A pack appears there whole, valid and, where that is asked for, with a trusted
// signature, or not at all.
type Installer struct {
	Into      string // made when it is not there
	Path      string // where the pack lies in the source, with slashes; empty: at its top, or in its only directory
	Versioned bool   // as <ref>@<version> instead of <ref>
	Replace   bool   // a pack that is there already
	Limits    Limits
	// Validate finds what is wrong with a pack before it is published; unknown keys alone do not keep it out. Required.
	Validate func(*Pack) []Problem

	RequireSignature bool
	TrustedKeys      []PublicKey
}

// ExistsError says that the pack is there already.
type ExistsError struct{ Dir, Version string }

// Error names the directory and the version that is there.
func (e *ExistsError) Error() string {
	return fmt.Sprintf("%s is there already, version %s", e.Dir, e.Version)
}

// InvalidError holds what is wrong with a pack that was to be installed.
type InvalidError struct{ Problems []Problem }

// Error names every problem with its place.
func (e *InvalidError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return "the pack is not valid:\n" + strings.Join(lines, "\n")
}

// Dir installs a directory.
func (in Installer) Dir(dir string) (*Pack, error) {
	return in.install(func(u *unpacker) error { return u.tree(dir) })
}

// Archive installs a .tar.gz, .tgz, .tar or .zip file.
func (in Installer) Archive(file string) (*Pack, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return in.install(func(u *unpacker) error {
		switch lower := strings.ToLower(file); {
		case strings.HasSuffix(lower, ".tar.gz") || strings.HasSuffix(lower, ".tgz"):
			return u.tarGzip(f)
		case strings.HasSuffix(lower, ".zip"):
			return u.zip(f)
		case strings.HasSuffix(lower, ".tar"):
			return u.tar(f)
		}
		return errors.New("is no archive that is known by its name: .tar.gz, .tgz, .tar or .zip")
	})
}

// Tar installs a tar stream.
func (in Installer) Tar(r io.Reader) (*Pack, error) {
	return in.install(func(u *unpacker) error { return u.tar(r) })
}

const stagePrefix = ".attune-install-"

// install unpacks beside the target, checks, and renames.
func (in Installer) install(unpack func(*unpacker) error) (*Pack, error) {
	if err := os.MkdirAll(in.Into, 0o755); err != nil {
		return nil, err
	}
	in.sweep()
	stage, err := os.MkdirTemp(in.Into, stagePrefix)
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(stage) }()
	lock, err := lockStage(stage)
	if err != nil {
		return nil, err
	}
	defer func() { _ = lock.Close() }()
	source := filepath.Join(stage, "source")
	names, err := unpackInto(source, in.Limits, unpack)
	if err != nil {
		return nil, err
	}
	from, err := in.locate(source, names)
	if err != nil {
		return nil, err
	}
	p, err := in.check(stage, from)
	if err != nil {
		return nil, err
	}
	return in.publish(p)
}

func unpackInto(dir string, limits Limits, unpack func(*unpacker) error) (names map[string]byte, err error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	u := newUnpacker(root, limits)
	return u.kinds, unpack(u)
}

// lockStage marks a staging directory as in use.
func lockStage(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// sweep removes what installations left that were killed.
func (in Installer) sweep() {
	stages, _ := filepath.Glob(filepath.Join(escapeGlob(in.Into), stagePrefix+"*"))
	for _, stage := range stages {
		info, err := os.Lstat(stage)
		if err != nil || !info.IsDir() || time.Since(info.ModTime()) < time.Minute { // its owner has yet to lock it
			continue
		}
		if lock, err := lockStage(stage); err == nil {
			_ = os.RemoveAll(stage)
			_ = lock.Close()
		}
	}
}

// locate finds the directory that holds pack.yaml.
func (in Installer) locate(source string, names map[string]byte) (string, error) {
	if in.Path != "" {
		if !filepath.IsLocal(in.Path) || names[path.Join(in.Path, "pack.yaml")] != 'f' {
			return "", fmt.Errorf("there is no pack.yaml in %s", in.Path)
		}
		return filepath.Join(source, in.Path), nil
	}
	if names["pack.yaml"] == 'f' {
		return source, nil
	}
	var tops, packs []string
	for name, kind := range names {
		if !strings.Contains(name, "/") {
			tops = append(tops, name)
		}
		if path.Base(name) == "pack.yaml" && kind == 'f' {
			packs = append(packs, path.Dir(name))
		}
	}
	if len(tops) == 1 && names[tops[0]+"/pack.yaml"] == 'f' {
		return filepath.Join(source, tops[0]), nil
	}
	slices.Sort(packs)
	if len(packs) > 0 {
		return "", fmt.Errorf("there is no pack.yaml at its top; --path names one of %s", strings.Join(packs, ", "))
	}
	return "", errors.New("there is no pack.yaml in it: this is no pack")
}

// check gives the pack its name and makes sure that it works.
func (in Installer) check(stage, from string) (*Pack, error) {
	ref, version, err := identity(filepath.Join(from, "pack.yaml"))
	if err != nil {
		return nil, err
	}
	name := ref
	if in.Versioned {
		name += "@" + version
	}
	dir := filepath.Join(stage, "pack", name)
	if err := errors.Join(os.Mkdir(filepath.Dir(dir), 0o755), os.Rename(from, dir)); err != nil {
		return nil, err
	}
	if err := checkLinks(dir); err != nil {
		return nil, err
	}
	p, err := Load(dir)
	if err != nil {
		return nil, relative(err, dir)
	}
	if problems := withoutWarnings(p, in.Validate(p)); len(problems) > 0 {
		for i := range problems {
			problems[i].File = strings.TrimPrefix(problems[i].File, dir+"/")
		}
		return nil, &InvalidError{problems}
	}
	if in.RequireSignature {
		_, err = p.Verify(in.TrustedKeys)
		var bad *SignatureError
		if errors.As(err, &bad) {
			bad.Dir = ""
		}
	}
	return p, err
}

// withoutWarnings drops unknown keys: a newer attune may know them.
func withoutWarnings(p *Pack, problems []Problem) []Problem {
	warnings := slices.Clone(p.Warnings)
	actions, _ := p.Actions()
	for _, action := range actions {
		warnings = append(warnings, action.Warnings...)
	}
	return slices.DeleteFunc(problems, func(one Problem) bool { return slices.Contains(warnings, one) })
}

// identity reads what a pack calls itself, before it lies in a directory of that name.
func identity(file string) (ref, version string, err error) {
	doc, err := readDoc(file)
	if err != nil {
		return "", "", relative(err, filepath.Dir(file))
	}
	root := doc.Root()
	ref, version = root.Text("ref"), root.Text("version")
	if !validRef(ref) || version == "" || strings.ContainsAny(version, "/\x00") {
		return "", "", fmt.Errorf("pack.yaml: ref %q and version %q do not name a pack", ref, version)
	}
	return ref, version, nil
}

// relative takes the staging directory, which nobody will find, out of an error's problems.
func relative(err error, dir string) error {
	problems := asProblems("pack.yaml", err)
	for i := range problems {
		problems[i].File = strings.TrimPrefix(problems[i].File, dir+"/")
		problems[i].Message = strings.ReplaceAll(problems[i].Message, dir+"/", "")
	}
	return &InvalidError{problems}
}

// checkLinks wants every link to lead to something in the pack.
func checkLinks(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	return fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Type()&fs.ModeSymlink == 0 {
			return err
		}
		if _, err := root.Stat(name); err != nil {
			return &EntryError{name, "is a link that leads out of the pack, or nowhere"}
		}
		return nil
	})
}

// publish renames the pack to where it is found, in one step.
func (in Installer) publish(p *Pack) (*Pack, error) {
	target := filepath.Join(in.Into, filepath.Base(p.Dir))
	err := renameFlagged(p.Dir, target, renameNoReplace)
	if knowsNoFlags(err) {
		if _, there := os.Lstat(target); there == nil {
			err = unix.EEXIST
		} else {
			err = os.Rename(p.Dir, target)
		}
	}
	if errors.Is(err, unix.EEXIST) {
		if !in.Replace {
			there := "unknown"
			if _, version, err := identity(filepath.Join(target, "pack.yaml")); err == nil {
				there = version
			}
			return nil, &ExistsError{target, there}
		}
		err = exchange(p.Dir, target)
	}
	if err != nil {
		return nil, err
	}
	return Load(target)
}

// exchange puts what is at dir in the place of target; the old goes where dir was, and with it.
func exchange(dir, target string) error {
	err := renameFlagged(dir, target, renameExchange)
	if !knowsNoFlags(err) {
		return err
	}
	old := dir + ".old"
	if err := os.Rename(target, old); err != nil {
		return err
	}
	if err := os.Rename(dir, target); err != nil {
		return errors.Join(err, os.Rename(old, target))
	}
	return nil
}

// knowsNoFlags is the answer of a kernel or a file system that renames in the old way only.
func knowsNoFlags(err error) bool {
	return errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP)
}
