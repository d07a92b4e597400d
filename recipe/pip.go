package recipe

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	stdruntime "runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/runtime"
)

// pipBuild fills an environment without uv: pip resolves, downloads and builds wheels, attune unpacks and compiles them. Below
// the downloads are
//
//	pip/                 pip's own cache
//	wheels/<source>/     what pip got from one set of indexes and local packages, and what it chose for which requirements
//	                     (<digest>.json)
//	unpacked/<python>/   wheels as wheel.go unpacks them, by the SHA-256 of the wheel
//	ensurepip/<python>/  a pip for an interpreter that has none
type pipBuild struct {
	in       Input
	site     envcache.Site
	deps     pythonDeps
	settings pipConfig
	tool     pythonTool
	work     string // a directory for the time of the build, on the file system of the downloads
}

// wheel is one file that pip got.
type wheel struct {
	File  string `json:"file"`
	Sum   string `json:"sha256"` // hex
	Local bool   `json:"local"`  // may have been built of a local package
	fresh string // path before it is kept; else empty
}

func (p pipBuild) install(ctx context.Context) error {
	wheels, err := p.wheels(ctx)
	if err != nil {
		return err
	}
	p.site.Phase("unpacking")
	if err := p.unpack(ctx, wheels); err != nil {
		return err
	}
	if err := p.keep(wheels); err != nil {
		return err
	}
	var group errgroup.Group
	group.SetLimit(stdruntime.GOMAXPROCS(0))
	for _, w := range wheels {
		group.Go(func() error { return placeWheel(p.unpacked(w), p.site.Dir, pythonName(p.in)) })
	}
	return group.Wait()
}

// wheels are what the requirements need. What was chosen before is taken again where nothing else could be
// chosen (hashes), or where that was asked for.
func (p pipBuild) wheels(ctx context.Context) ([]wheel, error) {
	if p.deps.locked || p.in.Network == PreferOffline || p.in.Network == Offline {
		if known := p.remembered(); known != nil {
			return known, nil
		}
	}
	if p.in.Network != PreferOffline && p.in.Network != Offline {
		return p.resolve(ctx)
	}
	found, err := p.resolveOffline(ctx)
	if err == nil || p.in.Network == Offline {
		return found, offlineMiss(p.deps.manifest, err)
	}
	return p.resolve(ctx)
}

// resolveOffline keeps pip from the network: without an index, and behind a proxy that is not there.
func (p pipBuild) resolveOffline(ctx context.Context) ([]wheel, error) {
	if len(p.deps.remote) > 0 {
		return nil, &OfflineError{Manifest: p.deps.manifest, Err: fmt.Errorf("%q has an address of its own", withoutCredentials(p.deps.remote[0]))}
	}
	var local []string
	for _, place := range strings.Fields(p.settings["PIP_FIND_LINKS"]) {
		if !strings.Contains(place, "://") || strings.HasPrefix(place, "file:") {
			local = append(local, place)
		}
	}
	for _, dir := range []string{p.house(false), p.house(true)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		local = append(local, (&url.URL{Scheme: "file", Path: dir}).String()) // a path could have blanks
	}
	return p.resolve(ctx, "PIP_NO_INDEX=1", "PIP_PROXY=http://127.0.0.1:9", "PIP_RETRIES=0", "PIP_FIND_LINKS="+strings.Join(local, " "))
}

