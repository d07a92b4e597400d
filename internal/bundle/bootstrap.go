package bundle

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// BootstrapError is an attune-lambda that is not there or cannot run at the target.
type BootstrapError struct {
	Target  Target
	Problem string
}

// Error says what is wrong.
func (e *BootstrapError) Error() string {
	return fmt.Sprintf("no attune-lambda for %s: %s", e.Target.Name, e.Problem)
}

// Hint says how to come by one.
func (e *BootstrapError) Hint() string {
	return fmt.Sprintf("`make lambda` builds attune-lambda-%s; name it with --bootstrap, or put it beside attune", LambdaArch(e.Target.Arch))
}

var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// FindBootstrap is the path of attune-lambda for a target: named, or in dir under its name with the architecture behind it, or without. The
// error is a *BootstrapError.
func FindBootstrap(t Target, named, dir string) (string, error) {
	if named != "" {
		if problem := unfit(t, named); problem != "" {
			return "", &BootstrapError{t, named + " " + problem}
		}
		return named, nil
	}
	problem := ""
	for _, name := range []string{"attune-lambda-" + LambdaArch(t.Arch), "attune-lambda"} {
		path := filepath.Join(dir, name)
		switch found := unfit(t, path); {
		case found == "":
			return path, nil
		case found != notThere:
			problem = path + " " + found
		}
	}
	if problem == "" {
		problem = "there is none in " + dir
	}
	return "", &BootstrapError{t, problem}
}

const notThere = "is not there"

// unfit tells why a file cannot be the bootstrap.
func unfit(t Target, path string) string {
	file, err := elf.Open(path)
	var format *elf.FormatError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return notThere
	case errors.As(err, &format) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return "is no program for Linux"
	case err != nil:
		return "cannot be read: " + err.Error()
	}
	defer func() { _ = file.Close() }()
	if file.Machine != machines[t.Arch] {
		return fmt.Sprintf("is for another machine (%s)", file.Machine)
	}
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP {
			return "is not linked statically: CGO_ENABLED=0 does that"
		}
	}
	if info, err := os.Stat(path); err == nil && info.Mode()&0o111 == 0 {
		return "is not executable"
	}
	return ""
}
