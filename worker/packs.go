package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/singleflight"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
)

// packStore has the packs that can be run here: those of the operator's directories, and those of the pool, which are fetched when
// they are first needed and kept until the pool has them no more.
type packStore struct {
	service *executor.Service
	broker  queue.Broker
	dir     string // empty: none are fetched
	log     *slog.Logger
	flights singleflight.Group

	mu       sync.Mutex
	local    []executor.PackPin
	offered  map[string]queue.PackEntry // key of the table → what the pool has
	users    map[string]int             // digest → executions that use it now
	unwanted map[string]bool            // digests to be removed once nobody uses them
}

func newPackStore(cfg Config, log *slog.Logger) *packStore {
	return &packStore{service: cfg.Service, broker: cfg.Broker, dir: cfg.PackDir, log: log, offered: map[string]queue.PackEntry{}, users: map[string]int{}, unwanted: map[string]bool{}}
}

func (s *packStore) setLocal(pins []executor.PackPin) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.local = pins
}

// pins are all that can be run.
func (s *packStore) pins() []executor.PackPin {
	s.mu.Lock()
	defer s.mu.Unlock()
	pins := slices.Clone(s.local)
	if s.dir == "" {
		return pins
	}
	for _, key := range slices.Sorted(maps.Keys(s.offered)) {
		if pin := executor.PackPin(s.offered[key].Pack); !slices.Contains(pins, pin) {
			pins = append(pins, pin)
		}
	}
	return pins
}

// watchPacks follows what the pool has.
func (w *Worker) watchPacks(ctx context.Context) error {
	return w.watching(ctx, queue.Packs, func(e queue.Entry) {
		if e.Op == queue.Current {
			w.packs.prune()
		} else if !w.packs.see(e) {
			return
		}
		able := w.routes.capabilities()
		able.Packs = w.packs.pins()
		w.routes.set(able)
	})
}

// see is false when nothing changed.
func (s *packStore) see(e queue.Entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.Op == queue.Deleted {
		gone, ok := s.offered[e.Key]
		delete(s.offered, e.Key)
		if ok {
			s.discard(gone.Pack.Digest)
		}
		return ok
	}
	var entry queue.PackEntry
	if err := json.Unmarshal(e.Value, &entry); err != nil {
		s.log.Warn("pack of the pool cannot be read", "key", e.Key, "error", err)
		return false
	}
	s.offered[e.Key] = entry
	delete(s.unwanted, entry.Pack.Digest)
	return true
}

// path is where a pack of the pool is kept: a directory of packs with that one in it. Empty for what is no digest.
func (s *packStore) path(digest string) string {
	hexed, ok := strings.CutPrefix(digest, "sha256:")
	if !ok || len(hexed) != 64 || strings.Trim(hexed, "0123456789abcdef") != "" {
		return ""
	}
	return filepath.Join(s.dir, hexed)
}

// ensure gives the directories in which a pinned pack is found before the service's own; release lets go of them.
func (s *packStore) ensure(ctx context.Context, pin executor.PackPin) (dirs []string, release func(), err error) {
	s.mu.Lock()
	if slices.Contains(s.local, pin) || s.dir == "" {
		s.mu.Unlock()
		return nil, func() {}, nil
	}
	s.users[pin.Digest]++
	s.mu.Unlock()
	release = func() { s.release(pin.Digest) }
	dir := s.path(pin.Digest)
	if dir == "" {
		err = fmt.Errorf("pack %s: %q is no digest", pin.Ref, pin.Digest)
	} else if _, missing := os.Stat(dir); missing != nil {
		err = s.fetch(ctx, pin, dir)
	}
	if err != nil {
		release()
		return nil, nil, err
	}
	return []string{dir}, release, nil
}

func (s *packStore) release(digest string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users[digest]--; s.users[digest] <= 0 {
		delete(s.users, digest)
		if s.unwanted[digest] {
			s.discard(digest)
		}
	}
}

// doubt is told that a kept pack is not what it should be: it is fetched anew next time.
func (s *packStore) doubt(pin executor.PackPin) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir != "" && !slices.Contains(s.local, pin) {
		s.unwanted[pin.Digest] = true
	}
}

// discard removes a kept pack, now or once nobody uses it. The lock is held.
func (s *packStore) discard(digest string) {
	dir := s.path(digest)
	if s.dir == "" || dir == "" {
		return
	}
	if s.users[digest] > 0 {
		s.unwanted[digest] = true
		return
	}
	delete(s.unwanted, digest)
	if err := os.RemoveAll(dir); err != nil {
		s.log.Warn("pack cannot be removed", "dir", dir, "error", err)
	}
}

// prune removes what is kept and the pool does not have any more.
func (s *packStore) prune() {
	if s.dir == "" {
		return
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return // there is none yet
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range entries {
		digest := "sha256:" + e.Name()
		offered := false
		for _, have := range s.offered {
			offered = offered || have.Pack.Digest == digest
		}
		if !offered {
			s.discard(digest)
		}
	}
}

// fetch unpacks a bundle of the pool, once however many wait for it.
func (s *packStore) fetch(ctx context.Context, pin executor.PackPin, dir string) error {
	result := s.flights.DoChan(pin.Digest, func() (any, error) {
		ctx := context.WithoutCancel(ctx) // who came first may be canceled, the others wait on
		bundle, err := s.broker.Objects().Get(ctx, queue.PackObject(pin.Digest))
		if errors.Is(err, queue.ErrNotFound) {
			return nil, fmt.Errorf("the pool does not have pack %s %s (%s)", pin.Ref, pin.Version, pin.Digest)
		}
		if err != nil {
			return nil, err
		}
		defer func() { _ = bundle.Close() }()
		return nil, s.service.Unpack(bundle, pin, dir)
	})
	select {
	case r := <-result:
		return r.Err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