// resolve lets pip choose, download and build. extra are variables that win over all others.
func (p pipBuild) resolve(ctx context.Context, extra ...string) ([]wheel, error) {
	pip := newInstaller(p.in, "pip", "PIP_")
	for name, value := range p.settings { // also those of [install], which pip would not read for this command
		if !slices.Contains(moving, name) {
			pip.set(name, value)
		}
	}
	p.deps.passOn(p.in, pip)
	pip.set("PIP_CACHE_DIR", filepath.Join(p.in.Downloads, "pip"))
	for _, name := range []string{"PIP_REQUIRE_VIRTUALENV", "PIP_NO_DEPS"} { // also against a configuration file
		pip.set(name, "0")
	}
	if runtime.CompareVersions(p.tool.version, "23.1") < 0 {
		pip.set("PIP_USE_PEP517", cmp.Or(p.settings["PIP_USE_PEP517"], "1")) // else it needs a wheel package beside itself
	}
	for _, entry := range extra {
		name, value, _ := strings.Cut(entry, "=")
		pip.set(name, value)
	}
	interpreter, err := p.interpreterWithPip(ctx)
	if err != nil {
		return nil, err
	}
	requirements, err := p.deps.requirementsFile(p.work)
	if err != nil {
		return nil, err
	}
	got := filepath.Join(p.work, "wheels")
	argv := []string{interpreter, "-I", "-m", "pip", "wheel", "--no-input", "--disable-pip-version-check", "--progress-bar", "off", "--wheel-dir", got}
	options := []string{"-r", requirements}
	if p.deps.locked {
		options = append(options, "--require-hashes")
	}
	said := tail{max: 1 << 20}
	if err := pip.run(ctx, p.loggedTo(io.MultiWriter(p.site.Log, &said)), append(argv, options...)...); err != nil {
		return nil, p.explain(ctx, pip, argv, err)
	}
	return p.got(got, said.buffer.String())
}

func (p pipBuild) loggedTo(w io.Writer) envcache.Site {
	site := p.site
	site.Log = w
	return site
}

// explain asks again for a package of which pip has found nothing, because pip says only in its verbose output that it could not
// reach the index, or was refused.
func (p pipBuild) explain(ctx context.Context, pip *installer, argv []string, err error) error {
	var failed *ToolFailure
	if !errors.As(err, &failed) || failed.class != envcache.Permanent || pip.env["PIP_NO_INDEX"] != "" {
		return err
	}
	missing := regexp.MustCompile(`satisfies the requirement (\S+).*\(from versions: none\)`).FindSubmatch(failed.output)
	if missing == nil {
		return err
	}
	var verbose tail
	_ = pip.run(ctx, p.loggedTo(&verbose), append(argv, "-vv", "--no-deps", string(missing[1]))...)
	for line := range bytes.Lines(verbose.buffer.Bytes()) {
		if !bytes.Contains(line, []byte("Could not fetch URL")) {
			continue
		}
		_, _ = p.site.Log.Write(append(bytes.TrimSpace(line), '\n'))
		if networkTrouble().Match(line) {
			failed.class = envcache.Transient
		}
	}
	return err
}

// got are the wheels that pip has put into dir, and said that it has built itself.
func (p pipBuild) got(dir, said string) ([]wheel, error) {
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // nothing was required on this platform
		return nil, err
	}
	wheels := make([]wheel, len(files))
	var group errgroup.Group
	group.SetLimit(stdruntime.GOMAXPROCS(0))
	for i, item := range files {
		group.Go(func() (err error) {
			w := wheel{File: item.Name(), fresh: filepath.Join(dir, item.Name())}
			w.Local = len(p.deps.locals) > 0 && strings.Contains(said, "filename="+w.File)
			w.Sum, err = fileDigest(w.fresh)
			wheels[i] = w
			return err
		})
	}
	return wheels, group.Wait()
}

// keep moves fresh wheels to what is shared, and notes what was chosen.
func (p pipBuild) keep(wheels []wheel) error {
	if !slices.ContainsFunc(wheels, func(w wheel) bool { return w.fresh != "" }) {
		return nil
	}
	data, err := json.Marshal(wheels)
	if err != nil {
		return err
	}
	note := filepath.Join(p.work, "resolved.json")
	if err := cmp.Or(os.MkdirAll(p.house(true), 0o755), os.MkdirAll(p.house(false), 0o755), os.WriteFile(note, data, 0o644)); err != nil {
		return err
	}
	for _, w := range wheels {
		if err := os.Rename(w.fresh, filepath.Join(p.house(w.Local), w.File)); err != nil {
			return err
		}
	}
	return os.Rename(note, p.note())
}

