package natsq

import (
	"context"
	"encoding/json"
	"strconv"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// committer writes to one stream. Writes go one by one, a few at a time; what piles up behind them where each write is synced to
// the disk goes as one batch, synced once (NATS ADR-50). A batch costs the server some milliseconds, so that few writes are
// better off alone. It is stored whole or not at all: one that is refused is sent again write by write, so that each gets its
// own answer.
type committer struct {
	broker  *broker
	batches bool // the stream takes them, and they are worth it

	mu       sync.Mutex
	single   int // writes on their way one by one
	batching bool
	waiting  []*write
}

// write is one message; expected is the revision its subject must have, nil means any.
type write struct {
	subject  string
	data     []byte
	expected *uint64
	done     chan struct{} // closed when revision and err are set
	revision uint64
	err      error
}

// The server keeps a batch until it is whole, and takes a thousand messages.
const (
	singleMax     = 16
	batchMin      = 16
	batchMax      = 64
	batchMaxBytes = 1 << 20
)

// newCommitter knows how a server writes only where its store is known.
func newCommitter(b *broker, stream jetstream.Stream) *committer {
	config := stream.CachedInfo().Config
	worth := b.options.Store != "" && b.options.Sync == SyncAlways
	return &committer{broker: b, batches: worth && config.AllowAtomicPublish && config.Replicas == 1}
}

// send is done when the write is stored or refused, or the context ends.
func (c *committer) send(ctx context.Context, w *write) (uint64, error) {
	if !c.batches {
		return c.alone(ctx, w)
	}
	w.done = make(chan struct{})
	c.mu.Lock()
	c.waiting = append(c.waiting, w)
	c.proceed()
	c.mu.Unlock()
	select {
	case <-w.done:
		return w.revision, w.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// proceed starts what may start. While a batch is on its way nothing else is: the server would make it wait. The mutex is held.
func (c *committer) proceed() {
	if c.batching {
		return
	}
	if len(c.waiting) >= batchMin {
		c.batching = true
		batch := c.next()
		go func() {
			c.commit(batch)
			c.finished(func() { c.batching = false })
		}()
		return
	}
	for len(c.waiting) > 0 && c.single < singleMax {
		w := c.waiting[0]
		c.waiting = c.waiting[1:]
		c.single++
		go func() {
			c.each([]*write{w})
			c.finished(func() { c.single-- })
		}()
	}
}

func (c *committer) finished(note func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	note()
	c.proceed()
}

// next takes the writes that go together, at most one of each subject. The mutex is held.
func (c *committer) next() []*write {
	var batch, rest []*write
	subjects, size := map[string]bool{}, 0
	for _, w := range c.waiting {
		size += len(w.data)
		if subjects[w.subject] || len(batch) == batchMax || len(batch) > 0 && size > batchMaxBytes {
			rest = append(rest, w)
			continue
		}
		subjects[w.subject] = true
		batch = append(batch, w)
	}
	c.waiting = rest
	return batch
}

func (c *committer) commit(batch []*write) {
	if len(batch) == 1 {
		c.each(batch)
		return
	}
	ctx, cancel := c.broker.bounded(context.Background())
	defer cancel()
	last, err := c.together(ctx, batch)
	if err != nil && !isSilence(err) {
		c.each(batch)
		return
	}
	for i, w := range batch {
		w.finish(last-uint64(len(batch)-1-i), err)
	}
}

// each sends writes one by one, at once.
func (c *committer) each(writes []*write) {
	ctx, cancel := c.broker.bounded(context.Background())
	defer cancel()
	var all sync.WaitGroup
	for _, w := range writes {
		all.Go(func() { w.finish(c.alone(ctx, w)) })
	}
	all.Wait()
}

func (w *write) finish(revision uint64, err error) {
	w.revision, w.err = revision, err
	close(w.done)
}

func (c *committer) alone(ctx context.Context, w *write) (uint64, error) {
	var options []jetstream.PublishOpt
	if w.expected != nil {
		options = append(options, jetstream.WithExpectLastSequencePerSubject(*w.expected))
	}
	ack, err := c.broker.js.PublishMsg(ctx, &nats.Msg{Subject: w.subject, Data: w.data}, options...)
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// together gives the revision of the last write; those of the others come right before it.
func (c *committer) together(ctx context.Context, batch []*write) (uint64, error) {
	id := nuid.Next()
	for i, w := range batch {
		m := &nats.Msg{Subject: w.subject, Data: w.data, Header: nats.Header{"Nats-Batch-Id": {id}, "Nats-Batch-Sequence": {strconv.Itoa(i + 1)}}}
		if w.expected != nil {
			m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(*w.expected, 10))
		}
		if i < len(batch)-1 {
			if err := c.broker.nc.PublishMsg(m); err != nil {
				return 0, err
			}
			continue
		}
		m.Header.Set("Nats-Batch-Commit", "1")
		answer, err := c.broker.nc.RequestMsgWithContext(ctx, m)
		if err != nil {
			return 0, err
		}
		var ack struct {
			Error    *jetstream.APIError `json:"error"`
			Sequence uint64              `json:"seq"`
			Count    int                 `json:"count"`
		}
		if err := json.Unmarshal(answer.Data, &ack); err != nil {
			return 0, err
		}
		if ack.Error != nil {
			return 0, ack.Error
		}
		return ack.Sequence, nil
	}
	return 0, nil
}
