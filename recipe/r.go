package recipe

import (
	"cmp"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/runtime"
)

// renv restores a renv.lock: with renv where it is installed, else with R alone, which can do so for packages of repositories and
// of the pack's cellar (renv/cellar/<package>_<version>.tar.gz).
//
// An action sees the environment's packages and R's own, and none of the machine's.
type renv struct{}

const (
	renvLock   = "renv.lock"
	renvCellar = "renv/cellar" // https://rstudio.github.io/renv/articles/package-sources.html
)

// restoreR installs from a directory what restore.plan has laid out there.
//
//go:embed restore.R
var restoreR []byte

// lockfile is the part of a renv.lock that decides what is installed.
type lockfile struct {
	R struct {
		Version      string
		Repositories []repository
	}
	Packages map[string]lockedPackage
}

type repository struct{ Name, URL string }

type lockedPackage struct{ Package, Version, Source, Repository string }

func (renv) Inputs(_ context.Context, in Input) ([]envcache.KeyInput, error) {
	inputs, err := manifestInputs(in, renvLock, renvLock)
	if err != nil || inputs == nil {
		return nil, err
	}
	lock, err := readRenvLock(in.PackDir)
	if err != nil || len(lock.Packages) == 0 {
		return nil, err
	}
	if exists(in.PackDir, renvCellar) {
		files, err := references{renvCellar}.inputs(in.PackDir)
		if err != nil {
			return nil, err
		}
		inputs = append(inputs, files...)
	}
	_, installer := findRenv(in)
	inputs = append(inputs, envcache.KeyInput{Name: "installer", Value: installer})
	return append(inputs, variables(in, "RENV_CONFIG_REPOS_OVERRIDE", "RENV_CONFIG_BITBUCKET_HOST", "RENV_CONFIG_GITHUB_HOST", "RENV_CONFIG_GITLAB_HOST")...), nil
}

func readRenvLock(packDir string) (lockfile, error) {
	var lock lockfile
	file := filepath.Join(packDir, renvLock)
	data, _, err := readManifest(packDir, renvLock)
	if err != nil {
		return lock, err
	}
	if err := json.Unmarshal(data, &lock); err != nil {
		return lock, &ManifestError{File: file, Problem: "it is no renv.lock: " + jsonProblem(data, err), Remedy: "make it anew with renv::snapshot()"}
	}
	for name, p := range lock.Packages {
		if p.Package == "" || p.Version == "" || strings.ContainsAny(p.Package+p.Version, "/\t\n ") {
			return lock, &ManifestError{File: file, Problem: fmt.Sprintf("package %q has no usable name or version", name), Remedy: "make it anew with renv::snapshot()"}
		}
	}
	return lock, nil
}

// jsonProblem says where the text stops being JSON.
func jsonProblem(data []byte, err error) string {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		before := string(data[:min(int(syntax.Offset), len(data))])
		return fmt.Sprintf("line %d: %v", 1+strings.Count(before, "\n"), err)
	}
	return err.Error()
}

// findRenv is the library that holds renv, and how the installer is called in a key. It looks where R would look, without
// starting R.
func findRenv(in Input) (library, installer string) {
	places := slices.Concat(filepath.SplitList(in.hostVar("R_LIBS")), filepath.SplitList(in.hostVar("R_LIBS_USER")), filepath.SplitList(in.hostVar("R_LIBS_SITE")))
	prefix := filepath.Dir(filepath.Dir(in.Interpreter.Path))
	for _, glob := range []string{
		filepath.Join(escapeGlob(in.hostVar("HOME")), "R", "*", series(in.Interpreter.Version)), "/usr/local/lib/R/site-library", filepath.Join(escapeGlob(prefix), "lib", "R", "*library"),
		filepath.Join(escapeGlob(prefix), "*library"), // of lib/R/bin/Rscript
	} {
		found, _ := filepath.Glob(glob) // no pattern of the user's
		places = append(places, found...)
	}
	for _, place := range places {
		if description, err := readDescription(filepath.Join(place, "renv")); filepath.IsAbs(place) && err == nil {
			return place, "renv " + description["Version"]
		}
	}
	return "", "R"
}

