package executor

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// collectArtifacts lists the regular files the child left in its artifacts directory and, when asked to,
// keeps a copy of each. Links are not followed: they could name anything.
func (x *execution) collectArtifacts() error {
	if x.private.Unused("artifacts") {
		return nil
	}
	root, err := os.OpenRoot(x.privatePath("artifacts"))
	if err != nil {
		return nil //nolint:nilerr // the child removed the directory: it has no artifacts
	}
	defer func() { _ = root.Close() }()
	var keep *os.Root
	err = fs.WalkDir(root.FS(), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		if keep == nil && x.local.Artifacts != "" {
			if keep, err = openArtifacts(x.local.Artifacts); err != nil {
				return err
			}
		}
		artifact, err := copyArtifact(root, keep, path)
		if err == nil && x.local.Keep != nil {
			err = x.keepArtifact(root, path, artifact)
		}
		if err == nil {
			artifact.Path = x.redact.String(artifact.Path)
			x.res.Artifacts = append(x.res.Artifacts, artifact)
		}
		return err
	})
	if keep != nil {
		_ = keep.Close()
	}
	if err != nil {
		return &failure{kind: kindInternal, err: fmt.Errorf("collect artifacts: %w", err),
			hint: "--artifacts names a directory that can be written"}
	}
	return nil
}

// keepArtifact hands one file over.
func (x *execution) keepArtifact(root *os.Root, path string, a Artifact) error {
	src, err := root.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }()
	return x.local.Keep(a, src)
}

func openArtifacts(dir string) (*os.Root, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return os.OpenRoot(dir)
}

// copyArtifact digests one file on its way to keep; a nil keep only digests.
func copyArtifact(root, keep *os.Root, path string) (Artifact, error) {
	src, err := root.Open(path)
	if err != nil {
		return Artifact{}, err
	}
	defer func() { _ = src.Close() }()
	hash := sha256.New()
	out := io.Writer(hash)
	if keep != nil {
		if err := keep.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return Artifact{}, err
		}
		dst, err := keep.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
		if err != nil {
			return Artifact{}, err
		}
		defer func() { _ = dst.Close() }()
		out = io.MultiWriter(hash, dst)
	}
	size, err := io.Copy(out, src)
	return Artifact{Path: path, Size: size, Digest: "sha256:" + hex.EncodeToString(hash.Sum(nil))}, err
}
