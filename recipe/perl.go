package recipe

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/runtime"
)

// perl installs a cpanfile with cpanm in local::lib's layout: modules in lib/perl5, where perl itself looks for the directories of
// its version and architecture, programs in bin. cpanm cannot read carton's snapshot, but an index of a mirror: a snapshot becomes
// one, as carton does it, and then nothing else can be installed.
//
// A pack may bring a mirror in vendor/cache: authors/id/… and modules/02packages.details.txt.gz, as `carton bundle` makes it.
type perl struct{}

const (
	cpanfile         = "cpanfile"
	cpanfileSnapshot = "cpanfile.snapshot"
	cpanMirror       = "vendor/cache"
)

func (perl) Inputs(ctx context.Context, in Input) ([]envcache.KeyInput, error) {
	inputs, err := manifestInputs(in, cpanfile, cpanfileSnapshot)
	if err != nil || inputs == nil {
		return nil, err
	}
	if hasOwnMirror(in.PackDir) {
		files, err := references{cpanMirror}.inputs(in.PackDir)
		if err != nil {
			return nil, err
		}
		inputs = append(inputs, files...)
	}
	version := ""
	if cpanm, found := findScript(in, "cpanm", "perl"); found {
		if version, err = in.toolVersion(ctx, "cpanm", cpanm, `version (?P<version>[\d._]+)`); err != nil && !errors.Is(err, errNoProbe) {
			return nil, fmt.Errorf("cpanm: %w", err)
		}
	}
	inputs = append(inputs, envcache.KeyInput{Name: "installer", Value: strings.TrimSpace("cpanm " + version)})
	return append(inputs, variables(in, "PERL_CPANM_OPT")...), nil
}

// hasOwnMirror tells whether the pack brings a mirror of its own.
func hasOwnMirror(packDir string) bool { return exists(packDir, cpanMirror+"/authors/id") }

func (perl) Build(ctx context.Context, in Input, site envcache.Site) (envcache.Built, error) {
	cpanm, found := findScript(in, "cpanm", "perl")
	if !found {
		return envcache.Built{}, &ToolError{Tool: "cpanm", Manifest: cpanfile, Remedy: "install App::cpanminus (Debian: cpanminus)"}
	}
	dir, remove, err := plainName(site.Dir)
	if err != nil {
		return envcache.Built{}, err
	}
	defer remove()
	b := newCPANBuild(in, site, dir, cpanm)
	if err := b.layOut(); err != nil {
		return envcache.Built{}, err
	}
	if err := b.install(ctx); err != nil {
		return envcache.Built{}, err
	}
	return b.finish()
}

// cpanBuild is one build of a cpanfile.
type cpanBuild struct {
	in     Input
	site   envcache.Site
	cpanm  string
	tool   *installer
	dir    string // site.Dir, by a name that Makefiles can bear
	work   string // what only cpanm needs
	mirror string // downloads: a mirror of its own for each setting of cpanm
	locked bool
}

func newCPANBuild(in Input, site envcache.Site, dir, cpanm string) *cpanBuild {
	sum := sha256.Sum256([]byte(withoutCredentials(in.hostVar("PERL_CPANM_OPT"))))
	b := &cpanBuild{
		in: in, site: site, cpanm: cpanm, tool: newInstaller(in, "cpanm", "PERL_CPANM_OPT").mayMiss(in.Network), dir: dir, work: filepath.Join(dir, "work"),
		mirror: filepath.Join(in.Downloads, "cpanm", hex.EncodeToString(sum[:8])), locked: exists(in.PackDir, cpanfileSnapshot),
	}
	b.tool.dir = b.work
	b.tool.set("WGETRC", filepath.Join(b.work, "wgetrc"))
	b.tool.set("PERL_CPANM_HOME", filepath.Join(b.work, "cpanm"))
	b.tool.set("PATH", filepath.Dir(in.Interpreter.Path)+string(os.PathListSeparator)+b.tool.env["PATH"])
	return b
}

