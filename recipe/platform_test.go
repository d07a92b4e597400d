package recipe

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/envcache"
)

// compile makes a C program with one of the compilers that scripts/bootstrap installs.
func compileC(t *testing.T, compiler string, flags ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	c := exec.Command(compiler, append([]string{"-x", "c", "-", "-o", path}, flags...)...)
	c.Stdin = strings.NewReader("#include <stdio.h>\nint main(void) { puts(\"hello\"); return 0; }\n")
	out, err := c.CombinedOutput()
	require.NoError(t, err, "%s", out)
	out, err = exec.Command(path).CombinedOutput()
	require.NoError(t, err)
	require.Equal(t, "hello\n", string(out))
	return path
}

func TestTheLibcIsNamedWithItsVersion(t *testing.T) {
	out, err := exec.Command("getconf", "GNU_LIBC_VERSION").Output()
	require.NoError(t, err)
	glibc := strings.TrimSpace(string(out))
	assert.Equal(t, glibc, LibC(compileC(t, "gcc")))
	assert.Equal(t, glibc, LibC(compileC(t, "gcc", "-static")), "a static binary gets the host's")
	script := filepath.Join(t.TempDir(), "script")
	require.NoError(t, os.WriteFile(script, []byte("#!/bin/sh\n"), 0o755))
	assert.Equal(t, glibc, LibC(script))
	assert.Equal(t, glibc, LibC(""))

	musl := compileC(t, "musl-gcc")
	out, _ = exec.Command(loader(musl)).CombinedOutput() // prints its version and fails
	version := regexp.MustCompile(`(?m)^Version (\S+)`).FindStringSubmatch(string(out))
	require.NotNil(t, version, "%s", out)
	assert.Equal(t, "musl "+version[1], LibC(musl))
}

func TestAnEnvironmentOfAnotherLibcIsAMiss(t *testing.T) {
	musl, glibc := compileC(t, "musl-gcc"), compileC(t, "gcc")
	in := input(t, "node", map[string]string{"package.json": `{"dependencies":{"semver":"7.6.3"}}`})
	require.NotEqual(t, platform(musl), platform(glibc))
	assert.Contains(t, platform(musl)[2].Value, "musl")
	other := envcache.NewKey(platform(musl), false)
	own := envcache.NewKey(platform(glibc), false)
	assert.NotEqual(t, own.ID("/store"), other.ID("/store"))

	in.Interpreter.Path = glibc
	k, _ := key(t, in)
	assert.Contains(t, k.Inputs("/store"), platform(glibc)[2])
}

func TestAnUnknownLibcIsNamedByItsLoader(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	c := exec.Command("gcc", "-x", "c", "-", "-o", program, "-Wl,--dynamic-linker=/nowhere/ld-other.so.1")
	c.Stdin = strings.NewReader("int main(void) { return 0; }\n")
	out, err := c.CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Equal(t, "ld-other.so.1", LibC(program))
}

func BenchmarkPlatform(b *testing.B) {
	for name, forget := range map[string]bool{"first": true, "again": false} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if forget {
					libraries.Clear()
				}
				platform("/bin/bash")
			}
		})
	}
}
