package deploy

import (
	"archive/tar"
	"compress/gzip"
	"debug/macho"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// one is the only file of the release that a pattern matches.
func one(t *testing.T, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(releaseDir(t), pattern))
	require.NoError(t, err)
	require.Len(t, found, 1, pattern)
	return found[0]
}

func TestDistIsReproducible(t *testing.T) {
	t.Parallel()
	source := t.TempDir() // another directory, other file times
	said, err := exec.Command("sh", "-c", `cd .. && git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -P -t "$0"`, source).CombinedOutput()
	require.NoError(t, err, "%s", said)
	again, err := buildRelease(source, filepath.Join(t.TempDir(), "again"))
	require.NoError(t, err)

	first, err := os.ReadFile(filepath.Join(releaseDir(t), "SHA256SUMS"))
	require.NoError(t, err)
	second, err := os.ReadFile(filepath.Join(again, "SHA256SUMS"))
	require.NoError(t, err)
	assert.Equal(t, string(first), string(second))
}

func TestDistSaysWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	kept := filepath.Join(dir, "kept")
	require.NoError(t, os.WriteFile(kept, nil, 0o644))
	for want, args := range map[string][]string{
		"holds files, and they are no release": {"-version", "v1.0.0", "-out", dir},
		"version 1.x is not semantic":          {"-version", "1.x", "-out", filepath.Join(dir, "new")},
	} {
		cmd := exec.Command("go", append([]string{"run", "-trimpath", "./scripts/dist"}, args...)...)
		cmd.Dir = ".."
		out, err := cmd.CombinedOutput()
		require.Error(t, err)
		assert.Contains(t, string(out), want)
	}
	assert.FileExists(t, kept)
}

func TestDistChecksumsCoverAllFiles(t *testing.T) {
	check := exec.Command("sha256sum", "--check", "--strict", "SHA256SUMS")
	check.Dir = releaseDir(t)
	out, err := check.CombinedOutput()
	require.NoError(t, err, "%s", out)
	entries, err := os.ReadDir(check.Dir)
	require.NoError(t, err)
	assert.Equal(t, len(entries)-1, strings.Count(string(out), ": OK"))
}

func TestDistArchiveWorksWhereverItIsUnpacked(t *testing.T) {
	dir := t.TempDir()
	said, err := exec.Command("tar", "-xzf", one(t, "*-linux-*.tar.gz"), "-C", dir).CombinedOutput()
	require.NoError(t, err, "%s", said)
	top := filepath.Join(dir, "attune-"+testVersion+"-linux-"+runtime.GOARCH)
	out, err := exec.Command(filepath.Join(top, "bin/attune"), "--packs", filepath.Join(top, "packs"), "--cache", t.TempDir(), "core.echo", "-p", "message=unpacked").CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Contains(t, string(out), "unpacked")

	for program, command := range map[string]string{"attune-run": "env warm", "attune-worker": "schedule add", "attune-lambda": "ATTUNE_LAMBDA_ACTION"} {
		page := readGzip(t, filepath.Join(top, "share/man/man1", program+".1.gz"))
		assert.Contains(t, page, `.TH `+strings.ToUpper(program)+` 1 "2023-11-14"`)
		assert.Contains(t, page, command)
		assert.NotContains(t, page, "%!")
	}
	for _, file := range []string{"bash-completion/completions/attune-worker", "zsh/vendor-completions/_attune-worker", "fish/vendor_completions.d/attune-worker.fish"} {
		script, err := os.ReadFile(filepath.Join(top, "share", file))
		require.NoError(t, err)
		assert.Contains(t, string(script), "/usr/bin/attune-worker")
	}
}

// The archive for macOS holds attune-run alone, built for it: functions and workers are Linux's.
func TestDistArchiveForMacOS(t *testing.T) {
	dir := t.TempDir()
	said, err := exec.Command("tar", "-xzf", one(t, "*-darwin-*.tar.gz"), "-C", dir).CombinedOutput()
	require.NoError(t, err, "%s", said)
	top := filepath.Join(dir, "attune-"+testVersion+"-darwin-"+runtime.GOARCH)
	programs, err := os.ReadDir(filepath.Join(top, "bin"))
	require.NoError(t, err)
	require.Len(t, programs, 2)
	link, err := os.Readlink(filepath.Join(top, "bin/attune"))
	require.NoError(t, err)
	assert.Equal(t, "attune-run", link)

	program, err := macho.Open(filepath.Join(top, "bin/attune-run"))
	require.NoError(t, err)
	defer func() { _ = program.Close() }()
	assert.Equal(t, map[string]macho.Cpu{"amd64": macho.CpuAmd64, "arm64": macho.CpuArm64}[runtime.GOARCH], program.Cpu)
	bare, err := os.ReadFile(one(t, "attune-run-darwin-*"))
	require.NoError(t, err)
	archived, err := os.ReadFile(filepath.Join(top, "bin/attune-run"))
	require.NoError(t, err)
	assert.Equal(t, digest(string(bare)), digest(string(archived)))

	assert.Contains(t, readGzip(t, filepath.Join(top, "share/man/man1/attune-run.1.gz")), ".TH ATTUNE-RUN 1")
	completions, err := os.ReadFile(filepath.Join(top, "share/zsh/site-functions/_attune-run"))
	require.NoError(t, err)
	assert.Contains(t, string(completions), "/usr/local/bin/attune-run")
	assert.FileExists(t, filepath.Join(top, "packs/core/pack.yaml"))
}