// layOut copies the cpanfile, because cpanm would configure and build whatever else lies beside it.
func (b *cpanBuild) layOut() error {
	for _, dir := range []string{filepath.Join(b.work, "project"), filepath.Join(b.dir, "lib", "perl5")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	if err := b.writeWgetrc(); err != nil {
		return err
	}
	data, _, err := readManifest(b.in.PackDir, cpanfile)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(b.work, "project", cpanfile), data, 0o600); err != nil {
		return err
	}
	if !b.locked {
		return nil
	}
	index, err := snapshotIndex(b.in.PackDir)
	if err != nil {
		return err
	}
	return index.write(b.index())
}

// writeWgetrc gives cpanm's wget the user's settings and fewer tries: by itself it knocks at a closed port for two and a half minutes.
func (b *cpanBuild) writeWgetrc() error {
	file := cmp.Or(b.in.hostVar("WGETRC"), filepath.Join(b.in.hostVar("HOME"), ".wgetrc"))
	settings, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	text := string(settings) + "\ntries = 2\n"
	if certificates := b.in.hostVar("SSL_CERT_FILE"); certificates != "" {
		text += "ca_certificate = " + certificates + "\n"
	}
	return os.WriteFile(filepath.Join(b.work, "wgetrc"), []byte(text), 0o600)
}

func (b *cpanBuild) index() string { return filepath.Join(b.work, "02packages.details.txt") }

// install runs cpanm, without the network where the pack brings a mirror, the network is off limits, or what was downloaded
// before will do.
func (b *cpanBuild) install(ctx context.Context) error {
	b.site.Phase("installing cpanfile with cpanm")
	switch {
	case hasOwnMirror(b.in.PackDir):
		if !b.locked && !exists(b.in.PackDir, cpanMirror+"/modules/02packages.details.txt.gz") {
			return &ManifestError{File: filepath.Join(b.in.PackDir, cpanMirror), Problem: "it has no modules/02packages.details.txt.gz, and there is no " + cpanfileSnapshot,
				Remedy: "make it with `carton bundle`, or keep " + cpanfileSnapshot + " beside " + cpanfile}
		}
		return b.run(ctx, filepath.Join(b.in.PackDir, cpanMirror))
	case b.in.Network == Online || b.in.Network == "":
		return b.run(ctx, "")
	}
	if !b.locked {
		index, err := downloadedIndex(b.mirror)
		if err != nil {
			return err
		}
		if err := index.write(b.index()); err != nil {
			return err
		}
	}
	err := b.run(ctx, b.mirror)
	var failed *ToolFailure
	if b.in.Network == Offline || err == nil || !errors.As(err, &failed) || failed.Signal != 0 {
		return err
	}
	if !b.locked {
		if err := os.Remove(b.index()); err != nil {
			return err
		}
	}
	return b.run(ctx, "")
}

// run runs cpanm with the given mirror alone, a directory, or with those of its settings. An index that lies ready decides.
func (b *cpanBuild) run(ctx context.Context, mirror string) error {
	argv := []string{b.in.Interpreter.Path, b.cpanm, "--notest", "--no-man-pages", "--local-lib-contained", b.dir}
	if mirror != "" {
		link := filepath.Join(b.work, "mirror") // cpanm takes addresses without blanks
		if err := os.Symlink(mirror, link); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		argv = append(argv, "--mirror", "file://"+link, "--mirror-only")
		b.tool.set("PERL_CPANM_OPT", withoutMirrors(b.tool.env["PERL_CPANM_OPT"]))
	} else {
		argv = append(argv, "--save-dists", b.mirror)
		b.tool.set("PERL_CPANM_OPT", b.in.hostVar("PERL_CPANM_OPT"))
	}
	if _, err := os.Stat(b.index()); err == nil {
		argv = append(argv, "--mirror-index", b.index())
	}
	argv = append(argv, "--cpanfile", filepath.Join(b.work, "project", cpanfile), "--installdeps", filepath.Join(b.work, "project"))
	var said tail
	site := b.site
	site.Log = io.MultiWriter(b.site.Log, &said)
	err := b.tool.run(ctx, site, argv...)
	if err != nil && b.locked && notInIndex().Match(said.buffer.Bytes()) {
		return &ManifestError{File: filepath.Join(b.in.PackDir, cpanfileSnapshot), Problem: "it does not match " + cpanfile,
			Remedy: "run `carton install` and keep the new " + cpanfileSnapshot, Err: err}
	}
	return err
}

