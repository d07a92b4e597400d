package natsq

import (
	"context"
	"errors"
	"iter"
	"sync/atomic"
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
	// How long a message that must come may take until the server is asked whether it still does.
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
	var last atomic.Pointer[message]
	catching, caughtUp := context.WithCancel(ctx)
	defer caughtUp()
	wait := ctx
	if pending > 0 {
		wait = catching
		go b.endCatching(catching, consumer, &last, caughtUp)
	}
	for {
		m, err := messages.Next(jetstream.NextContext(wait))
		nothing := err != nil && wait.Err() != nil && ctx.Err() == nil // comes any more of what was there
		switch {
		case nothing:
		case ctx.Err() != nil && follow:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, jetstream.ErrMsgIteratorClosed):
			return b.online(ctx)
		case err != nil:
			return readError("read "+stream.CachedInfo().Config.Name, err)
		default:
			metadata, err := m.Metadata()
			if err != nil {
				return err
			}
			came := &message{m, metadata}
			if last.Store(came); !give(came) {
				return nil
			}
			nothing = metadata.NumPending == 0
		}
		if nothing && wait == catching {
			caughtUp()
			if wait = ctx; !follow || !give(nil) {
				return nil
			}
		}
	}
}

func (b *broker) reader(ctx context.Context, stream jetstream.Stream, config jetstream.OrderedConsumerConfig) (consumer jetstream.Consumer, err error) {
	config.InactiveThreshold = time.Minute // of one whose making was not answered, too
	err = b.untilAnswered(ctx, func(ctx context.Context) error {
		consumer, err = stream.OrderedConsumer(ctx, config)
		return err
	})
	return consumer, err
}

// askTries is how often a server is asked for a consumer that does not answer: a cluster may have lost who leads it.
const askTries = 3

// untilAnswered asks what may be asked twice.
func (b *broker) untilAnswered(ctx context.Context, ask func(context.Context) error) (err error) {
	for range askTries {
		once, cancel := b.bounded(ctx)
		err = ask(once)
		cancel()
		if err == nil || ctx.Err() != nil || !isSilence(err) {
			break
		}
	}
	return err
}

// endCatching ends the catching up of a reader who waits for messages that do not come any more: they expired, or were replaced, before
// they were delivered. It looks on from beside, because a wait that is interrupted does not notice missing heartbeats.
func (b *broker) endCatching(ctx context.Context, consumer jetstream.Consumer, last *atomic.Pointer[message], end func()) {
	ticker := time.NewTicker(readQuiet)
	defer ticker.Stop()
	for before := last.Load(); ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := last.Load()
		if now == before && b.exhausted(ctx, consumer, now) {
			end()
			return
		}
		before = now
	}
}

// exhausted tells whether everything that the server sent came, and nothing is left to send.
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
