package natsq

import (
	"context"

	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/attune-run/attune/queue"
)

const (
	signalSubject = "attune.signal."
	askSubject    = "attune.ask."
)

// signals are plain messages.
type signals struct{ broker *broker }

func (s signals) Send(ctx context.Context, topic string, data []byte) error {
	if err := s.broker.online(ctx); err != nil {
		return err
	}
	if err := s.broker.nc.Publish(signalSubject+topic, data); err != nil {
		return readError("send "+topic, err)
	}
	return nil
}

func (s signals) Listen(topic string, fn func([]byte)) (func(), error) {
	return s.subscribed(s.broker.nc.Subscribe(signalSubject+topic, func(m *nats.Msg) { fn(m.Data) }))
}

func (s signals) Ask(ctx context.Context, topic string, data []byte) ([]byte, error) {
	if err := s.broker.online(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.broker.options.Timeout)
	defer cancel()
	reply, err := s.broker.nc.RequestWithContext(ctx, askSubject+topic, data)
	if errors.Is(err, nats.ErrNoResponders) {
		return nil, fmt.Errorf("ask %s: nobody listens: %w", topic, queue.ErrNotFound)
	}
	if err != nil {
		return nil, writeError("ask "+topic, err)
	}
	return reply.Data, nil
}

// Answer answers each question in a goroutine of its own: one may take long.
func (s signals) Answer(topic string, fn func(context.Context, []byte) []byte) (func(), error) {
	ctx, cancel := context.WithCancel(context.Background())
	stop, err := s.subscribed(s.broker.nc.QueueSubscribe(askSubject+topic, "attune", func(m *nats.Msg) {
		go func() {
			if err := m.Respond(fn(ctx, m.Data)); err != nil {
				s.broker.log.Warn("Could not answer", "topic", topic, "error", err)
			}
		}()
	}))
	if err != nil {
		cancel()
		return nil, err
	}
	return func() { stop(); cancel() }, nil
}

// subscribed waits until the server knows, so that what is sent after is heard.
func (s signals) subscribed(sub *nats.Subscription, err error) (func(), error) {
	if err == nil {
		err = s.broker.nc.FlushTimeout(s.broker.options.Timeout)
	}
	if err != nil {
		return nil, readError("listen", err)
	}
	return func() { _ = sub.Unsubscribe() }, nil
}
