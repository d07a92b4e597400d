package natsq

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/attune-run/attune/queue"
)

// The streams beside the tables'.
const (
	workStream  = "EXEC"
	auditStream = "AUDIT"
	logStream   = "LOG"
	// Objects that belong to executions go when these are forgotten; packs stay until they are removed.
	objectBucket = "attune"
	packBucket   = "attune-packs"
)

var tableNames = []queue.TableName{queue.Runs, queue.Cancels, queue.Routes, queue.Catalog, queue.Schedules, queue.Dead,
	queue.Limits, queue.Packs, queue.Leases, queue.Workers}

func tableStream(name queue.TableName) string { return "KV_" + string(name) }

// layout is the version of the settings below. A stream that says another is left as it is by an older attune, and brought up
// to date by a newer one.
const layout = 1

const layoutKey = "attune.layout"

// logBytes bounds the stream of what executions print; the oldest goes. A server reserves it, so that one with a small disk is
// asked for less.
const (
	logBytes    = 1 << 30
	logBytesMin = 1 << 20
)

// maxConsumers of a stream stands for any number: every route has three, every List one while it lasts. Servers take a missing
// number, and -1, for 1000.
const maxConsumers = 1_000_000

// duplicatesMin is the shortest time for which a server remembers the ids of messages. Only the journal gives them any; at its start a
// server reads what was stored within that time.
const duplicatesMin = 100 * time.Millisecond

// definitions are the streams as they are created.
func (b *broker) definitions() []jetstream.StreamConfig {
	var all []jetstream.StreamConfig
	for _, name := range tableNames {
		all = append(all, b.tableDefinition(name))
	}
	all = append(all,
		b.workDefinition(),
		jetstream.StreamConfig{
			Name: auditStream, Description: "who did what", Subjects: []string{auditSubject},
			MaxAge: queue.Retention, Duplicates: 2 * time.Minute, DenyDelete: true,
		},
		jetstream.StreamConfig{
			Name: logStream, Description: "what executions print", Subjects: []string{logSubject + ".*"},
			MaxAge: 24 * time.Hour, MaxBytes: logBytes, PersistMode: jetstream.AsyncPersistMode,
		},
		objectDefinition(objectBucket, queue.Retention+24*time.Hour),
		objectDefinition(packBucket, 0),
	)
	for i := range all {
		all[i].Storage = jetstream.FileStorage
		all[i].MaxConsumers = maxConsumers
		all[i].Duplicates = orElse(all[i].Duplicates, duplicatesMin)
		all[i].Metadata = map[string]string{layoutKey: strconv.Itoa(layout)}
	}
	return all
}

// workDefinition does not sync what lies in the store of this process. Messages only wake workers: one that was taken and comes
// again finds its record done, and one that is lost is laid again, because whoever could have seen it stored ends with the machine
// that loses it. A server elsewhere ends alone, so that there each message is as safe as its record.
func (b *broker) workDefinition() jetstream.StreamConfig {
	c := jetstream.StreamConfig{
		Name: workStream, Description: "what can be executed now", Subjects: []string{workSubject + ".>"},
		Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew, MaxMsgsPerSubject: 1, DiscardNewPerSubject: true,
	}
	if b.server != nil {
		c.PersistMode = jetstream.AsyncPersistMode
	}
	return c
}

// tableDefinition is a key-value bucket as NATS's own tools know it. All are on disk: a stream in memory begins anew with its server,
// and revisions that were given before would be given again.
func (b *broker) tableDefinition(name queue.TableName) jetstream.StreamConfig {
	c := jetstream.StreamConfig{
		Name: tableStream(name), Subjects: []string{"$KV." + string(name) + ".>"},
		MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, AllowRollup: true, DenyDelete: true, AllowMsgTTL: true,
		AllowAtomicPublish: name != queue.Workers, // not with asynchronous writes
	}
	switch name {
	case queue.Runs, queue.Cancels:
		c.MaxAge, c.SubjectDeleteMarkerTTL = queue.Retention, time.Hour
	case queue.Workers:
		c.MaxAge, c.SubjectDeleteMarkerTTL = b.options.WorkerTTL, b.options.WorkerTTL
		c.PersistMode = jetstream.AsyncPersistMode // said again with every heartbeat
	case queue.Leases:
		c.MaxAge, c.SubjectDeleteMarkerTTL = b.options.WorkerTTL, b.options.WorkerTTL
	}
	return c
}

// objectDefinition is an object store as NATS's own tools know it.
func objectDefinition(bucket string, age time.Duration) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: "OBJ_" + bucket, Subjects: []string{"$O." + bucket + ".C.>", "$O." + bucket + ".M.>"},
		MaxAge: age, Discard: jetstream.DiscardNew, AllowRollup: true,
	}
}

