package recipe

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/detect"
	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/proc"
	"github.com/attune-run/attune/runtime"
)

// machineInput is a pack for the interpreter that PATH names first. Its home is empty.
func machineInput(t *testing.T, name string, files map[string]string) Input {
	t.Helper()
	in := input(t, name, files)
	detector := detect.New(detect.Options{Path: os.Getenv("PATH"), Home: t.TempDir(), Dir: in.PackDir})
	var err error
	in.Interpreter, err = detector.First(context.Background(), in.Spec)
	require.NoError(t, err)
	in.Probe = detector.Verify
	in.Downloads = filepath.Join(t.TempDir(), "downloads")
	in.HostEnv = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "LANG=C.UTF-8"}
	return in
}

// acquireIn makes the environment through the store at root.
func acquireIn(t *testing.T, in Input, root string) (*envcache.Env, error) {
	t.Helper()
	store, err := envcache.Open(root, envcache.Options{})
	require.NoError(t, err)
	r, err := For(in.Spec)
	require.NoError(t, err)
	k, needed, err := Key(context.Background(), r, in)
	if err != nil {
		return nil, err
	}
	require.True(t, needed)
	env, err := store.Acquire(context.Background(), k, Builder(r, in), envcache.AcquireOptions{})
	if err == nil {
		t.Cleanup(func() { _ = env.Close() })
	}
	return env, err
}

// failure is the error of a build that must fail, in a store of its own.
func gemError(t *testing.T, in Input) error {
	t.Helper()
	_, err := acquireIn(t, in, filepath.Join(t.TempDir(), "cache"))
	require.Error(t, err)
	return err
}

func assertClass(t *testing.T, want envcache.Class, err error) {
	t.Helper()
	var classified envcache.Classified
	require.ErrorAs(t, err, &classified)
	assert.Equal(t, want, classified.Class(), "%v", err)
}

// scriptOutput runs code as an action would be run, with an environment that holds nothing else.
func scriptOutput(t *testing.T, in Input, env *envcache.Env, extension, code string) string {
	t.Helper()
	in.Script = filepath.Join(t.TempDir(), "script"+extension)
	require.NoError(t, os.WriteFile(in.Script, []byte(code), 0o644))
	r, err := For(in.Spec)
	require.NoError(t, err)
	command, err := r.Command(in, env)
	require.NoError(t, err)
	vars := runtime.Vars{PackDir: in.PackDir, EnvDir: env.Dir, Interpreter: in.Interpreter.Path, ActionFile: in.Script}
	environ, err := runtime.ApplyEnv([]string{"PATH=/usr/bin:/bin", "HOME=/nowhere"}, append(in.Spec.EnvVars, command.Env...), vars)
	require.NoError(t, err)
	child := exec.Command(command.Argv[0], command.Argv[1:]...)
	child.Env, child.Dir = environ, in.PackDir
	out, err := child.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

// buildGems builds real gems into dir: hello (which needs adder and has a program), in versions 1.0.0 and 2.0.0, and adder, a
// native extension when asked.
func buildGems(t *testing.T, dir string, native bool) {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o755))
	source := t.TempDir()
	for name, text := range map[string]string{
		"lib/hello.rb":   "require 'adder'\nmodule Hello; def self.say = \"hello #{Adder.add(40, 2)}\"; end\n",
		"bin/hello":      "#!/usr/bin/env ruby\nrequire 'hello'\nputs \"program says #{Hello.say}\"\n",
		"ext/extconf.rb": "require 'mkmf'\ncreate_makefile 'adder/adder'\n",
		"ext/adder.c": "#include <ruby.h>\nstatic VALUE add(VALUE s, VALUE a, VALUE b) { return INT2NUM(NUM2INT(a) + NUM2INT(b)); }\n" +
			"void Init_adder(void) { rb_define_module_function(rb_define_module(\"Adder\"), \"add\", add, 2); }\n",
		"build.rb": `
require "rubygems/package"
out, native = ARGV
File.write("lib/adder.rb", native == "true" ? "require 'adder/adder'" : "module Adder; def self.add(a, b) = a + b; end")
Gem::DefaultUserInteraction.use_ui(Gem::SilentUI.new) do
  common = lambda { |s, name, version| s.name, s.version, s.summary, s.authors, s.files = name, version, "test", ["attune"], ["lib/#{name}.rb"] }
  %w[1.0.0 2.0.0].each do |version|
    Gem::Package.build(Gem::Specification.new do |s|
      common.(s, "hello", version)
      s.add_dependency "adder", "~> 1.0"
      s.files += ["bin/hello"]
      s.bindir, s.executables = "bin", ["hello"]
    end, true, false, File.join(out, "hello-#{version}.gem"))
  end
  Gem::Package.build(Gem::Specification.new do |s|
    common.(s, "adder", "1.1.0")
    s.files, s.extensions = s.files + ["ext/adder.c", "ext/extconf.rb"], ["ext/extconf.rb"] if native == "true"
  end, true, false, File.join(out, "adder-1.1.0.gem"))
end
`,
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(source, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(source, name), []byte(text), 0o755))
	}
	build := exec.Command("ruby", "build.rb", dir, fmt.Sprint(native))
	build.Dir = source
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

