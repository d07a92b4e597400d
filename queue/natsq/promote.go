package natsq

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/attune-run/attune/queue"
)

// Promoted is one stream that was brought over.
type Promoted struct {
	Stream   string
	Messages uint64
	Digest   string // SHA-256 of all messages, hex: the same on both sides
}

// promoteReplicas is what streams have after Promote, unless the Options of the target say otherwise.
const promoteReplicas = 3

// Promote brings the queue of one place, usually the store of a single server, to another, usually a cluster, with all records,
// revisions, waiting messages, audit lines and objects. Worker and lease entries and the day's logs begin anew. Nothing may
// write to the source meanwhile: give its store, which only one process can have. The source stays as it is. A target that
// holds anything is refused with queue.ErrExists, before anything is written.
//
// It fails, and leaves the target for inspection, when what arrived is not what was sent.
func Promote(ctx context.Context, from, to Options) ([]Promoted, error) {
	source, err := Open(ctx, from)
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	defer source.Close()
	target, err := dial(ctx, to)
	if err != nil {
		return nil, fmt.Errorf("target: %w", err)
	}
	defer target.Close()
	p := promotion{source: source.(*broker), target: target}
	if err := p.clear(ctx); err != nil {
		return nil, fmt.Errorf("target: %w", err)
	}
	var all []Promoted
	for _, name := range p.streams() {
		promoted, err := p.stream(ctx, name)
		if err != nil {
			return all, fmt.Errorf("stream %s: %w", name, err)
		}
		all = append(all, promoted)
	}
	return all, target.openStreams(ctx)
}

type promotion struct{ source, target *broker }

// streams are those that are brought over.
func (p promotion) streams() []string {
	var names []string
	for _, d := range p.source.definitions() {
		switch d.Name {
		case tableStream(queue.Workers), tableStream(queue.Leases), logStream:
		default:
			names = append(names, d.Name)
		}
	}
	return names
}

// clear takes empty streams away, because a restore makes them, and does nothing when one is not empty.
func (p promotion) clear(ctx context.Context) error {
	var empty []string
	for _, name := range p.streams() {
		stream, err := p.target.js.Stream(ctx, name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue
		}
		if err != nil {
			return readError("look for stream "+name, err)
		}
		if n := stream.CachedInfo().State.Msgs; n > 0 {
			return fmt.Errorf("stream %s holds %d messages: %w", name, n, queue.ErrExists)
		}
		empty = append(empty, name)
	}
	for _, name := range empty {
		if err := p.target.js.DeleteStream(ctx, name); err != nil {
			return writeError("remove the empty stream "+name, err)
		}
	}
	return nil
}

// stream brings one stream over and compares.
func (p promotion) stream(ctx context.Context, name string) (Promoted, error) {
	if err := p.copy(ctx, name); err != nil {
		return Promoted{}, err
	}
	if err := p.replicate(ctx, name); err != nil {
		return Promoted{}, err
	}
	before, err := digest(ctx, p.source, name)
	if err != nil {
		return Promoted{}, fmt.Errorf("source: %w", err)
	}
	after, err := digest(ctx, p.target, name)
	if err != nil {
		return Promoted{}, fmt.Errorf("target: %w", err)
	}
	if before != after {
		return Promoted{}, fmt.Errorf("%d messages (sha256 %s) arrived as %d (sha256 %s)", before.Messages, before.Digest, after.Messages, after.Digest)
	}
	return after, nil
}

// copy sends a snapshot to the target as it comes. The protocol is ADR-15's: chunks are answered, an empty one ends it.
func (p promotion) copy(ctx context.Context, name string) error {
	inbox := p.source.nc.NewInbox()
	chunks, err := p.source.nc.SubscribeSync(inbox)
	if err != nil {
		return err
	}
	defer chunks.Unsubscribe()
	var snapshot server.JSApiStreamSnapshotResponse
	request := server.JSApiStreamSnapshotRequest{DeliverSubject: inbox, CheckMsgs: true}
	if err := call(ctx, p.source.nc, "SNAPSHOT."+name, request, &snapshot); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	if snapshot.Error != nil {
		return fmt.Errorf("snapshot: %w", snapshot.Error)
	}
	config := *snapshot.Config
	config.Replicas = 1
	var restore server.JSApiStreamRestoreResponse
	if err := call(ctx, p.target.nc, "RESTORE."+name, server.JSApiStreamRestoreRequest{Config: config, State: *snapshot.State}, &restore); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if restore.Error != nil {
		return fmt.Errorf("restore: %w", restore.Error)
	}
	return p.pump(ctx, chunks, restore.DeliverSubject)
}

