package recipe

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/envcache"
)

// buildRepository makes a real repository of R packages with R's own tools: hello 2.0 (which imports adder), hello 1.0 in the archive,
// and adder, with C code.
func buildRepository(t *testing.T, dir string) {
	t.Helper()
	source, contrib := t.TempDir(), filepath.Join(dir, "src/contrib")
	require.NoError(t, os.MkdirAll(filepath.Join(contrib, "Archive/hello"), 0o755))
	description := "Package: %s\nVersion: %s\nTitle: T\nDescription: D.\nAuthor: A\nMaintainer: A <a@example.com>\nLicense: GPL-2\n%s"
	packages := map[string]map[string]string{"adder": {
		"DESCRIPTION": fmt.Sprintf(description, "adder", "0.5", ""), "NAMESPACE": "export(add)\nuseDynLib(adder, C_add)\n",
		"R/add.R":   "add <- function(a, b) .Call(C_add, a, b)\n",
		"src/add.c": "#include <Rinternals.h>\nSEXP C_add(SEXP a, SEXP b) { return ScalarReal(asReal(a) + asReal(b)); }\n",
	}}
	for _, version := range []string{"1.0", "2.0"} {
		packages["hello-"+version] = map[string]string{
			"DESCRIPTION": fmt.Sprintf(description, "hello", version, "Imports: adder\n"), "NAMESPACE": "export(say)\nimport(adder)\n",
			"R/say.R": "say <- function() cat('hello', add(40, 2), '\\n')\n",
		}
	}
	for name, files := range packages {
		for path, text := range files {
			path = filepath.Join(source, name, path)
			require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
			require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		}
		build := exec.Command("R", "CMD", "build", "--no-build-vignettes", "--no-manual", filepath.Join(source, name))
		build.Dir = contrib
		out, err := build.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	require.NoError(t, os.Rename(filepath.Join(contrib, "hello_1.0.tar.gz"), filepath.Join(contrib, "Archive/hello/hello_1.0.tar.gz")))
	out, err := exec.Command("Rscript", "-e", "tools::write_PACKAGES(commandArgs(TRUE), type='source')", contrib).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// renvLockOf is a lock file of the given repository and of packages given as "name version".
func renvLockOf(r, repository string, packages ...string) string {
	var all []string
	for _, p := range packages {
		name, version, _ := strings.Cut(p, " ")
		all = append(all, fmt.Sprintf(`%q: {"Package": %q, "Version": %q, "Source": "Repository", "Repository": "LOCAL"}`, name, name, version))
	}
	return fmt.Sprintf(`{"R": {"Version": %q, "Repositories": [{"Name": "LOCAL", "URL": %q}]}, "Packages": {%s}}`, r, repository, strings.Join(all, ", "))
}

func TestRRestoresExactVersions(t *testing.T) {
	site := t.TempDir()
	buildRepository(t, site)
	in := machineInput(t, "r", map[string]string{"renv.lock": renvLockOf("4.1.0", "file://"+site, "hello 1.0", "adder 0.5")})
	in.Locked, in.Network = true, Offline
	root := filepath.Join(t.TempDir(), "a cache [of mine]")
	env, err := acquireIn(t, in, root)
	require.NoError(t, err)
	assert.Equal(t, []string{"adder==0.5", "hello==1.0"}, env.Built.Resolved)
	assert.True(t, env.Built.Locked)
	assert.Contains(t, env.Built.Sentinels, "library/hello/DESCRIPTION")
	assert.NoDirExists(t, filepath.Join(env.Dir, "work"))
	assert.Contains(t, env.Inputs, envcache.KeyInput{Name: "installer", Value: "R", How: true})
	assert.Equal(t, "hello 42 \n2\n", scriptOutput(t, in, env, ".R", "library(hello); say(); cat(length(.libPaths()), '\\n', sep='')"), "the environment's packages and R's own")

	// A server for the same, which ends; what it gave stays, and the rest comes from the pack's cellar.
	server := httptest.NewServer(http.FileServer(http.Dir(site)))
	t.Cleanup(server.Close)
	write(t, &in, "renv.lock", renvLockOf(in.Interpreter.Version, server.URL, "hello 2.0", "adder 0.5"))
	in.Network = Online
	env, err = acquireIn(t, in, root)
	require.NoError(t, err)
	assert.Equal(t, []string{"adder==0.5", "hello==2.0"}, env.Built.Resolved)
	server.Close()
	in.Network = Offline
	write(t, &in, "renv.lock", renvLockOf(in.Interpreter.Version, server.URL, "hello 1.0", "adder 0.5"))
	err = gemError(t, in)
	assert.ErrorContains(t, err, "hello 1.0 is not at hand in "+server.URL)
	assertClass(t, envcache.Passing, err)
	in.Network = Online
	assertClass(t, envcache.Transient, gemError(t, in))
	require.NoError(t, os.MkdirAll(filepath.Join(in.PackDir, renvCellar), 0o755))
	require.NoError(t, copyFile(filepath.Join(site, "src/contrib/Archive/hello/hello_1.0.tar.gz"), filepath.Join(in.PackDir, renvCellar, "hello_1.0.tar.gz")))
	in.Network = Offline
	env, err = acquireIn(t, in, root)
	require.NoError(t, err)
	assert.Equal(t, []string{"adder==0.5", "hello==1.0"}, env.Built.Resolved)
}

func TestRRefusesWhatDoesNotFit(t *testing.T) {
	site := t.TempDir()
	in := machineInput(t, "r", map[string]string{"renv.lock": "{\n\"R\": {,}}"})
	assert.ErrorContains(t, gemError(t, in), filepath.Join(in.PackDir, "renv.lock")+": it is no renv.lock: line 2")

	write(t, &in, "renv.lock", renvLockOf("4.2.2", "file://"+site, "nowhere 9.9"))
	err := gemError(t, in)
	assert.ErrorContains(t, err, "nowhere 9.9 is not at hand in file://"+site)
	assertClass(t, envcache.Permanent, err)

	server := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	write(t, &in, "renv.lock", renvLockOf("4.2.2", server.URL, "nowhere 9.9"))
	err = gemError(t, in)
	assert.ErrorContains(t, err, "nowhere 9.9 is not at hand in "+server.URL)
	assertClass(t, envcache.Permanent, err)

	write(t, &in, "renv.lock", `{"R": {"Version": "4.2.2"}, "Packages": {"x": {"Package": "x", "Version": "1", "Source": "GitHub"}}}`)
	err = gemError(t, in)
	assert.ErrorContains(t, err, "package x 1 comes from GitHub, which only renv can fetch; install the R package renv")

	write(t, &in, "renv.lock", "\xff\xfe{\x00}\x00")
	assert.ErrorContains(t, gemError(t, in), "UTF-8")
	write(t, &in, "renv.lock", `{"R": {"Version": "4.2.2"}, "Packages": {}}`)
	_, needed := key(t, in)
	assert.False(t, needed)
}

// renv itself is only called: a package of that name stands in for it.
func TestRenvIsUsedWhereItIsInstalled(t *testing.T) {
	library, source := t.TempDir(), t.TempDir()
	for path, text := range map[string]string{
		"DESCRIPTION": "Package: renv\nVersion: 1.0.3\nTitle: T\nDescription: D.\nAuthor: A\nMaintainer: A <a@example.com>\nLicense: GPL-2\n",
		"NAMESPACE":   "export(restore)\n",
		"R/restore.R": "restore <- function(project, lockfile, library, prompt) {\n  stopifnot(file.exists(lockfile), !prompt, Sys.getenv('RENV_CONFIG_REPOS_OVERRIDE') != '')\n" +
			"  dir.create(file.path(library, 'x'))\n  writeLines(c('Package: x', 'Version: 1'), file.path(library, 'x', 'DESCRIPTION'))\n}\n",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(source, path)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(source, path), []byte(text), 0o644))
	}
	out, err := exec.Command("R", "CMD", "INSTALL", "-l", library, source).CombinedOutput()
	require.NoError(t, err, "%s", out)
	in := machineInput(t, "r", map[string]string{"renv.lock": `{"R": {"Version": "4.2.2"}, "Packages": {"x": {"Package": "x", "Version": "1", "Source": "GitHub"}}}`})
	in.HostEnv = append(in.HostEnv, "R_LIBS="+library, "RENV_CONFIG_REPOS_OVERRIDE=https://reader:hunter2@mirror.example/cran")
	env, err := acquireIn(t, in, filepath.Join(t.TempDir(), "cache"))
	require.NoError(t, err)
	assert.Equal(t, []string{"x==1"}, env.Built.Resolved)
	assert.Contains(t, env.Inputs, envcache.KeyInput{Name: "installer", Value: "renv 1.0.3", How: true})
	assert.Contains(t, env.Inputs, envcache.KeyInput{Name: "variable:RENV_CONFIG_REPOS_OVERRIDE", Value: "https://mirror.example/cran"})
}
