package recipe

import (
	"bytes"
	"cmp"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	stdruntime "runtime"
	"slices"
	"strings"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/runtime"
)

// plain needs no environment: the interpreter runs the script, or the script runs itself.
type plain struct{}

var errNoEnvironment = errors.New("this runtime has no environments")

func (plain) Inputs(context.Context, Input) ([]envcache.KeyInput, error) { return nil, nil }

func (plain) Build(context.Context, Input, envcache.Site) (envcache.Built, error) {
	return envcache.Built{}, errNoEnvironment
}

func (plain) Check(context.Context, Input, string) error { return errNoEnvironment }

func (plain) Command(in Input, _ *envcache.Env) (Command, error) {
	return interpreted(in, in.Interpreter.Path, runtime.Vars{})
}

// NotExecutableError is a file that is to run by itself and cannot.
type NotExecutableError struct {
	Path    string
	Problem string // empty when only the executable bit is missing
}

// Error names the remedy.
func (e *NotExecutableError) Error() string {
	return fmt.Sprintf("%s %s", e.Path, cmp.Or(e.Problem, "is not executable; chmod +x it, or name its runtime"))
}

// executable refuses what the kernel would refuse with two words, and says more. What it does not understand is left to the kernel.
func executable(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return nil //nolint:nilerr // starting it says what is wrong
	}
	defer func() { _ = file.Close() }()
	if info, err := file.Stat(); err == nil && info.Mode()&0o111 == 0 {
		return &NotExecutableError{Path: path}
	}
	head := make([]byte, firstLineMax)
	n, _ := io.ReadFull(file, head)
	problem := ""
	switch head = head[:n]; {
	case bytes.HasPrefix(head, []byte("#!")):
		problem = firstLineProblem(head)
	case bytes.HasPrefix(head, []byte(elf.ELFMAG)):
		problem = binaryProblem(file)
	}
	if problem != "" {
		return &NotExecutableError{Path: path, Problem: problem}
	}
	return nil
}

// firstLineMax bytes of a #! line are read by the kernel (BINPRM_BUF_SIZE, linux/binfmts.h).
const firstLineMax = 256

func firstLineProblem(head []byte) string {
	line, _, _ := bytes.Cut(head[2:], []byte("\n"))
	text := string(line)
	if strings.HasSuffix(text, "\r") {
		return fmt.Sprintf("begins with %q: its lines end as on Windows (CRLF), so the kernel looks for an interpreter of that name; "+
			"remove the carriage returns: sed -i 's/\\r$//' it", "#!"+text)
	}
	words := strings.Fields(text)
	if len(words) == 0 {
		return "begins with an empty #! line; name its interpreter there"
	}
	if _, err := os.Stat(words[0]); filepath.IsAbs(words[0]) && errors.Is(err, fs.ErrNotExist) {
		return fmt.Sprintf("begins with \"#!%s\", and there is no %s on this machine; install it, or name one that is there",
			strings.TrimSpace(text), words[0])
	}
	return ""
}

// machines are the ELF machines that a machine of the given GOARCH runs.
var machines = map[string][]elf.Machine{
	"amd64": {elf.EM_X86_64, elf.EM_386}, "arm64": {elf.EM_AARCH64, elf.EM_ARM}, "386": {elf.EM_386}, "arm": {elf.EM_ARM},
	"riscv64": {elf.EM_RISCV}, "ppc64le": {elf.EM_PPC64}, "s390x": {elf.EM_S390},
}

func binaryProblem(file io.ReaderAt) string {
	if stdruntime.GOOS != "linux" {
		return fmt.Sprintf("is compiled for Linux, and this machine is %s; compile it for this one", stdruntime.GOOS)
	}
	binary, err := elf.NewFile(file)
	if err != nil {
		return fmt.Sprintf("is a damaged ELF file: %v; copy it again", err)
	}
	native, known := machines[stdruntime.GOARCH]
	if known && !slices.Contains(native, binary.Machine) {
		if emulated() {
			return ""
		}
		return fmt.Sprintf("is compiled for another machine (%s; this one is %s); compile it for this one", binary.Machine, stdruntime.GOARCH)
	}
	wanted := interp(binary)
	if _, err := os.Stat(wanted); wanted != "" && errors.Is(err, fs.ErrNotExist) {
		return fmt.Sprintf("needs the loader %s, which is not on this machine (its libc is %q); link it statically, or compile it for this libc",
			wanted, LibC(""))
	}
	return ""
}

// emulated is true where the kernel hands other machines' binaries to an emulator (binfmt_misc, as qemu-user registers itself).
func emulated() bool {
	handlers, err := filepath.Glob("/proc/sys/fs/binfmt_misc/qemu-*")
	return err == nil && len(handlers) > 0
}

// interpreted is "interpreter args… script". Without an interpreter the script runs itself.
func interpreted(in Input, interpreter string, vars runtime.Vars) (Command, error) {
	if interpreter == "" {
		return Command{Argv: []string{in.Script}}, executable(in.Script)
	}
	vars.PackDir, vars.Interpreter, vars.ActionFile = in.PackDir, in.Interpreter.Path, in.Script
	argv := []string{interpreter}
	for _, arg := range in.Spec.Interpreter.Args {
		expanded, err := runtime.Expand(arg, vars)
		if err != nil {
			return Command{}, err
		}
		argv = append(argv, expanded)
	}
	if in.Script != "" {
		argv = append(argv, in.Script)
	}
	return Command{Argv: argv}, nil
}
