package recipe

import (
	"bytes"
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
