package bundle

import (
	"io/fs"
	"os"
	"path/filepath"
	stdruntime "runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/runtime"
)

func TestTargets(t *testing.T) {
	for text, want := range map[string]Target{
		"lambda:provided.al2023-arm64": {Name: "lambda:provided.al2023-arm64", Arch: "arm64", libc: "glibc 2.34"},
		"lambda:python3.13-x86_64":     {Name: "lambda:python3.13-x86_64", Arch: "amd64", libc: "glibc 2.34", language: "python", version: "3.13"},
		"lambda:python3.11-x86_64":     {Name: "lambda:python3.11-x86_64", Arch: "amd64", libc: "glibc 2.26", language: "python", version: "3.11"},
		"lambda:nodejs22.x-arm64":      {Name: "lambda:nodejs22.x-arm64", Arch: "arm64", libc: "glibc 2.34", language: "node", version: "22"},
		"lambda:image-arm64":           {Name: "lambda:image-arm64", Arch: "arm64", image: true},
	} {
		got, err := ParseTarget(text)
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
	own, err := ParseTarget("lambda:image")
	require.NoError(t, err)
	assert.Equal(t, stdruntime.GOARCH, own.Arch)
	for _, text := range []string{"", "lambda:", "lambda:python3.13-", "lambda:python3", "lambda:nodejs22", "python3.13", "lambda:go1.x"} {
		_, err := ParseTarget(text)
		assert.Error(t, err, text)
	}
}

// What a base image of the runtime offers is of use; whatever differs is named.
func TestWhatIsOfUseAtTheTarget(t *testing.T) {
	target, err := ParseTarget("lambda:python3.13")
	require.NoError(t, err)
	row := func(runtimeName, path, version string) executor.Prepared {
		return executor.Prepared{Runtime: runtimeName, Key: "some", Interpreter: runtime.Interpreter{Path: path, Version: version}}
	}
	key := func(libc string, bound bool) envcache.Key {
		return envcache.NewKey([]envcache.KeyInput{{Name: envcache.LibCInput, Value: libc}}, bound)
	}
	in := row("python", "/var/lang/bin/python3.13", "3.13.7")
	assert.Empty(t, target.refuse(in, key("glibc 2.34", true), ""))
	assert.Empty(t, target.refuse(in, key("glibc 2.34", false), "/var/task/cache cannot be used on this machine: it is not empty"))
	assert.Equal(t, "it carries its path, and /var/task/cache cannot be used on this machine: it is not empty", target.refuse(in, key("glibc 2.34", true), "/var/task/cache cannot be used on this machine: it is not empty"))
	assert.Equal(t, "the target's C library is glibc 2.34, this machine's musl 1.2.3", target.refuse(in, key("musl 1.2.3", true), ""))
	assert.Contains(t, target.refuse(row("python", "/var/lang/bin/python3.13", "3.1.3"), key("glibc 2.34", true), ""), "the target's python is 3.13")
	assert.Contains(t, target.refuse(row("python", "/usr/bin/python3.13", "3.13.7"), key("glibc 2.34", true), ""), "/usr/bin/python3.13")
	assert.Contains(t, target.refuse(row("node", "/usr/bin/node", "22.1.0"), key("glibc 2.34", false), ""), "brings no node")
	assert.Empty(t, target.refuse(executor.Prepared{Runtime: "shell"}, envcache.Key{}, ""))

	image, err := ParseTarget("lambda:image")
	require.NoError(t, err)
	t.Setenv("HOME", "/home/me")
	assert.Empty(t, image.refuse(row("node", "/usr/bin/node", "22.1.0"), key("glibc 2.36", false), ""))
	assert.Contains(t, image.refuse(row("node", "/home/me/.nvm/node", "22.1.0"), key("glibc 2.36", false), ""), "in a home directory")
}

func TestTheLimitsOfLambda(t *testing.T) {
	target, err := ParseTarget("lambda:provided.al2023")
	require.NoError(t, err)
	b := &builder{Options: Options{Target: target}}
	require.NoError(t, b.accept(size{unpacked: MaxUnpacked, packed: MaxUpload}))
	assert.Empty(t, b.warnings)
	require.NoError(t, b.accept(size{unpacked: MaxUnpacked, packed: MaxUpload + 1}))
	assert.Contains(t, b.warnings[0], "uploaded to S3 first")
	var large *SizeError
	require.ErrorAs(t, b.accept(size{unpacked: MaxUnpacked + 1}), &large)
	assert.NotEmpty(t, large.Hint())
	b.Target.image = true
	require.NoError(t, b.accept(size{unpacked: MaxUnpacked + 1}))
}

func TestARefusedArchiveLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	entries, err := arrange([]entry{{"a/link", fs.ModeSymlink | 0o777, fixed("file")}, {"a/file", 0o755, fixed("text")}})
	require.NoError(t, err)
	refuse := func(size) error { return &SizeError{} }
	for _, output := range []string{filepath.Join(dir, "x.zip"), filepath.Join(dir, "x")} {
		_, err = write(output, entries, refuse)
		require.Error(t, err)
	}
	left, err := filepath.Glob(dir + "/*/*")
	require.NoError(t, err)
	assert.Empty(t, left)
	assert.NoFileExists(t, dir+"/x.zip")

	s, err := write(dir+"/x.zip", entries, func(size) error { return nil })
	require.NoError(t, err)
	assert.Equal(t, 2, s.files)
	out := filepath.Join(dir, "out")
	require.NoError(t, os.Mkdir(out, 0o755))
	require.NoError(t, unpack(dir+"/x.zip", out))
	text, err := os.ReadFile(out + "/a/link")
	require.NoError(t, err)
	assert.Equal(t, "text", string(text))
	_, err = arrange([]entry{{name: "twice"}, {name: "twice"}})
	require.Error(t, err)
}

func TestADirectoryIsClaimedOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	first, err := claim(dir)
	require.NoError(t, err)
	_, err = claim(dir)
	require.ErrorContains(t, err, "it is being used by another attune bundle")
	require.NoError(t, os.WriteFile(dir+"/file", nil, 0o600))
	first.release()
	assert.NoDirExists(t, filepath.Dir(dir))
	require.NoError(t, os.MkdirAll(dir+"/somebody's", 0o755))
	_, err = claim(dir)
	require.ErrorContains(t, err, "it is not empty")
	assert.DirExists(t, dir+"/somebody's")
}

func TestNothingToBundle(t *testing.T) {
	dir := t.TempDir()
	b := &builder{Options: Options{Engine: executor.Config{Packs: []string{dir}}}}
	require.EqualError(t, b.addPacks(t.Context()), "there are no packs with actions in "+dir)
	b.Actions = []string{"a.*", "b.*"}
	require.EqualError(t, b.addPacks(t.Context()), "no action in "+dir+" is named a.* or b.*")
}
