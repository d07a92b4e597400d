package envcache

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// The states of an Info.
const (
	Ready    = "ready"
	Broken   = "broken"   // what ready.json says is not there, or it cannot be read, or it belongs to another root
	Building = "building" // not there yet, and somebody builds it
	Failed   = "failed"   // not there, and not tried again for a while
)

// Info describes one environment of a store.
type Info struct {
	ID          string      `json:"id"`
	State       string      `json:"state"`
	Problem     string      `json:"problem,omitempty"` // of a broken or failed one
	Dir         string      `json:"dir"`               // empty while it is being built for the first time
	Generation  string      `json:"generation"`
	Layer       string      `json:"layer,omitempty"` // root of the layer that holds it; empty for the store itself
	Size        int64       `json:"size"`            // bytes of all files when it was built
	Files       int         `json:"files"`           // of any kind
	CreatedAt   time.Time   `json:"created_at,omitzero"`
	LastUsed    time.Time   `json:"last_used,omitzero"` // to the hour; unknown in a layer
	InUse       bool        `json:"in_use"`
	UsedBy      []Process   `json:"used_by,omitempty"` // as far as they can be seen; filled by List and Get
	RetryAt     time.Time   `json:"retry_at,omitzero"` // of a failed one
	Kind        string      `json:"kind"`              // what made it: "virtualenv/1"
	Inputs      []KeyInput  `json:"inputs"`
	Interpreter Interpreter `json:"interpreter"`
	Built       Built       `json:"built"`
}

// List describes all environments of the store and its layers, last used first. Without detailed it leaves out Inputs and
// Built.Resolved, which take most of the time.
func (s *Store) List(ctx context.Context, detailed bool) ([]Info, error) {
	var all []Info
	for _, store := range append([]*Store{s}, s.layers...) {
		infos, err := store.own(ctx, detailed)
		if err != nil {
			return nil, err
		}
		all = append(all, infos...)
	}
	fillUsers(all)
	slices.SortStableFunc(all, func(a, b Info) int {
		return cmp.Or(b.LastUsed.Compare(a.LastUsed), cmp.Compare(a.ID, b.ID))
	})
	return all, nil
}

