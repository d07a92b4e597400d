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
	// How long a message that must come may take until the server is asked whether it does.
	readQuiet = 250 * time.Millisecond
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
	consumer, err := b.reader(ctx, stream, config)
	if err != nil {
		return readError("read "+stream.CachedInfo().Config.Name, err)
	}
	defer b.dropConsumer(consumer)
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
	current, last := pending == 0, (*message)(nil)
	for {
		m, err := b.nextMessage(ctx, messages, current)
		quiet := err != nil && !current && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded)
		switch {
		case quiet && !b.exhausted(ctx, consumer, last):
			continue
		case quiet:
		case ctx.Err() != nil && follow:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, jetstream.ErrMsgIteratorClosed):
			return b.online(ctx)
		case err != nil:
			return readError("read "+stream.CachedInfo().Config.Name, err)
		default:
			if last = m; !give(m) {
				return nil
			}
		}
		if !current && (quiet || m.metadata.NumPending == 0) {
			if current = true; !follow || !give(nil) {
				return nil
			}
		}
	}
}

// readTries is how often a server is asked for a consumer that does not answer: one of a cluster may have lost its leader.
const readTries = 3

func (b *broker) reader(ctx context.Context, stream jetstream.Stream, config jetstream.OrderedConsumerConfig) (consumer jetstream.Consumer, err error) {
	config.InactiveThreshold = time.Minute // of one whose making was not answered, too
	for range readTries {
		create, cancel := b.bounded(ctx)
		consumer, err = stream.OrderedConsumer(create, config)
		cancel()
		if err == nil || ctx.Err() != nil || !isSilence(err) {
			break
		}
	}
	return consumer, err
}

// nextMessage waits for a message, and no longer than readQuiet for one that must come.
func (b *broker) nextMessage(ctx context.Context, messages jetstream.MessagesContext, current bool) (*message, error) {
	if !current {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, readQuiet)
		defer cancel()
	}
	m, err := messages.Next(jetstream.NextContext(ctx))
	if err != nil {
		return nil, err
	}
	metadata, err := m.Metadata()
	if err != nil {
		return nil, err
	}
	return &message{m, metadata}, nil
}

// exhausted tells whether nothing comes any more although some of what there was did not: it may have expired, or been replaced, before
// it was delivered. Last is the last message that came.
func (b *broker) exhausted(ctx context.Context, consumer jetstream.Consumer, last *message) bool {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	info, err := consumer.Info(ctx)
	if err != nil || info.NumPending > 0 {
		return false
	}
	came := uint64(0)
	if last != nil && last.metadata.Consumer == info.Name { // another took its place otherwise, and begins after it
		came = last.metadata.Sequence.Consumer
	}
	return info.Delivered.Consumer == came
}

// dropConsumer spares the server what it would keep for InactiveThreshold. Nobody waits for it.
func (b *broker) dropConsumer(consumer jetstream.Consumer) {
	info := consumer.CachedInfo()
	_ = b.nc.PublishRequest("$JS.API.CONSUMER.DELETE."+info.Stream+"."+info.Name, b.nc.NewInbox(), nil)
}
