package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/attune-run/attune/internal/config"
	"github.com/attune-run/attune/internal/redact"
	"github.com/attune-run/attune/internal/requestflags"
	"github.com/attune-run/attune/internal/show"
	"github.com/attune-run/attune/pack"
	"github.com/attune-run/attune/proc"
)

type packInstallCmd struct {
	Source    string `arg:"" help:"A directory, a .tar.gz, .tgz, .tar or .zip file, or a git URL (https://….git, git@…, ssh://…, git+file://…), with #branch, #tag or #commit."`
	Into      string `type:"path" placeholder:"DIR" help:"Directory of packs; else the first that packs are looked for in."`
	Path      string `placeholder:"PATH" help:"Where the pack lies in the source."`
	Versioned bool   `help:"Install as <ref>@<version>, beside other versions."`
	Replace   bool   `help:"Replace the pack when it is there."`

	MaxFiles int         `placeholder:"N" help:"Files and directories at most (10000)."`
	MaxBytes config.Size `placeholder:"N" help:"Unpacked bytes at most (512M)."`
	MaxRatio int64       `placeholder:"N" help:"Unpacked to packed size at most (100)."`
	MaxDepth int         `placeholder:"N" help:"Parts of a path at most (32)."`

	trustFlags `embed:""`
	show.Format
}

// Help shows examples under `pack install --help`.
func (packInstallCmd) Help() string {
	return `Examples:
  attune-run pack install ./mine
  attune-run pack install mine-1.2.0.tar.gz --into /opt/attune/packs --versioned
  attune-run pack install 'https://git.example.org/ops/packs.git#v1.2.0' --path packs/mine
The pack appears whole and valid, or not at all. Hooks, submodules and filters of a repository do not run.`
}

// installed is what `pack install -o json` prints.
type installed struct {
	Ref     string `json:"ref"`
	Version string `json:"version"`
	Digest  string `json:"digest"`
	Dir     string `json:"dir"`
	Commit  string `json:"commit,omitempty"` // of a git source
}

// Run installs one pack.
func (c *packInstallCmd) Run(a *app) error {
	service, cfg, err := a.service()
	if err != nil {
		return err
	}
	catalog, err := service.Catalog()
	if err != nil {
		return err
	}
	keys, err := c.keys(cfg)
	if err != nil {
		return err
	}
	in := pack.Installer{
		Into: c.Into, Path: c.Path, Versioned: c.Versioned, Replace: c.Replace, Limits: c.limits(cfg),
		Validate:         func(p *pack.Pack) []pack.Problem { return pack.Validate(p, pack.Finder{Dirs: cfg.Packs}, catalog) },
		RequireSignature: c.RequireSignature || cfg.RequireSignature, TrustedKeys: keys,
	}
	if in.Into == "" {
		in.Into = cfg.Packs[0]
	}
	p, commit, err := c.install(a, in)
	if err != nil {
		var exists *pack.ExistsError
		if errors.As(err, &exists) {
			return fmt.Errorf("%w; --replace replaces it, --versioned puts versions side by side", err)
		}
		return fmt.Errorf("install %s: %w", withoutPassword(c.Source), err)
	}
	digest, err := p.Digest()
	if err != nil {
		return err
	}
	if c.Output == "table" {
		_, err = fmt.Fprintf(a.std.out, "installed %s %s in %s\n%s\n", p.Ref, p.Version, p.Dir, digest)
		return err
	}
	return show.JSON(a.std.out, installed{p.Ref, p.Version, digest, p.Dir, commit})
}

func (c *packInstallCmd) limits(cfg config.Config) pack.Limits {
	limits := cfg.InstallLimits
	if c.MaxFiles > 0 {
		limits.Files = c.MaxFiles
	}
	if c.MaxBytes > 0 {
		limits.Bytes = int64(c.MaxBytes)
	}
	if c.MaxRatio > 0 {
		limits.Ratio = c.MaxRatio
	}
	if c.MaxDepth > 0 {
		limits.Depth = c.MaxDepth
	}
	return limits
}

