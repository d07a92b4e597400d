package recipe

import (
	"archive/zip"
	"bytes"
	"cmp"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// A wheel (https://packaging.python.org/en/latest/specifications/binary-distribution-format/) is unpacked once for an
// interpreter, bytecode included, and linked into every environment that wants it. An unpacked wheel looks like this:
//
//	site/      what goes to site-packages
//	bin/       scripts, with "#!python" in the first line where the environment's interpreter belongs
//	include/   headers
//	data/      what goes to the environment's root
//	whole      written last: how many files and bytes there are
const (
	wheelSite    = "site"
	wheelScripts = "bin"
	wheelHeaders = "include"
	wheelData    = "data"
	wheelWhole   = "whole"
)

// wheelError is a file that is no wheel, or one of a kind that attune does not know.
type wheelError struct {
	File string
	Why  string
}

func (e *wheelError) Error() string { return fmt.Sprintf("%s: %s", filepath.Base(e.File), e.Why) }

// unpackWheel writes a wheel's files below dir, without bytecode. info is the name of its metadata directory.
func unpackWheel(file, dir string) (info string, err error) {
	archive, err := zip.OpenReader(file)
	if err != nil {
		return "", fmt.Errorf("%s: %w", filepath.Base(file), err)
	}
	defer func() { _ = archive.Close() }()
	if info, err = wheelInfo(file, &archive.Reader); err != nil {
		return "", err
	}
	if err := unpackFiles(file, &archive.Reader, info, dir); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, wheelSite, info, "INSTALLER"), []byte("attune\n"), 0o644); err != nil {
		return "", err
	}
	return info, writeEntryPoints(filepath.Join(dir, wheelSite, info, "entry_points.txt"), filepath.Join(dir, wheelScripts))
}

func unpackFiles(file string, archive *zip.Reader, info, dir string) error {
	for _, sub := range []string{wheelSite, wheelScripts} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	made := map[string]bool{}
	for _, item := range archive.File {
		if strings.HasSuffix(item.Name, "/") || item.Name == info+"/RECORD" {
			continue
		}
		to, err := wheelPlace(info, item.Name)
		if err != nil {
			return &wheelError{file, err.Error()}
		}
		to = filepath.Join(dir, to)
		if parent := filepath.Dir(to); !made[parent] {
			if err := os.MkdirAll(parent, 0o755); err != nil {
				return err
			}
			made[parent] = true
		}
		if err := unpackFile(item, to); err != nil {
			return fmt.Errorf("%s: %s: %w", filepath.Base(file), item.Name, err)
		}
	}
	return nil
}

// wheelInfo is the name of the wheel's one metadata directory. Its format must be known.
func wheelInfo(file string, archive *zip.Reader) (string, error) {
	for _, item := range archive.File {
		info, ok := strings.CutSuffix(item.Name, ".dist-info/WHEEL")
		if !ok || strings.Contains(info, "/") {
			continue
		}
		text, err := readZipped(item)
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(text) {
			if version, ok := strings.CutPrefix(line, "Wheel-Version:"); ok && !strings.HasPrefix(strings.TrimSpace(version), "1.") {
				return "", &wheelError{file, "its wheel version is " + strings.TrimSpace(version) + "; attune knows 1"}
			}
		}
		return info + ".dist-info", nil
	}
	return "", &wheelError{file, "it holds no .dist-info/WHEEL, so it is no wheel"}
}

func readZipped(item *zip.File) (string, error) {
	r, err := item.Open()
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Close() }()
	data, err := io.ReadAll(r)
	return string(data), err
}

// wheelPlace says where a file of the wheel belongs in the unpacked one.
func wheelPlace(info, name string) (string, error) {
	if !filepath.IsLocal(name) {
		return "", fmt.Errorf("the path %q leads out of it", name)
	}
	rest, ok := strings.CutPrefix(name, strings.TrimSuffix(info, ".dist-info")+".data/")
	if !ok {
		return filepath.Join(wheelSite, name), nil
	}
	scheme, rest, _ := strings.Cut(rest, "/")
	switch scheme {
	case "purelib", "platlib":
		return filepath.Join(wheelSite, rest), nil
	case "scripts":
		return filepath.Join(wheelScripts, rest), nil
	case "headers":
		project, _, _ := strings.Cut(info, "-")
		return filepath.Join(wheelHeaders, project, rest), nil
	case "data":
		return filepath.Join(wheelData, rest), nil
	}
	return "", fmt.Errorf("%q belongs to an unknown kind of data", name)
}

