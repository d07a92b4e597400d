package recipe

import (
	"bytes"
	"cmp"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"

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

// hostProgram is asked for the machine's libc where the interpreter needs none itself: what a static Go compiles may still.
const hostProgram = "/bin/sh"

// LibC is the C library a program runs with, by family and version: "glibc 2.36", "musl 1.2.3". A script or a static binary gets
// the host's. It is empty on a machine without any, and the loader's file name where the library is none of the two.
// No process is started.
func LibC(program string) string {
	path := loader(program)
	if path == "" {
		path = loader(hostProgram)
	}
	if path == "" {
		return ""
	}
	name := filepath.Base(path)
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if strings.HasPrefix(name, "ld-musl-") { // musl's loader is its libc
		return remembered(path, muslVersion)
	}
	// glibc installs the two side by side, and refuses to run with a pair that does not match.
	return cmp.Or(remembered(filepath.Join(filepath.Dir(path), "libc.so.6"), glibcVersion), name)
}

// loader is the path of the dynamic loader that a binary asks for; empty for scripts and static binaries.
func loader(path string) string {
	if path == "" {
		return ""
	}
	file, err := elf.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = file.Close() }()
	return interp(file)
}

// interp is the content of the PT_INTERP segment.
func interp(file *elf.File) string {
	for _, segment := range file.Progs {
		if segment.Type != elf.PT_INTERP {
			continue
		}
		name, err := io.ReadAll(io.LimitReader(segment.Open(), 4096))
		if err != nil {
			return ""
		}
		return strings.TrimRight(string(name), "\x00")
	}
	return ""
}

// libraries are the answers for files already read, by path and stat: a worker asks for each execution.
var libraries sync.Map

type library struct {
	path           string
	size, modified int64
}

func remembered(path string, read func(path string) string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	file := library{path, info.Size(), info.ModTime().UnixNano()}
	if known, ok := libraries.Load(file); ok {
		return known.(string)
	}
	version := read(path)
	libraries.Store(file, version)
	return version
}

// glibcVersion is the highest symbol version a libc.so.6 knows, which is glibc's own: each release adds GLIBC_x.y. The names stand in
// .dynstr; reading .gnu.version_d would give the same and take eight times as long.
func glibcVersion(path string) string {
	file, err := elf.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = file.Close() }()
	section := file.Section(".dynstr")
	if section == nil {
		return ""
	}
	names, err := section.Data()
	if err != nil {
		return ""
	}
	major, minor := 0, 0
	for {
		_, rest, found := bytes.Cut(names, []byte("\x00GLIBC_"))
		if !found {
			break
		}
		version, _, _ := bytes.Cut(rest, []byte{0})
		names = rest
		first, second, _ := strings.Cut(string(version), ".")
		second, _, _ = strings.Cut(second, ".")
		x, errX := strconv.Atoi(first)
		y, errY := strconv.Atoi(second)
		if errX == nil && errY == nil && (x > major || x == major && y > minor) {
			major, minor = x, y
		}
	}
	if major == 0 {
		return ""
	}
	return fmt.Sprintf("glibc %d.%d", major, minor)
}

// muslVersion finds the version that musl's loader prints when it is run without a program: a string "1.x.y" of its read-only data.
func muslVersion(path string) string {
	file, err := elf.Open(path)
	if err != nil {
		return "musl"
	}
	defer func() { _ = file.Close() }()
	section := file.Section(".rodata")
	if section == nil {
		return "musl"
	}
	data, err := section.Data()
	if err != nil {
		return "musl"
	}
	for {
		_, rest, found := bytes.Cut(data, []byte("\x001."))
		if !found {
			return "musl"
		}
		version, _, _ := bytes.Cut(rest, []byte{0})
		if isVersion(string(version)) {
			return "musl 1." + string(version)
		}
		data = rest
	}
}

// isVersion is true for "2.3": two numbers.
func isVersion(text string) bool {
	minor, patch, found := strings.Cut(text, ".")
	_, errMinor := strconv.ParseUint(minor, 10, 16)
	_, errPatch := strconv.ParseUint(patch, 10, 16)
	return found && errMinor == nil && errPatch == nil
}
