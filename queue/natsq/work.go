package natsq

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/attune-run/attune/queue"
)

// Subjects are exec.q.<route>.<priority>.<id>. A message needs no Nats-Msg-Id: its subject has room for one, and the server's
// memory of ids would swallow a retry of the same execution within two minutes.
const workSubject = "exec.q"

var priorities = []queue.Priority{queue.High, queue.Normal, queue.Low}

// priorityToken is a priority in subjects and in the names of consumers.
func priorityToken(p queue.Priority) string {
	switch {
	case p > 0:
		return "high"
	case p < 0:
		return "low"
	}
	return "normal"
}

func priorityOf(token string) queue.Priority {
	switch token {
	case "high":
		return queue.High
	case "low":
		return queue.Low
	}
	return queue.Normal
}

// lane is one priority of one route; it has a consumer of its own, so that filters never overlap.
type lane struct {
	route    string
	priority queue.Priority
}

func (l lane) consumer() string { return l.route + "-" + priorityToken(l.priority) }

func (l lane) subject() string {
	return workSubject + "." + l.route + "." + priorityToken(l.priority) + "."
}

func subjectOf(m queue.Message) string { return lane{m.Route, m.Priority}.subject() + m.ID }

func messageOf(subject string) (queue.Message, error) {
	tokens := strings.Split(strings.TrimPrefix(subject, workSubject+"."), ".")
	if len(tokens) != 3 {
		return queue.Message{}, fmt.Errorf("subject %s is none of the queue's", subject)
	}
	return queue.Message{Route: tokens[0], Priority: priorityOf(tokens[1]), ID: tokens[2]}, nil
}

// copyMax is the size in bytes from which a copy stays out of the message: it would lie in the store twice.
const copyMax = 4 << 10

// bodyOf is a copy's revision, a line feed, and its value.
func bodyOf(c queue.Copy) []byte {
	if len(c.Value) == 0 || len(c.Value) > copyMax {
		return nil
	}
	body := strconv.AppendUint(make([]byte, 0, len(c.Value)+20), c.Revision, 10)
	return append(append(body, '\n'), c.Value...)
}

func copyOf(body []byte) queue.Copy {
	number, value, _ := bytes.Cut(body, []byte("\n"))
	revision, err := strconv.ParseUint(string(number), 10, 64)
	if err != nil {
		return queue.Copy{}
	}
	return queue.Copy{Value: value, Revision: revision}
}

// What each consumer has room for: deliveries in workers' hands, and requests of workers that wait.
const (
	maxTaken   = 20_000
	maxWaiting = 16_384
)

// work is the stream of messages with its consumers.
type work struct {
	broker *broker
	stream jetstream.Stream

	mu     sync.Mutex
	opened map[string]bool // routes known to be open
}