// own describes what this very store holds, in no order.
func (s *Store) own(ctx context.Context, detailed bool) ([]Info, error) {
	ids, err := s.ids("")
	if err != nil {
		return nil, err
	}
	infos, there := make([]Info, len(ids)), make([]bool, len(ids))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for part := range slices.Chunk(indexes(len(ids)), 100) {
		group.Go(func() error {
			for _, i := range part {
				infos[i], there[i] = s.info(ids[i], detailed)
			}
			return context.Cause(ctx)
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	kept := infos[:0]
	for i, info := range infos {
		if there[i] {
			kept = append(kept, info)
		}
	}
	return kept, nil
}

func indexes(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

// fillUsers names the processes behind what is in use.
func fillUsers(infos []Info) {
	files := map[string]bool{}
	for _, info := range infos {
		if info.InUse {
			files[info.Dir+".use"] = true
		}
	}
	if len(files) == 0 {
		return
	}
	holders := processesHolding(files)
	for i := range infos {
		infos[i].UsedBy = holders[infos[i].Dir+".use"]
	}
}

// Get describes one environment by its ID or an unambiguous beginning of it, of the store or a layer. The error is a
// *NotFoundError.
func (s *Store) Get(id string) (Info, error) {
	var found []Info
	for _, store := range append([]*Store{s}, s.layers...) {
		ids, err := store.ids(id)
		if err != nil {
			return Info{}, err
		}
		for _, candidate := range ids {
			info, ok := store.info(candidate, true)
			known := slices.ContainsFunc(found, func(f Info) bool { return f.ID == info.ID })
			if ok && !known {
				found = append(found, info)
			}
		}
	}
	if len(found) != 1 {
		matches := make([]string, len(found))
		for i, info := range found {
			matches[i] = info.ID
		}
		return Info{}, &NotFoundError{ID: id, Matches: matches}
	}
	fillUsers(found)
	return found[0], nil
}

// Find describes the environment of a key where it is: in the store, or in the first layer that has it. ok is false when nobody
// has it.
func (s *Store) Find(key Key) (info Info, ok bool) {
	if info, ok := s.info(s.ID(key), true); ok && info.State == Ready {
		return info, true
	}
	for _, layer := range s.layers {
		for _, id := range layer.answering(key) {
			if info, ok := layer.info(id, true); ok && info.State == Ready {
				return info, true
			}
		}
	}
	return Info{}, false
}

// Overhead is the size, in bytes, of what is no environment: downloads, logs and trash. It is walked.
func (s *Store) Overhead() map[string]int64 {
	return map[string]int64{
		"downloads": taken(filepath.Join(s.version(), "downloads")).bytes, "log": taken(s.LogDir()).bytes, "trash": taken(s.trash()).bytes,
	}
}

// holding is the store or layer that an Info is of.
func (s *Store) holding(info Info) *Store {
	for _, layer := range s.layers {
		if layer.root == info.Layer {
			return layer
		}
	}
	return s
}

// ids are the IDs that begin with prefix.
func (s *Store) ids(prefix string) ([]string, error) {
	shards, err := os.ReadDir(s.envs())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, &StoreError{Path: s.root, Err: err}
	}
	var ids []string
	for _, shard := range shards {
		common := min(len(prefix), len(shard.Name()))
		if shard.Name()[:common] != prefix[:common] || !shard.IsDir() {
			continue
		}
		entries, err := os.ReadDir(filepath.Join(s.envs(), shard.Name()))
		if err != nil {
			return nil, &StoreError{Path: s.root, Err: err}
		}
		for _, item := range entries {
			if strings.HasPrefix(item.Name(), prefix) && isID(item.Name()) && item.Name()[:2] == shard.Name() {
				ids = append(ids, item.Name())
			}
		}
	}
	return ids, nil
}

// info is false for an ID that has nothing: its environment was removed, or never built.
func (s *Store) info(id string, detailed bool) (Info, bool) {
	e := s.entry(id)
	info := Info{ID: id, State: Ready}
	if s.layer {
		info.Layer = s.root
	}
	r, _, err := e.read()
	if errors.Is(err, errNothing) {
		return s.unready(e, info)
	}
	if err == nil {
		info.Dir, info.Generation = e.generation(r.Generation), r.Generation
		info.Size, info.Files, info.CreatedAt = r.Size, r.Files, r.CreatedAt
		info.Interpreter, info.Kind, info.Built = r.Interpreter, r.Kind, Built{Locked: r.Locked, Sentinels: r.Sentinels}
		if detailed {
			d := r.details()
			info.Inputs, info.Built.Resolved = d.Inputs, d.Resolved
		}
		if !s.layer {
			info.LastUsed = r.CreatedAt
			s.inspectUse(e.useFile(r.Generation), &info)
		}
		if err = e.intact(r); err == nil && r.Root != "" && r.Root != s.root {
			err = errors.New("it was built for the root " + r.Root)
		}
	}
	if err != nil {
		info.State, info.Problem = Broken, err.Error()
	}
	return info, true
}

// inspectUse fills in who uses an environment, and when it was last used.
func (s *Store) inspectUse(path string, info *Info) {
	use, err := openLockable(path)
	if err != nil {
		return
	}
	defer func() { _ = use.Close() }()
	var st unix.Stat_t
	if unix.Fstat(int(use.Fd()), &st) == nil {
		info.LastUsed = time.Unix(st.Mtim.Unix())
	}
	free, err := s.lock(use, unix.LOCK_EX)
	info.InUse = err != nil || !free
}

// unready describes an ID without an environment: it is being built, failed a moment ago, or was given up.
func (s *Store) unready(e entry, info Info) (Info, bool) {
	if s.layer {
		return info, false
	}
	if f, err := openLockable(e.lockFile()); err == nil {
		free, err := s.lock(f, unix.LOCK_EX)
		_ = f.Close()
		if err == nil && !free {
			info.State, info.Problem = Building, "by "+readHolder(e.lockFile()).String()
			return info, true
		}
	}
	if failed := s.recallFailure(e); failed != nil {
		info.State, info.Problem, info.RetryAt = Failed, failed.Message, failed.Until
		return info, true
	}
	var given quarantine
	if data, err := os.ReadFile(e.quarantineFile()); err == nil && json.Unmarshal(data, &given) == nil {
		info.State, info.Problem = Broken, "given up: "+given.Reason
		return info, true
	}
	return info, false
}