func readGzip(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	plain, err := gzip.NewReader(f)
	require.NoError(t, err)
	text, err := io.ReadAll(plain)
	require.NoError(t, err)
	return string(text)
}

func TestDistArchiveHoldsNothingOfTheBuilder(t *testing.T) {
	f, err := os.Open(one(t, "*-linux-*.tar.gz"))
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	plain, err := gzip.NewReader(f)
	require.NoError(t, err)
	for archive := tar.NewReader(plain); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		assert.Equal(t, int64(1700000000), header.ModTime.Unix(), header.Name)
		assert.Zero(t, header.Uid+header.Gid, header.Name)
		assert.Empty(t, header.Uname, header.Name)
	}
}

func TestDistBillOfMaterials(t *testing.T) {
	text, err := os.ReadFile(one(t, "*.cdx.json"))
	require.NoError(t, err)
	var bom struct {
		BOMFormat  string `json:"bomFormat"`
		Components []struct {
			Name, Version, Purl string
			Hashes              []struct{ Content string }
		}
	}
	require.NoError(t, json.Unmarshal(text, &bom))
	assert.Equal(t, "CycloneDX", bom.BOMFormat)
	names := map[string]string{}
	for _, c := range bom.Components {
		names[c.Name] = c.Version
		if c.Name == filepath.Base(attuneRun(t)) {
			program, err := os.ReadFile(attuneRun(t))
			require.NoError(t, err)
			assert.Equal(t, digest(string(program)), c.Hashes[0].Content)
		}
	}
	assert.NotEmpty(t, names["github.com/alecthomas/kong"])
	assert.Equal(t, "v"+testVersion, names["attune-run-darwin-"+runtime.GOARCH])
	assert.Equal(t, runtime.Version(), names["std"])
	assert.NotContains(t, names, "github.com/goreleaser/nfpm/v2", "only what is linked in counts")
}

func TestDebInstallsAndLeavesNothing(t *testing.T) {
	r := debian(t)
	require.NoError(t, os.WriteFile(filepath.Join(string(r), "opt/other"), nil, 0o644)) // dpkg removes an empty /opt with its last package
	t.Cleanup(func() { _ = os.Remove(filepath.Join(string(r), "opt/other")) })
	before := r.files(t)
	r.copy(t, one(t, "*.deb"), "/tmp/attune.deb")
	r.must(t, "dpkg", "--install", "/tmp/attune.deb")

	assert.Contains(t, r.must(t, "dpkg", "--status", "attune"), "Version: "+testVersion)
	assert.Empty(t, r.must(t, "dpkg", "--verify", "attune"))
	assert.Equal(t, "from a package\n", r.must(t, "attune", "core.echo", "-p", "message=from a package"))
	complete := `. /usr/share/bash-completion/completions/attune-run && complete -p attune && COMP_LINE='attune core.ec' COMP_POINT=14 attune`
	assert.Regexp(t, `(?s)-C ['"]?/usr/bin/attune-run.*core\.echo`, r.must(t, "bash", "-c", complete))
	complete = `. /usr/share/bash-completion/completions/attune-worker && complete -p attune-worker && COMP_LINE='attune-worker submit core.ec' COMP_POINT=28 attune-worker`
	assert.Regexp(t, `(?s)-C ['"]?/usr/bin/attune-worker.*core\.echo`, r.must(t, "bash", "-c", complete))

	r.must(t, "dpkg", "--purge", "attune")
	more, fewer := difference(r.files(t), before), difference(before, r.files(t))
	assert.Empty(t, more, "left behind")
	assert.Empty(t, fewer, "removed, though it was not the package's")
}

func difference(all, but []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(path string) bool { _, found := slices.BinarySearch(but, path); return found })
}

func TestRPMInstallsAndLeavesNothing(t *testing.T) {
	needRoot(t)
	r := root(t.TempDir())
	rpm := func(args ...string) {
		out, err := exec.Command("rpm", append([]string{"--root", string(r), "--dbpath", "/var/lib/rpm"}, args...)...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	rpm("--install", "--nodeps", "--ignorearch", one(t, "*.rpm"))
	assert.Contains(t, r.must(t, "/usr/bin/attune", "version"), "v"+testVersion)
	assert.Contains(t, r.must(t, "/usr/bin/attune", "pack", "list"), "/opt/attune/packs")
	rpm("--verify", "--nodeps", "attune")
	rpm("--erase", "attune")
	for _, path := range r.files(t) {
		assert.NotContains(t, path, "attune")
	}
}
