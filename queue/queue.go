// Package queue is what the worker pool asks of a broker, and the documents that lie in it.
//
// A Broker offers plain means (tables with compare-and-set, a work queue, journals, objects); the protocol on top of them
// is package worker's. Bodies are opaque here: nothing in this package knows what an execution is.
//
// The truth about an execution is its Record in the table Runs, changed only by compare-and-set. The work queue merely
// wakes workers: a message may be delivered twice, late, or for an execution that is long over, without harm. What it brings along of the
// record is a guess that compare-and-set judges.
package queue

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"
)

// Broker is a connection to the pool's storage. It is safe for concurrent use. Every method gives up when its context ends,
// and returns ErrUnavailable (wrapped, with the reason) while the broker cannot be reached.
type Broker interface {
	// Table is one of the tables below; asking for another name panics.
	Table(name TableName) Table
	Work() Work
	Audit() Journal
	Logs() Logs
	Objects() Objects
	Signals() Signals
	// User is who the broker says this connection belongs to; empty when it does not tell.
	User() string
	// Now is the broker's clock, which Entry.At is of.
	Now(ctx context.Context) (time.Time, error)
	// Ready tells whether the broker can be reached and accepts writes now.
	Ready(ctx context.Context) error
	// Close ends the connection, and the broker with it where it was started for this connection alone.
	Close() error
}

// Errors of a broker; they come wrapped.
var (
	ErrNotFound = errors.New("not found")
	ErrExists   = errors.New("exists already")
	// ErrConflict is a compare-and-set that lost: somebody else changed the entry.
	ErrConflict = errors.New("changed by somebody else")
	// ErrUncertain is a write without an answer: it may have happened. Read back and compare.
	ErrUncertain   = errors.New("no answer: it may have happened")
	ErrUnavailable = errors.New("the broker cannot be reached")
	ErrTooLarge    = errors.New("larger than the broker takes")
	// ErrFull is a broker without room: nothing was stored.
	ErrFull = errors.New("the broker's store is full")
)

// TableName names a table.
type TableName string

// The tables. Keys are given in angle brackets; every value is JSON, one of this package's documents.
const (
	Runs      TableName = "RUN"       // <execution id> → Record; kept for Retention after the last change
	Cancels   TableName = "CANCEL"    // <execution id> → Cancel; kept for Retention
	Routes    TableName = "ROUTES"    // <route> → RouteEntry
	Catalog   TableName = "CATALOG"   // <pack>.<pack digest, 16 hex>.<action name, dots as "=">  → CatalogEntry
	Schedules TableName = "SCHEDULES" // <schedule name> → Schedule
	Dead      TableName = "DLQ"       // <execution id> → DeadLetter
	Limits    TableName = "LIMITS"    // <action, dots as "="> → LimitEntry
	Packs     TableName = "PACKS"     // <pack>.<digest, 16 hex> → PackEntry; the bundle is an object
	Leases    TableName = "LEASES"    // <role> → Lease; forgotten after WorkerTTL without a change
	Workers   TableName = "WORKERS"   // <worker name> → WorkerEntry; forgotten after WorkerTTL without a change
)

// Retention is how long an execution is known, and with it the window in which an id submits once.
const Retention = 7 * 24 * time.Hour

// WorkerTTL is how long a worker that is not heard of is still listed, and the lease of the scheduler.
const WorkerTTL = 45 * time.Second

// Table is a set of named values with revisions. A key is tokens of letters, digits, "_", "=", "-" joined by dots. Get is
// linearizable: it sees every write that was acknowledged before it.
type Table interface {
	Get(ctx context.Context, key string) (Entry, error) // ErrNotFound
	// Create stores a value where there is none. ErrExists, ErrUncertain, ErrTooLarge, ErrFull.
	Create(ctx context.Context, key string, value []byte) (revision uint64, err error)
	// Update replaces the value of that revision. ErrConflict, ErrUncertain, ErrTooLarge, ErrFull.
	Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error)
	// Put stores whatever was there before.
	Put(ctx context.Context, key string, value []byte) (uint64, error)
	// Delete removes the value; a revision of 0 means whichever there is. ErrConflict; no error where there is none.
	Delete(ctx context.Context, key string, revision uint64) error
	// List gives what there is now, in the order of the last change, and never holds all of it in memory. It sees every write that was
	// acknowledged before it. A prefix is whole tokens; an empty one means everything. What changes meanwhile, or did just before, may
	// be given twice, the later value last, and what was deleted once more. An error ends it.
	List(ctx context.Context, prefix string) iter.Seq2[Entry, error]
	// Watch gives what there is now, then an Entry with Op Current, then changes until the context ends (no error then): at least
	// the last one of each key, which is all that is given of changes that a later one overtakes. Those that came while the broker
	// was away are given late. Before Current an Entry may also be Deleted: one that was given and is gone meanwhile is, and so may be
	// those that went before the watch began.
	Watch(ctx context.Context, prefix string) iter.Seq2[Entry, error]
}

// Entry is one value of a table.
type Entry struct {
	Key      string
	Value    []byte
	Revision uint64    // rises with every write of the table
	At       time.Time // of the write, by the broker's clock
	Op       Op
}