func (c *packInstallCmd) install(a *app, in pack.Installer) (p *pack.Pack, commit string, err error) {
	info, missing := os.Stat(c.Source)
	source, isGit := gitSource(c.Source)
	switch {
	case missing == nil && info.Mode().IsRegular():
		p, err = in.Archive(c.Source)
	case isGit:
		return source.install(a, in)
	case requestflags.IsFile(filepath.Join(source.url, "HEAD")): // a bare repository
		if source.url, err = filepath.Abs(source.url); err != nil {
			return nil, "", err
		}
		source.file = true
		return source.install(a, in)
	case missing == nil:
		p, err = in.Dir(c.Source)
	case strings.Contains(c.Source, "://"):
		err = errors.New("is no git URL, which ends in .git or begins with git+; an archive is downloaded first")
	default:
		err = missing
	}
	return p, "", err
}

// repository is a git source.
type repository struct {
	url, ref string
	file     bool // lies on this machine, and the user said so
}

// gitSource takes "URL#ref" apart. A plain path is none: it names a directory.
func gitSource(text string) (repository, bool) {
	location, explicit := strings.CutPrefix(text, "git+")
	location, ref, _ := strings.Cut(location, "#")
	r := repository{url: location, ref: ref, file: strings.HasPrefix(location, "file://") || explicit && strings.HasPrefix(location, "/")}
	remote := strings.HasPrefix(location, "git@") || strings.HasPrefix(location, "ssh://") ||
		strings.Contains(location, "://") && strings.HasSuffix(strings.TrimSuffix(location, "/"), ".git")
	return r, explicit || remote || r.file
}