func unpackFile(item *zip.File, to string) error {
	r, err := item.Open()
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	mode := fs.FileMode(0o644)
	if item.Mode()&0o111 != 0 {
		mode = 0o755
	}
	w, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return cmp.Or(err, w.Close())
}

// writeEntryPoints makes a script of each console and GUI entry point
// (https://packaging.python.org/en/latest/specifications/entry-points/).
func writeEntryPoints(file, dir string) error {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	wanted := false
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			wanted = line == "[console_scripts]" || line == "[gui_scripts]"
			continue
		}
		name, target, ok := strings.Cut(line, "=")
		if !wanted || !ok || strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		target, _, _ = strings.Cut(target, "[") // extras, obsolete
		module, object, ok := strings.Cut(strings.TrimSpace(target), ":")
		if name = strings.TrimSpace(name); !ok || !filepath.IsLocal(name) || strings.Contains(name, "/") {
			continue
		}
		module, object = strings.TrimSpace(module), strings.TrimSpace(object)
		first, _, _ := strings.Cut(object, ".")
		script := fmt.Sprintf("#!python\nimport sys\n\nfrom %s import %s\n\nif __name__ == \"__main__\":\n    sys.exit(%s())\n", module, first, object)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// sealWheel lists all files in RECORD, bytecode included, and marks the unpacked wheel as whole. Its files become
// read-only: environments share them.
func sealWheel(file, dir, info string) error {
	if err := writeRecord(file, dir, info); err != nil {
		return err
	}
	whole, err := measure(dir)
	if err != nil {
		return err
	}
	err = filepath.WalkDir(dir, func(path string, item fs.DirEntry, err error) error {
		if err != nil || item.IsDir() {
			return err
		}
		info, err := item.Info()
		if err != nil {
			return err
		}
		return os.Chmod(path, info.Mode().Perm()&^0o222)
	})
	if err != nil {
		return err
	}
	data, err := json.Marshal(whole)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, wheelWhole), data, 0o444)
}