// readDescription reads the fields of an installed package's DESCRIPTION; continued lines are left out.
func readDescription(dir string) (map[string]string, error) {
	data, err := os.ReadFile(filepath.Join(dir, "DESCRIPTION"))
	if err != nil {
		return nil, err
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(line, ":"); ok && !strings.ContainsAny(name, " \t") {
			fields[name] = strings.TrimSpace(value)
		}
	}
	return fields, nil
}

func (renv) Build(ctx context.Context, in Input, site envcache.Site) (envcache.Built, error) {
	lock, err := readRenvLock(in.PackDir)
	if err != nil {
		return envcache.Built{}, err
	}
	dir, remove, err := plainName(site.Dir)
	if err != nil {
		return envcache.Built{}, err
	}
	defer remove()
	b := newRestore(in, site, dir, lock)
	for _, dir := range []string{b.library, filepath.Join(b.work, "src", "contrib"), b.downloads} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return envcache.Built{}, err
		}
	}
	if series(lock.R.Version) != series(in.Interpreter.Version) {
		_, _ = fmt.Fprintf(site.Log, "warning: %s was made with R %s; this is R %s\n", renvLock, lock.R.Version, in.Interpreter.Version)
	}
	if library, _ := findRenv(in); library != "" {
		err = b.withRenv(ctx, library)
	} else {
		err = b.withR(ctx)
	}
	if err != nil {
		return envcache.Built{}, err
	}
	return b.finish()
}

// restore is one build of a renv.lock. Its paths hold no blanks.
type restore struct {
	in                 Input
	site               envcache.Site
	lock               lockfile
	repositories       []repository
	tool               *installer
	library, work      string
	downloads          string // one directory for each repository: a name and a version mean one file in each
	overriddenByConfig bool
}

func newRestore(in Input, site envcache.Site, dir string, lock lockfile) *restore {
	b := &restore{
		in: in, site: site, lock: lock, tool: newInstaller(in, "R", "RENV_", "R_", "GITHUB_PAT", "GITLAB_PAT", "BITBUCKET_USER", "BITBUCKET_PASSWORD").mayMiss(in.Network),
		library: filepath.Join(dir, "library"), work: filepath.Join(dir, "work"), downloads: filepath.Join(in.Downloads, "r"),
	}
	b.repositories = repositoriesOf(in.hostVar("RENV_CONFIG_REPOS_OVERRIDE"))
	b.overriddenByConfig = len(b.repositories) > 0
	if !b.overriddenByConfig {
		b.repositories = lock.R.Repositories
	}
	for _, r := range b.repositories {
		if u, err := url.Parse(r.URL); err == nil && u.User != nil {
			password, _ := u.User.Password()
			b.tool.secrets = append(b.tool.secrets, password, u.User.Username())
		}
	}
	b.tool.secrets = append(b.tool.secrets, b.tool.env["GITHUB_PAT"], b.tool.env["GITLAB_PAT"])
	b.tool.secrets = slices.DeleteFunc(b.tool.secrets, func(s string) bool { return s == "" })
	b.tool.dir = b.work
	b.tool.set("CURL_CA_BUNDLE", cmp.Or(b.tool.env["CURL_CA_BUNDLE"], b.tool.env["SSL_CERT_FILE"]))
	for _, name := range []string{"R_LIBS", "R_LIBS_SITE", "R_LIBS_USER"} {
		b.tool.set(name, b.library)
	}
	for _, name := range []string{"R_HOME", "R_ENVIRON", "R_PROFILE", "R_DEFAULT_PACKAGES", "RENV_PROJECT", "RENV_PROFILE"} {
		delete(b.tool.env, name)
	}
	return b
}

// repositoriesOf reads renv's repos.override: one address, or "name=address", separated by commas or semicolons
// (https://rstudio.github.io/renv/reference/config.html).
func repositoriesOf(override string) []repository {
	var all []repository
	for part := range strings.FieldsFuncSeq(override, func(r rune) bool { return r == ',' || r == ';' || r == ' ' }) {
		name, address, named := strings.Cut(part, "=")
		if !named || strings.Contains(name, ":") {
			name, address = "CRAN", part
		}
		all = append(all, repository{Name: name, URL: address})
	}
	return all
}