var gitRef = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/@+-]*$`)

const gitTimeout = 10 * time.Minute

// install fetches one commit into a bare repository and reads it as an archive: nothing is checked out, so that no hook, filter
// or submodule has a part in it.
func (r repository) install(a *app, in pack.Installer) (p *pack.Pack, commit string, err error) {
	switch {
	case strings.HasPrefix(r.url, "-") || r.ref != "" && (!gitRef.MatchString(r.ref) || strings.Contains(r.ref, "..")):
		return nil, "", errors.New("is no URL with a branch, tag or commit behind #")
	case strings.HasPrefix(r.url, "http://") || strings.HasPrefix(r.url, "git://"):
		return nil, "", errors.New("nobody vouches for what comes that way; use https or ssh")
	}
	dir, err := os.MkdirTemp("", "attune-git-")
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	ctx, cancel := context.WithTimeoutCause(a.ctx, gitTimeout, fmt.Errorf("git took longer than %s", gitTimeout))
	defer cancel()
	g := git{dir: dir, secret: withPassword(r.url), protocols: "https:ssh", blocks: max(in.Limits.Bytes, pack.DefaultLimits.Bytes) / 512}
	if r.file {
		g.protocols += ":file"
	}
	ref := r.ref
	if ref == "" {
		ref = "HEAD"
	}
	if err := g.plain(); err != nil {
		return nil, "", err
	}
	var id strings.Builder
	for _, step := range []struct {
		out  io.Writer
		args []string
	}{
		{nil, []string{"init", "--quiet", "--bare", "--template=", dir}},
		{nil, []string{"fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--", r.url, ref}},
		{&id, []string{"rev-parse", "FETCH_HEAD^{commit}"}},
	} {
		if err := g.run(ctx, step.out, step.args...); err != nil {
			return nil, "", err
		}
	}
	reader, writer := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		err := g.run(ctx, writer, "archive", "--format=tar", "FETCH_HEAD")
		_ = writer.CloseWithError(err)
		sent <- err
	}()
	p, err = in.Tar(reader)
	_ = reader.Close()
	if failed := <-sent; failed != nil && err == nil {
		err = failed
	}
	return p, strings.TrimSpace(id.String()), err
}

// git runs the program in a repository, without hooks, helpers that prompt, and protocols beyond those allowed.
type git struct {
	dir, secret, protocols string
	blocks                 int64 // of 512 bytes a file may have, the packed commit among them
}

// plain makes git hand over what was committed, byte for byte: without it an archive is run through the user's own filters where the
// repository asks for them (gitattributes(5); info/attributes wins over the repository's).
func (g git) plain() error {
	if err := os.Mkdir(filepath.Join(g.dir, "info"), 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(g.dir, "info", "attributes"), []byte("* -filter -text -ident -working-tree-encoding -export-subst\n"), 0o600)
}

// redirecting are the variables that would lead git to another repository.
var redirecting = []string{"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES",
	"GIT_COMMON_DIR", "GIT_NAMESPACE", "GIT_ALLOW_PROTOCOL", "GIT_TERMINAL_PROMPT", "GIT_LFS_SKIP_SMUDGE"}

func (g git) run(ctx context.Context, out io.Writer, args ...string) error {
	program, err := exec.LookPath("git")
	if err != nil {
		return errors.New("the program git is not in PATH")
	}
	env := slices.DeleteFunc(os.Environ(), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.Contains(redirecting, name)
	})
	stderr := proc.NewCapture(8 << 10)
	exit, err := proc.Run(ctx, proc.Spec{
		Argv: append([]string{"/bin/sh", "-c", `ulimit -f "$1" 2>/dev/null; shift; exec "$@"`, "sh", strconv.FormatInt(g.blocks, 10),
			program, "--git-dir=" + g.dir, "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "gc.auto=0", "-c", "maintenance.auto=false"}, args...),
		Env:    append(env, "GIT_ALLOW_PROTOCOL="+g.protocols, "GIT_TERMINAL_PROMPT=0", "GIT_LFS_SKIP_SMUDGE=1"),
		Stdout: out, Stderr: stderr, Dir: g.dir, Grace: time.Second,
	})
	switch {
	case err != nil:
		return err
	case exit.Cause != nil:
		return exit.Cause
	case exit.Code != 0:
		return fmt.Errorf("git %s exited with %d: %s", args[0], exit.Code, redact.New(g.secret).String(strings.TrimSpace(stderr.Text())))
	}
	return nil
}

// withPassword is the password a URL holds; it may be empty.
func withPassword(text string) string {
	if u, err := url.Parse(text); err == nil && u.User != nil {
		password, _ := u.User.Password()
		return password
	}
	return ""
}

func withoutPassword(text string) string {
	if u, err := url.Parse(text); err == nil && u.User != nil {
		return u.Redacted()
	}
	return text
}

type packSignCmd struct {
	Dir string `arg:"" type:"path" help:"The pack's directory."`
	Key string `required:"" type:"path" placeholder:"FILE" help:"Private key, PEM: of pack keygen, or openssl genpkey -algorithm ed25519."`
}

// Run writes pack.sig.
func (c *packSignCmd) Run(a *app) error {
	key, err := pack.ReadPrivateKey(c.Key)
	if err != nil {
		return fmt.Errorf("--key: %w", err)
	}
	p, err := pack.Load(c.Dir)
	if err != nil {
		return err
	}
	digest, err := p.Sign(key)
	if err != nil {
		return fmt.Errorf("sign %s: %w", c.Dir, err)
	}
	_, err = fmt.Fprintf(a.std.out, "signed %s %s in %s\n%s\n", p.Ref, p.Version, filepath.Join(p.Dir, pack.SignatureFile), digest)
	return err
}

type packVerifyCmd struct {
	Packs      []string `arg:"" name:"pack|dir" predictor:"pack" help:"Packs or their directories."`
	TrustedKey []string `placeholder:"KEY" sep:"none" help:"ed25519:<base64>, or a PEM file (repeatable). [$ATTUNE_TRUSTED_KEYS]"`
}

// Run exits with 1 when a signature does not hold.
func (c *packVerifyCmd) Run(a *app) error {
	cfg, err := config.Load(a.cli.flags(), config.Defaults{}, os.Environ())
	if err != nil {
		return err
	}
	keys, err := trustFlags{TrustedKey: c.TrustedKey}.keys(cfg)
	if err != nil {
		return err
	}
	packs, problems, err := (&packValidateCmd{Packs: c.Packs}).packs(pack.Finder{Dirs: cfg.Packs})
	if err != nil {
		return err
	}
	for _, p := range packs {
		verified, err := p.Verify(keys)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		_, _ = fmt.Fprintf(a.std.out, "%s %s: signed by %s\n%s\n", p.Ref, p.Version, verified.Key, verified.Digest)
	}
	for _, problem := range problems {
		_, _ = fmt.Fprintf(a.std.err, "%s: %v\n", a.name, problem)
	}
	if len(problems) > 0 {
		return exitCode(1)
	}
	return nil
}

type packKeygenCmd struct {
	File string `arg:"" type:"path" help:"File of the private key; the public one gets the name with .pub behind it."`
}

// Run makes a key and prints the public one as trusted_keys takes it.
func (c *packKeygenCmd) Run(a *app) error {
	key, err := pack.GenerateKey(c.File)
	if err != nil {
		return fmt.Errorf("keygen: %w", err)
	}
	_, err = fmt.Fprintln(a.std.out, key)
	return err
}
