package recipe

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/proc"
	"github.com/attune-run/attune/runtime"
)

// toolSpec describes an installer to a probe.
func toolSpec(name, pattern string) (*runtime.Spec, error) {
	expression, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	return &runtime.Spec{Name: name, Verification: runtime.Verification{
		Probes: []runtime.Probe{{Binary: name, Args: []string{"--version"}, Pattern: expression}},
	}}, nil
}

// readManifest is false when the pack has no such file. A byte order mark is cut off.
func readManifest(dir, name string) (data []byte, found bool, err error) {
	path := filepath.Join(dir, name)
	data, err = os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err == nil {
		data, err = decodeText(path, data)
	}
	if err != nil {
		return nil, false, fmt.Errorf("manifest: %w", err)
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if filepath.Ext(name) != ".xml" && (!utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0) { // XML names its encoding itself
		return nil, true, fmt.Errorf("manifest: %s is not UTF-8 text; save it as UTF-8", filepath.Join(dir, name))
	}
	return data, true, nil
}

// decodeText refuses what is not UTF-8: installers guess differently, and a guess may install something else. XML names its
// encoding itself, and bun.lockb is no text.
func decodeText(path string, data []byte) ([]byte, error) {
	if slices.Contains([]string{".xml", ".lockb"}, filepath.Ext(path)) {
		return data, nil
	}
	if bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff")) || bytes.IndexByte(data, 0) >= 0 {
		return nil, &EncodingError{Path: path}
	}
	if !utf8.Valid(data) {
		return nil, &EncodingError{Path: path, Line: 1 + bytes.Count(data[:bytes.IndexRune(data, utf8.RuneError)], []byte("\n"))}
	}
	return bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), nil
}

// EncodingError is a manifest that is not UTF-8.
type EncodingError struct {
	Path string
	Line int // of the first bytes that are not UTF-8; 0 when the file looks like UTF-16
}

// Error names the file, the line and the remedy.
func (e *EncodingError) Error() string {
	if e.Line == 0 {
		return e.Path + " looks like UTF-16; save it as UTF-8"
	}
	return fmt.Sprintf("%s:%d: this is not UTF-8; save the file as UTF-8", e.Path, e.Line)
}

func exists(dir, name string) bool {
	_, err := os.Stat(filepath.Join(dir, name))
	return err == nil
}

// content is the key input of a file's bytes.
func content(name string, data []byte) envcache.KeyInput {
	sum := sha256.Sum256(data)
	return envcache.KeyInput{Name: "file:" + name, Value: "sha256:" + hex.EncodeToString(sum[:])}
}

// tree is the key input of the regular files below dir that wanted accepts, by path and content. Directories for
// which wanted is false are not entered.
func tree(name, dir string, wanted func(path string, item fs.DirEntry) bool) (envcache.KeyInput, error) {
	hash := sha256.New()
	err := filepath.WalkDir(dir, func(path string, item fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path != dir && wanted != nil && !wanted(path, item) {
			if item.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if item.IsDir() {
			return nil
		}
		relative, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		sum, err := fileDigest(path)
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintf(hash, "%q %s\n", relative, sum)
		return nil
	})
	if err != nil {
		return envcache.KeyInput{}, fmt.Errorf("digest of %s: %w", dir, err)
	}
	return envcache.KeyInput{Name: "tree:" + name, Value: "sha256:" + hex.EncodeToString(hash.Sum(nil))}, nil
}

// fileDigest follows a link; what is no regular file has no content.
func fileDigest(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return "-", nil //nolint:nilerr // a dangling link is a fact of the tree, not a failure
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// isVersionControl are directories that say nothing about what is built.
func isVersionControl(item fs.DirEntry) bool {
	return item.IsDir() && strings.HasPrefix(item.Name(), ".")
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o600)
}

// ManifestError is a manifest or a source that cannot be built as it stands, or what lies beside it and does not fit.
type ManifestError struct {
	File    string
	Problem string
	Remedy  string // may be empty where the problem says it all
	Err     error  // the tool's own error; may be nil
}

// Error names the file, the problem and the remedy.
func (e *ManifestError) Error() string {
	text := e.File + ": " + e.Problem
	if e.Err != nil {
		text += fmt.Sprintf(" (%v)", e.Err)
	}
	if e.Remedy != "" {
		text += "; " + e.Remedy
	}
	return text
}

// Unwrap is the tool's own error.
func (e *ManifestError) Unwrap() error { return e.Err }

// Class is Permanent: the same files fail the same way.
func (e *ManifestError) Class() envcache.Class { return envcache.Permanent }

// manifestInputs are a manifest and its lock file; none without the manifest, or with one that says nothing.
func manifestInputs(in Input, manifest, lock string) ([]envcache.KeyInput, error) {
	data, found, err := readManifest(in.PackDir, manifest)
	if err != nil || !found || saysNothing(data) {
		return nil, err
	}
	inputs := []envcache.KeyInput{content(manifest, data)}
	if lock == manifest {
		return inputs, nil
	}
	locked, found, err := readManifest(in.PackDir, lock)
	switch {
	case err != nil:
		return nil, err
	case found:
		inputs = append(inputs, content(lock, locked))
	case in.Locked:
		return nil, &NotLockedError{Manifest: manifest, Remedy: "keep " + lock + " beside it"}
	}
	return inputs, nil
}

// saysNothing is true for a manifest of blanks and comments.
func saysNothing(data []byte) bool {
	for line := range bytes.Lines(data) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' {
			return false
		}
	}
	return true
}

