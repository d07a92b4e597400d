package recipe

import (
	"debug/elf"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	stdruntime "runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/attune-run/attune/proc"
	"github.com/attune-run/attune/runtime"
)

// native is a program of the given bytes in a directory with blanks.
func native(t *testing.T, data []byte) Input {
	t.Helper()
	in := input(t, "native", nil)
	in.Interpreter = runtime.Interpreter{}
	in.Script = filepath.Join(in.PackDir, "a [b] c", "run")
	require.NoError(t, os.Mkdir(filepath.Dir(in.Script), 0o755))
	require.NoError(t, os.WriteFile(in.Script, data, 0o755))
	return in
}

func TestANativeProgramRunsItself(t *testing.T) {
	for _, data := range [][]byte{[]byte("#!/bin/sh\necho hello\n"), []byte("#! /usr/bin/env sh\necho hello\n"), mustRead(t, compileC(t, "musl-gcc")), mustRead(t, compileC(t, "gcc", "-static"))} {
		in := native(t, data)
		command, err := plain{}.Command(in, nil)
		require.NoError(t, err)
		require.Equal(t, []string{in.Script}, command.Argv)
		out, err := exec.Command(command.Argv[0]).Output()
		require.NoError(t, err)
		assert.Equal(t, "hello\n", string(out))
	}
}

func TestWhatCannotRunSaysWhy(t *testing.T) {
	machine := mustRead(t, compileC(t, "gcc"))
	foreign := elf.EM_AARCH64
	if stdruntime.GOARCH == "arm64" {
		foreign = elf.EM_X86_64
	}
	binary.LittleEndian.PutUint16(machine[18:], uint16(foreign)) // e_machine
	loaderless := filepath.Join(t.TempDir(), "program")
	out, err := exec.Command("gcc", "-o", loaderless, "-Wl,--dynamic-linker=/nowhere/ld-other.so.1", "-x", "c", "/dev/null", "-nostartfiles").CombinedOutput()
	require.NoError(t, err, "%s", out)
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"crlf":           {[]byte("#!/bin/sh\r\necho hello\r\n"), "CRLF"},
		"crlf env":       {[]byte("#!/usr/bin/env python3\r\n"), "sed -i"},
		"no interpreter": {[]byte("#!/nowhere/bin/tool -x\n"), "there is no /nowhere/bin/tool on this machine"},
		"empty line":     {[]byte("#!\n"), "name its interpreter"},
		"other machine":  {machine, "compiled for another machine (" + foreign.String() + "; this one is " + stdruntime.GOARCH},
		"no loader":      {mustRead(t, loaderless), `needs the loader /nowhere/ld-other.so.1, which is not on this machine (its libc is "glibc`},
		"truncated":      {machine[:30], "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "other machine" && emulated() {
				t.Skip("this machine emulates others")
			}
			in := native(t, c.data)
			_, err := plain{}.Command(in, nil)
			var refused *NotExecutableError
			require.ErrorAs(t, err, &refused)
			assert.Equal(t, in.Script, refused.Path)
			assert.ErrorContains(t, err, c.want)
		})
	}
	in := native(t, []byte("#!/bin/sh\n"))
	require.NoError(t, os.Chmod(in.Script, 0o644))
	_, err = plain{}.Command(in, nil)
	assert.ErrorContains(t, err, "chmod +x")
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return data
}

func TestAProgramThatStaysBusyIsAnError(t *testing.T) {
	in := native(t, mustRead(t, compileC(t, "gcc")))
	f, err := os.OpenFile(in.Script, os.O_WRONLY, 0)
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	_, err = proc.Run(t.Context(), proc.Spec{Argv: []string{in.Script}, Stdout: io.Discard, Stderr: io.Discard})
	assert.ErrorIs(t, err, unix.ETXTBSY)
	assert.ErrorContains(t, err, in.Script)
}