// Op is what a watch saw happen.
type Op string

// The Ops. The zero value is Stored.
const (
	Stored  Op = ""
	Deleted Op = "deleted" // or expired
	Current Op = "current" // no entry: everything that was there when the watch began has been given
)

// Priority orders the messages of one route. The zero value is normal.
type Priority int

// The priorities.
const (
	Low    Priority = -1
	Normal Priority = 0
	High   Priority = 1
)

// Message says that an execution waits on a route. Route is one token.
type Message struct {
	Route    string
	Priority Priority
	ID       string
	// Copy is of the execution's Record when the message was published. It spares who takes the message a Get before the first
	// compare-and-set, which fails where the copy is out of date. The zero value: none comes along.
	Copy Copy
}

// Copy is a value of a table and its revision.
type Copy struct {
	Value    []byte
	Revision uint64
}

// Work is the queue of what can be executed now. A message of an id lies in it once.
type Work interface {
	// Open makes a route; what is there already stays.
	Open(ctx context.Context, route string) error
	// Publish is done when the message is stored; one that is there already is no error, and stays as it is. Takers and Backlog see it
	// then, or a moment later. A long Copy may be left out. ErrNotFound: the route is not open.
	Publish(ctx context.Context, m Message) error
	// Waiting tells whether the message is stored and not acknowledged. Replicas of a cluster may hear of an acknowledgement a
	// moment later; a Publish in that moment finds the message still there.
	Waiting(ctx context.Context, m Message) (bool, error)
	// Remove takes a message away without delivery, unless it is on its way to a taker already; none is no error.
	Remove(ctx context.Context, m Message) error
	// Take returns between 1 and n messages of these routes: the higher priority first, and routes of one priority in turn,
	// so that none starves. It waits until there is one, or returns none with the context's error. What arrives beyond that
	// goes back at once. One Take at a time for each Taker.
	Taker() Taker
	// Backlog counts, for each route, the messages that nobody took, and those taken and not acknowledged.
	Backlog(ctx context.Context) (map[string]Backlog, error)
}

// Taker takes work for one worker.
type Taker interface {
	Take(ctx context.Context, routes []string, n int) ([]Delivery, error)
	// Close lets go of what was asked for and did not come yet.
	Close()
}

// Backlog is what lies on one route.
type Backlog struct {
	Waiting uint64    `json:"waiting"`
	Taken   uint64    `json:"taken"`
	Oldest  time.Time `json:"oldest,omitzero"` // zero where the broker does not tell
}

// Delivery is a message in this worker's hands. Unless it is extended it is delivered again after the broker's ack wait.
type Delivery interface {
	Message() Message
	// Delivered counts how often it was delivered, this time included.
	Delivered() int
	// Extend starts the ack wait anew.
	Extend(ctx context.Context) error
	// Ack removes the message; it is done when the broker says so.
	Ack(ctx context.Context) error
	// Release gives it back at once.
	Release(ctx context.Context) error
}

// Journal is an append-only list of lines, kept for Retention.
type Journal interface {
	// Append is done when the line is stored. A dedupe that was used within the last two minutes stores nothing; empty
	// always stores.
	Append(ctx context.Context, line []byte, dedupe string) error
	// Read gives the lines since a time (zero: from the beginning), oldest first; with follow until the context ends.
	Read(ctx context.Context, since time.Time, follow bool) iter.Seq2[[]byte, error]
}

// Logs carry what running executions print, for a day. They may lose chunks, and never hold a writer up.
type Logs interface {
	// Append sends a chunk without waiting; false when it was dropped because too many are on their way.
	Append(id string, chunk []byte) bool
	// Flush waits until all that was appended has arrived or is lost.
	Flush(ctx context.Context) error
	// Read gives an execution's chunks in their order, all that arrived before; with follow it goes on until the context ends.
	Read(ctx context.Context, id string, follow bool) iter.Seq2[[]byte, error]
}

// Objects hold what is too large for a table. Names may hold slashes. An object is there entirely or not at all.
type Objects interface {
	Put(ctx context.Context, name string, r io.Reader) error
	Get(ctx context.Context, name string) (io.ReadCloser, error) // ErrNotFound; a damaged object fails its last Read
	Delete(ctx context.Context, name string) error               // none is no error
	List(ctx context.Context, prefix string) iter.Seq2[Object, error]
}

// Object is one stored object.
type Object struct {
	Name string
	Size int64 // bytes
	At   time.Time
}

// Signals are messages to whoever listens now; they may be lost. A topic is tokens joined by dots.
type Signals interface {
	Send(ctx context.Context, topic string, data []byte) error
	// Listen calls fn, one message after the other, until stop.
	Listen(topic string, fn func(data []byte)) (stop func(), err error)
	// Ask sends a question and waits for one answer. ErrNotFound: nobody listens.
	Ask(ctx context.Context, topic string, data []byte) ([]byte, error)
	// Answer answers questions until stop; each goes to one of those who answer the topic.
	Answer(topic string, fn func(ctx context.Context, data []byte) []byte) (stop func(), err error)
}
