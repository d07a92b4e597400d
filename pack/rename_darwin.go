package pack

import "golang.org/x/sys/unix"

// The flags of renamex_np(2).
const (
	renameNoReplace = unix.RENAME_EXCL
	renameExchange  = unix.RENAME_SWAP
)

func renameFlagged(from, to string, flags uint32) error { return unix.RenamexNp(from, to, flags) }
