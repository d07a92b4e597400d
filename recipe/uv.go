package recipe

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/attune-run/attune/envcache"
)

// uvBuild fills an environment with uv.
type uvBuild struct {
	in       Input
	site     envcache.Site
	deps     pythonDeps
	settings pipConfig
	tool     pythonTool
	work     string // a directory for the time of the build
}

func (b uvBuild) install(ctx context.Context) error {
	argv, err := b.argv(ctx)
	if err != nil {
		return err
	}
	argv = append(argv, "--compile-bytecode")
	uv := b.installer()
	if b.in.Network == PreferOffline || b.in.Network == Offline {
		err := uv.run(ctx, b.site, append(argv, "--offline")...)
		if err == nil || b.in.Network == Offline {
			return offlineMiss(b.deps.manifest, err)
		}
	}
	return uv.run(ctx, b.site, argv...)
}

// installer is uv with its own settings, and pip's where it has none of its own.
func (b uvBuild) installer() *installer {
	uv := newInstaller(b.in, "uv", "UV_")
	b.deps.passOn(b.in, uv)
	translated, _ := b.settings.forUV(b.in)
	maps.Copy(uv.env, translated)
	uv.set("UV_CACHE_DIR", filepath.Join(b.in.Downloads, "uv"))
	uv.set("UV_PYTHON_DOWNLOADS", "never")
	uv.set("UV_NO_PROGRESS", "1")
	uv.set("UV_NO_EDITABLE", "1") // the pack may go, the environment stays
	uv.set("UV_PROJECT_ENVIRONMENT", b.site.Dir)
	uv.set("VIRTUAL_ENV", b.site.Dir)
	return uv
}

func (b uvBuild) argv(ctx context.Context) ([]string, error) {
	python := []string{"--python", pythonBinary(b.site.Dir)}
	switch {
	case b.deps.uvLock:
		return b.lockedArgv(ctx, python)
	case b.deps.script:
		return append([]string{b.tool.uv, "sync", "--active", "--script", b.deps.uvFile}, python...), nil
	}
	requirements := b.deps.uvFile
	if requirements == "" {
		var err error
		if requirements, err = b.deps.requirementsFile(b.work); err != nil {
			return nil, err
		}
	}
	argv := append([]string{b.tool.uv, "pip", "install", "-r", requirements}, python...)
	if b.deps.locked {
		argv = append(argv, "--require-hashes")
	}
	return argv, nil
}

// lockedArgv installs uv.lock as it is. The lock names the files of the index that it was made with; where another one
// is configured on this machine, the same versions with the same hashes are taken from there.
func (b uvBuild) lockedArgv(ctx context.Context, python []string) ([]string, error) {
	if err := b.checkLock(ctx); err != nil {
		return nil, err
	}
	project := []string{"--frozen", "--no-install-project", "--no-dev", "--project", b.in.PackDir}
	if !b.otherIndex() {
		return slices.Concat([]string{b.tool.uv, "sync"}, project, python), nil
	}
	requirements := filepath.Join(b.work, "requirements.txt")
	export := []string{b.tool.uv, "export", "--quiet", "--frozen", "--no-emit-project", "--no-dev", "--project", b.in.PackDir, "--output-file", requirements}
	if err := b.installer().run(ctx, b.site, append(export, python...)...); err != nil {
		return nil, err
	}
	return append([]string{b.tool.uv, "pip", "install", "--require-hashes", "-r", requirements}, python...), nil
}

// indexVariables are uv's words for where packages come from.
var indexVariables = []string{"UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_NO_INDEX"}

// otherIndex tells whether this machine's default index is one that the lock does not name.
func (b uvBuild) otherIndex() bool {
	env := b.installer().env
	index := env["UV_DEFAULT_INDEX"]
	if index == "" {
		index = env["UV_INDEX_URL"]
	}
	if index == "" {
		return env["UV_NO_INDEX"] != ""
	}
	if name, address, ok := strings.Cut(index, "="); ok && !strings.Contains(name, "/") { // name=https://…
		index = address
	}
	lock, _, err := readManifest(b.in.PackDir, "uv.lock")
	address := strings.TrimSuffix(withoutCredentials(index), "/")
	return err == nil && !bytes.Contains(lock, []byte(`registry = "`+address+`"`)) && !bytes.Contains(lock, []byte(`registry = "`+address+`/"`))
}

// checkLock compares uv.lock with pyproject.toml. A lock that fits needs no index for that, whichever it was made with.
func (b uvBuild) checkLock(ctx context.Context) error {
	check := []string{b.tool.uv, "lock", "--check", "--project", b.in.PackDir, "--python", b.in.Interpreter.Path}
	uv := b.installer()
	for _, name := range indexVariables {
		delete(uv.env, name)
	}
	err := b.checkWith(ctx, uv, append(check, "--offline")...)
	var mismatch *LockMismatchError
	if err == nil || errors.As(err, &mismatch) || b.in.Network == Offline {
		return err
	}
	// Packages whose own requirements only their build tells.
	return b.checkWith(ctx, b.installer(), check...)
}

func (b uvBuild) checkWith(ctx context.Context, uv *installer, argv ...string) error {
	var said tail
	site := b.site
	site.Log = &said
	err := uv.run(ctx, site, argv...)
	if err != nil && bytes.Contains(said.buffer.Bytes(), []byte("needs to be updated")) {
		return &LockMismatchError{Manifest: filepath.Join(b.in.PackDir, "pyproject.toml"), Lock: "uv.lock", Remedy: "run `uv lock`"}
	}
	if err != nil {
		_, _ = b.site.Log.Write(said.buffer.Bytes())
	}
	return err
}

// uvConfigFiles are the files that uv would read for the pack
// (https://docs.astral.sh/uv/concepts/configuration-files/): those that are there, the nearest project's first.
func uvConfigFiles(in Input) []string {
	if file := in.hostVar("UV_CONFIG_FILE"); file != "" {
		return []string{file}
	}
	if value := in.hostVar("UV_NO_CONFIG"); value != "" && value != "0" && value != "false" {
		return nil
	}
	var files []string
	for dir := in.PackDir; ; dir = filepath.Dir(dir) {
		if file := filepath.Join(dir, "uv.toml"); exists(dir, "uv.toml") {
			files = append(files, file)
			break
		}
		if data, err := os.ReadFile(filepath.Join(dir, "pyproject.toml")); err == nil && bytes.Contains(data, []byte("[tool.uv")) {
			files = append(files, filepath.Join(dir, "pyproject.toml"))
			break
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	config := in.hostVar("XDG_CONFIG_HOME")
	if config == "" {
		config = filepath.Join(in.hostVar("HOME"), ".config")
	}
	if exists(config, "uv/uv.toml") {
		files = append(files, filepath.Join(config, "uv/uv.toml"))
	}
	for _, dir := range append(filepath.SplitList(in.hostVar("XDG_CONFIG_DIRS")), "/etc") {
		if exists(dir, "uv/uv.toml") {
			return append(files, filepath.Join(dir, "uv/uv.toml"))
		}
	}
	return files
}
