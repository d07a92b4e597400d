package natsq

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
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
	if err := target.openAll(ctx); err != nil {
		return all, fmt.Errorf("target: %w", err)
	}
	waiting, err := p.work(ctx)
	return append(all, waiting), err
}

type promotion struct{ source, target *broker }

// streams are those that are brought over.
func (p promotion) streams() []string {
	var names []string
	for _, d := range p.source.definitions() {
		switch d.Name {
		case tableStream(queue.Workers), tableStream(queue.Leases), logStream, workStream:
		default:
			names = append(names, d.Name)
		}
	}
	return names
}

// work sends the waiting messages anew, in their order. A snapshot would bring what workers of the source had in hand, too.
func (p promotion) work(ctx context.Context) (Promoted, error) {
	promoted := Promoted{Stream: workStream}
	routes, err := p.source.work.Backlog(ctx)
	if err != nil {
		return promoted, err
	}
	for route := range routes {
		if err := p.target.work.Open(ctx, route); err != nil {
			return promoted, err
		}
	}
	for message, err := range messages(ctx, p.source.streams[workStream]) {
		if err != nil {
			return promoted, err
		}
		m, err := messageOf(message.Subject)
		if err == nil {
			m.Copy = copyOf(message.Data)
			err = p.target.work.Publish(ctx, m)
		}
		if err != nil {
			return promoted, err
		}
		promoted.Messages++
	}
	info, err := p.target.streams[workStream].Info(ctx)
	if err == nil && info.State.Msgs != promoted.Messages {
		err = fmt.Errorf("stream %s: %d messages arrived as %d", workStream, promoted.Messages, info.State.Msgs)
	}
	return promoted, err
}

// clear takes empty streams away, because a restore makes them, and does nothing when one is not empty.
func (p promotion) clear(ctx context.Context) error {
	var empty []string
	for _, name := range append(p.streams(), workStream) {
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
	request := server.JSApiStreamSnapshotRequest{DeliverSubject: inbox, CheckMsgs: true, NoConsumers: true}
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
		answer, err := p.send(ctx, to, chunk.Data)
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

// send waits until all servers know who takes the restore: its subscription travels behind the answer that names it.
func (p promotion) send(ctx context.Context, to string, data []byte) (*nats.Msg, error) {
	for deadline := time.Now().Add(p.target.options.Timeout); ; {
		answer, err := p.target.nc.RequestWithContext(ctx, to, data)
		if !errors.Is(err, nats.ErrNoResponders) || time.Now().After(deadline) {
			return answer, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
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

// replicate raises the number of copies, and waits until each is complete. A copy says that it is current before it has the
// messages, so that each is made the leader once.
func (p promotion) replicate(ctx context.Context, name string) error {
	replicas := p.target.options.Replicas
	if replicas == 0 && p.target.nc.ConnectedClusterName() == "" {
		return nil
	}
	stream, err := p.target.js.Stream(ctx, name)
	if err != nil {
		return readError("look at the copy", err)
	}
	whole, config := stream.CachedInfo().State, stream.CachedInfo().Config
	if config.Replicas = orElse(replicas, promoteReplicas); config.Replicas == 1 {
		return nil
	}
	if _, err := p.target.js.UpdateStream(ctx, config); err != nil {
		return writeError("raise the number of copies", err)
	}
	led := map[string]bool{}
	var asked time.Time
	moved := time.Now()
	for len(led) < config.Replicas {
		if info := p.settled(ctx, name, config.Replicas); info != nil {
			leader, complete := info.Cluster.Leader, info.State.Msgs == whole.Msgs && info.State.Bytes == whole.Bytes && info.State.LastSeq == whole.LastSeq
			if complete && !led[leader] {
				led[leader] = true
				asked, moved = time.Time{}, time.Now()
			}
			wanted := func(peer string) bool { return led[peer] != complete }
			if time.Since(asked) > handOverTime && p.handOver(ctx, name, info.Cluster, wanted, int(time.Since(moved)/handOverTime)%3 == 2) {
				asked = time.Now()
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d copies are known to be complete: %w", len(led), config.Replicas, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

// settled is the state of a stream whose copies are all where they are to be; nil before that. A leader that hands over while servers
// are still joining can leave them without one for ever.
func (p promotion) settled(ctx context.Context, name string, replicas int) *server.StreamInfo {
	var response server.JSApiStreamInfoResponse
	if err := call(ctx, p.target.nc, "INFO."+name, nil, &response); err != nil || response.StreamInfo == nil {
		return nil
	}
	c := response.Cluster
	if c == nil || c.Leader == "" || c.Desired != nil || len(c.Replicas) != replicas-1 || slices.ContainsFunc(c.Replicas, func(peer *server.PeerInfo) bool { return peer.Pending }) {
		return nil
	}
	return response.StreamInfo
}

// handOverTime is how long an election may take before the next is asked for.
const handOverTime = 2 * time.Second

// handOver asks the leader to let another copy lead: one that did not yet or, where the leader is not complete, one that is; with anyone it
// may be any, for a server that was asked for may not want to. It is false when there is none to ask for. Whether it came so shows later.
func (p promotion) handOver(ctx context.Context, name string, c *server.ClusterInfo, wanted func(peer string) bool, anyone bool) bool {
	for _, peer := range c.Replicas {
		if !wanted(peer.Name) || !peer.Current && !anyone {
			continue
		}
		request := server.JSApiLeaderStepdownRequest{}
		if !anyone {
			request.Placement = &server.Placement{Preferred: peer.Name}
		}
		var response server.JSApiStreamLeaderStepDownResponse
		_ = call(ctx, p.target.nc, "LEADER.STEPDOWN."+name, request, &response)
		return true
	}
	return false
}

// digest counts and hashes all messages, with their sequences and headers.
func digest(ctx context.Context, b *broker, name string) (Promoted, error) {
	stream, err := b.js.Stream(ctx, name)
	if err != nil {
		return Promoted{}, readError("look at the stream", err)
	}
	sum, promoted := sha256.New(), Promoted{Stream: name}
	for message, err := range messages(ctx, stream) {
		if err != nil {
			return Promoted{}, err
		}
		header, err := json.Marshal(message.Header) // in the order of its keys
		if err != nil {
			return Promoted{}, err
		}
		for _, part := range [][]byte{binary.BigEndian.AppendUint64(nil, message.Sequence), []byte(message.Subject), header, message.Data} {
			sum.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
			sum.Write(part)
		}
		promoted.Messages++
	}
	promoted.Digest = fmt.Sprintf("%x", sum.Sum(nil))
	return promoted, nil
}

// messages gives what a stream holds, without a consumer: a work queue allows none beside its own.
func messages(ctx context.Context, stream jetstream.Stream) iter.Seq2[*jetstream.RawStreamMsg, error] {
	return func(yield func(*jetstream.RawStreamMsg, error) bool) {
		for next := uint64(1); ; {
			message, err := stream.GetMsg(ctx, next, jetstream.WithGetMsgSubject(">"))
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				return
			}
			if err != nil {
				yield(nil, readError("read back", err))
				return
			}
			if !yield(message, nil) {
				return
			}
			next = message.Sequence + 1
		}
	}
}
