//go:build !attune_portable

package proc

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// view is what a child in a mount namespace of its own sees of the machine: all of it read-only, but for what is
// writable; some of it empty.
type view struct {
	ReadOnly []string `json:",omitempty"`
	Writable []string `json:",omitempty"`
	Hidden   []string `json:",omitempty"`
	Scratch  []string `json:",omitempty"` // empty, writable and gone with the child
	Size     int64    `json:",omitempty"` // of a scratch directory, in bytes; zero means the kernel's default
	Loopback bool     `json:",omitempty"` // there is a new network namespace; its own address is brought up
}

// scratch are the places where programs expect to write whatever TMPDIR says.
var scratch = []string{"/tmp", "/var/tmp", "/dev/shm"}

// credentials are files and sockets that give rights to whoever may read or reach them, beside everybody's home.
var credentials = []string{
	"/root", "/home", "/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/sudoers", "/etc/sudoers.d", "/etc/ssl/private",
	"/etc/docker", "/etc/kubernetes", "/var/lib/kubelet", "/var/run/secrets", "/run/secrets", "/run/credentials", "/run/docker.sock", "/run/containerd", "/run/podman",
	"/run/crio", "/run/user", "/run/systemd/private", "/run/dbus", "/var/spool/cron", "/var/lib/docker", "/var/lib/containerd", "/proc/kcore", "/dev/mem", "/dev/kmsg",
}

// newView takes the paths as the kernel sees them, and drops those that are not there.
func newView(i *Isolation, size int64, loopback bool) view {
	return view{
		ReadOnly: existing(i.ReadOnly), Writable: existing(i.Writable), Hidden: existing(i.hidden()),
		Scratch: existing(scratch), Size: size, Loopback: loopback,
	}
}

// hidden are everybody's credentials and what was named.
func (i *Isolation) hidden() []string {
	keys, _ := filepath.Glob("/etc/ssh/ssh_host_*_key")
	return slices.Concat(credentials, keys, i.Hidden)
}

// existing are paths without links, each once, what lies above first.
func existing(paths []string) []string {
	var real []string
	for _, path := range paths {
		if path, err := filepath.EvalSymlinks(path); err == nil && filepath.IsAbs(path) && path != "/" {
			real = append(real, path)
		}
	}
	slices.Sort(real)
	return slices.Compact(real)
}

// clone is a part of the tree that is taken aside before something is put over it.
type clone struct {
	path     string
	writable bool
	fd       int
}

// apply builds the view. The caller is alone in a new mount namespace.
func (v *view) apply() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	clones, err := v.takeAside()
	if err != nil {
		return err
	}
	if err := setReadOnly(unix.AT_FDCWD, "/", unix.AT_RECURSIVE); err != nil {
		return fmt.Errorf("make / read-only: %w", err)
	}
	if os.Getpid() == 1 { // a container may not let go of what it masks: then the old one stays
		_ = unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	}
	own, err := v.hide(clones)
	if err != nil {
		return err
	}
	for _, path := range v.Scratch {
		options := "mode=1777"
		if v.Size > 0 {
			options += fmt.Sprintf(",size=%d", v.Size)
		}
		if err := unix.Mount("tmpfs", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
			return fmt.Errorf("empty %s: %w", path, err)
		}
	}
	for _, c := range clones {
		if err := c.putBack(); err != nil {
			return fmt.Errorf("show %s: %w", c.path, err)
		}
	}
	for _, path := range own { // now that what lies below has its place
		if err := setReadOnly(unix.AT_FDCWD, path, 0); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // a scratch directory lies over it
			return fmt.Errorf("hide %s: %w", path, err)
		}
	}
	if v.Loopback {
		return loopbackUp()
	}
	return nil
}

// takeAside clones what is writable, and what is to be seen although something above it is covered.
func (v *view) takeAside() ([]clone, error) {
	covered := func(path string) bool {
		over := func(dir string) bool { return within(dir, path) }
		return slices.ContainsFunc(v.Hidden, over) || slices.ContainsFunc(v.Scratch, over)
	}
	var clones []clone
	for _, path := range v.ReadOnly {
		if covered(path) && !slices.Contains(v.Writable, path) {
			clones = append(clones, clone{path: path})
		}
	}
	for _, path := range v.Writable {
		clones = append(clones, clone{path: path, writable: true})
	}
	slices.SortStableFunc(clones, func(a, b clone) int { return strings.Compare(a.path, b.path) })
	for i := range clones {
		c := &clones[i]
		fd, err := unix.OpenTree(unix.AT_FDCWD, c.path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err != nil {
			return nil, fmt.Errorf("show %s: %w", c.path, err)
		}
		c.fd = fd
		if !c.writable {
			if err := setReadOnly(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE); err != nil {
				return nil, fmt.Errorf("show %s: %w", c.path, err)
			}
		}
	}
	return clones, nil
}

// putBack shows a clone at its own path, which is made where an empty directory has come between.
func (c *clone) putBack() error {
	defer func() { _ = unix.Close(c.fd) }()
	var stat unix.Stat_t
	if err := unix.Fstatat(c.fd, "", &stat, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	if !exists(c.path) {
		if stat.Mode&unix.S_IFMT == unix.S_IFDIR {
			if err := os.MkdirAll(c.path, 0o755); err != nil {
				return err
			}
		} else if err := makeFile(c.path); err != nil {
			return err
		}
	}
	return unix.MoveMount(c.fd, "", unix.AT_FDCWD, c.path, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

func makeFile(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, nil, 0o600)
}

// hide puts an empty directory, or an empty file, in the place of all that is hidden. One empty directory serves for all that stay
// empty; those that something is shown below are their own, and still writable.
func (v *view) hide(clones []clone) (own []string, err error) {
	empty := ""
	for _, path := range v.Hidden {
		shows := slices.ContainsFunc(clones, func(c clone) bool { return within(path, c.path) })
		switch {
		case !exists(path): // below something hidden already
		case !isDir(path):
			err = unix.Mount("/dev/null", path, "", unix.MS_BIND, "")
		case empty != "" && !shows:
			err = unix.Mount(empty, path, "", unix.MS_BIND, "")
		default:
			err = unix.Mount("tmpfs", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755,size=1m")
			if shows {
				own = append(own, path)
			} else if err == nil {
				empty, err = path, setReadOnly(unix.AT_FDCWD, path, 0)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("hide %s: %w", path, err)
		}
	}
	return own, nil
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func setReadOnly(dirfd int, path string, flags uint) error {
	return unix.MountSetattr(dirfd, path, flags, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID})
}

// loopbackUp gives a new network namespace its own address, which programs talk to themselves by (netdevice(7)).
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return nil
}
