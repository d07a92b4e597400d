package detect

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
)

// memory holds the answers of probes, in a file that processes share. Losing it costs probes, nothing else:
// whatever cannot be read or written is forgotten.
type memory struct {
	file string

	mu      sync.Mutex
	loaded  bool
	answers map[string]answer
	fresh   map[string]answer // since the last save
}

// answer is what a probe found out. A Reason means that the binary is no such interpreter.
type answer struct {
	Version string    `json:"version,omitempty"`
	ABI     string    `json:"abi,omitempty"`
	Reason  string    `json:"reason,omitempty"`
	Asked   time.Time `json:"asked"`
}

const (
	memorySchema = "attune.detect/v1"
	forgetAfter  = 90 * 24 * time.Hour // of the answers when the file is rewritten
)

type memoryFile struct {
	Schema  string            `json:"schema"`
	Answers map[string]answer `json:"answers"`
}

// identify names a binary as it is now together with the question: the resolved target, its stat, and a digest of the
// probe's definition.
func identify(c candidate) (string, error) {
	info, err := os.Stat(c.target)
	if err != nil {
		return "", err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", fmt.Errorf("%s: no stat", c.target)
	}
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%q %d %q", c.probe.Args, c.probe.ExitCode, c.probe.Pattern.String())
	return fmt.Sprintf("%s %d:%d %d %d.%d %d.%d %s", c.target, stat.Dev, stat.Ino, stat.Size,
		stat.Mtim.Sec, stat.Mtim.Nsec, stat.Ctim.Sec, stat.Ctim.Nsec, hex.EncodeToString(h.Sum(nil)[:8])), nil
}

func (m *memory) get(id string) (answer, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.loaded {
		m.loaded, m.answers, m.fresh = true, m.read(), map[string]answer{}
	}
	a, ok := m.answers[id]
	return a, ok
}

func (m *memory) put(id string, a answer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a.Asked = time.Now().UTC().Truncate(time.Second)
	m.answers[id], m.fresh[id] = a, a
}

func (m *memory) read() map[string]answer {
	var content memoryFile
	data, err := os.ReadFile(m.file)
	if err != nil || json.Unmarshal(data, &content) != nil || content.Schema != memorySchema || content.Answers == nil {
		return map[string]answer{}
	}
	return content.Answers
}

// save adds what is new to what the file holds by now. Two processes that save at once may lose one's
// answers, which are then asked for again.
func (m *memory) save() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.fresh) == 0 || m.file == "" {
		return
	}
	all := m.read()
	maps.Copy(all, m.fresh)
	maps.DeleteFunc(all, func(_ string, a answer) bool {
		age := time.Since(a.Asked)
		return age > forgetAfter || age < -time.Hour // a clock that ran ahead would keep it for ever
	})
	data, err := json.Marshal(memoryFile{Schema: memorySchema, Answers: all})
	if err != nil {
		return
	}
	if os.MkdirAll(filepath.Dir(m.file), 0o700) != nil {
		return
	}
	if renameio.WriteFile(m.file, data, 0o600, renameio.WithTempDir(filepath.Dir(m.file))) == nil {
		clear(m.fresh)
	}
}