const helloLock = `GEM
  remote: https://gems.example/
  specs:
    adder (1.1.0)
    hello (1.0.0)
      adder (~> 1.0)

PLATFORMS
  ruby
  x86_64-linux
  aarch64-linux

DEPENDENCIES
  hello
%s
BUNDLED WITH
   2.99.0
`

const helloGemfile = "source 'https://gems.example'\ngem 'hello'\n"

func TestRubyBuildsVendoredGems(t *testing.T) {
	in := machineInput(t, "ruby", map[string]string{
		"Gemfile":                 helloGemfile + "gem 'near', path: 'local/near'\n",
		"local/near/lib/near.rb":  "module Near; WORD = 'near'; end\n",
		"local/near/near.gemspec": "Gem::Specification.new { |s| s.name, s.version, s.summary, s.authors, s.files = 'near', '0.1', 'x', ['a'], ['lib/near.rb'] }\n",
		"lib/own.rb":              "OWN = 'own'\n",
	})
	buildGems(t, filepath.Join(in.PackDir, "vendor/cache"), true)
	in.Network = Offline
	root := filepath.Join(t.TempDir(), "a cache [of mine]")
	env, err := acquireIn(t, in, root)
	require.NoError(t, err)
	assert.Equal(t, []string{"adder==1.1.0", "hello==2.0.0", "near==0.1"}, env.Built.Resolved)
	assert.False(t, env.Built.Locked)

	write(t, &in, "Gemfile.lock", "PATH\n  remote: local/near\n  specs:\n    near (0.1)\n\n"+fmt.Sprintf(helloLock, "  near!\n"))
	in.Locked = true
	env, err = acquireIn(t, in, root)
	require.NoError(t, err)
	assert.Equal(t, []string{"adder==1.1.0", "hello==1.0.0", "near==0.1"}, env.Built.Resolved)
	assert.True(t, env.Built.Locked)
	code := "require 'own'; require 'hello'; require 'near'; puts OWN, Near::WORD, Hello.say, `hello`, Gem.loaded_specs.key?('rake')\n"
	want := "own\nnear\nhello 42\nprogram says hello 42\nfalse\n"
	assert.Equal(t, want, scriptOutput(t, in, env, ".rb", code))
	assert.Equal(t, want, scriptOutput(t, in, env, ".rb", "require 'bundler/setup'\n"+code), "bundler's own set-up finds the same")
	for _, name := range env.Built.Sentinels {
		assert.FileExists(t, filepath.Join(env.Dir, name))
	}
	require.NotEmpty(t, env.Built.Complete)
	gems, err := filepath.Glob(strings.NewReplacer("[", `\[`).Replace(env.Dir) + "/gems/*/*/gems")
	require.NoError(t, err)
	require.Len(t, gems, 1)
	relative, err := filepath.Rel(env.Dir, gems[0])
	require.NoError(t, err)
	assert.Contains(t, env.Built.Complete, relative)

	before, _ := key(t, in)
	write(t, &in, "local/near/lib/near.rb", "module Near; WORD = 'changed'; end\n")
	local, _ := key(t, in)
	assert.NotEqual(t, before.ID(root), local.ID(root), "a local gem")
	require.NoError(t, os.Remove(filepath.Join(in.PackDir, "vendor/cache/hello-2.0.0.gem")))
	cache, _ := key(t, in)
	assert.NotEqual(t, local.ID(root), cache.ID(root), "a vendored gem")
}