func (w *work) Open(ctx context.Context, route string) error {
	if w.known(route) {
		return nil
	}
	if err := w.broker.online(ctx); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, priority := range priorities {
		group.Go(func() error { return w.openLane(ctx, lane{route, priority}) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	w.know(route)
	return nil
}

func (w *work) openLane(ctx context.Context, l lane) error {
	config := jetstream.ConsumerConfig{
		Durable: l.consumer(), FilterSubject: l.subject() + "*", AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: w.broker.options.AckWait, MaxDeliver: -1, MaxAckPending: maxTaken, MaxWaiting: maxWaiting,
	}
	err := w.broker.untilAnswered(ctx, func(ctx context.Context) error {
		_, err := w.stream.CreateConsumer(ctx, config)
		return err
	})
	// One that is there with other settings was made with them on purpose.
	if err == nil || errors.Is(err, jetstream.ErrConsumerExists) || hasCode(err, server.JSConsumerAlreadyExists) {
		return nil
	}
	return writeError("open route "+l.route, err)
}

func (w *work) known(route string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.opened[route]
}

func (w *work) know(route string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.opened[route] = true
}

func (w *work) forget(route string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.opened, route)
}

func (w *work) Publish(ctx context.Context, m queue.Message) error {
	if err := w.broker.room(); err != nil {
		return err
	}
	if err := w.mustBeOpen(ctx, m.Route); err != nil {
		return fmt.Errorf("publish %s: %w", m.ID, err)
	}
	ctx, cancel := w.broker.bounded(ctx)
	defer cancel()
	_, err := w.broker.store(ctx, &write{subject: subjectOf(m), data: bodyOf(m.Copy)})
	if err != nil && !isDuplicate(err) {
		return writeError("publish "+m.ID, err)
	}
	return nil
}

func (w *work) mustBeOpen(ctx context.Context, route string) error {
	if err := w.broker.online(ctx); err != nil {
		return err
	}
	if w.known(route) {
		return nil
	}
	ctx, cancel := w.broker.bounded(ctx)
	defer cancel()
	_, err := w.stream.Consumer(ctx, lane{route, queue.Low}.consumer())
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf("route %s is not open: %w", route, queue.ErrNotFound)
	}
	if err != nil {
		return readError("look for route "+route, err)
	}
	w.know(route)
	return nil
}

func (w *work) Waiting(ctx context.Context, m queue.Message) (bool, error) {
	_, err := w.find(ctx, m)
	if errors.Is(err, queue.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

func (w *work) find(ctx context.Context, m queue.Message) (uint64, error) {
	if err := w.broker.online(ctx); err != nil {
		return 0, err
	}
	ctx, cancel := w.broker.bounded(ctx)
	defer cancel()
	raw, err := w.stream.GetLastMsgForSubject(ctx, subjectOf(m))
	if err != nil {
		return 0, readError("look for the message of "+m.ID, err)
	}
	return raw.Sequence, nil
}

func (w *work) Remove(ctx context.Context, m queue.Message) error {
	ctx, cancel := w.broker.bounded(ctx)
	defer cancel()
	sequence, err := w.find(ctx, m)
	if err == nil {
		err = w.stream.DeleteMsg(ctx, sequence)
	}
	if err == nil || errors.Is(err, queue.ErrNotFound) {
		return nil
	}
	if _, gone := w.find(ctx, m); errors.Is(gone, queue.ErrNotFound) { // somebody else was first
		return nil
	}
	return writeError("remove the message of "+m.ID, err)
}

func (w *work) Backlog(ctx context.Context) (map[string]queue.Backlog, error) {
	if err := w.broker.online(ctx); err != nil {
		return nil, err
	}
	all := map[string]queue.Backlog{}
	infos := w.stream.ListConsumers(ctx)
	for info := range infos.Info() {
		route, _, ok := strings.Cut(info.Name, "-")
		if !ok {
			continue
		}
		b := all[route]
		b.Waiting += info.NumPending
		b.Taken += uint64(info.NumAckPending)
		if info.NumPending > 0 {
			if oldest, err := w.oldest(ctx, info); err == nil && (b.Oldest.IsZero() || oldest.Before(b.Oldest)) {
				b.Oldest = oldest
			}
		}
		all[route] = b
	}
	if err := infos.Err(); err != nil {
		return nil, readError("count the backlog", err)
	}
	return all, nil
}

// oldest is when the first message was stored that the consumer has not delivered.
func (w *work) oldest(ctx context.Context, info *jetstream.ConsumerInfo) (time.Time, error) {
	ctx, cancel := w.broker.bounded(ctx)
	defer cancel()
	raw, err := w.stream.GetMsg(ctx, info.Delivered.Stream+1, jetstream.WithGetMsgSubject(info.Config.FilterSubject))
	if err != nil {
		return time.Time{}, err
	}
	return raw.Time, nil
}

func (w *work) Taker() queue.Taker { return newTaker(w) }

// delivery is a message with the subject that takes its acknowledgement.
type delivery struct {
	broker    *broker
	message   queue.Message
	delivered int
	reply     string
}

func (w *work) delivery(m *nats.Msg) (*delivery, error) {
	metadata, err := m.Metadata()
	if err != nil {
		return nil, err
	}
	message, err := messageOf(m.Subject)
	message.Copy = copyOf(m.Data)
	return &delivery{w.broker, message, int(metadata.NumDelivered), m.Reply}, err
}

func (d *delivery) Message() queue.Message { return d.message }
func (d *delivery) Delivered() int         { return d.delivered }

func (d *delivery) Extend(ctx context.Context) error  { return d.respond(ctx, "extend", "+WPI") }
func (d *delivery) Ack(ctx context.Context) error     { return d.respond(ctx, "acknowledge", "+ACK") }
func (d *delivery) Release(ctx context.Context) error { return d.respond(ctx, "release", "-NAK") }

// respond waits until the server has heard it.
func (d *delivery) respond(ctx context.Context, what, how string) error {
	if err := d.broker.online(ctx); err != nil {
		return err
	}
	ctx, cancel := d.broker.bounded(ctx)
	defer cancel()
	if _, err := d.broker.nc.RequestWithContext(ctx, d.reply, []byte(how)); err != nil {
		return writeError(what+" "+d.message.ID, err)
	}
	return nil
}