func (p promotion) pump(ctx context.Context, chunks *nats.Subscription, to string) error {
	for {
		chunk, err := chunks.NextMsgWithContext(ctx)
		if err != nil {
			return fmt.Errorf("snapshot: %w", err)
		}
		if status := chunk.Header.Get("Status"); status != "" && status != "204" {
			return fmt.Errorf("snapshot: %s %s", status, chunk.Header.Get("Description"))
		}
		answer, err := p.target.nc.RequestWithContext(ctx, to, chunk.Data)
		if err != nil {
			return fmt.Errorf("restore: %w", err)
		}
		if len(chunk.Data) == 0 {
			var created server.JSApiStreamCreateResponse
			if err := json.Unmarshal(answer.Data, &created); err != nil {
				return fmt.Errorf("restore: %w", err)
			}
			if created.Error != nil {
				return fmt.Errorf("restore: %w", created.Error)
			}
			return nil
		}
		if chunk.Reply == "" { // the last piece
			continue
		}
		if err := chunk.Respond(nil); err != nil {
			return fmt.Errorf("snapshot: %w", err)
		}
	}
}

func call(ctx context.Context, nc *nats.Conn, what string, request, response any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	answer, err := nc.RequestWithContext(ctx, "$JS.API.STREAM."+what, body)
	if err != nil {
		return err
	}
	return json.Unmarshal(answer.Data, response)
}

// replicate raises the number of copies, and waits until they are complete.
func (p promotion) replicate(ctx context.Context, name string) error {
	replicas := p.target.options.Replicas
	if replicas == 0 && p.target.nc.ConnectedClusterName() == "" {
		return nil
	}
	stream, err := p.target.js.Stream(ctx, name)
	if err != nil {
		return readError("look at the copy", err)
	}
	config := stream.CachedInfo().Config
	if config.Replicas = orElse(replicas, promoteReplicas); config.Replicas > 1 {
		if _, err := p.target.js.UpdateStream(ctx, config); err != nil {
			return writeError("raise the number of copies", err)
		}
	}
	for {
		info, err := stream.Info(ctx)
		if err == nil && complete(info, config.Replicas) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %d copies: %w", config.Replicas, errors.Join(ctx.Err(), err))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func complete(info *jetstream.StreamInfo, replicas int) bool {
	if replicas == 1 {
		return true
	}
	if info.Cluster == nil || info.Cluster.Leader == "" || len(info.Cluster.Replicas) < replicas-1 {
		return false
	}
	for _, peer := range info.Cluster.Replicas {
		if !peer.Current || peer.Lag > 0 {
			return false
		}
	}
	return true
}

// digest counts and hashes all messages, with their sequences and headers.
func digest(ctx context.Context, b *broker, name string) (Promoted, error) {
	stream, err := b.js.Stream(ctx, name)
	if err != nil {
		return Promoted{}, readError("look at the stream", err)
	}
	sum, promoted := sha256.New(), Promoted{Stream: name}
	for next := uint64(1); ; promoted.Messages++ {
		message, err := stream.GetMsg(ctx, next, jetstream.WithGetMsgSubject(">"))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			promoted.Digest = fmt.Sprintf("%x", sum.Sum(nil))
			return promoted, nil
		}
		if err != nil {
			return Promoted{}, readError("read back", err)
		}
		for _, part := range [][]byte{binary.BigEndian.AppendUint64(nil, message.Sequence), []byte(message.Subject), headerText(message.Header), message.Data} {
			sum.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
			sum.Write(part)
		}
		next = message.Sequence + 1
	}
}

// headerText is a header in an order of its own.
func headerText(h nats.Header) []byte {
	text, err := json.Marshal(h) // sorts keys
	if err != nil {
		return nil
	}
	return bytes.TrimSpace(text)
}