// withRenv calls renv::restore in a project of its own, so that it writes nothing into the pack.
func (b *restore) withRenv(ctx context.Context, library string) error {
	b.site.Phase("restoring renv.lock with renv")
	reads := references{renvLock}
	if exists(b.in.PackDir, renvCellar) {
		reads = append(reads, renvCellar)
	}
	if err := reads.copy(b.in.PackDir, b.work); err != nil {
		return err
	}
	b.tool.set("R_LIBS", b.library+string(os.PathListSeparator)+library)
	for name, value := range map[string]string{
		"RENV_PATHS_ROOT": filepath.Join(b.in.Downloads, "renv"), "RENV_CONFIG_CACHE_SYMLINKS": "FALSE", "RENV_CONFIG_SANDBOX_ENABLED": "FALSE",
		"RENV_CONFIG_AUTOLOADER_ENABLED": "FALSE", "RENV_CONFIG_USER_PROFILE": "FALSE", "RENV_PROJECT": b.work, "RENV_CONSENT": "TRUE",
	} {
		b.tool.set(name, value)
	}
	if b.in.Network == Offline {
		b.tool.cutOff()
	}
	return b.tool.run(ctx, b.site, b.in.Interpreter.Path, "--vanilla", "-e",
		`renv::restore(project=getwd(),lockfile="renv.lock",library="../library",prompt=FALSE)`)
}

