package natsq

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/attune-run/attune/queue"
)

// table is one key-value bucket. It is used as a stream, because NATS's own KeyValue hides what a write without an answer is.
type table struct {
	broker  *broker
	stream  jetstream.Stream
	subject string // of keys, with its last dot
	commits *committer
}

// markerAge is how long it is remembered that an entry was removed, for watches that were cut off meanwhile.
const markerAge = time.Hour

func (t *table) Get(ctx context.Context, key string) (queue.Entry, error) {
	entry, err := t.last(ctx, key)
	if err == nil && entry.Op == queue.Deleted {
		err = queue.ErrNotFound
	}
	if err != nil {
		return queue.Entry{}, t.wrap(key, err)
	}
	return entry, nil
}

// last is the last message of a key, be it a value or the mark of a removal.
func (t *table) last(ctx context.Context, key string) (queue.Entry, error) {
	if err := t.broker.online(ctx); err != nil {
		return queue.Entry{}, err
	}
	var raw *jetstream.RawStreamMsg
	err := t.broker.untilAnswered(ctx, func(ctx context.Context) (err error) {
		raw, err = t.stream.GetLastMsgForSubject(ctx, t.subject+key)
		return err
	})
	if err != nil {
		return queue.Entry{}, readError("read", err)
	}
	return t.entry(raw.Subject, raw.Header, raw.Data, raw.Sequence, raw.Time), nil
}

func (t *table) entry(subject string, header nats.Header, data []byte, revision uint64, at time.Time) queue.Entry {
	e := queue.Entry{Key: strings.TrimPrefix(subject, t.subject), Value: data, Revision: revision, At: at}
	if isMarker(header) {
		e.Op, e.Value = queue.Deleted, nil
	}
	return e
}

// isMarker tells a removal (by a client: KV-Operation) or an expiry (by the server: Nats-Marker-Reason) from a value.
func isMarker(header nats.Header) bool {
	op := header.Get("KV-Operation")
	return op == "DEL" || op == "PURGE" || header.Get("Nats-Marker-Reason") != ""
}

// createTries bounds how often the mark of a removal may come or go between a look and a write.
const createTries = 5

func (t *table) Create(ctx context.Context, key string, value []byte) (uint64, error) {
	marker := new(uint64) // the mark of a removal counts as a message: it is what is replaced then
	for range createTries {
		revision, err := t.write(ctx, key, value, marker)
		if !errors.Is(err, queue.ErrConflict) {
			return revision, t.wrap(key, err)
		}
		entry, err := t.last(ctx, key)
		switch {
		case errors.Is(err, queue.ErrNotFound): // expired in between
			entry.Revision = 0
		case err != nil:
			return 0, t.wrap(key, err)
		case entry.Op != queue.Deleted:
			return 0, t.wrap(key, fmt.Errorf("create: %w", queue.ErrExists))
		}
		marker = &entry.Revision
	}
	return 0, t.wrap(key, fmt.Errorf("create: %w", queue.ErrExists))
}

func (t *table) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	written, err := t.write(ctx, key, value, &revision)
	return written, t.wrap(key, err)
}

func (t *table) Put(ctx context.Context, key string, value []byte) (uint64, error) {
	revision, err := t.write(ctx, key, value, nil)
	return revision, t.wrap(key, err)
}

func (t *table) Delete(ctx context.Context, key string, revision uint64) error {
	entry, err := t.last(ctx, key)
	if errors.Is(err, queue.ErrNotFound) || err == nil && entry.Op == queue.Deleted {
		return nil
	}
	if err != nil {
		return t.wrap(key, err)
	}
	if err := t.broker.writable(ctx); err != nil {
		return t.wrap(key, err)
	}
	ctx, cancel := t.broker.bounded(ctx)
	defer cancel()
	marker := &nats.Msg{Subject: t.subject + key, Header: nats.Header{"KV-Operation": {"PURGE"}, "Nats-Rollup": {"sub"}}}
	options := []jetstream.PublishOpt{jetstream.WithMsgTTL(markerAge)}
	if revision != 0 {
		options = append(options, jetstream.WithExpectLastSequencePerSubject(revision))
	}
	if _, err = t.broker.publish(ctx, marker, options...); err != nil {
		return t.wrap(key, writeError("remove", err))
	}
	return nil
}

// write stores a value; expected is the revision that it replaces, 0 that there is none, nil any.
func (t *table) write(ctx context.Context, key string, value []byte, expected *uint64) (uint64, error) {
	if err := t.broker.writable(ctx); err != nil {
		return 0, err
	}
	ctx, cancel := t.broker.bounded(ctx)
	defer cancel()
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	revision, err := t.commits.send(ctx, &write{subject: t.subject + key, data: value, expected: expected})
	if err != nil {
		return 0, writeError("write", err)
	}
	return revision, nil
}

func (t *table) wrap(key string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", strings.TrimSuffix(strings.TrimPrefix(t.subject, "$KV."), "."), key, err)
}

func (t *table) List(ctx context.Context, prefix string) iter.Seq2[queue.Entry, error] {
	return func(yield func(queue.Entry, error) bool) {
		for message, err := range t.read(ctx, prefix, false) {
			if err != nil {
				yield(queue.Entry{}, t.wrap(prefix, err))
				return
			}
			if entry := t.entryOf(message); entry.Op == queue.Stored && !yield(entry, nil) {
				return
			}
		}
	}
}

func (t *table) Watch(ctx context.Context, prefix string) iter.Seq2[queue.Entry, error] {
	return func(yield func(queue.Entry, error) bool) {
		for message, err := range t.read(ctx, prefix, true) {
			entry := queue.Entry{Op: queue.Current}
			switch {
			case err != nil:
				yield(queue.Entry{}, t.wrap(prefix, err))
				return
			case message != nil:
				entry = t.entryOf(message)
			}
			if !yield(entry, nil) {
				return
			}
		}
	}
}

// read asks for all messages, which are the last of each key, for a table keeps no other: to be asked for the last ones the server would
// look for them first, and keep the list. It needs no filter for all of them either.
func (t *table) read(ctx context.Context, prefix string, follow bool) iter.Seq2[*message, error] {
	config := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy}
	if prefix != "" {
		config.FilterSubjects = []string{t.subject + prefix, t.subject + prefix + ".>"}
	}
	return t.broker.read(ctx, t.stream, config, follow)
}

func (t *table) entryOf(m *message) queue.Entry {
	return t.entry(m.Subject(), m.Headers(), m.Data(), m.metadata.Sequence.Stream, m.metadata.Timestamp)
}
