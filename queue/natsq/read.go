package natsq

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/attune-run/attune/queue"
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
	// How long a server may lag behind the leader of a stream until its reader gives up.
	readLag = 30 * time.Second
)

// read gives the messages of a stream that a consumer selects. With follow a nil message says that everything that was there has
// been given, then it goes on until the context ends, over reconnects; without it is over there.
func (b *broker) read(ctx context.Context, stream jetstream.Stream, config jetstream.OrderedConsumerConfig, follow bool) iter.Seq2[*message, error] {
	return func(yield func(*message, error) bool) {
		r := &reading{broker: b, stream: stream, config: config, give: func(m *message) bool { return yield(m, nil) }}
		if err := r.all(ctx, follow); err != nil {
			yield(nil, err)
		}
	}
}

// reading is one read of a stream.
type reading struct {
	broker   *broker
	stream   jetstream.Stream
	config   jetstream.OrderedConsumerConfig
	give     func(*message) bool // false: no more
	consumer jetstream.Consumer
	end      uint64                  // sequence of the last message that there was; 0: what the consumer knows is all
	last     atomic.Pointer[message] // that came; nil: none yet
}

var (
	errStopped   = errors.New("no more is wanted")
	errExhausted = errors.New("no more will come of what was there")
	errLag       = fmt.Errorf("a server of the cluster does not catch up with the others (see its log and its disk): %w", queue.ErrUnavailable)
)

func (r *reading) all(ctx context.Context, follow bool) error {
	if err := r.broker.online(ctx); err != nil {
		return err
	}
	if err := r.begin(ctx); err != nil {
		return r.error(err)
	}
	defer r.broker.dropConsumer(r.consumer)
	catching := r.consumer.CachedInfo().NumPending > 0 || r.end > 0
	if !catching && (!follow || !r.give(nil)) {
		return nil
	}
	messages, err := r.consumer.Messages(jetstream.PullMaxMessages(readAhead), jetstream.PullExpiry(readExpiry), jetstream.PullHeartbeat(readBeat))
	if err != nil {
		return r.error(err)
	}
	defer context.AfterFunc(ctx, messages.Stop)() // a reset of the consumer does not look at the context
	defer messages.Stop()
	if catching {
		if err := r.catchUp(ctx, messages); err != nil {
			return r.over(ctx, follow, err)
		}
		if !follow || !r.give(nil) {
			return nil
		}
	}
	for err == nil {
		err = r.next(ctx, messages)
	}
	return r.over(ctx, follow, err)
}

// begin makes the consumer, and finds out how far it has to read.
func (r *reading) begin(ctx context.Context) (err error) {
	if r.consumer, err = r.broker.reader(ctx, r.stream, r.config); err != nil {
		return err
	}
	if r.end, err = r.lastThere(ctx); err != nil {
		r.broker.dropConsumer(r.consumer)
	}
	return err
}

// lastThere is the sequence of the last message to read, by the stream's leader: the consumer's server may lag behind it. It is 0 where
// there is none, or one server alone.
func (r *reading) lastThere(ctx context.Context) (last uint64, err error) {
	config := r.stream.CachedInfo().Config
	if config.Replicas < 2 {
		return 0, nil
	}
	subjects := r.config.FilterSubjects
	if len(subjects) == 0 {
		subjects = config.Subjects
	}
	for _, subject := range subjects {
		var m *jetstream.RawStreamMsg
		err := r.broker.untilAnswered(ctx, func(ctx context.Context) (err error) {
			m, err = r.stream.GetLastMsgForSubject(ctx, subject)
			return err
		})
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
		case err != nil:
			return 0, err
		case r.config.OptStartTime == nil || !m.Time.Before(*r.config.OptStartTime):
			last = max(last, m.Sequence)
		}
	}
	return last, nil
}

// over is how a read ends that was ended by an error.
func (r *reading) over(ctx context.Context, follow bool, err error) error {
	switch {
	case errors.Is(err, errStopped), ctx.Err() != nil && follow:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, jetstream.ErrMsgIteratorClosed):
		return r.broker.online(ctx)
	}
	return r.error(err)
}

func (r *reading) error(err error) error {
	return readError("read "+r.stream.CachedInfo().Config.Name, err)
}

// next gives one message.
func (r *reading) next(ctx context.Context, messages jetstream.MessagesContext) error {
	m, err := messages.Next(jetstream.NextContext(ctx))
	if err != nil {
		return err
	}
	metadata, err := m.Metadata()
	if err != nil {
		return err
	}
	came := &message{m, metadata}
	if r.last.Store(came); !r.give(came) {
		return errStopped
	}
	return nil
}

// catchUp gives what was there when the read began.
func (r *reading) catchUp(ctx context.Context, messages jetstream.MessagesContext) error {
	catching, end := context.WithCancelCause(ctx)
	defer end(nil)
	go r.endCatching(catching, end)
	for {
		err := r.next(catching, messages)
		switch {
		case errors.Is(err, errStopped), err != nil && catching.Err() == nil:
			return err
		case err != nil && errors.Is(context.Cause(catching), errExhausted):
			return nil
		case err != nil:
			return context.Cause(catching)
		}
		if last := r.last.Load(); last.metadata.NumPending == 0 && last.metadata.Sequence.Stream >= r.end {
			return nil
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

// endCatching ends the catching up of a reader who waits for messages that do not come any more: they expired, or were replaced, before
// they were delivered. It looks on from beside, because a wait that is interrupted does not notice missing heartbeats.
func (r *reading) endCatching(ctx context.Context, end context.CancelCauseFunc) {
	ticker := time.NewTicker(readQuiet)
	defer ticker.Stop()
	var lags time.Time // since when
	for before := r.last.Load(); ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := r.last.Load()
		switch {
		case now != before || !r.sentAll(ctx, now):
			before, lags = now, time.Time{}
		case r.isEnd(ctx, now):
			end(errExhausted)
			return
		case lags.IsZero():
			lags = time.Now()
		case time.Since(lags) > readLag:
			end(errLag)
			return
		}
	}
}

// sentAll tells whether the consumer's server has nothing left to send, and all that it sent came.
func (r *reading) sentAll(ctx context.Context, last *message) bool {
	ctx, cancel := r.broker.bounded(ctx)
	defer cancel()
	info, err := r.consumer.Info(ctx)
	if err != nil || info.NumPending > 0 {
		return false
	}
	came := uint64(0)
	if last != nil && last.metadata.Consumer == info.Name { // another took its place otherwise, and begins after it
		came = last.metadata.Sequence.Consumer
	}
	return info.Delivered.Consumer == came
}

// isEnd tells whether nothing is there after a message: what was there when the read began may be gone.
func (r *reading) isEnd(ctx context.Context, last *message) bool {
	seen := uint64(0)
	if last != nil {
		seen = last.metadata.Sequence.Stream
	}
	if seen >= r.end {
		return true
	}
	end, err := r.lastThere(ctx)
	return err == nil && seen >= end
}

// dropConsumer spares the server what it would keep for InactiveThreshold. Nobody waits for it.
func (b *broker) dropConsumer(consumer jetstream.Consumer) {
	info := consumer.CachedInfo()
	_ = b.nc.PublishRequest("$JS.API.CONSUMER.DELETE."+info.Stream+"."+info.Name, b.nc.NewInbox(), nil)
}
