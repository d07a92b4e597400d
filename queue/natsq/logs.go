package natsq

import (
	"bytes"
	"context"
	"iter"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const logSubject = "log"

// logAhead is how many chunks may be on their way, in the channel and again at the server; at 64 KiB and base64, 44 MiB at worst.
const logAhead = 256

// logs send chunks from one goroutine, so that a writer never waits for the network.
type logs struct {
	broker *broker
	js     jetstream.JetStream // counts what is on its way
	send   chan logItem        // written by Append and Flush, read by run
	done   chan struct{}       // closed by close
	once   sync.Once
}

// logItem is a chunk, or a request to say when all before it is through.
type logItem struct {
	id      string
	chunk   []byte
	flushed chan<- struct{}
}

func newLogs(b *broker) (*logs, error) {
	js, err := jetstream.New(b.nc, jetstream.WithPublishAsyncTimeout(10*time.Second), jetstream.WithPublishAsyncMaxPending(2*logAhead))
	l := &logs{broker: b, js: js, send: make(chan logItem, logAhead), done: make(chan struct{})}
	if err != nil {
		return nil, err
	}
	go l.run()
	return l, nil
}

func (l *logs) close() { l.once.Do(func() { close(l.done) }) }

func (l *logs) Append(id string, chunk []byte) bool {
	if l.js.PublishAsyncPending() >= logAhead || !l.broker.nc.IsConnected() || l.broker.room() != nil {
		return false
	}
	select {
	case l.send <- logItem{id: id, chunk: bytes.Clone(chunk)}:
		return true
	default:
		return false
	}
}

func (l *logs) Flush(ctx context.Context) error {
	flushed := make(chan struct{})
	select {
	case l.send <- logItem{flushed: flushed}:
	case <-ctx.Done():
		return ctx.Err()
	case <-l.done:
		return nil
	}
	select {
	case <-flushed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-l.done:
		return nil
	}
}

func (l *logs) run() {
	var last jetstream.PubAckFuture
	for {
		select {
		case <-l.done:
			return
		case item := <-l.send:
			if item.flushed != nil {
				go l.arrived(last, item.flushed)
				continue
			}
			if future, err := l.js.PublishAsync(logSubject+"."+item.id, item.chunk); err == nil {
				last = future
			}
		}
	}
}

// arrived closes flushed when the last chunk has an answer, or none in time; those before it had theirs. A closed connection answers
// no more.
func (l *logs) arrived(last jetstream.PubAckFuture, flushed chan<- struct{}) {
	if last != nil {
		select {
		case <-last.Ok():
		case <-last.Err():
		case <-l.done:
		}
	}
	close(flushed)
}

func (l *logs) Read(ctx context.Context, id string, follow bool) iter.Seq2[[]byte, error] {
	config := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy, FilterSubjects: []string{logSubject + "." + id}}
	return data(l.broker.read(ctx, l.broker.streams[logStream], config, follow))
}
