package worker

import (
	"context"
	"sync"
	"time"

	"github.com/attune-run/attune/queue"
)

// logDelay is how long output may wait for more to share a chunk with.
const logDelay = 50 * time.Millisecond

// logWriter sends what an execution prints. It never waits: what the broker does not take is lost, and the numbers show the gap.
type logWriter struct {
	logs  queue.Logs
	id    string
	epoch uint64
	now   func() time.Time

	mu     sync.Mutex
	number uint64
	stream string // of data
	data   []byte // what was not sent yet
	timer  *time.Timer
	closed bool
	cut    bool // the end was not taken
}

// logStream is one of an execution's streams.
type logStream struct {
	*logWriter
	name string
}

// Write keeps a copy.
func (s logStream) Write(p []byte) (int, error) {
	s.write(s.name, p)
	return len(p), nil
}

func (l *logWriter) write(stream string, p []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stream != stream {
		l.flush()
		l.stream = stream
	}
	for len(p) > 0 {
		n := min(len(p), queue.ChunkMax-len(l.data))
		l.data, p = append(l.data, p[:n]...), p[n:]
		if len(l.data) == queue.ChunkMax {
			l.flush()
		}
	}
	switch {
	case len(l.data) == 0:
	case l.timer == nil:
		l.timer = time.AfterFunc(logDelay, l.late)
	default:
		l.timer.Reset(logDelay)
	}
}

func (l *logWriter) late() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.flush()
	}
}

// flush sends what there is; the lock is held.
func (l *logWriter) flush() {
	if len(l.data) > 0 {
		l.send(l.stream, l.data)
		l.data = l.data[:0]
	}
}

func (l *logWriter) send(stream string, data []byte) bool {
	l.number++
	chunk, err := encode(queue.LogChunk{Schema: queue.LogSchema, Epoch: l.epoch, Number: l.number, Stream: stream, At: l.now().UTC(), Data: data})
	return err == nil && l.logs.Append(l.id, chunk)
}

// close sends the rest, and that it is all. Nothing is said of what printed nothing: its result tells, and costs no write.
func (l *logWriter) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
	}
	l.flush()
	l.closed = true
	if l.number > 0 {
		l.cut = !l.send("end", nil)
	}
}

// endTimeout is how long it is tried to say that it is all.
const endTimeout = 10 * time.Second

// finish says again that it is all, where that was not taken: a reader waits for it, and sees by its number what is missing.
func (l *logWriter) finish(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	for l.cut && sleep(ctx, logDelay) {
		l.cut = !l.send("end", nil)
	}
}
