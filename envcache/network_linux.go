package envcache

import (
	"slices"

	"golang.org/x/sys/unix"
)

// networkTypes are the file systems, by statfs(2)'s f_type, whose other users may sit on other hosts: NFS, CIFS, SMB2, AFS, Coda,
// Ceph, Lustre, GPFS, 9P, FUSE (which may be anything) and OCFS2.
var networkTypes = []int64{
	unix.NFS_SUPER_MAGIC, 0xff534d42, 0xfe534d42, unix.AFS_SUPER_MAGIC, unix.CODA_SUPER_MAGIC,
	0x00c36400, 0x0bd00bd0, 0x47504653, unix.V9FS_MAGIC, unix.FUSE_SUPER_MAGIC, unix.OCFS2_SUPER_MAGIC,
}

// onNetwork tells whether other hosts may use the directory. There locks may hold on one host only, and nobody sees who
// uses what.
func onNetwork(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && slices.Contains(networkTypes, int64(st.Type))
}