func TestRubyRefusesWhatDoesNotFit(t *testing.T) {
	in := machineInput(t, "ruby", map[string]string{"Gemfile": helloGemfile, "Gemfile.lock": fmt.Sprintf(helloLock, "")})
	in.Network = Online
	cache := filepath.Join(in.PackDir, "vendor/cache")
	buildGems(t, cache, false)

	write(t, &in, "Gemfile", helloGemfile+"gem 'other'\n")
	err := gemError(t, in)
	assert.ErrorContains(t, err, filepath.Join(in.PackDir, "Gemfile.lock")+": it does not match Gemfile")
	assert.ErrorContains(t, err, "bundle lock")
	assertClass(t, envcache.Permanent, err)

	write(t, &in, "Gemfile", helloGemfile)
	write(t, &in, "Gemfile.lock", fmt.Sprintf(helloLock, "\nCHECKSUMS\n  adder (1.1.0) sha256="+strings.Repeat("0", 64)+"\n  hello (1.0.0)\n"))
	err = gemError(t, in)
	assert.ErrorContains(t, err, "checksum of adder-1.1.0")
	assertClass(t, envcache.Permanent, err)

	require.NoError(t, os.Remove(filepath.Join(in.PackDir, "Gemfile.lock")))
	write(t, &in, "Gemfile", helloGemfile+"gem 'adder', '< 1'\n")
	err = gemError(t, in)
	assert.ErrorContains(t, err, "adder")
	assertClass(t, envcache.Permanent, err)

	write(t, &in, "Gemfile", "gem 'hello\n")
	assertClass(t, envcache.Permanent, gemError(t, in))

	for text, words := range map[string]string{
		"gem 'x', path: '../x'\n":   `path "../x" lies outside the pack`,
		"gem 'x', path: '/opt/x'\n": `path "/opt/x" lies outside the pack`,
		"\xff\xfeg\x00e\x00m\x00":   "looks like UTF-16; save it as UTF-8",
	} {
		write(t, &in, "Gemfile", text)
		assert.ErrorContains(t, gemError(t, in), words)
	}
}

func TestRubyReadsWhatTheGemfileNames(t *testing.T) {
	in := machineInput(t, "ruby", map[string]string{
		"Gemfile":                   "ruby File.read(File.join(__dir__, '.ruby-version')).strip\neval_gemfile 'more/Gemfile'\ngemspec\ngem 'x', path: ENV['WHERE'] if ENV['WHERE']\ngroup(:test) { gem 'tests', path: 'local/tests' }\n",
		"more/Gemfile":              "# nothing\n",
		"local/tests/tests.gemspec": "Gem::Specification.new { |s| s.name, s.version, s.summary, s.authors, s.files = 'tests', '1', 'x', ['a'], [] }\n",
		"own.gemspec":               "require_relative 'lib/own'\nGem::Specification.new { |s| s.name, s.version, s.summary, s.authors, s.files = 'own', OWN, 'x', ['a'], ['lib/own.rb'] }\n",
		"lib/own.rb":                "OWN = '7.1'\n",
	})
	write(t, &in, ".ruby-version", in.Interpreter.Version+"\n")
	require.NoError(t, os.Mkdir(filepath.Join(in.PackDir, ".bundle"), 0o755))
	write(t, &in, ".bundle/config", "---\nBUNDLE_WITHOUT: \"test:development\"\nBUNDLE_PATH: \"vendor/bundle\"\n")
	in.Network = Offline
	env, err := acquireIn(t, in, filepath.Join(t.TempDir(), "cache"))
	require.NoError(t, err)
	assert.Equal(t, []string{"own==7.1"}, env.Built.Resolved)
	assert.Equal(t, "7.1\n", scriptOutput(t, in, env, ".rb", "require 'bundler/setup'; require 'own'; puts OWN"), "the pack's settings hold for bundler's own set-up")
	assert.Contains(t, env.Inputs, envcache.KeyInput{Name: "setting:BUNDLE_WITHOUT", Value: "test:development", How: true})
	before, _ := key(t, in)
	in.HostEnv = append(in.HostEnv, "WHERE=x")
	asked, _ := key(t, in)
	assert.NotEqual(t, before.ID("/"), asked.ID("/"))
	write(t, &in, ".ruby-version", "1.8\n")
	err = gemError(t, in)
	assert.ErrorContains(t, err, "1.8")
}