// references are files and directories of a pack that decide what is built, relative to it. "." is the pack without its
// dot directories.
type references []string

// inputs are their contents.
func (r references) inputs(packDir string) ([]envcache.KeyInput, error) {
	var all []envcache.KeyInput
	for _, name := range r.distinct() {
		input, err := tree(name, filepath.Join(packDir, name), func(_ string, item fs.DirEntry) bool { return !isVersionControl(item) })
		if err != nil {
			return nil, err
		}
		all = append(all, input)
	}
	return all, nil
}

// copy puts them below dir as they lie below packDir. Links are followed, as a digest of the contents does.
func (r references) copy(packDir, dir string) error {
	for _, name := range r.distinct() {
		from := filepath.Join(packDir, name)
		err := filepath.WalkDir(from, func(path string, item fs.DirEntry, err error) error {
			if err != nil || path != from && isVersionControl(item) {
				return cmp.Or(err, fs.SkipDir)
			}
			relative, err := filepath.Rel(packDir, path)
			if err != nil {
				return err
			}
			return copyItem(path, filepath.Join(dir, relative))
		})
		if err != nil {
			return fmt.Errorf("copy %s: %w", from, err)
		}
	}
	return nil
}

// copyItem copies a file with its executable bits, or makes a directory; what is neither is left out.
func copyItem(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return nil //nolint:nilerr // a dangling link is a fact of the tree, not a failure
	}
	if info.IsDir() {
		return os.MkdirAll(to, 0o700)
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o600|info.Mode().Perm()&0o111)
}

// distinct are the references that no other one holds.
func (r references) distinct() references {
	sorted := slices.Sorted(slices.Values(r))
	var all references
	for _, name := range slices.Compact(sorted) {
		if !slices.ContainsFunc(all, func(outer string) bool { return outer == "." || strings.HasPrefix(name, outer+"/") }) {
			all = append(all, name)
		}
	}
	return all
}

// starts is a smoke check: the interpreter starts with an environment's variables.
func starts(ctx context.Context, dir string, vars []runtime.EnvVar, argv ...string) error {
	env, err := runtime.ApplyEnv([]string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + dir}, vars, runtime.Vars{EnvDir: dir, Interpreter: argv[0]})
	if err != nil {
		return err
	}
	var out bytes.Buffer
	exit, err := proc.Run(ctx, proc.Spec{Argv: argv, Env: env, Dir: dir, Stdout: &out, Stderr: &out})
	if err == nil && (exit.Code != 0 || exit.Signal != 0) {
		err = fmt.Errorf("%s exited with %d: %s", filepath.Base(argv[0]), exit.Code, strings.TrimSpace(out.String()))
	}
	return err
}

// series is the part of a version whose packages fit together: its first two numbers.
func series(version string) string {
	words := strings.SplitN(version, ".", 3)
	return strings.Join(words[:min(2, len(words))], ".")
}