// writeRecord keeps the hashes that the wheel's own RECORD has. Paths are as seen from site-packages, which is three
// directories below the environment's root.
func writeRecord(file, dir, info string) error {
	hashes, err := wheelHashes(file, info)
	if err != nil {
		return err
	}
	record := filepath.Join(dir, wheelSite, info, "RECORD")
	rows := [][]string{{info + "/RECORD", "", ""}}
	err = filepath.WalkDir(dir, func(at string, item fs.DirEntry, err error) error {
		if err != nil || item.IsDir() || at == record {
			return err
		}
		relative, err := filepath.Rel(dir, at)
		if err != nil {
			return err
		}
		kind, name, _ := strings.Cut(relative, "/")
		switch kind {
		case wheelSite:
			rows = append(rows, append([]string{name}, hashes[relative]...))
		case wheelScripts:
			rows = append(rows, []string{"../../../bin/" + name, "", ""})
		case wheelData:
			rows = append(rows, append([]string{"../../../" + name}, hashes[relative]...))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, row := range rows {
		rows[i] = append(row, "", "")[:3]
	}
	var b bytes.Buffer
	if err := csv.NewWriter(&b).WriteAll(rows); err != nil {
		return err
	}
	return os.WriteFile(record, b.Bytes(), 0o644)
}

// wheelHashes are hash and size of the wheel's files, by their place in the unpacked one.
func wheelHashes(file, info string) (map[string][]string, error) {
	archive, err := zip.OpenReader(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = archive.Close() }()
	record, err := archive.Open(info + "/RECORD")
	if err != nil {
		return nil, &wheelError{file, "it has no RECORD"}
	}
	defer func() { _ = record.Close() }()
	rows, err := csv.NewReader(record).ReadAll()
	if err != nil {
		return nil, &wheelError{file, "RECORD: " + err.Error()}
	}
	hashes := map[string][]string{}
	for _, row := range rows {
		if to, err := wheelPlace(info, row[0]); err == nil {
			hashes[to] = row[1:]
		}
	}
	return hashes, nil
}

// extent tells a whole tree from one that a crash of the machine left in pieces.
type extent struct {
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
}

func measure(dir string) (extent, error) {
	var e extent
	err := filepath.WalkDir(dir, func(path string, item fs.DirEntry, err error) error {
		if err != nil || item.IsDir() || path == filepath.Join(dir, wheelWhole) {
			return err
		}
		info, err := item.Info()
		if err != nil {
			return err
		}
		e.Files++
		e.Bytes += info.Size()
		return nil
	})
	return e, err
}

// isWhole tells whether an unpacked wheel is there with all it had when it was sealed.
func isWhole(dir string) bool {
	data, err := os.ReadFile(filepath.Join(dir, wheelWhole))
	if err != nil {
		return false
	}
	var sealed extent
	now, err := measure(dir)
	return err == nil && json.Unmarshal(data, &sealed) == nil && sealed == now
}

// placeWheel links an unpacked wheel into the environment at dir.
func placeWheel(from, dir, pythonName string) error {
	targets := map[string]string{
		wheelSite:    filepath.Join(dir, "lib", pythonName, "site-packages"),
		wheelHeaders: filepath.Join(dir, "include", "site", pythonName),
		wheelData:    dir,
	}
	err := filepath.WalkDir(from, func(path string, item fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		kind, name, below := strings.Cut(relative, string(filepath.Separator))
		if kind == wheelScripts && item.IsDir() {
			return nil
		}
		if kind == wheelScripts {
			return placeScript(path, filepath.Join(dir, "bin", name), pythonBinary(dir))
		}
		target, ok := targets[kind]
		switch {
		case !ok:
			return nil // "." and the seal
		case item.IsDir():
			return os.MkdirAll(filepath.Join(target, name), 0o755)
		case below:
			return link(path, filepath.Join(target, name))
		}
		return nil
	})
	return err
}

// link makes to the same file as from, or a copy where the file system, or the file's owner, does not let it. A file that
// two wheels bring is the later one's.
func link(from, to string) error {
	err := os.Link(from, to)
	if errors.Is(err, fs.ErrExist) {
		if err := os.Remove(to); err != nil {
			return err
		}
		err = os.Link(from, to)
	}
	for _, refused := range []error{syscall.EXDEV, syscall.EPERM, syscall.EMLINK, errors.ErrUnsupported} {
		if errors.Is(err, refused) {
			return copyWithTimes(from, to)
		}
	}
	return err
}

// copyWithTimes keeps the time of the last change, which bytecode is compared with.
func copyWithTimes(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if err := copyFile(from, to); err != nil {
		return err
	}
	return cmp.Or(os.Chmod(to, info.Mode().Perm()|0o200), os.Chtimes(to, info.ModTime(), info.ModTime()))
}

// placeScript copies a script and names the environment's interpreter in it.
func placeScript(from, to, interpreter string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	first, rest, _ := bytes.Cut(data, []byte("\n"))
	if bytes.HasPrefix(first, []byte("#!python")) {
		data = slices.Concat(shebang(interpreter), rest)
	}
	_ = os.Remove(to)
	return os.WriteFile(to, data, 0o755)
}

// shebang is the first line for an interpreter. The kernel cuts it at blanks and (before Linux 5.1) at 127 bytes; then a shell
// starts the interpreter, in words that Python reads as a text.
func shebang(interpreter string) []byte {
	if len(interpreter) <= 125 && !strings.ContainsAny(interpreter, " \t") {
		return []byte("#!" + interpreter + "\n")
	}
	quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`, "`", "\\`").Replace(interpreter)
	return []byte("#!/bin/sh\n'''exec' \"" + quoted + "\" \"$0\" \"$@\"\n' '''\n")
}
