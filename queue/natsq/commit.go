package natsq

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/attune-run/attune/queue"
)

// committer writes to the stream of one table. Where each write is synced to the disk, those that gather while others are being written
// go together in one batch, synced once (NATS ADR-50). A batch is stored whole or not at all: one that is refused is sent again
// write by write, so that each gets its own answer.
type committer struct {
	broker  *broker
	batches bool // they are worth it

	mu       sync.Mutex
	singles  int       // writes on their way one by one
	batching bool      // a batch is on its way, and nothing starts beside it: the server would make it wait
	resume   time.Time // until then no batches are made, because the server could not take one
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

// A batch costs the server about as much as three writes. It takes a thousand messages in one.
const (
	singleMax     = 2
	batchMin      = 4
	batchMax      = 64
	batchMaxBytes = 1 << 20
	// batchPause is how long writes go one by one after a batch that the server could not take.
	batchPause = time.Minute
)

// newCommitter makes batches where it is known how the server writes, and that it does not sync them twice.
func newCommitter(b *broker, stream jetstream.Stream) *committer {
	config := stream.CachedInfo().Config
	synced := b.options.Store != "" && b.options.Sync == SyncAlways
	return &committer{broker: b, batches: synced && config.AllowAtomicPublish && config.Replicas == 1 && isStaged(b.options.Store, config.Name)}
}

// send is done when the write is stored or refused, or the context ends.
func (c *committer) send(ctx context.Context, w *write) (uint64, error) {
	if !c.batches {
		return c.broker.store(ctx, w)
	}
	w.data, w.done = bytes.Clone(w.data), make(chan struct{}) // it may go on after its context has ended
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

// proceed starts what may start now. The mutex is held.
func (c *committer) proceed() {
	for !c.batching && len(c.waiting) > 0 && c.singles < singleMax {
		if len(c.waiting) >= batchMin && time.Now().After(c.resume) {
			batch := c.next()
			c.batching = true
			go c.finally(func() { c.commit(batch) }, func() { c.batching = false })
			continue
		}
		w := c.waiting[0]
		c.waiting = c.waiting[1:]
		c.singles++
		go c.finally(func() { c.each([]*write{w}) }, func() { c.singles-- })
	}
}

// finally writes, notes that it is over, and goes on with what has gathered meanwhile.
func (c *committer) finally(write, over func()) {
	write()
	c.mu.Lock()
	defer c.mu.Unlock()
	over()
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
	if len(batch) == 1 { // the others are of the same subject, or too large to go with it
		c.each(batch)
		return
	}
	ctx, cancel := c.broker.bounded(context.Background())
	defer cancel()
	last, err := c.together(ctx, batch)
	if err != nil && !isSilence(err) {
		c.refused(err)
		c.each(batch)
		return
	}
	for i, w := range batch {
		w.finish(last-uint64(len(batch)-1-i), err)
	}
}

// refused tells a batch with a write in it that lost from a server that does not take batches now.
func (c *committer) refused(err error) {
	if errors.Is(kindOf(err), queue.ErrConflict) {
		return
	}
	c.broker.log.Debug("Writes go one by one for a while", "error", err)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.resume = time.Now().Add(batchPause)
}

// each sends writes one by one, at once.
func (c *committer) each(writes []*write) {
	ctx, cancel := c.broker.bounded(context.Background())
	defer cancel()
	var all sync.WaitGroup
	for _, w := range writes {
		all.Go(func() { w.finish(c.broker.store(ctx, w)) })
	}
	all.Wait()
}

func (w *write) finish(revision uint64, err error) {
	w.revision, w.err = revision, err
	close(w.done)
}

// store sends one write.
func (b *broker) store(ctx context.Context, w *write) (uint64, error) {
	var options []jetstream.PublishOpt
	if w.expected != nil {
		options = append(options, jetstream.WithExpectLastSequencePerSubject(*w.expected))
	}
	return b.publish(ctx, &nats.Msg{Subject: w.subject, Data: w.data}, options...)
}

// publish sends until there is an answer for what is stored. While a cluster has another write of the subject in process it refuses one with
// an expected revision, whatever that is, and for a moment after that other write was acknowledged.
func (b *broker) publish(ctx context.Context, m *nats.Msg, options ...jetstream.PublishOpt) (uint64, error) {
	for pause := time.Millisecond; ; pause = min(2*pause, inProcessPauseMax) {
		ack, err := b.js.PublishMsg(ctx, m, options...)
		if err == nil {
			return ack.Sequence, nil
		}
		if !hasCode(err, server.JSStreamWrongLastSequenceConstantErr) {
			return 0, err
		}
		select {
		case <-ctx.Done():
			return 0, err
		case <-time.After(pause):
		}
	}
}

const inProcessPauseMax = 50 * time.Millisecond

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
