package bundle

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/version"
	"github.com/attune-run/attune/pack"
)

// Lambda's limits (https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html), in bytes.
const (
	MaxUnpacked = 250 << 20 // of a function with all of its layers
	MaxUpload   = 50 << 20  // of an archive that does not come from S3
)

// Options say what to bundle.
type Options struct {
	Target    Target
	Layer     bool     // a layer, unpacked at /opt, instead of a function
	Output    string   // a zip archive where it ends in .zip, else a directory
	Bootstrap string   // attune-lambda for the target, as FindBootstrap gives it
	Actions   []string // globs over "pack.action" (path.Match); none means all

	// Engine is how packs are found and environments are built. Its cache directory and what goes with it are set here.
	Engine  executor.Config
	Prepare executor.PrepareOptions // its Actions and Refuse are set here

	RequireEnvironments bool // fail where an action would have none of its own
}

// Report is what is in a bundle.
type Report struct {
	Schema string `json:"schema"` // "attune.bundle-report/v1"
	Manifest
	Others []Environment `json:"others"` // of the chosen actions that have none in it

	Output   string `json:"output"`
	Files    int    `json:"files"`
	Unpacked int64  `json:"unpacked_bytes"`
	Packed   int64  `json:"packed_bytes,omitempty"` // of an archive

	Warnings []string `json:"warnings,omitempty"`
}

// Manifest is the file attune-bundle.json in a bundle.
type Manifest struct {
	Schema       string        `json:"schema"` // "attune.bundle/v1"
	Target       string        `json:"target"`
	Layer        bool          `json:"layer"`
	Attune       string        `json:"attune"` // version
	Packs        []Pack        `json:"packs"`
	Environments []Environment `json:"environments"` // those in it; nothing here tells of the machine that made it
}

const (
	manifestSchema = "attune.bundle/v1"
	reportSchema   = "attune.bundle-report/v1"
)

// Pack is one pack of a bundle.
type Pack struct {
	Ref     string `json:"ref"`
	Version string `json:"version"`
	Digest  string `json:"digest"`
}

// Environment says what actions run with.
type Environment struct {
	Actions []string `json:"actions"`
	Runtime string   `json:"runtime"`
	Version string   `json:"version,omitempty"` // the interpreter's
	Key     string   `json:"key,omitempty"`     // of what is in the bundle
	State   string   `json:"state"`
	Reason  string   `json:"reason,omitempty"` // why it was left out
}

// States of an Environment.
const (
	Bundled = "bundled"
	None    = "none"     // the actions need none
	LeftOut = "left out" // it is of no use at the target, or cannot be built here: the function builds it when it is needed, if it can
	NoUse   = "no use"   // the target has no such runtime: the actions cannot run there
)

// Build makes a bundle. Nothing is left of one that fails.
func Build(ctx context.Context, o Options) (Report, error) {
	b := &builder{Options: o, layout: o.Target.layout(o.Layer)}
	defer b.close()
	b.others = []Environment{}
	b.manifest = Manifest{Schema: manifestSchema, Target: o.Target.Name, Layer: o.Layer, Attune: version.String(), Packs: []Pack{}, Environments: []Environment{}}
	for _, step := range []func(context.Context) error{b.addPacks, b.openStore, b.addEnvironments, b.addPrograms} {
		if err := step(ctx); err != nil {
			return Report{}, err
		}
	}
	entries, err := arrange(b.entries)
	if err != nil {
		return Report{}, err
	}
	s, err := write(o.Output, entries, b.accept)
	return Report{
		Schema: reportSchema, Manifest: b.manifest, Others: b.others, Output: o.Output, Files: s.files, Unpacked: s.unpacked, Packed: s.packed, Warnings: b.warnings,
	}, err
}

// builder makes one bundle.
type builder struct {
	Options
	layout   layout
	manifest Manifest
	others   []Environment
	warnings []string
	entries  []entry
	cleanup  []func()

	enabled map[string]bool // the chosen actions that can be run, as Prepare names them
	engine  executor.Config
	// unplaced says why the engine's cache is not where it will be at the target.
	unplaced string
}

func (b *builder) close() {
	for _, undo := range slices.Backward(b.cleanup) {
		undo()
	}
}

func (b *builder) warn(format string, args ...any) {
	b.warnings = append(b.warnings, fmt.Sprintf(format, args...))
}

// add adds a file below the layout's base.
func (b *builder) add(name string, mode fs.FileMode, content func() ([]byte, error)) {
	b.entries = append(b.entries, entry{path.Join(b.layout.base, name), mode, content})
}

