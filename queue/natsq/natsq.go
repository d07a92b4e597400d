// Package natsq keeps the worker pool's queue in NATS JetStream: in a server in this process where no URL is given, or in any
// NATS server or cluster (2.11 or newer) that a URL names.
//
// Nothing here runs on a timer of its own but the renewal of what a Taker asks for. Errors are package queue's, wrapped.
package natsq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/attune-run/attune/queue"
)

// Options say where the queue is.
type Options struct {
	// URL names the servers, separated by commas (nats://host:4222,tls://…). Empty starts a server in this process, on Store.
	URL string
	// Store is the directory of the server in this process; one server at a time has it. With a URL it is the directory of that
	// server, where this is the same machine: nothing is written when its disk is nearly full.
	Store string
	// Sync is "always" (what was accepted is on the disk; the default), or "relaxed": what was accepted within the last two
	// minutes may be lost when the machine (not the process) stops. It is that of the server in this process, or of the one that
	// Discover found.
	Sync string

	Creds    string // file with a user's JWT and seed, or with a seed alone
	Token    string
	User     string
	Password string
	CA       string // file with the certificates that vouch for the servers
	Cert     string // files with this client's own certificate and key
	Key      string

	Name string // of the connection, for the server's operator
	// Replicas of each stream, when it is created: 0 means 3 in a cluster, else 1.
	Replicas int
	// AckWait is how long a delivery is somebody's without Extend, for routes that are created: 0 means 60 s.
	AckWait time.Duration
	// WorkerTTL is how long entries of Workers and Leases stay, when the tables are created: 0 means queue.WorkerTTL.
	WorkerTTL time.Duration
	// Timeout of one request whose context ends later or never: 0 means 5 s.
	Timeout time.Duration
	Log     *slog.Logger // nil discards
}

