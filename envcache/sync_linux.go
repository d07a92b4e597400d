//go:build !attune_portable

package envcache

import "golang.org/x/sys/unix"

// sync writes everything to disk: one syncfs instead of an fsync per file.
func (g *generation) sync() error { return unix.Syncfs(int(g.use.Fd())) }
