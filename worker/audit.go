package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/attune-run/attune/queue"
)

// auditor writes audit lines. Lines that come within delay, or while others are being stored, go together in one message, so that many
// executions share one write.
type auditor struct {
	journal queue.Journal
	who     string
	delay   time.Duration

	mu      sync.Mutex
	pending bytes.Buffer // lines, each with its newline
	waiting []chan error // one for each of them, of capacity one
	writing bool
}

// auditMax is the size in bytes from which lines go in a message of their own.
const auditMax = 256 << 10

// auditDelay is how long a worker's line waits for others. Nobody waits for it but the acknowledgement of a message whose execution is
// over.
const auditDelay = 5 * time.Millisecond

const (
	auditTimeout  = 10 * time.Second // for one try to store a message
	auditPatience = 30 * time.Second // for all; the broker knows ids for longer
)

func newAuditor(journal queue.Journal, who string, delay time.Duration) *auditor {
	return &auditor{journal: journal, who: who, delay: delay}
}

// add writes a line; what comes is nil once it is stored.
func (a *auditor) add(line queue.AuditLine, at time.Time) <-chan error {
	done := make(chan error, 1)
	line.Schema, line.At = queue.AuditSchema, at.UTC()
	if line.Who == "" {
		line.Who = a.who
	}
	text, err := json.Marshal(line)
	if err != nil {
		done <- err
		return done
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pending.Write(text)
	a.pending.WriteByte('\n')
	a.waiting = append(a.waiting, done)
	if !a.writing {
		a.writing = true
		go a.write()
	}
	return done
}

// write stores what is pending until nothing is.
func (a *auditor) write() {
	for {
		time.Sleep(a.delay)
		a.mu.Lock()
		if len(a.waiting) == 0 {
			a.writing = false
			a.mu.Unlock()
			return
		}
		text, waiting := a.next()
		a.mu.Unlock()
		err := a.store(text)
		for _, done := range waiting {
			done <- err
		}
	}
}

// store tries again where the broker is away, and under the same id, so that lines whose answer was lost are not there twice.
func (a *auditor) store(text []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), auditPatience)
	defer cancel()
	id := uuid.NewString()
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		once, end := context.WithTimeout(ctx, auditTimeout)
		err := a.journal.Append(once, text, id)
		end()
		if err == nil || !isAway(err) && !errors.Is(err, queue.ErrUncertain) || !sleep(ctx, pause) {
			return err
		}
	}
}

// next takes as many lines as go into one message.
func (a *auditor) next() (text []byte, waiting []chan error) {
	n, lines := 0, 0
	for lines < len(a.waiting) {
		end := n + bytes.IndexByte(a.pending.Bytes()[n:], '\n') + 1
		if lines > 0 && end > auditMax {
			break
		}
		n, lines = end, lines+1
	}
	text = bytes.Clone(a.pending.Next(n))
	waiting, a.waiting = a.waiting[:lines:lines], a.waiting[lines:]
	return bytes.TrimSuffix(text, []byte("\n")), waiting
}