// addPacks adds every pack that has a chosen action, whole: its digest and signature are those of all its files.
func (b *builder) addPacks(context.Context) error {
	b.enabled = map[string]bool{}
	packs, problems := pack.Finder{Dirs: b.Engine.Packs}.List()
	for _, problem := range problems {
		b.warn("a pack was passed over: %v", problem)
	}
	for _, p := range packs {
		chosen, err := b.choose(p)
		if err != nil {
			return err
		}
		if !chosen {
			continue
		}
		if err := b.addPack(p); err != nil {
			return fmt.Errorf("pack %s: %w", p.Ref, err)
		}
	}
	switch searched := strings.Join(b.Engine.Packs, ", "); {
	case len(b.manifest.Packs) > 0:
		return nil
	case len(b.Actions) == 0:
		return fmt.Errorf("there are no packs with actions in %s", searched)
	default:
		return fmt.Errorf("no action in %s is named %s", searched, strings.Join(b.Actions, " or "))
	}
}

// choose notes which actions of a pack are wanted.
func (b *builder) choose(p *pack.Pack) (chosen bool, err error) {
	actions, broken := p.Actions()
	for _, problem := range broken {
		b.warn("an action cannot be used: %v", problem)
	}
	for _, a := range actions {
		wanted := len(b.Actions) == 0
		for _, glob := range b.Actions {
			fits, err := path.Match(glob, a.Ref)
			if err != nil {
				return false, fmt.Errorf("%q is no pattern of action names: %w", glob, err)
			}
			wanted = wanted || fits
		}
		chosen = chosen || wanted
		if wanted && a.Enabled {
			b.enabled[a.Ref] = true
		}
	}
	return chosen, nil
}

func (b *builder) addPack(p *pack.Pack) error {
	digest, err := p.Digest()
	if err != nil {
		return err
	}
	names, err := p.Files()
	if err != nil {
		return err
	}
	for _, name := range names {
		file := filepath.Join(p.Dir, filepath.FromSlash(name))
		info, err := os.Lstat(file)
		if err != nil {
			return err
		}
		content, mode := func() ([]byte, error) { return os.ReadFile(file) }, readable(info.Mode())
		if mode.Type() == fs.ModeSymlink {
			target, err := os.Readlink(file)
			if err != nil {
				return err
			}
			if filepath.IsAbs(target) || !filepath.IsLocal(filepath.Join(filepath.Dir(filepath.FromSlash(name)), target)) {
				return fmt.Errorf("the link %s leads out of the pack, to %s, which is not there at the target", name, target)
			}
			content = fixed(target)
		}
		b.add(path.Join(packsName, filepath.Base(p.Dir), name), mode, content)
	}
	b.manifest.Packs = append(b.manifest.Packs, Pack{Ref: p.Ref, Version: p.Version, Digest: digest})
	return nil
}

// readable is a mode by which everybody may read, and execute what its owner may: a function runs as another user than the one that owns it.
func readable(mode fs.FileMode) fs.FileMode {
	if mode&fs.ModeSymlink != 0 {
		return fs.ModeSymlink | 0o777
	}
	if mode&0o100 != 0 {
		return 0o755
	}
	return 0o644
}

// wrapper is what AWS_LAMBDA_EXEC_WRAPPER names (https://docs.aws.amazon.com/lambda/latest/dg/runtimes-modify.html).
const wrapper = `#!/bin/sh
# The managed runtime's own program, whose command line are the arguments, gives way to attune.
exec "${0%/*}/` + bootstrapName + `"
`

// addPrograms adds what runs the bundle, and what tells about it. They lie where the archive is unpacked.
func (b *builder) addPrograms(context.Context) error {
	b.entries = append(b.entries, entry{bootstrapName, 0o755, func() ([]byte, error) { return os.ReadFile(b.Bootstrap) }})
	if b.Target.Managed() {
		b.entries = append(b.entries, entry{wrapperName, 0o755, fixed(wrapper)})
	}
	manifest, err := json.MarshalIndent(b.manifest, "", "  ")
	b.entries = append(b.entries, entry{manifestName, 0o644, fixed(append(manifest, '\n'))})
	return err
}

// accept compares the size with Lambda's limits.
func (b *builder) accept(s size) error {
	if b.Target.image {
		return nil
	}
	if s.unpacked > MaxUnpacked {
		return &SizeError{Bytes: s.unpacked}
	}
	if s.packed > MaxUpload {
		b.warn("it has %d MiB packed; over %d MiB an archive is uploaded to S3 first", s.packed>>20, MaxUpload>>20)
	}
	return nil
}

// SizeError is a bundle that Lambda would refuse.
type SizeError struct{ Bytes int64 }

// Error names the limit.
func (e *SizeError) Error() string {
	return fmt.Sprintf("the bundle has %d bytes unpacked, and Lambda takes %d, layers included", e.Bytes, MaxUnpacked)
}

// Hint says what to do.
func (*SizeError) Hint() string {
	return "choose fewer actions with --actions, or make a container image: --for lambda:image"
}