// withR installs with R alone: what is not at hand is fetched, then all of it is one small repository, which R knows to install in
// order and in parallel.
func (b *restore) withR(ctx context.Context) error {
	b.site.Phase("restoring renv.lock with R")
	wanted, fetch, err := b.plan()
	if err != nil {
		return err
	}
	for name, text := range map[string]string{
		"wanted.tsv": wanted, "fetch.tsv": fetch, "restore.R": string(restoreR), "processors": fmt.Sprint(goruntime.NumCPU()),
	} {
		if err := os.WriteFile(filepath.Join(b.work, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	if err := os.Symlink(b.downloads, filepath.Join(b.work, "downloads")); err != nil {
		return err
	}
	err = b.tool.run(ctx, b.site, b.in.Interpreter.Path, "--vanilla", "restore.R")
	missing, readErr := os.ReadFile(filepath.Join(b.work, "missing"))
	if err != nil && readErr == nil {
		return b.missing(strings.Fields(string(missing)), err)
	}
	return err
}

// plan lays out the tarballs that are at hand and lists what is wanted, "package version", and what has to be fetched,
// "package version repository directory", a line for each repository that may have it.
func (b *restore) plan() (wanted, fetch string, err error) {
	var missing []string
	for _, name := range slices.Sorted(maps.Keys(b.lock.Packages)) {
		p := b.lock.Packages[name]
		wanted += p.Package + "\t" + p.Version + "\n"
		found, err := b.atHand(p)
		if err != nil {
			return "", "", err
		}
		switch {
		case found:
		case b.in.Network == Offline && !b.isLocal(p):
			missing = append(missing, p.Package+"_"+p.Version)
		default:
			if err := b.installable(p); err != nil {
				return "", "", err
			}
			for _, r := range b.sourcesOf(p) {
				fetch += strings.Join([]string{p.Package, p.Version, strings.TrimSuffix(r.URL, "/"), repositoryDir(r)}, "\t") + "\n"
			}
		}
	}
	if len(missing) > 0 {
		return "", "", b.missing(missing, nil)
	}
	return wanted, fetch, nil
}

// isLocal tells whether a package can be had without the network.
func (b *restore) isLocal(p lockedPackage) bool {
	return slices.ContainsFunc(b.sourcesOf(p), func(r repository) bool { return strings.HasPrefix(r.URL, "file:") })
}

// installable is an error for a package that R alone cannot fetch.
func (b *restore) installable(p lockedPackage) error {
	file := filepath.Join(b.in.PackDir, renvLock)
	if p.Source != "" && p.Source != "Repository" && p.Source != "CRAN" {
		return &ManifestError{File: file, Problem: fmt.Sprintf("package %s %s comes from %s, which only renv can fetch", p.Package, p.Version, p.Source),
			Remedy: fmt.Sprintf("install the R package renv, or put %s_%s.tar.gz into %s", p.Package, p.Version, renvCellar)}
	}
	if len(b.repositories) == 0 {
		return &ManifestError{File: file, Problem: "it names no repositories", Remedy: "make it anew with renv::snapshot(), or set RENV_CONFIG_REPOS_OVERRIDE"}
	}
	return nil
}

// sourcesOf are the repositories that may have a package: the one the lock file names, else all.
func (b *restore) sourcesOf(p lockedPackage) []repository {
	if !b.overriddenByConfig {
		for _, r := range b.repositories {
			if r.Name == p.Repository {
				return []repository{r}
			}
		}
	}
	return b.repositories
}

// repositoryDir names a repository's downloads: 16 hex digits.
func repositoryDir(r repository) string {
	sum := sha256.Sum256([]byte(withoutCredentials(strings.TrimSuffix(r.URL, "/"))))
	return hex.EncodeToString(sum[:8])
}

// atHand takes a package from the cellar, or from what was downloaded before: a version of a repository never changes.
func (b *restore) atHand(p lockedPackage) (bool, error) {
	file := p.Package + "_" + p.Version + ".tar.gz"
	candidates := []string{filepath.Join(b.in.PackDir, renvCellar, file), filepath.Join(b.in.PackDir, renvCellar, p.Package, file)}
	for _, r := range b.sourcesOf(p) {
		if !strings.HasPrefix(r.URL, "file:") {
			candidates = append(candidates, filepath.Join(b.downloads, repositoryDir(r), file))
		}
	}
	for _, candidate := range candidates {
		if _, err := os.Stat(candidate); err == nil {
			return true, copyFile(candidate, filepath.Join(b.work, "src", "contrib", file))
		}
	}
	return false, nil
}

// missing names packages, given as <package>_<version>, and where they are not.
func (b *restore) missing(names []string, err error) error {
	places := make([]string, len(b.repositories))
	for i, r := range b.repositories {
		places[i] = withoutCredentials(r.URL)
	}
	list, where := strings.ReplaceAll(strings.Join(names, ", "), "_", " "), strings.Join(places, ", ")
	missing := &ManifestError{File: filepath.Join(b.in.PackDir, renvLock), Problem: list + " is not at hand in " + where,
		Remedy: fmt.Sprintf("name a repository that has it (in %s, or RENV_CONFIG_REPOS_OVERRIDE), or put its source into %s", renvLock, renvCellar), Err: err}
	if b.in.Network == Offline {
		return &OfflineError{Manifest: renvLock, Err: missing}
	}
	return missing
}

func (b *restore) finish() (envcache.Built, error) {
	built := envcache.Built{Locked: true, Sentinels: []string{"library"}, Complete: []string{"library"}}
	packages, err := filepath.Glob(filepath.Join(escapeGlob(b.site.Dir), "library", "*", "DESCRIPTION"))
	if err != nil {
		return built, err
	}
	for _, file := range packages {
		description, err := readDescription(filepath.Dir(file))
		if err != nil {
			return built, err
		}
		name := filepath.Base(filepath.Dir(file))
		built.Resolved = append(built.Resolved, name+"=="+description["Version"])
		built.Sentinels = append(built.Sentinels, "library/"+name+"/DESCRIPTION")
	}
	slices.Sort(built.Resolved)
	return built, os.RemoveAll(filepath.Join(b.site.Dir, "work"))
}

// Check has nothing to add: R loads each package once it is installed.
func (renv) Check(context.Context, Input, string) error { return nil }

func (renv) Command(in Input, env *envcache.Env) (Command, error) {
	command, err := interpreted(in, in.Interpreter.Path, runtime.Vars{})
	if env != nil {
		for _, name := range []string{"R_LIBS", "R_LIBS_SITE", "R_LIBS_USER"} {
			command.Env = append(command.Env, runtime.EnvVar{Name: name, Value: "{env_dir}/library", Operation: runtime.Set})
		}
	}
	return command, err
}
