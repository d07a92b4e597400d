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

// committer sends the writes that come while another is on its way as one batch: the server syncs its disk once for all of them
// (NATS ADR-50). A write that is alone goes alone, so that nobody waits for company. A batch is stored whole or not at all:
// one that is refused is sent again write by write, so that each gets its own answer.
type committer struct {
	broker  *broker
	batches bool // the stream takes them

	mu      sync.Mutex
	waiting []*write
	busy    bool // somebody sends
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

// batchMax bounds a batch, which the server keeps in memory until it is whole. It takes a thousand messages.
const (
	batchMax      = 64
	batchMaxBytes = 1 << 20
)

func newCommitter(b *broker, stream jetstream.Stream) *committer {
	return &committer{broker: b, batches: stream.CachedInfo().Config.AllowAtomicPublish}
}

// send is done when the write is stored or refused, or the context ends.
func (c *committer) send(ctx context.Context, w *write) (uint64, error) {
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	w.done = make(chan struct{})
	c.mu.Lock()
	c.waiting = append(c.waiting, w)
	if !c.busy {
		c.busy = true
		go c.run()
	}
	c.mu.Unlock()
	select {
	case <-w.done:
		return w.revision, w.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (c *committer) run() {
	for batch := c.next(); len(batch) > 0; batch = c.next() {
		c.commit(batch)
	}
}

// next takes the writes that go together, at most one of each subject. None ends run.
func (c *committer) next() []*write {
	c.mu.Lock()
	defer c.mu.Unlock()
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
	c.busy = len(batch) > 0
	return batch
}

func (c *committer) commit(batch []*write) {
	ctx, cancel := c.broker.bounded(context.Background())
	defer cancel()
	if c.batches && len(batch) > 1 {
		last, err := c.together(ctx, batch)
		if err == nil || isSilence(err) {
			for i, w := range batch {
				w.finish(last-uint64(len(batch)-1-i), err)
			}
			return
		}
	}
	var alone sync.WaitGroup
	for _, w := range batch {
		alone.Go(func() { w.finish(c.alone(ctx, w)) })
	}
	alone.Wait()
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
