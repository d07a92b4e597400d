package inplace

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// stubName is what this program is called while it moves directories and becomes another program.
const stubName = "attune:inplace"

func init() {
	if len(os.Args) > 2 && os.Args[0] == stubName {
		_, _ = fmt.Fprintln(os.Stderr, become(os.Args[1], os.Args[2], os.Args[3:]))
		syscall.Exit(failed)
	}
}

// failed is the exit code of a stub that did not become its program.
const failed = 125

// stubConfig is what the stub is told.
type stubConfig struct {
	Places []Place
	Dir    string
}

// Command is a command that runs the program at path with argv, its name and arguments, in the directory dir, both as the program will see them, with the
// places as said. It dies with this process. Its SysProcAttr may be added to.
func Command(ctx context.Context, places []Place, dir, path string, argv ...string) *exec.Cmd {
	config, _ := json.Marshal(stubConfig{places, dir}) // nothing but texts
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = append([]string{stubName, string(config), path}, argv...)
	cmd.SysProcAttr = Dying()
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNS
	if uid := os.Geteuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	return cmd
}

// Dying are the attributes of a child that is killed when this process has ended.
func Dying() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

// Check tells why directories cannot be placed on this machine; nil when they can.
func Check(ctx context.Context, places []Place) error {
	out, err := Command(ctx, places, "/", "").CombinedOutput()
	var exit *exec.ExitError
	if text := strings.TrimSpace(string(out)); errors.As(err, &exit) && text != "" {
		return errors.New(text)
	}
	if err != nil {
		return fmt.Errorf("namespaces: %w", err)
	}
	return nil
}

// become is the stub: it is alone in a mount namespace. Without a path it ends when everything is in its place.
func become(config, path string, argv []string) error {
	runtime.LockOSThread()
	var told stubConfig
	if err := json.Unmarshal([]byte(config), &told); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	var trees []int
	for _, p := range told.Places { // all, before one of them covers another
		tree, err := openTree(p.Dir)
		if err != nil {
			return err
		}
		if p.ReadOnly {
			attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
			if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
				return &os.PathError{Op: "mount_setattr", Path: p.Dir, Err: err}
			}
		}
		trees = append(trees, tree)
	}
	for i, p := range told.Places {
		if err := makeVisible(p.At); err != nil {
			return err
		}
		if err := attach(trees[i], p.At); err != nil {
			return err
		}
	}
	if path == "" {
		syscall.Exit(0)
	}
	if err := os.Chdir(told.Dir); err != nil {
		return err
	}
	return fmt.Errorf("start %s: %w", path, syscall.Exec(path, argv, os.Environ()))
}

// makeVisible makes sure that there is a directory at path, without a trace on the disk: what lies above it is replaced by a copy
// in memory whose entries are the real ones.
func makeVisible(path string) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil
	}
	above := filepath.Dir(path)
	for {
		if info, err := os.Stat(above); err == nil && info.IsDir() {
			break
		}
		above = filepath.Dir(above)
	}
	if above == "/" {
		return fmt.Errorf("there is no /%s on this machine to place %s in", strings.SplitN(path, "/", 3)[1], path)
	}
	if err := replace(above); err != nil {
		return fmt.Errorf("replace %s: %w", above, err)
	}
	return os.MkdirAll(path, 0o755)
}

// replace puts a directory in memory over dir, with the same entries.
func replace(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	trees := make([]int, len(entries))
	for i, e := range entries {
		if e.Type() == os.ModeSymlink {
			continue
		}
		if trees[i], err = openTree(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	links := map[string]string{}
	for _, e := range entries {
		if e.Type() == os.ModeSymlink {
			if links[e.Name()], err = os.Readlink(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return err
	}
	for i, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case e.Type() == os.ModeSymlink:
			err = os.Symlink(links[e.Name()], path)
		case e.IsDir():
			if err = os.Mkdir(path, 0o755); err == nil {
				err = attach(trees[i], path)
			}
		default:
			if err = os.WriteFile(path, nil, 0o644); err == nil {
				err = attach(trees[i], path)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func openTree(path string) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return 0, &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	return fd, nil
}

func attach(tree int, path string) error {
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move_mount", Path: path, Err: err}
	}
	return unix.Close(tree)
}
