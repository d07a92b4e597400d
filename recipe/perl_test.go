package recipe

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/envcache"
)

// buildMirror makes a real CPAN mirror: Test-Hello (which needs Test-Adder and has a program) in versions 1.0 and 2.0, and Test-Adder,
// a compiled module when asked.
func buildMirror(t *testing.T, dir string, compiled bool) {
	t.Helper()
	adder := map[string]string{
		"Makefile.PL":       "use ExtUtils::MakeMaker;\nWriteMakefile(NAME => 'Test::Adder', VERSION_FROM => 'lib/Test/Adder.pm');\n",
		"lib/Test/Adder.pm": "package Test::Adder;\nour $VERSION = '0.5';\nsub add { $_[0] + $_[1] }\n1;\n",
	}
	if compiled {
		adder["lib/Test/Adder.pm"] = "package Test::Adder;\nour $VERSION = '0.5';\nrequire XSLoader;\nXSLoader::load('Test::Adder', $VERSION);\n1;\n"
		adder["Adder.xs"] = "#include \"EXTERN.h\"\n#include \"perl.h\"\n#include \"XSUB.h\"\nMODULE = Test::Adder  PACKAGE = Test::Adder\n\nint\nadd(a, b)\n  int a\n  int b\n CODE:\n  RETVAL = a + b;\n OUTPUT:\n  RETVAL\n"
	}
	dists := map[string]map[string]string{"Test-Adder-0.5": adder}
	for _, version := range []string{"1.0", "2.0"} {
		dists["Test-Hello-"+version] = map[string]string{
			"Makefile.PL":       "use ExtUtils::MakeMaker;\nWriteMakefile(NAME => 'Test::Hello', VERSION_FROM => 'lib/Test/Hello.pm', PREREQ_PM => {'Test::Adder' => 0}, EXE_FILES => ['bin/hello']);\n",
			"lib/Test/Hello.pm": "package Test::Hello;\nuse Test::Adder;\nour $VERSION = '" + version + "';\nsub say { 'hello ' . Test::Adder::add(40, 2) }\n1;\n",
			"bin/hello":         "#!/usr/bin/perl\nuse Test::Hello;\nprint 'program says ', Test::Hello::say(), \"\\n\";\n",
		}
	}
	authors := filepath.Join(dir, "authors/id/A/AT/ATTUNE")
	require.NoError(t, os.MkdirAll(authors, 0o755))
	for name, files := range dists {
		tarball(t, filepath.Join(authors, name+".tar.gz"), name, files)
	}
	index := "File: 02packages.details.txt\n\nTest::Adder 0.5 A/AT/ATTUNE/Test-Adder-0.5.tar.gz\nTest::Hello 2.0 A/AT/ATTUNE/Test-Hello-2.0.tar.gz\n"
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "modules"), 0o755))
	file := filepath.Join(dir, "modules/02packages.details.txt")
	require.NoError(t, os.WriteFile(file, []byte(index), 0o644))
	out, err := exec.Command("gzip", file).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// tarball packs files below a directory of the given name.
func tarball(t *testing.T, file, name string, files map[string]string) {
	t.Helper()
	source := t.TempDir()
	for path, text := range files {
		path = filepath.Join(source, name, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o755))
	}
	out, err := exec.Command("tar", "-czf", file, "-C", source, name).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

const helloSnapshot = `# carton snapshot format: version 1.0
DISTRIBUTIONS
  Test-Adder-0.5
    pathname: A/AT/ATTUNE/Test-Adder-0.5.tar.gz
    provides:
      Test::Adder 0.5
    requirements:
      ExtUtils::MakeMaker 0
  Test-Hello-1.0
    pathname: A/AT/ATTUNE/Test-Hello-1.0.tar.gz
    provides:
      Test::Hello 1.0
    requirements:
      Test::Adder 0
`