var notInIndex = lazily(`Finding .* on mirror index .* failed|which doesn't satisfy`)

// withoutMirrors drops the options that would lead cpanm elsewhere than to the one mirror it is given.
func withoutMirrors(options string) string {
	var kept []string
	words := strings.Fields(options)
	for i := 0; i < len(words); i++ {
		name, _, joined := strings.Cut(words[i], "=")
		switch name {
		case "--mirror", "--mirror-index", "--from", "-M":
			if !joined {
				i++
			}
		case "--mirror-only", "--cascade-search", "--metacpan":
		default:
			kept = append(kept, words[i])
		}
	}
	return strings.Join(kept, " ")
}

// finish notes what was installed, for the result and for builds without the network.
func (b *cpanBuild) finish() (envcache.Built, error) {
	built := envcache.Built{Locked: b.locked, Sentinels: []string{"lib/perl5"}}
	notes, err := filepath.Glob(filepath.Join(escapeGlob(b.site.Dir), "lib/perl5/*/.meta/*/install.json"))
	if err != nil {
		return built, err
	}
	for _, note := range notes {
		dist, err := readDist(note)
		if err != nil {
			return built, err
		}
		built.Resolved = append(built.Resolved, dist.Name+"=="+string(dist.Version))
		if _, err := os.Stat(filepath.Join(b.mirror, "authors", "id", dist.Pathname)); err == nil {
			if err := b.keepNote(note); err != nil {
				return built, err
			}
		}
	}
	slices.Sort(built.Resolved)
	built.Complete = existingDirs(b.site.Dir, b.site.Dir, "lib/perl5", "lib/perl5/*/.meta", "lib/perl5/*/auto", "bin")
	return built, os.RemoveAll(filepath.Join(b.site.Dir, "work"))
}

// keepNote keeps cpanm's note of a distribution beside its download; other builds may read it at any time.
func (b *cpanBuild) keepNote(note string) error {
	data, err := os.ReadFile(note)
	if err != nil {
		return err
	}
	dir := filepath.Join(b.mirror, "dists")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return renameio.WriteFile(filepath.Join(dir, filepath.Base(filepath.Dir(note))+".json"), data, 0o600)
}

// dist is a distribution as cpanm notes it.
type dist struct {
	Name     string      `json:"name"`
	Version  cpanVersion `json:"version"`
	Pathname string      `json:"pathname"` // below authors/id
	Provides map[string]struct {
		Version cpanVersion `json:"version"`
	} `json:"provides"`
}

// cpanVersion is a text or a number in its own digits, or "undef", as an index has it.
type cpanVersion string

// UnmarshalJSON takes any scalar.
func (v *cpanVersion) UnmarshalJSON(data []byte) error {
	if *v = cpanVersion(strings.Trim(string(data), `"`)); *v == "null" || *v == "" {
		*v = "undef"
	}
	return nil
}

func readDist(file string) (dist, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return dist{}, err
	}
	var d dist
	if err := json.Unmarshal(data, &d); err != nil {
		return dist{}, fmt.Errorf("%s: %w", file, err)
	}
	return d, nil
}

// cpanIndex maps a module to its version and its distribution's path below authors/id.
type cpanIndex map[string]struct{ version, pathname string }

// write writes the index as a CPAN mirror has it (modules/02packages.details.txt).
func (c cpanIndex) write(file string) error {
	var text strings.Builder
	text.WriteString("File: 02packages.details.txt\n\n")
	for _, module := range slices.Sorted(maps.Keys(c)) {
		fmt.Fprintf(&text, "%s %s %s\n", module, c[module].version, c[module].pathname)
	}
	return os.WriteFile(file, []byte(text.String()), 0o600)
}

