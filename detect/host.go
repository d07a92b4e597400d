package detect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/attune-run/attune/internal/yamldoc"
	"github.com/attune-run/attune/runtime"
)

// HostFile is the name of a file that says what a host's runtimes are.
const HostFile = ".attune-runtime.yaml"

// HostFiles are where a host says what its runtimes are: the image, then what is installed for attune, then the working directory
// dir. The later wins.
func HostFiles(dir string) []string {
	files := []string{"/" + HostFile, "/opt/attune/" + HostFile}
	if own := filepath.Join(dir, HostFile); !slices.Contains(files, own) {
		files = append(files, own)
	}
	return files
}

// HostSpecs reads the specs of the files that are there, in their order. A file holds any number of them, as YAML documents; a path that
// starts with "./" is beside it. One below the system's own directories is its administrator's; any other decides for whoever happens to
// work in its directory what is run, so it must belong to them or to root, and nobody else may be able to write it: else
// it is refused, as is one with a problem.
func HostSpecs(files []string) ([]*runtime.Spec, error) {
	var all []*runtime.Spec
	var problems []error
	for _, file := range files {
		specs, err := hostSpecs(file)
		all, problems = append(all, specs...), append(problems, err)
	}
	return all, errors.Join(problems...)
}

func hostSpecs(file string) ([]*runtime.Spec, error) {
	// Without O_NONBLOCK a named pipe would be waited for.
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if err := trusted(f); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	data, err := yamldoc.Read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	specs, err := runtime.ParseAll(file, data)
	if err != nil {
		return nil, err
	}
	for _, spec := range specs {
		spec.Beside(filepath.Dir(file))
	}
	return specs, nil
}

// trusted refuses a file that somebody else than the caller or root made, led here, or can write.
func trusted(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("is no regular file")
	}
	if dir := filepath.Dir(f.Name()); dir == "/" || dir == "/opt/attune" {
		return nil
	}
	link, err := os.Lstat(f.Name())
	if err != nil {
		return err
	}
	for _, one := range []fs.FileInfo{link, info} {
		if stat, ok := one.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 && int(stat.Uid) != os.Geteuid() {
			return fmt.Errorf("belongs to uid %d, neither to you (%d) nor to root, and would decide which interpreters you run; remove it, or work in a directory of your own",
				stat.Uid, os.Geteuid())
		}
	}
	if info.Mode()&0o022 != 0 {
		return fmt.Errorf("can be written by others (mode %04o), who could decide which interpreters you run; chmod go-w it", info.Mode().Perm())
	}
	return nil
}
