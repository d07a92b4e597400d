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
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/bundle"
	"github.com/attune-run/attune/internal/inplace"
)

// baseImage is this machine made to look like the base image of Lambda's runtime for this machine's Python: the interpreter lies
// in /var/lang/bin, and its C library says that it is the image's.
func baseImage(t *testing.T) (lang, version string) {
	t.Helper()
	python, err := filepath.EvalSymlinks("/usr/bin/python3")
	require.NoError(t, err)
	version = strings.TrimPrefix(filepath.Base(python), "python")
	minor, libc := 0, 34
	_, err = fmt.Sscanf(version, "3.%d", &minor)
	require.NoError(t, err)
	if minor < 12 {
		libc = 26
	}
	lang = t.TempDir()
	require.NoError(t, os.Mkdir(lang+"/bin", 0o755))

	// A loader of the runtime's own, and beside it the C library that attune looks at.
	program, err := os.ReadFile(python)
	require.NoError(t, err)
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
	require.NotEmpty(t, loader)
	require.NoError(t, os.WriteFile(lang+"/bin/python"+version, program, 0o755))
	require.NoError(t, os.Symlink("python"+version, lang+"/bin/python3"))
	loaded, err := filepath.EvalSymlinks(loader)
	require.NoError(t, err)
	data, err := os.ReadFile(loaded)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(lang+"/ld.so", data, 0o755))
	data, err = os.ReadFile(filepath.Join(filepath.Dir(loaded), "libc.so.6"))
	require.NoError(t, err)
	for newer := libc + 1; newer < 100; newer++ {
		data = bytes.ReplaceAll(data, fmt.Appendf(nil, "GLIBC_2.%d", newer), []byte("GLIBC_2.10"))
	}
	require.NoError(t, os.WriteFile(lang+"/libc.so.6", data, 0o755))
	return lang, version
}

func TestABundleMadeInTheRuntimesBaseImage(t *testing.T) {
	require.Zero(t, os.Geteuid(), "the image is put together as root")
	a := bundler(t)
	lang, version := baseImage(t)
	a.env = append(a.env, "PATH=/var/lang/bin:/usr/bin:/bin")
	bootstrap(t, own)
	inImage := func(args ...string) []byte {
		cmd := inplace.Command(context.Background(), []inplace.Place{{Dir: lang, At: "/var/lang"}}, a.dir, programPath(t), append([]string{"attune-run"}, args...)...)
		var said bytes.Buffer
		cmd.Env, cmd.Stderr = a.env, &said
		out, err := cmd.Output()
		require.NoError(t, err, "%s", &said)
		return out
	}
	var report bundle.Report
	require.NoError(t, json.Unmarshal(inImage("bundle", "--json", "--for", "lambda:python"+version, "--packs", "packs", "--actions", "deps.python", "-o", "fn",
		"--require-environments"), &report))
	require.Len(t, report.Environments, 1)
	assert.Equal(t, bundle.Bundled, report.Environments[0].State)

	var result executor.Result
	require.NoError(t, json.Unmarshal(inImage("lambda", "invoke", "--local", "fn", "-e", "ATTUNE_LAMBDA_ALLOW=*", "--event", a.request("deps.python", "{}")), &result))
	assert.Equal(t, "1.17.0 True\n", result.Stdout)
	assert.Equal(t, "/var/lang/bin/python"+version, result.Runtime.Path)
	assert.Equal(t, "hit", result.Environment.State)
	assert.True(t, strings.HasPrefix(result.Environment.Path, "/var/task/cache/"), result.Environment.Path)

	// Where the interpreter is another, the environment in the bundle is passed over.
	cmd := exec.Command(programPath(t), "lambda", "invoke", "--local", "fn", "-e", "ATTUNE_LAMBDA_ALLOW=*", "-e", "ATTUNE_NETWORK=offline", "--event", a.request("deps.python", "{}"))
	cmd.Dir, cmd.Env = a.dir, a.env
	out, err := cmd.Output()
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(out, &result))
	assert.NotContains(t, result.Environment.Path, "/var/task/")
}
