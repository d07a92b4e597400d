package envcache

import (
	"strings"

	"golang.org/x/sys/unix"
)

// onNetwork tells whether other hosts may use the directory. There locks may hold on one host only, and nobody sees who uses what. Whether a
// file system of macFUSE is local it says itself, and may be wrong.
func onNetwork(dir string) bool {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return false
	}
	return st.Flags&unix.MNT_LOCAL == 0 || strings.Contains(unix.ByteSliceToString(st.Fstypename[:]), "fuse")
}