// downloadedIndex is the index of what was downloaded into a mirror before: the newest of each module.
func downloadedIndex(mirror string) (cpanIndex, error) {
	notes, err := filepath.Glob(filepath.Join(escapeGlob(mirror), "dists", "*.json"))
	if err != nil {
		return nil, err
	}
	index := cpanIndex{}
	for _, note := range notes {
		d, err := readDist(note)
		if err != nil {
			return nil, err
		}
		for module, provided := range d.Provides {
			version := string(cmp.Or(provided.Version, "undef"))
			if known, ok := index[module]; !ok || runtime.CompareVersions(version, known.version) > 0 {
				index[module] = struct{ version, pathname string }{version, d.Pathname}
			}
		}
	}
	return index, nil
}

// snapshotIndex reads a cpanfile.snapshot: names indented by two blanks, their properties by four, what they provide by six.
func snapshotIndex(packDir string) (cpanIndex, error) {
	file := filepath.Join(packDir, cpanfileSnapshot)
	data, _, err := readManifest(packDir, cpanfileSnapshot)
	if err != nil {
		return nil, err
	}
	damaged := func(line int, problem string) error {
		return &ManifestError{File: fmt.Sprintf("%s:%d", file, line), Problem: problem, Remedy: "make it anew with `carton install`"}
	}
	if !strings.HasPrefix(string(data), "# carton snapshot format: version 1.") {
		return nil, damaged(1, "this is no snapshot of carton's, version 1")
	}
	index := cpanIndex{}
	pathname, section, number := "", "", 0
	for line := range strings.Lines(string(data)) {
		number++
		text := strings.TrimSpace(line)
		words := strings.Fields(text)
		switch indent := len(line) - len(strings.TrimLeft(line, " ")); {
		case text == "" || indent == 0:
		case indent == 2:
			pathname, section = "", ""
		case indent == 4 && words[0] == "pathname:" && len(words) == 2:
			pathname = words[1]
		case indent == 4:
			section = words[0]
		case indent == 6 && section == "provides:":
			if pathname == "" || len(words) != 2 {
				return nil, damaged(number, fmt.Sprintf("%q has no distribution or no version", text))
			}
			index[words[0]] = struct{ version, pathname string }{words[1], pathname}
		}
	}
	return index, nil
}

// plainName is another name of a directory where its own holds what Makefiles and patterns cannot bear.
func plainName(dir string) (name string, remove func(), err error) {
	if !strings.ContainsFunc(dir, func(r rune) bool { return strings.ContainsRune(" \t\n#$%&'\"()*:;<>?[\\]^`{|}~=", r) }) {
		return dir, func() {}, nil
	}
	temporary, err := os.MkdirTemp("", "attune-")
	if err != nil {
		return "", nil, err
	}
	name = filepath.Join(temporary, "env")
	return name, func() { _ = os.RemoveAll(temporary) }, os.Symlink(dir, name)
}

// perlVars are what makes a perl find the environment: behind the pack's own lib.
var perlVars = []runtime.EnvVar{
	{Name: "PERL5LIB", Value: "{env_dir}/lib/perl5", Operation: runtime.Append},
	{Name: "PATH", Value: "{env_dir}/bin", Operation: runtime.Prepend},
}

// Check promises that perl starts with what was installed before it in its path. Modules are not loaded: some act on being
// loaded (profilers, servers' modules), and cpanm has made sure that every one the cpanfile wants is there in its version.
func (perl) Check(ctx context.Context, in Input, dir string) error {
	return starts(ctx, dir, perlVars, in.Interpreter.Path, "-Mstrict", "-Mwarnings", "-e", "1")
}

func (perl) Command(in Input, env *envcache.Env) (Command, error) {
	command, err := interpreted(in, in.Interpreter.Path, runtime.Vars{})
	if env != nil {
		command.Env = perlVars
	}
	return command, err
}