// openStreams finds or creates all streams. Others may be doing the same.
func (b *broker) openStreams(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	b.streams = map[string]jetstream.Stream{}
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	for _, definition := range b.definitions() {
		group.Go(func() error {
			stream, err := b.openStream(ctx, definition)
			var refused *AccessError
			if errors.As(err, &refused) {
				return refused
			}
			if err != nil {
				return readError("open stream "+definition.Name, err)
			}
			mu.Lock()
			defer mu.Unlock()
			b.streams[definition.Name] = stream
			return nil
		})
	}
	return group.Wait()
}

// openTry is how long an answer is waited for before it is asked again: a server of a cluster without a leader gives none.
const openTry = 2 * time.Second

// openStream tries again while a cluster comes up: its streams have no leader yet, or too few of its servers are there.
func (b *broker) openStream(ctx context.Context, definition jetstream.StreamConfig) (jetstream.Stream, error) {
	for {
		stream, err := b.findOrCreate(ctx, definition)
		if err == nil || !errors.Is(kindOf(err), queue.ErrUnavailable) && !isSilence(err) &&
			!hasCode(err, server.JSClusterNoPeersErrF, server.JSInsufficientResourcesErr) {
			return stream, err
		}
		if refused := cmp.Or(b.noAccount(err), b.denied()); refused != nil {
			return nil, refused
		}
		b.log.Debug("A stream cannot be opened yet", "stream", definition.Name, "error", err)
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", queue.ErrUnavailable, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (b *broker) findOrCreate(ctx context.Context, definition jetstream.StreamConfig) (jetstream.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, openTry)
	defer cancel()
	stream, err := b.js.Stream(ctx, definition.Name)
	if err == nil {
		return b.upgrade(ctx, stream, definition)
	}
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, err
	}
	stream, err = b.create(ctx, definition)
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // somebody else was first
		return b.js.Stream(ctx, definition.Name)
	}
	return stream, err
}

// create asks for three replicas unless told otherwise; a server that is alone says that it cannot.
func (b *broker) create(ctx context.Context, definition jetstream.StreamConfig) (jetstream.Stream, error) {
	replicas := b.options.Replicas
	if replicas == 0 && b.nc.ConnectedClusterName() == "" {
		replicas = 1
	}
	stream, err := b.js.CreateStream(ctx, replicated(definition, orElse(replicas, 3)))
	if b.options.Replicas == 0 && hasCode(err, server.JSStreamReplicasNotSupportedErr) {
		return b.js.CreateStream(ctx, replicated(definition, 1))
	}
	if definition.MaxBytes/2 >= logBytesMin && errors.Is(kindOf(err), queue.ErrFull) {
		definition.MaxBytes /= 2
		return b.create(ctx, definition)
	}
	return stream, err
}

// replicated is a definition with that many replicas. Direct reads are answered by any of them, and a Get sees each acknowledged write:
// only where there is one has it seen them all.
func replicated(definition jetstream.StreamConfig, replicas int) jetstream.StreamConfig {
	definition.Replicas = replicas
	definition.AllowDirect = replicas == 1
	if replicas > 1 {
		definition.PersistMode = jetstream.DefaultPersistMode // replicated streams have no other
	}
	return definition
}

// upgrade changes the settings of a stream that an older attune made, and only those that lose nothing. One that a newer attune
// made, or an operator adjusted, stays.
func (b *broker) upgrade(ctx context.Context, stream jetstream.Stream, definition jetstream.StreamConfig) (jetstream.Stream, error) {
	config := stream.CachedInfo().Config
	if direct := replicated(definition, config.Replicas).AllowDirect; config.AllowDirect && !direct { // replicas were added
		config.AllowDirect = false
		return b.js.UpdateStream(ctx, config)
	}
	if made, err := strconv.Atoi(config.Metadata[layoutKey]); err != nil || made >= layout {
		return stream, nil
	}
	config.Description, config.Duplicates = definition.Description, definition.Duplicates
	config.AllowMsgTTL = config.AllowMsgTTL || definition.AllowMsgTTL
	config.SubjectDeleteMarkerTTL = max(config.SubjectDeleteMarkerTTL, definition.SubjectDeleteMarkerTTL)
	config.MaxAge = longer(config.MaxAge, definition.MaxAge)
	config.Metadata[layoutKey] = strconv.Itoa(layout)
	return b.js.UpdateStream(ctx, config)
}

// longer is the longer of two ages, of which zero is for ever.
func longer(a, b time.Duration) time.Duration {
	if a == 0 || b == 0 {
		return 0
	}
	return max(a, b)
}