// path is where a wheel is now.
func (p pipBuild) path(w wheel) string {
	return cmp.Or(w.fresh, filepath.Join(p.house(w.Local), w.File))
}

// remembered is what was chosen for the same requirements before, if all of it is still there.
func (p pipBuild) remembered() []wheel {
	data, err := os.ReadFile(p.note())
	if err != nil {
		return nil
	}
	var wheels []wheel
	if json.Unmarshal(data, &wheels) != nil {
		return nil
	}
	for _, w := range wheels {
		if w.File != filepath.Base(w.File) || len(w.Sum) != sha256.Size*2 || !isWhole(p.unpacked(w)) && !p.downloaded(w) {
			return nil
		}
	}
	return wheels
}

func (p pipBuild) downloaded(w wheel) bool {
	sum, err := fileDigest(p.path(w))
	return err == nil && sum == w.Sum
}

// house is where the wheels of the same settings and kind of machine are: one index's wheel is not another's. What may have
// been built of local packages is apart, and goes with their content.
func (p pipBuild) house(local bool) string {
	source := append(p.settings.inputs(p.in), platform(p.in.Interpreter.Path)...)
	if local {
		source = append(source, p.deps.locals...)
	}
	return filepath.Join(p.in.Downloads, "wheels", digest(source))
}

func (p pipBuild) note() string {
	asked := append(slices.Clone(p.deps.inputs), envcache.KeyInput{Name: "python", Value: p.python()})
	return filepath.Join(p.house(true), digest(asked)+".json")
}

// python tells interpreters apart that do not share bytecode, or choose other versions.
func (p pipBuild) python() string {
	return cmp.Or(p.in.Interpreter.ABI, pythonName(p.in)) + "-" + p.in.Interpreter.Version
}

func (p pipBuild) unpacked(w wheel) string {
	return filepath.Join(p.in.Downloads, "unpacked", p.python(), w.Sum)
}

func digest(inputs []envcache.KeyInput) string {
	hash := sha256.New()
	for _, input := range inputs {
		_, _ = fmt.Fprintf(hash, "%q %q\n", input.Name, input.Value)
	}
	return hex.EncodeToString(hash.Sum(nil))[:32]
}

