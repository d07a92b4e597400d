package recipe

import (
	"debug/elf"
	"io"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/attune-run/attune/envcache"
)

// platform are the inputs that name the kind of machine: compiled packages run nowhere else.
func platform(interpreter string) []envcache.KeyInput {
	return []envcache.KeyInput{
		{Name: "os", Value: runtime.GOOS},
		{Name: "arch", Value: runtime.GOARCH},
		{Name: envcache.LibCInput, Value: LibC(interpreter)},
	}
}

// LibC is the base name of the dynamic loader a binary asks for ("ld-linux-x86-64.so.2" with glibc,
// "ld-musl-x86_64.so.1" with musl); empty for scripts and static binaries.
func LibC(path string) string {
	if path == "" {
		return ""
	}
	file, err := elf.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = file.Close() }()
	for _, segment := range file.Progs {
		if segment.Type != elf.PT_INTERP {
			continue
		}
		name, err := io.ReadAll(io.LimitReader(segment.Open(), 4096))
		if err != nil {
			return ""
		}
		return filepath.Base(strings.TrimRight(string(name), "\x00"))
	}
	return ""
}