// A mirror that wants credentials, while nobody answers at the Gemfile's own source.
func TestRubyMirrorCredentialsAndDownloads(t *testing.T) {
	site := t.TempDir()
	buildGems(t, filepath.Join(site, "gems"), false)
	out, err := exec.Command("ruby", "-S", "gem", "generate_index", "-q", "-d", site).CombinedOutput()
	require.NoError(t, err, "%s", out)
	server := mirrorWithLogin(t, site)
	host := strings.TrimPrefix(server.URL, "http://")

	in := machineInput(t, "ruby", map[string]string{"Gemfile": "source 'http://127.0.0.1:9'\ngem 'hello', '~> 1.0'\n"})
	home := in.hostVar("HOME")
	require.NoError(t, os.Mkdir(filepath.Join(home, ".bundle"), 0o700))
	settings := "---\nBUNDLE_MIRROR__HTTP://127__0__0__1:9/: \"" + server.URL + "/\"\nBUNDLE_127__0__0__2: \"reader:hunter2\"\nBUNDLE_RETRY: \"0\"\n"
	require.NoError(t, os.WriteFile(filepath.Join(home, ".bundle/config"), []byte(settings), 0o600))
	root := filepath.Join(t.TempDir(), "cache")
	env, err := acquireIn(t, in, root)
	require.NoError(t, err)
	assert.Equal(t, []string{"adder==1.1.0", "hello==1.0.0"}, env.Built.Resolved)
	assert.Contains(t, env.Inputs, envcache.KeyInput{Name: "setting:BUNDLE_MIRROR__HTTP://127__0__0__1:9/", Value: "http://" + host + "/", How: true})
	leaks, _ := exec.Command("grep", "-rl", "hunter2", root, in.Downloads).Output()
	assert.Empty(t, string(leaks))
	assert.NotContains(t, scriptOutput(t, in, env, ".rb", "puts ENV.to_a.inspect"), "hunter2")

	missing := in
	missing.PackDir = t.TempDir()
	write(t, &missing, "Gemfile", "source 'http://127.0.0.1:9'\ngem 'nowhere'\n")
	err = gemError(t, missing)
	assert.ErrorContains(t, err, "nowhere")
	assertClass(t, envcache.Permanent, err)

	stranger := in
	stranger.Downloads = t.TempDir()
	for _, login := range []string{"BUNDLE_127__0__0__2: \"reader:wrong\"\n", ""} {
		others := strings.Replace(settings, "BUNDLE_127__0__0__2: \"reader:hunter2\"\n", login, 1)
		require.NoError(t, os.WriteFile(filepath.Join(home, ".bundle/config"), []byte(others), 0o600))
		err = gemError(t, stranger)
		assert.ErrorContains(t, err, "127.0.0.2")
		assertClass(t, envcache.Transient, err) // as with any installer: whoever gives out logins can mend it
	}
	require.NoError(t, os.WriteFile(filepath.Join(home, ".bundle/config"), []byte(settings), 0o600))

	server.Close()
	assertClass(t, envcache.Transient, gemError(t, in))
	for _, network := range []Network{Offline, PreferOffline} {
		in.Network = network
		env, err = acquireIn(t, in, filepath.Join(t.TempDir(), "cache"))
		require.NoError(t, err)
		assert.Equal(t, "hello 42\n", scriptOutput(t, in, env, ".rb", "require 'hello'; puts Hello.say"))
	}
	in.Network, missing.Network = Offline, Offline
	err = gemError(t, missing)
	assert.ErrorContains(t, err, "nowhere")
	assertClass(t, envcache.Passing, err)
}

