package natsq

import (
	"context"
	"iter"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const auditSubject = "audit"

// journal is the stream of audit lines.
type journal struct{ broker *broker }

func (j journal) Append(ctx context.Context, line []byte, dedupe string) error {
	if err := j.broker.writable(ctx); err != nil {
		return err
	}
	ctx, cancel := j.broker.bounded(ctx)
	defer cancel()
	var options []jetstream.PublishOpt
	if dedupe != "" {
		options = append(options, jetstream.WithMsgID(dedupe))
	}
	if _, err := j.broker.js.Publish(ctx, auditSubject, line, options...); err != nil {
		return writeError("append to the audit", err)
	}
	return nil
}

func (j journal) Read(ctx context.Context, since time.Time, follow bool) iter.Seq2[[]byte, error] {
	config := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy}
	if !since.IsZero() {
		config.DeliverPolicy, config.OptStartTime = jetstream.DeliverByStartTimePolicy, &since
	}
	return data(j.broker.read(ctx, j.broker.streams[auditStream], config, follow))
}

// data is what the messages hold.
func data(messages iter.Seq2[*message, error]) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for m, err := range messages {
			if err != nil {
				yield(nil, err)
				return
			}
			if m != nil && !yield(m.Data(), nil) {
				return
			}
		}
	}
}
