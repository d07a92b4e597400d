//go:build !attune_portable

package proc

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// landlock is a Landlock domain: what it names stays reachable, the rest does not (landlock(7)). The zero value
// restricts nothing.
type landlock struct {
	Signals bool     `json:",omitempty"` // no signals out of the domain; since ABI 6
	Files   bool     `json:",omitempty"` // Read and Write are all there is
	Read    []string `json:",omitempty"`
	Write   []string `json:",omitempty"` // read as well
}

const (
	landlockRead  = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	landlockWrite = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK |
		unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK | unix.LANDLOCK_ACCESS_FS_MAKE_SYM
	landlockFile = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
)

// restrict binds the calling thread, and what it forks, alone. Domains nest 16 deep, so the thread must be a fresh one.
func (l *landlock) restrict() error {
	version, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return errno
	}
	var attr unix.LandlockRulesetAttr
	if l.Signals {
		attr.Scoped = unix.LANDLOCK_SCOPE_SIGNAL
	}
	writes := uint64(landlockWrite)
	if version >= 2 {
		writes |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if version >= 3 {
		writes |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if l.Files {
		attr.Handled_access_fs = landlockRead | writes
	}
	ruleset, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return errno
	}
	defer func() { _ = unix.Close(int(ruleset)) }()
	for _, path := range l.Read {
		if err := allowBeneath(int(ruleset), path, landlockRead); err != nil {
			return err
		}
	}
	for _, path := range l.Write {
		if err := allowBeneath(int(ruleset), path, landlockRead|writes); err != nil {
			return err
		}
	}
	if _, _, errno = unix.RawSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

func allowBeneath(ruleset int, path string, access uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EACCES) {
		return nil // nothing to allow
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		access &= landlockFile
	}
	rule := unix.LandlockPathBeneathAttr{Allowed_access: access, Parent_fd: int32(fd)}
	_, _, errno := unix.RawSyscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	if errno != 0 {
		return &os.PathError{Op: "landlock", Path: path, Err: errno}
	}
	return nil
}

// allBut are the paths that lead everywhere but to what is hidden: Landlock can allow, not deny. A directory above
// something hidden cannot be listed.
func allBut(hidden []string) []string {
	above := map[string]bool{}
	gone := map[string]bool{}
	for _, path := range hidden {
		gone[path] = true
		for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
			above[dir] = true
			if dir == "/" {
				break
			}
		}
	}
	if len(above) == 0 {
		return []string{"/"}
	}
	var rest []string
	for queue := []string{"/"}; len(queue) > 0; queue = queue[1:] {
		entries, err := os.ReadDir(queue[0])
		if err != nil {
			continue
		}
		for _, e := range entries {
			path := filepath.Join(queue[0], e.Name())
			switch {
			case gone[path]:
			case above[path]:
				queue = append(queue, path)
			case e.Type()&os.ModeSymlink != 0 && leadsInto(path, hidden):
			default:
				rest = append(rest, path)
			}
		}
	}
	return rest
}

func leadsInto(link string, hidden []string) bool {
	target, err := filepath.EvalSymlinks(link)
	if err != nil {
		return true
	}
	for _, path := range hidden {
		if within(path, target) || within(target, path) {
			return true
		}
	}
	return false
}

// within tells whether path is dir or lies below it. Both are clean and absolute.
func within(dir, path string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}