// Two versions of an interpreter side by side have environments of their own.
func TestVersionsSideBySide(t *testing.T) {
	for name, c := range map[string]struct{ manifest, text, answer string }{
		"ruby": {"Gemfile", "source 'https://gems.example'\n", "ruby %s (2022-01-01) [x86_64-linux-gnu]"},
		"perl": {"cpanfile", "requires 'strict';\n", "perl %s x86_64-linux-gnu-thread-multi"},
	} {
		in := machineInput(t, name, map[string]string{c.manifest: c.text})
		real, home := in.Interpreter.Path, t.TempDir()
		for _, version := range []string{"3.2.1", "3.3.4"} {
			path := filepath.Join(home, version, "bin", name)
			require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
			probe := `[ "$1" = --version ] || [ "$1" = -MConfig ]`
			script := "#!/bin/sh\nif " + probe + "; then printf '%s\\n' '" + fmt.Sprintf(c.answer, version) + "'; exit; fi\nexec '" + real + "' \"$@\"\n"
			require.NoError(t, os.WriteFile(path, []byte(script), 0o755))
		}
		spec := *in.Spec
		spec.Verification.Locations = []string{home + "/*/bin/" + name}
		detector := detect.New(detect.Options{Path: "/nowhere"})
		keys := map[string]bool{}
		for _, version := range []string{"3.2", "3.3"} {
			found, err := detector.Find(context.Background(), &spec, version)
			require.NoError(t, err)
			assert.True(t, strings.HasPrefix(found.Version, version))
			assert.NotEmpty(t, found.ABI)
			in.Interpreter, in.Network = found, Offline
			env, err := acquireIn(t, in, filepath.Join(home, "cache"))
			require.NoError(t, err)
			assert.Equal(t, "works\n", scriptOutput(t, in, env, ".x", "print \"works\\n\""))
			keys[env.ID] = true
		}
		assert.Len(t, keys, 2)
	}
}

// What bundler, cpanm and R said on a machine whose network was away, and what only looks like it.
func TestRealWordsOfTrouble(t *testing.T) {
	for said, want := range map[string]envcache.Class{
		"Could not reach host nosuch.invalid. Check your network connection and try\nagain.":                                                         envcache.Transient,
		"Could not fetch specs from http://127.0.0.1:1/ due to underlying error\n<Errno::ECONNREFUSED: Failed to open TCP connection to 127.0.0.1:1": envcache.Transient,
		"Bad username or password for http://reader@127.0.0.2:40321/.\nPlease double-check your credentials and correct them.":                       envcache.Transient,
		"! Finding Foo::Bar (0) on mirror http://127.0.0.1:1 failed.\n! Couldn't find module or a distribution Foo::Bar":                             envcache.Transient,
		"! Finding Foo::Nope (0) on mirror file:///srv/mirror failed.\n! Couldn't find module or a distribution Foo::Nope":                           envcache.Permanent,
		"URL 'http://127.0.0.1:1/x.tar.gz': status was 'Couldn't connect to server'":                                                                 envcache.Transient,
		"[!] There was an error parsing `Gemfile`: unterminated string meets end of file":                                                            envcache.Permanent,
		"Could not find gem 'nosuch' in rubygems repository http://127.0.0.1:18777/ or\ninstalled locally.":                                          envcache.Permanent,
		"Errno::ENOSPC: No space left on device": envcache.Passing,
	} {
		assertClass(t, want, toolFailure("tool", proc.Exit{Code: 1}, []byte(said)))
	}
}
