package envcache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Policy says what Prune removes. The zero value removes only what no environment needs: abandoned builds and trash.
type Policy struct {
	MaxSize int64         // bytes of all environments; the least recently used go first. 0: any
	MaxAge  time.Duration // since the last use. 0: any
	// Downloads removes what installers keep to download less, too, when no build is running.
	Downloads bool
	DryRun    bool // only say what would be removed
	// Network allows it on a file system that other hosts may use, where nobody sees what they use.
	Network bool
}

// Report is what Prune did.
type Report struct {
	Removed []Removal `json:"removed"`
	Kept    []Removal `json:"kept"`  // what the policy meant, and could not be removed
	Freed   int64     `json:"freed"` // bytes, as they were recorded
	Left    int64     `json:"left"`  // bytes of the environments that are left
}

// Removal is one environment, or the downloads, and why it was removed or kept.
type Removal struct {
	ID   string `json:"id"`
	Size int64  `json:"size"` // bytes
	Why  string `json:"why"`
}

// NetworkError is a prune that was refused because other hosts may use the store.
type NetworkError struct{ Path string }

// Error says how it can be done all the same.
func (e *NetworkError) Error() string {
	return fmt.Sprintf("%s lies on a network file system: what other hosts use cannot be seen from here; prune it when none of them uses it, with --network-fs", e.Path)
}

// pruneBatch environments are claimed at once, so that /proc is read once for all of them.
const pruneBatch = 64

// logAge is how long a log outlives its build.
const logAge = 30 * 24 * time.Hour

// Prune removes what the policy names. Environments in use are never touched: neither those that somebody holds, a child whose
// parent is dead included, nor those a process was started from.
func (s *Store) Prune(ctx context.Context, policy Policy) (Report, error) {
	if !policy.Network && s.sys.network(s.root) {
		return Report{}, &NetworkError{Path: s.root}
	}
	infos, err := s.own(ctx, false)
	if err != nil {
		return Report{}, err
	}
	report := Report{Removed: []Removal{}, Kept: []Removal{}}
	for _, info := range infos {
		report.Left += info.Size
	}
	for batch := range slices.Chunk(s.chosen(infos, policy), pruneBatch) {
		if err := context.Cause(ctx); err != nil {
			return report, err
		}
		s.pruneBatch(batch, policy.DryRun, &report)
	}
	if policy.DryRun {
		return report, nil
	}
	s.sweepAll(ctx)
	if policy.Downloads {
		s.removeDownloads(&report)
	}
	return report, nil
}

// candidate is an environment that a policy means.
type candidate struct {
	info Info
	why  string
}

// chosen are what the policy means, least recently used first: too old, broken, of another root, or more than fits.
func (s *Store) chosen(infos []Info, policy Policy) []candidate {
	slices.SortStableFunc(infos, func(a, b Info) int { return a.LastUsed.Compare(b.LastUsed) })
	var total int64
	for _, info := range infos {
		total += info.Size
	}
	var all []candidate
	for _, info := range infos {
		age := max(s.now().Sub(info.LastUsed), 0) // a clock that was wrong makes nothing old
		switch {
		case info.State == Building || info.State == Failed:
			continue
		case info.State == Broken:
			all = append(all, candidate{info, info.Problem})
		case policy.MaxAge > 0 && age > policy.MaxAge:
			all = append(all, candidate{info, fmt.Sprintf("last used %s ago", age.Round(time.Second))})
		case policy.MaxSize > 0 && total > policy.MaxSize:
			all = append(all, candidate{info, fmt.Sprintf("least recently used of more than %d bytes", policy.MaxSize)})
		default:
			continue
		}
		total -= info.Size
	}
	return all
}

// pruneBatch removes what of a batch nobody uses. All are claimed before /proc is read: from then on nobody begins to use one.
func (s *Store) pruneBatch(batch []candidate, dryRun bool, report *Report) {
	var claims []*claim
	keep := func(c candidate, err error) {
		report.Kept = append(report.Kept, Removal{c.info.ID, c.info.Size, err.Error()})
	}
	why := map[string]candidate{}
	for _, c := range batch {
		claimed, err := s.claim(c.info)
		if err != nil {
			keep(c, err)
			continue
		}
		if claimed.info.Generation != c.info.Generation { // removed or built anew since it was chosen
			claimed.release()
			continue
		}
		why[c.info.ID] = c
		claims = append(claims, claimed)
	}
	busy := s.usedBy(claims)
	for _, c := range claims {
		chosen := why[c.info.ID]
		if process, ok := busy[c.info.ID]; ok {
			keep(chosen, &InUseError{ID: c.info.ID, Why: "is in use by " + process.String()})
			c.release()
			continue
		}
		if dryRun {
			c.release()
		} else if err := c.remove(); err != nil {
			keep(chosen, err)
			continue
		}
		report.Removed = append(report.Removed, Removal{c.info.ID, c.info.Size, chosen.why})
		report.Freed += c.info.Size
		report.Left -= c.info.Size
	}
}

// usedBy finds, by ID, a process that was started from one of the claimed environments.
func (s *Store) usedBy(claims []*claim) map[string]Process {
	dirs := make([]string, len(claims))
	for i, c := range claims {
		dirs[i] = c.entry.dir
	}
	busy := map[string]Process{}
	if len(s.processesIn(dirs)) == 0 { // as nearly always
		return busy
	}
	for _, c := range claims {
		if all := s.processesIn([]string{c.entry.dir}); len(all) > 0 {
			busy[c.info.ID] = all[0]
		}
	}
	return busy
}