func (o Options) withDefaults() Options {
	o.AckWait = orElse(o.AckWait, 60*time.Second)
	o.WorkerTTL = orElse(o.WorkerTTL, queue.WorkerTTL)
	o.Timeout = orElse(o.Timeout, 5*time.Second)
	o.Sync = orElse(o.Sync, SyncAlways)
	o.Name = orElse(o.Name, "attune")
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

func orElse[T comparable](value, instead T) T {
	var zero T
	if value == zero {
		return instead
	}
	return value
}

// The values of Options.Sync.
const (
	SyncAlways  = "always"
	SyncRelaxed = "relaxed"
)

// broker is a queue.Broker over one connection.
type broker struct {
	options Options
	log     *slog.Logger
	server  *embedded // nil when the server is elsewhere
	nc      *nats.Conn
	js      jetstream.JetStream
	user    string

	standing standing
	space    space

	streams map[string]jetstream.Stream // by name; complete before Open returns
	tables  map[queue.TableName]*table
	work    *work
	logs    *logs

	mu     sync.Mutex
	takers map[*taker]struct{}
}

// Open connects, and starts the server in this process where there is no URL. Streams that are missing are created. It waits
// for servers that are away until its context ends (queue.ErrUnavailable); refused credentials fail at once.
func Open(ctx context.Context, options Options) (queue.Broker, error) {
	b, err := dial(ctx, options)
	if err != nil {
		return nil, err
	}
	if err := b.openAll(ctx); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// dial is Open without the streams.
func dial(ctx context.Context, options Options) (*broker, error) {
	b := &broker{options: options.withDefaults(), takers: map[*taker]struct{}{}}
	b.log = b.options.Log
	if err := b.reach(ctx); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func (b *broker) reach(ctx context.Context) (err error) {
	if b.options.URL == "" {
		if b.server, err = startEmbedded(b.options); err != nil {
			return err
		}
	}
	if err := b.connect(ctx); err != nil {
		return err
	}
	if b.server != nil {
		b.server.mend(b.reconnected)
	}
	if b.js, err = jetstream.New(b.nc, jetstream.WithDefaultTimeout(b.options.Timeout), jetstream.WithPublishAsyncTimeout(b.options.Timeout)); err != nil {
		return err
	}
	b.user = b.askUser(ctx)
	return nil
}

func (b *broker) openAll(ctx context.Context) (err error) {
	if err := b.openStreams(ctx); err != nil {
		return err
	}
	if b.server != nil {
		b.server.stage()
	}
	b.tables = map[queue.TableName]*table{}
	for _, name := range tableNames {
		stream := b.streams[tableStream(name)]
		b.tables[name] = &table{broker: b, stream: stream, subject: "$KV." + string(name) + ".", commits: newCommitter(b, stream)}
	}
	stream := b.streams[workStream]
	b.work = &work{broker: b, stream: stream, opened: map[string]bool{}}
	b.standing.open.Store(true)
	b.logs, err = newLogs(b)
	return err
}

// connect tries until the context ends, unless the server answers and says no (*AccessError).
func (b *broker) connect(ctx context.Context) error {
	options, err := b.connectOptions()
	if err != nil {
		return err
	}
	for attempt := 0; ; attempt++ {
		nc, err := nats.Connect(b.url(), options...)
		if err == nil {
			b.nc = nc
			return nil
		}
		if refused := b.refusal(err); refused != nil {
			return refused
		}
		b.log.Debug("The broker cannot be reached", "url", b.where(), "error", err)
		select {
		case <-ctx.Done():
			return fmt.Errorf("connect to %s: %w: %w", b.where(), queue.ErrUnavailable, err)
		case <-time.After(reconnectDelay(attempt)):
		}
	}
}

// reconnectDelay doubles from 50 ms to 2 s, with a jitter of a half, so that thousands of clients do not come back at once.
func reconnectDelay(attempt int) time.Duration {
	delay := min(50*time.Millisecond<<min(attempt, 10), 2*time.Second)
	return delay/2 + rand.N(delay/2)
}

func (b *broker) url() string { return b.options.URL }

// where is the URL for people; credentials may be part of the URL itself, so it is told without them.
func (b *broker) where() string {
	if b.server != nil {
		return "the server in this process"
	}
	return withoutUserInfo(b.options.URL)
}

func (b *broker) connectOptions() ([]nats.Option, error) {
	o := b.options
	options := []nats.Option{
		nats.Name(o.Name),
		nats.MaxReconnects(-1),
		nats.CustomReconnectDelay(b.reconnectPause),
		nats.IgnoreAuthErrorAbort(),        // credentials may be replaced while we run
		nats.PingInterval(5 * time.Second), // a frozen server is left after 15 s, well before workers fence themselves
		nats.MaxPingsOutstanding(2),
		nats.Timeout(o.Timeout),
		nats.DisconnectErrHandler(func(nc *nats.Conn, err error) {
			b.standing.conn.Store(nc)
			if err != nil {
				b.log.Warn("Lost the connection to the broker", "url", b.where(), "error", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) {
			b.standing.refused.Store(false)
			b.log.Info("Connected to the broker again", "url", b.where())
			b.reconnected()
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { b.report(err) }),
	}
	if b.server != nil {
		return append(options, nats.InProcessServer(b.server.server), nats.UserInfo(b.server.user, b.server.token)), nil
	}
	access, err := b.accessOptions()
	return append(options, access...), err
}

func (b *broker) reconnected() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for t := range b.takers {
		t.forget()
	}
}

// askUser asks the server who we are. One that does not tell is no error.
func (b *broker) askUser(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	reply, err := b.nc.RequestWithContext(ctx, "$SYS.REQ.USER.INFO", nil)
	if err != nil {
		return ""
	}
	return userOf(reply.Data)
}

func (b *broker) Table(name queue.TableName) queue.Table {
	t, ok := b.tables[name]
	if !ok {
		panic("natsq: no table " + string(name))
	}
	return t
}

func (b *broker) Work() queue.Work       { return b.work }
func (b *broker) Audit() queue.Journal   { return journal{b} }
func (b *broker) Logs() queue.Logs       { return b.logs }
func (b *broker) Objects() queue.Objects { return objects{b} }
func (b *broker) Signals() queue.Signals { return signals{b} }
func (b *broker) User() string           { return b.user }

// Now is the clock of the server that leads the leases.
func (b *broker) Now(ctx context.Context) (time.Time, error) {
	if err := b.online(ctx); err != nil {
		return time.Time{}, err
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	stream, err := b.js.Stream(ctx, tableStream(queue.Leases))
	if err != nil {
		return time.Time{}, readError("look at the clock", err)
	}
	return stream.CachedInfo().TimeStamp, nil
}

// Ready asks the leader of the records' stream.
func (b *broker) Ready(ctx context.Context) error {
	if !b.nc.IsConnected() {
		return fmt.Errorf("%s: %w", b.where(), queue.ErrUnavailable)
	}
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	if err := b.room(); err != nil {
		return err
	}
	info, err := b.js.Stream(ctx, tableStream(queue.Runs))
	if err != nil {
		return readError("look at the records", err)
	}
	if c := info.CachedInfo().Cluster; c != nil && c.Name != "" && c.Leader == "" {
		return fmt.Errorf("the records have no leader: %w", queue.ErrUnavailable)
	}
	return nil
}

func (b *broker) Close() error {
	if b.logs != nil {
		b.logs.close()
	}
	if b.nc != nil {
		b.nc.Close()
	}
	if b.server != nil {
		return b.server.close()
	}
	return nil
}

// writable is online for what needs room.
func (b *broker) writable(ctx context.Context) error {
	if err := b.room(); err != nil {
		return err
	}
	return b.online(ctx)
}

// bounded gives one request its time. The answer to one may be lost for good, however long its context lasts.
func (b *broker) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, b.options.Timeout)
}

// untilAnswered asks what may be asked twice. A cluster that has lost who leads it never answers, and elects another within ten seconds or
// so: it is asked again and again, for four timeouts, and each time a little longer, because a server may only be slow.
func (b *broker) untilAnswered(ctx context.Context, ask func(context.Context) error) (err error) {
	step := b.options.Timeout / 5
	for wait, left := step, 4*b.options.Timeout; left > 0; wait, left = min(wait+step, 3*step), left-wait {
		once, cancel := context.WithTimeout(ctx, wait)
		err = ask(once)
		leaderless := hasCode(err, server.JSClusterNotAvailErr)
		if leaderless {
			<-once.Done()
		}
		cancel()
		if err == nil || ctx.Err() != nil || !isSilence(err) && !leaderless {
			break
		}
	}
	return err
}

// patience is how long a method waits for a connection that has just been lost: another server of the cluster is found within
// it, and a caller need not know.
const patience = 2 * time.Second

// online waits for the connection, but not long.
func (b *broker) online(ctx context.Context) error {
	if b.nc.IsConnected() {
		return nil
	}
	changed := b.nc.StatusChanged(nats.CONNECTED, nats.CLOSED)
	defer b.nc.RemoveStatusListener(changed)
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for !b.nc.IsConnected() {
		select {
		case <-changed:
			if b.nc.IsClosed() {
				return fmt.Errorf("the connection is closed: %w", queue.ErrUnavailable)
			}
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", queue.ErrUnavailable, ctx.Err())
		case <-deadline.C:
			return fmt.Errorf("not connected to %s: %w", b.where(), queue.ErrUnavailable)
		}
	}
	return nil
}