// unpack sees to it that all wheels are unpacked and compiled. Another build may do the same at the same time: whoever is
// ready first wins.
func (p pipBuild) unpack(ctx context.Context, wheels []wheel) error {
	fresh := filepath.Join(p.work, "unpacked")
	infos := make([]string, len(wheels)) // empty: it was there
	var group errgroup.Group
	group.SetLimit(stdruntime.GOMAXPROCS(0))
	for i, w := range wheels {
		group.Go(func() (err error) {
			if !isWhole(p.unpacked(w)) {
				infos[i], err = unpackWheel(p.path(w), filepath.Join(fresh, w.Sum))
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := p.compile(ctx, fresh); err != nil {
		return err
	}
	for i, w := range wheels {
		if infos[i] != "" {
			group.Go(func() error {
				from, to := filepath.Join(fresh, w.Sum), p.unpacked(w)
				if err := sealWheel(p.path(w), from, infos[i]); err != nil {
					return err
				}
				return p.publish(from, to)
			})
		}
	}
	return group.Wait()
}

// publish moves an unpacked wheel to where all builds find it.
func (p pipBuild) publish(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	err := os.Rename(from, to)
	if err == nil || isWhole(to) {
		return nil
	}
	// A broken one is in the way.
	aside := from + ".broken"
	return cmp.Or(os.Rename(to, aside), os.Rename(from, to))
}

// compile writes the bytecode of all modules below dir, one interpreter for each processor: compileall's own workers need
// semaphores, which not every machine has. What does not compile stays as it is: packages ship templates and code
// for other versions.
func (p pipBuild) compile(ctx context.Context, dir string) error {
	lists, err := modules(dir, stdruntime.GOMAXPROCS(0))
	if err != nil {
		return err
	}
	var group errgroup.Group
	for i, list := range lists {
		group.Go(func() error {
			file := filepath.Join(p.work, fmt.Sprintf("modules-%d", i))
			if err := os.WriteFile(file, []byte(strings.Join(list, "\n")+"\n"), 0o600); err != nil {
				return err
			}
			err := newInstaller(p.in, "compileall").run(ctx, p.site, p.in.Interpreter.Path, "-I", "-S", "-m", "compileall", "-qq", "-i", file)
			var failed *ToolFailure
			if errors.As(err, &failed) && failed.Code == 1 {
				return nil
			}
			return err
		})
	}
	return group.Wait()
}

// modules are the Python files below dir in at most n lists of about the same size.
func modules(dir string, n int) ([][]string, error) {
	type module struct {
		path string
		size int64
	}
	var all []module
	err := filepath.WalkDir(dir, func(path string, item fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path == dir {
			return nil
		}
		if err != nil || item.IsDir() || filepath.Ext(path) != ".py" {
			return err
		}
		info, err := item.Info()
		all = append(all, module{path, info.Size()})
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(all) < 50 {
		n = 1 // another interpreter would start longer than it would help
	}
	slices.SortFunc(all, func(a, b module) int { return cmp.Compare(b.size, a.size) })
	lists, sizes := make([][]string, n), make([]int64, n)
	for _, m := range all {
		least := slices.Index(sizes, slices.Min(sizes))
		lists[least], sizes[least] = append(lists[least], m.path), sizes[least]+m.size
	}
	return slices.DeleteFunc(lists, func(list []string) bool { return len(list) == 0 }), nil
}

// interpreterWithPip is the base interpreter, or a virtual environment of it that ensurepip has filled, where it has no pip.
func (p pipBuild) interpreterWithPip(ctx context.Context) (string, error) {
	if p.tool.version != "" {
		return p.in.Interpreter.Path, nil
	}
	ready := filepath.Join(p.in.Downloads, "ensurepip", p.python()+"-"+digest([]envcache.KeyInput{{Name: p.in.Interpreter.Path}}))
	if exists(ready, "bin/python") {
		return pythonBinary(ready), nil
	}
	p.site.Phase("installing pip with ensurepip")
	fresh := filepath.Join(p.work, "pip")
	if err := writeVirtualenv(p.in, fresh); err != nil {
		return "", err
	}
	if err := newInstaller(p.in, "ensurepip").run(ctx, p.site, pythonBinary(fresh), "-I", "-m", "ensurepip"); err != nil {
		return "", fmt.Errorf("%s has no pip, and %w; install uv, or pip for this interpreter (python3-pip on Debian)", p.in.Interpreter.Path, err)
	}
	if err := os.MkdirAll(filepath.Dir(ready), 0o755); err != nil {
		return "", err
	}
	if err := os.Rename(fresh, ready); err != nil && !exists(ready, "bin/python") {
		return "", err
	}
	return pythonBinary(ready), nil
}

// basePipVersion reads the version of the base interpreter's pip from the name of its metadata directory, without
// starting it; empty when there is none.
func basePipVersion(in Input) string {
	prefix, name := filepath.Dir(filepath.Dir(in.Interpreter.Path)), pythonName(in)
	places := []string{filepath.Join(prefix, "lib", name, "site-packages"), filepath.Join(prefix, "lib64", name, "site-packages")}
	if prefix == "/usr" { // Debian's
		places = append(places, filepath.Join("/usr/local/lib", name, "dist-packages"), "/usr/lib/python3/dist-packages")
	}
	for _, dir := range places {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, item := range slices.Backward(entries) {
			ext := filepath.Ext(item.Name())
			stem, ok := strings.CutPrefix(strings.TrimSuffix(item.Name(), ext), "pip-")
			if ok && (ext == ".dist-info" || ext == ".egg-info") {
				version, _, _ := strings.Cut(stem, "-")
				return version
			}
		}
	}
	return ""
}