// sweepAll removes abandoned builds of all entries, old logs and the trash.
func (s *Store) sweepAll(ctx context.Context) {
	ids, err := s.ids("")
	if err != nil {
		return
	}
	for _, id := range ids {
		if context.Cause(ctx) != nil {
			return
		}
		for _, path := range s.abandoned(s.entry(id)) {
			removeAll(path)
		}
	}
	s.emptyTrash()
	logs, _ := os.ReadDir(s.LogDir())
	for _, log := range logs {
		if info, err := log.Info(); err == nil && s.now().Sub(info.ModTime()) > logAge {
			_ = os.Remove(filepath.Join(s.LogDir(), log.Name()))
		}
	}
}

// abandoned moves away what nobody needs of an entry that nobody builds.
func (s *Store) abandoned(e entry) (aside []string) {
	lock, err := openLockable(e.lockFile())
	if err != nil {
		return nil
	}
	defer func() { _ = lock.Close() }()
	if free, err := s.lock(lock, unix.LOCK_EX); err != nil || !free {
		return nil
	}
	return s.moveUnused(e)
}

// Strip removes everything that is of no use to a layer: what installers keep to download less, logs and trash.
func (s *Store) Strip(ctx context.Context) error {
	s.sweepAll(ctx)
	s.removeDownloads(&Report{})
	for _, path := range []string{s.LogDir(), s.trash(), filepath.Join(s.version(), "downloads"), s.downloadsLock()} {
		if err := os.RemoveAll(path); err != nil {
			return &StoreError{Path: s.root, Err: err}
		}
	}
	return context.Cause(ctx)
}

func (s *Store) downloadsLock() string { return filepath.Join(s.version(), "downloads.use") }

// holdDownloads keeps Prune from taking the installers' caches away while one of them runs.
func (s *Store) holdDownloads() (release func()) {
	f, err := s.create(s.downloadsLock(), 0)
	if err != nil {
		return func() {}
	}
	for ok := false; !ok && err == nil; {
		if ok, err = s.lock(f, unix.LOCK_SH); !ok && err == nil {
			err = pause(context.Background(), time.Millisecond) // only for as long as a rename takes
		}
	}
	return func() { _ = f.Close() }
}

func (s *Store) removeDownloads(report *Report) {
	dir := filepath.Join(s.version(), "downloads")
	size := taken(dir).bytes
	aside, err := s.asideDownloads(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		report.Kept = append(report.Kept, Removal{"downloads", size, err.Error()})
	default:
		removeAll(aside)
		report.Removed = append(report.Removed, Removal{"downloads", size, "asked for"})
		report.Freed += size
	}
}

func (s *Store) asideDownloads(dir string) (aside string, err error) {
	if _, err := os.Stat(dir); err != nil {
		return "", err
	}
	f, err := s.create(s.downloadsLock(), 0)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	if free, err := s.lock(f, unix.LOCK_EX); err != nil {
		return "", err
	} else if !free {
		return "", errors.New("a build is running")
	}
	if err := s.mkdirAll(s.trash()); err != nil {
		return "", err
	}
	aside = filepath.Join(s.trash(), "downloads-"+newGeneration())
	return aside, os.Rename(dir, aside)
}

// makeRoom removes what nobody uses when err says that the disk is full: trash and abandoned builds, then environments, least
// recently used first, until the failed build would have twice the room it had, then downloads. It is false when that gave no
// room, or when err is another error.
func (s *Store) makeRoom(ctx context.Context, err error) bool {
	var noRoom *roomError
	wanted := minRoom
	if errors.As(err, &noRoom) {
		wanted = room{bytes: max(wanted.bytes, 2*noRoom.used.bytes), files: max(wanted.files, 2*noRoom.used.files)}
	} else if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		return false
	}
	if s.sys.network(s.root) {
		return false
	}
	before := free(s.root)
	s.sweepAll(ctx)
	infos, err := s.own(ctx, false)
	if err != nil {
		return false
	}
	slices.SortStableFunc(infos, func(a, b Info) int { return cmp.Compare(a.LastUsed.UnixNano(), b.LastUsed.UnixNano()) })
	for _, info := range infos {
		if free(s.root).holds(wanted) || context.Cause(ctx) != nil {
			break
		}
		if info.State != Building {
			s.pruneBatch([]candidate{{info, "the disk is full"}}, false, &Report{})
		}
	}
	if !free(s.root).holds(wanted) {
		s.removeDownloads(&Report{})
	}
	return !before.holds(free(s.root)) && context.Cause(ctx) == nil
}

// room is what a file system has, or a tree takes.
type room struct {
	bytes int64
	files int64 // inodes
}

// holds tells whether a tree that takes other fits.
func (r room) holds(other room) bool { return r.bytes >= other.bytes && r.files >= other.files }

// minRoom is what a build wants at least.
var minRoom = room{bytes: 1 << 20, files: 64}

// free is what the file system has for this user.
func free(dir string) room {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return room{}
	}
	r := room{bytes: int64(st.Bavail) * int64(st.Bsize), files: math.MaxInt64}
	if st.Files > 0 { // some file systems make inodes as they go
		r.files = int64(st.Ffree)
	}
	return r
}

// full tells whether a file system has run out of blocks or inodes; an installer's own words about that
// are not attune's to understand.
func full(dir string) bool {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil || st.Blocks == 0 {
		return false
	}
	return st.Bavail*uint64(st.Bsize) < 256<<10 || st.Files > 0 && st.Ffree == 0
}