func TestPerlBuildsFromAMirrorOfThePack(t *testing.T) {
	in := machineInput(t, "perl", map[string]string{
		"cpanfile": "requires 'Test::Hello', '>= 1.0';\nrequires 'JSON::PP'; # perl's own\n", "Makefile.PL": "die 'the pack is not built';\n",
		"lib/Own.pm": "package Own; sub say { 'own' } 1;\n",
	})
	buildMirror(t, filepath.Join(in.PackDir, "vendor/cache"), true)
	in.HostEnv = append(in.HostEnv, "PERL_CPANM_OPT=--mirror http://127.0.0.1:9 --quiet", "PERL_MM_OPT=INSTALL_BASE=/nowhere", "PERL5LIB=/nowhere")
	in.Network = Offline
	root := filepath.Join(t.TempDir(), "a cache [of mine]")
	env, err := acquireIn(t, in, root)
	require.NoError(t, err)
	assert.Equal(t, []string{"Test::Adder==0.5", "Test::Hello==2.0"}, env.Built.Resolved)
	assert.False(t, env.Built.Locked)

	write(t, &in, "cpanfile.snapshot", helloSnapshot)
	in.Locked = true
	env, err = acquireIn(t, in, root)
	require.NoError(t, err)
	assert.Equal(t, []string{"Test::Adder==0.5", "Test::Hello==1.0"}, env.Built.Resolved)
	assert.True(t, env.Built.Locked)
	code := "use Own; use Test::Hello; use JSON::PP; $| = 1; print Own::say(), ' ', Test::Hello::say(), \"\\n\"; system 'hello';\n"
	assert.Equal(t, "own hello 42\nprogram says hello 42\n", scriptOutput(t, in, env, ".pl", code))
	for _, name := range env.Built.Sentinels {
		_, err := os.Stat(filepath.Join(env.Dir, name))
		assert.NoError(t, err)
	}
	assert.Contains(t, env.Built.Complete, "lib/perl5")
	assert.NoDirExists(t, filepath.Join(env.Dir, "work"))

	before, _ := key(t, in)
	require.NoError(t, os.Remove(filepath.Join(in.PackDir, "vendor/cache/authors/id/A/AT/ATTUNE/Test-Hello-2.0.tar.gz")))
	changed, _ := key(t, in)
	assert.NotEqual(t, before.ID(root), changed.ID(root))
}

func TestPerlMirrorCredentialsAndDownloads(t *testing.T) {
	site := t.TempDir()
	buildMirror(t, site, false)
	server := mirrorWithLogin(t, site)
	host := strings.TrimPrefix(server.URL, "http://")

	in := machineInput(t, "perl", map[string]string{"cpanfile": "requires 'Test::Hello';\n"})
	in.HostEnv = append(in.HostEnv, "PERL_CPANM_OPT=--mirror http://reader:hunter2@"+host+" --mirror-only")
	root := filepath.Join(t.TempDir(), "cache")
	env, err := acquireIn(t, in, root)
	require.NoError(t, err)
	assert.Equal(t, []string{"Test::Adder==0.5", "Test::Hello==2.0"}, env.Built.Resolved)
	assert.Contains(t, env.Inputs, envcache.KeyInput{Name: "variable:PERL_CPANM_OPT", Value: "--mirror http://" + host + " --mirror-only"})
	leaks, _ := exec.Command("grep", "-rl", "hunter2", root, in.Downloads).Output()
	assert.Empty(t, string(leaks))
	assert.NotContains(t, scriptOutput(t, in, env, ".pl", "print %ENV;"), "hunter2")

	server.Close()
	other := in
	other.PackDir = t.TempDir()
	write(t, &other, "cpanfile", "requires 'Test::Nowhere';\n")
	assertClass(t, envcache.Transient, gemError(t, other))
	for _, network := range []Network{Offline, PreferOffline} {
		in.Network = network
		env, err = acquireIn(t, in, filepath.Join(t.TempDir(), "cache"))
		require.NoError(t, err)
		assert.Equal(t, "hello 42", scriptOutput(t, in, env, ".pl", "use Test::Hello; print Test::Hello::say();"))
	}
	other.Network = Offline
	err = gemError(t, other)
	assert.ErrorContains(t, err, "Test::Nowhere")
	assertClass(t, envcache.Passing, err)
}

func TestPerlRefusesWhatDoesNotFit(t *testing.T) {
	in := machineInput(t, "perl", map[string]string{"cpanfile": "requires 'Test::Nowhere';\n"})
	buildMirror(t, filepath.Join(in.PackDir, "vendor/cache"), false)
	err := gemError(t, in)
	assert.ErrorContains(t, err, "Test::Nowhere")
	assertClass(t, envcache.Permanent, err)

	write(t, &in, "cpanfile", "requires 'Test::Hello', '9';\n")
	err = gemError(t, in)
	assert.ErrorContains(t, err, "doesn't satisfy")
	assertClass(t, envcache.Permanent, err)

	write(t, &in, "cpanfile.snapshot", helloSnapshot)
	err = gemError(t, in)
	assert.ErrorContains(t, err, filepath.Join(in.PackDir, "cpanfile.snapshot")+": it does not match cpanfile")
	assert.ErrorContains(t, err, "carton install")
	assertClass(t, envcache.Permanent, err)

	write(t, &in, "cpanfile.snapshot", helloSnapshot+"  Odd-1\n    provides:\n      Odd 1\n")
	assert.ErrorContains(t, gemError(t, in), "cpanfile.snapshot:17: ")

	require.NoError(t, os.Remove(filepath.Join(in.PackDir, "cpanfile.snapshot")))
	write(t, &in, "cpanfile", "requires 'x' => ;(\n")
	err = gemError(t, in)
	assert.ErrorContains(t, err, "syntax error")
	assertClass(t, envcache.Permanent, err)

	write(t, &in, "cpanfile", "\xfe\xff\x00r\x00e")
	assert.ErrorContains(t, gemError(t, in), filepath.Join(in.PackDir, "cpanfile")+" looks like UTF-16")
}
