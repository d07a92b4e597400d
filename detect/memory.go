package detect

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// memory holds the answers of probes, in a file that processes share, over those of lower files that are only read. Losing it costs
// probes, nothing else: whatever cannot be read or written is forgotten.
type memory struct {
	file    string
	dirMode fs.FileMode
	lower   []string

	mu     sync.Mutex
	layers []answers // the file's with what was learnt, then the lower ones'; as far as they were asked for
	fresh  answers   // since the last save

	probing sync.Mutex
	probers int    // of this process
	leave   func() // gives the turn of this process up; nil without probers
}

// answers are by question; of one question there are several for a binary that was replaced, or lies in a file that several
// machines share. The newest is the last.
type answers map[string][]answer

// answer is what a probe found out. A Reason means that the binary is no such interpreter.
type answer struct {
	Version string    `json:"version,omitempty"`
	ABI     string    `json:"abi,omitempty"`
	Reason  string    `json:"reason,omitempty"`
	Stat    string    `json:"stat"`
	Size    int64     `json:"size"`
	Digest  string    `json:"digest,omitempty"` // empty when the binary could not be read
	Asked   time.Time `json:"asked"`
}

const (
	memorySchema = "attune.detect/v2"
	forgetAfter  = 90 * 24 * time.Hour // of the answers when the file is rewritten
	maxAnswers   = 8                   // of one question
)

type memoryFile struct {
	Schema  string  `json:"schema"`
	Answers answers `json:"answers"`
}

// get is the answer for a binary with the very same stat.
func (m *memory) get(q *question) (answer, bool) {
	return m.find(q, func(a answer) bool { return a.Stat == q.stat })
}

// sameContent is the answer for a binary of the same size and content at the same path: one that was restored from an archive, or is in an
// image's layer, has a new inode and new times.
func (m *memory) sameContent(q *question) (answer, bool) {
	return m.find(q, func(a answer) bool {
		if a.Digest == "" || a.Size != q.size {
			return false
		}
		digest, err := q.digest()
		return err == nil && a.Digest == digest
	})
}

func (m *memory) find(q *question, fits func(answer) bool) (answer, bool) {
	for i := 0; ; i++ {
		layer, ok := m.layer(i)
		if !ok {
			return answer{}, false
		}
		for _, a := range slices.Backward(layer.of(m, q.id)) {
			if fits(a) {
				return a, true
			}
		}
	}
}

// of is a copy, for use without the lock.
func (a answers) of(m *memory, id string) []answer {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(a[id])
}

// layer is the own memory, or a lower one; each file is read when it is first asked for.
func (m *memory) layer(i int) (answers, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	files := append([]string{m.file}, m.lower...)
	if i >= len(files) {
		return nil, false
	}
	for len(m.layers) <= i {
		m.layers = append(m.layers, read(files[len(m.layers)]))
	}
	return m.layers[i], true
}

// put remembers what was found out about a binary as it is now. The own layer has been read before.
func (m *memory) put(q *question, a answer) {
	digest, _ := q.digest()
	a.Stat, a.Size, a.Digest, a.Asked = q.stat, q.size, digest, time.Now().UTC().Truncate(time.Second)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fresh == nil {
		m.fresh = answers{}
	}
	m.layers[0].add(q.id, a)
	m.fresh.add(q.id, a)
}

// add replaces the answer for the same stat.
func (a answers) add(id string, one answer) {
	rest := slices.DeleteFunc(slices.Clone(a[id]), func(b answer) bool { return b.Stat == one.Stat })
	a[id] = append(rest, one)
}

func read(file string) answers {
	var content memoryFile
	data, err := os.ReadFile(file)
	if err != nil || json.Unmarshal(data, &content) != nil || content.Schema != memorySchema || content.Answers == nil {
		return answers{}
	}
	return content.Answers
}

// save adds what is new to what the file holds by now. Processes that save at once take turns.
func (m *memory) save() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.fresh) == 0 || m.file == "" || makeDir(filepath.Dir(m.file), m.dirMode) != nil {
		return
	}
	defer takeTurn(context.Background(), m.file+".lock", turn, time.Millisecond)()
	all := read(m.file)
	for id, list := range m.fresh {
		for _, a := range list {
			all.add(id, a)
		}
	}
	all.forget()
	data, err := json.Marshal(memoryFile{Schema: memorySchema, Answers: all})
	if err == nil && replaceFile(m.file, data) == nil {
		clear(m.fresh)
	}
}

// makeDir makes what is missing of a directory and the one above it, whatever the umask.
func makeDir(dir string, mode fs.FileMode) error {
	if isDir(dir) {
		return nil
	}
	up := filepath.Dir(dir)
	if err := os.MkdirAll(filepath.Dir(up), 0o755); err != nil {
		return err
	}
	for _, path := range []string{up, dir} {
		err := os.Mkdir(path, mode.Perm())
		if err == nil {
			err = os.Chmod(path, mode)
		}
		if err != nil && !isDir(path) {
			return err
		}
	}
	return nil
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// replaceFile is atomic for readers and does not wait for the disk: after a crash the file may be empty, which means that nothing is known.
func replaceFile(file string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644)) // a layer is read by others, and holds no secret
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

func (a answers) forget() {
	for id, list := range a {
		list = slices.DeleteFunc(list, func(one answer) bool {
			age := time.Since(one.Asked)
			return age > forgetAfter || age < -time.Hour // a clock that ran ahead would keep it for ever
		})
		a[id] = list[max(0, len(list)-maxAnswers):]
	}
	maps.DeleteFunc(a, func(_ string, list []answer) bool { return len(list) == 0 })
}

// takeTurn locks a file, for no longer than limit in vain. Where it cannot, because there are no locks here or somebody was stopped while
// holding it, one of two savers may lose its answers, which are then asked for again.
func takeTurn(ctx context.Context, file string, limit, pause time.Duration) (leave func()) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDONLY, 0o644) // reading is enough to lock, for other members of a group too
	if err != nil {
		return func() {}
	}
	for deadline := time.Now().Add(limit); ; time.Sleep(pause) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err != unix.EWOULDBLOCK && err != unix.EINTR || time.Now().After(deadline) || ctx.Err() != nil {
			return func() { _ = f.Close() }
		}
	}
}

const (
	turn        = time.Second     // a save takes about a millisecond
	probingTurn = 5 * time.Second // some probes, each of which has its own limit
)

// takeProbing is the turn of this process to probe: all its goroutines probe at once, and what other processes found out meanwhile
// is known afterwards.
func (m *memory) takeProbing(ctx context.Context) (leave func()) {
	m.probing.Lock()
	defer m.probing.Unlock()
	if m.probers++; m.probers == 1 && m.file != "" && makeDir(filepath.Dir(m.file), m.dirMode) == nil {
		m.leave = takeTurn(ctx, m.file+".probing", probingTurn, 5*time.Millisecond)
		m.mu.Lock()
		if len(m.layers) > 0 {
			m.layers[0] = read(m.file)
			for id, list := range m.fresh {
				for _, a := range list {
					m.layers[0].add(id, a)
				}
			}
		}
		m.mu.Unlock()
	}
	return func() {
		m.probing.Lock()
		defer m.probing.Unlock()
		if m.probers--; m.probers == 0 && m.leave != nil {
			m.leave()
			m.leave = nil
		}
	}
}
