package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/executor"
)

// disk bounds what executions leave behind on this machine.
type disk struct {
	service  *executor.Service
	dir      string // the temporary directory
	own      []string
	cacheMax int64
	minFree  int64
	sweeps   bool // dir is the function's alone: in Lambda, not on a machine that others use

	mu      sync.Mutex
	running int
	before  map[string]bool // what was in dir when the first of those running came
}

func newDisk(service *executor.Service, s settings, cache string, sweeps bool) *disk {
	dir := os.TempDir()
	return &disk{
		service: service, dir: dir, cacheMax: s.cacheMax, minFree: s.minFree, sweeps: sweeps,
		own: []string{cache, filepath.Join(dir, "attune-"+strconv.Itoa(os.Getuid()))},
	}
}

// enter makes room before an execution. An error is a *refusal.
func (d *disk) enter(ctx context.Context) error {
	if d.free() < d.minFree {
		d.pruneTo(ctx, 1)
		if free := d.free(); free < d.minFree {
			return &refusal{kind: "internal", status: http.StatusInternalServerError,
				message: fmt.Sprintf("%s has %d bytes free, less than %d", d.dir, free, d.minFree),
				hint:    "give the function more ephemeral storage, or bake environments into a layer"}
		}
	}
	if !d.sweeps {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.running++; d.running == 1 {
		d.before = map[string]bool{}
		for _, name := range d.names() {
			d.before[name] = true
		}
	}
	return nil
}

// leave removes what appeared in the temporary directory, once nothing is running that could still use it.
func (d *disk) leave() {
	if !d.sweeps {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.running--; d.running > 0 {
		return
	}
	for _, name := range d.names() {
		if path := filepath.Join(d.dir, name); !d.before[name] && !d.isOwn(path) {
			_ = os.RemoveAll(path) // what cannot be removed is bounded by minFree
		}
	}
}

// isOwn tells attune's directories, and those they are in, from what actions left.
func (d *disk) isOwn(path string) bool {
	for _, own := range d.own {
		if own == path || strings.HasPrefix(own, path+string(filepath.Separator)) {
			return true
		}
	}
	return false
}

func (d *disk) names() []string {
	f, err := os.Open(d.dir)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	names, _ := f.Readdirnames(-1)
	return names
}

func (d *disk) free() int64 {
	var stat unix.Statfs_t
	if err := unix.Statfs(d.dir, &stat); err != nil {
		return d.minFree // nothing is known that would forbid it
	}
	return int64(stat.Bavail) * int64(stat.Bsize)
}

// prune bounds what was built here, and what installers kept of it.
func (d *disk) prune(ctx context.Context) { d.pruneTo(ctx, d.cacheMax) }

func (d *disk) pruneTo(ctx context.Context, size int64) {
	if store, err := d.service.Store(); err == nil {
		_, _ = store.Prune(ctx, envcache.Policy{MaxSize: size, Downloads: true}) // best effort: free space is checked
	}
}
