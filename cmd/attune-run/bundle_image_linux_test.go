package main

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/bundle"
	"github.com/attune-run/attune/internal/inplace"
)

// baseImage is a directory that makes this machine look like the base image of Lambda's runtime for one of this machine's interpreters, when it lies at
// /var/lang: the interpreter is in its bin, and its C library says that it is glibc 2.<libc>.
func baseImage(t *testing.T, interpreter, name string, libc int) string {
	t.Helper()
	lang := t.TempDir()
	require.NoError(t, os.Mkdir(lang+"/bin", 0o755))
	write := func(name string, data []byte) {
		require.NoError(t, os.WriteFile(filepath.Join(lang, name), data, 0o755))
	}
	read := func(path string) []byte {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		return data
	}
	// A loader of the runtime's own, and beside it the C library that attune looks at.
	program := read(interpreter)
	file, err := elf.NewFile(bytes.NewReader(program))
	require.NoError(t, err)
	loader := ""
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP {
			field := program[p.Off : p.Off+p.Filesz]
			loader = string(bytes.TrimRight(field, "\x00"))
			clear(field)
			copy(field, "/var/lang/ld.so")
		}
	}
	write("bin/"+name, program)
	loader, err = filepath.EvalSymlinks(loader)
	require.NoError(t, err)
	write("ld.so", read(loader))
	library := read(filepath.Join(filepath.Dir(loader), "libc.so.6"))
	for newer := libc + 1; newer < 100; newer++ {
		library = bytes.ReplaceAll(library, fmt.Appendf(nil, "GLIBC_2.%d", newer), []byte("GLIBC_2.10"))
	}
	write("libc.so.6", library)
	return lang
}

// versionOf asks an interpreter, and matches its answer.
func versionOf(t *testing.T, interpreter, pattern string) (version string, n int) {
	t.Helper()
	out, err := exec.Command(interpreter, "--version").Output()
	require.NoError(t, err)
	match := regexp.MustCompile(pattern).FindSubmatch(out)
	require.NotNil(t, match, "%s", out)
	n, err = strconv.Atoi(string(match[2]))
	require.NoError(t, err)
	return string(match[1]), n
}

func TestABundleMadeInTheRuntimesBaseImage(t *testing.T) {
	require.Zero(t, os.Geteuid(), "the image is put together as root")
	const amazonLinux2, amazonLinux2023 = 26, 34
	t.Run("python", func(t *testing.T) {
		version, minor := versionOf(t, "/usr/bin/python3", `(3\.(\d+))`)
		libc := amazonLinux2023
		if minor < 12 {
			libc = amazonLinux2
		}
		image := baseImage(t, "/usr/bin/python3", "python"+version, libc)
		require.NoError(t, os.Symlink("python"+version, image+"/bin/python3"))
		madeInImage(t, image, "lambda:python"+version, "deps.python", "/var/lang/bin/python"+version, "1.17.0 True\n")
	})
	t.Run("node", func(t *testing.T) {
		version, major := versionOf(t, "/usr/bin/node", `v((\d+))`)
		libc := amazonLinux2023
		if major < 20 {
			libc = amazonLinux2
		}
		madeInImage(t, baseImage(t, "/usr/bin/node", "node", libc), "lambda:nodejs"+version+".x", "deps.node", "/var/lang/bin/node", "1.3.0\n")
	})
}

// madeInImage bundles an action where the runtime's interpreter is, runs it there, and elsewhere.
func madeInImage(t *testing.T, image, target, action, interpreter, want string) {
	a := bundler(t)
	a.env = append(a.env, "PATH=/var/lang/bin:/usr/bin:/bin")
	bootstrap(t, own)
	inImage := func(args ...string) []byte {
		cmd := inplace.Command(context.Background(), []inplace.Place{{Dir: image, At: "/var/lang"}}, a.dir, programPath(t), append([]string{"attune-run"}, args...)...)
		var said bytes.Buffer
		cmd.Env, cmd.Stderr = a.env, &said
		out, err := cmd.Output()
		require.NoError(t, err, "%s", &said)
		return out
	}
	var report bundle.Report
	require.NoError(t, json.Unmarshal(inImage("bundle", "--json", "--for", target, "--packs", "packs", "--actions", action, "-o", "fn", "--require-environments"), &report))
	require.Len(t, report.Environments, 1)
	assert.Equal(t, bundle.Bundled, report.Environments[0].State)

	var result executor.Result
	invoke := []string{"lambda", "invoke", "--local", "fn", "-e", "ATTUNE_LAMBDA_ALLOW=*", "-e", "ATTUNE_NETWORK=offline", "--event", a.request(action, "{}")}
	require.NoError(t, json.Unmarshal(inImage(invoke...), &result))
	assert.Equal(t, want, result.Stdout)
	assert.Equal(t, interpreter, result.Runtime.Path)
	assert.Equal(t, "hit", result.Environment.State)
	assert.True(t, strings.HasPrefix(result.Environment.Path, "/var/task/cache/"), result.Environment.Path)

	// Where the interpreter is another, the environment in the bundle is passed over.
	require.NoError(t, json.Unmarshal([]byte(a.output(invoke...)), &result))
	assert.NotEqual(t, interpreter, result.Runtime.Path)
	assert.False(t, strings.HasPrefix(result.Environment.Path, "/var/task/"), result.Environment.Path)
}
