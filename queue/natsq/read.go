package natsq

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// message is one message of a stream that is read in order.
type message struct {
	jetstream.Msg
	metadata *jetstream.MsgMetadata
}

const (
	readAhead = 256 // messages asked for at once, which bounds what a slow reader holds in memory
	// How long a reader does not notice that the server it reads from is gone, while the connection itself stands.
	readBeat   = 3 * time.Second
	readExpiry = 30 * time.Second
)

// read gives the messages of a stream that a consumer selects. With follow a nil message says that everything that was there has
// been given, then it goes on until the context ends, over reconnects; without it is over there.
func (b *broker) read(ctx context.Context, stream jetstream.Stream, config jetstream.OrderedConsumerConfig, follow bool) iter.Seq2[*message, error] {
	return func(yield func(*message, error) bool) {
		if err := b.readAll(ctx, stream, config, follow, func(m *message) bool { return yield(m, nil) }); err != nil {
			yield(nil, err)
		}
	}
}

func (b *broker) readAll(ctx context.Context, stream jetstream.Stream, config jetstream.OrderedConsumerConfig, follow bool, give func(*message) bool) error {
	if err := b.online(ctx); err != nil {
		return err
	}
	config.InactiveThreshold = time.Minute
	consumer, err := stream.OrderedConsumer(ctx, config)
	if err != nil {
		return readError("read "+stream.CachedInfo().Config.Name, err)
	}
	pending := consumer.CachedInfo().NumPending
	if pending == 0 && (!follow || !give(nil)) {
		return nil
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(readAhead), jetstream.PullExpiry(readExpiry), jetstream.PullHeartbeat(readBeat))
	if err != nil {
		return readError("read "+stream.CachedInfo().Config.Name, err)
	}
	defer context.AfterFunc(ctx, messages.Stop)() // a reset of the consumer does not look at the context
	defer messages.Stop()
	for current := pending == 0; ; {
		m, err := messages.Next(jetstream.NextContext(ctx))
		switch {
		case ctx.Err() != nil && follow:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, jetstream.ErrMsgIteratorClosed):
			return b.online(ctx)
		case err != nil:
			return readError("read "+stream.CachedInfo().Config.Name, err)
		}
		metadata, err := m.Metadata()
		if err != nil {
			return err
		}
		if !give(&message{m, metadata}) {
			return nil
		}
		if metadata.NumPending == 0 && !current {
			if current = true; !follow || !give(nil) {
				return nil
			}
		}
	}
}
