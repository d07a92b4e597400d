package natsq

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/attune-run/attune/queue"
)

// packPrefix begins the names of objects that stay.
const packPrefix = "packs/"

// objects are two object stores: of executions, and of packs.
type objects struct{ broker *broker }

func bucketOf(name string) string {
	if strings.HasPrefix(name, packPrefix) {
		return packBucket
	}
	return objectBucket
}

func (o objects) store(ctx context.Context, bucket string) (jetstream.ObjectStore, error) {
	if err := o.broker.online(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := o.broker.bounded(ctx)
	defer cancel()
	store, err := o.broker.js.ObjectStore(ctx, bucket)
	if err != nil {
		return nil, readError("open objects", err)
	}
	return store, nil
}

func (o objects) Put(ctx context.Context, name string, r io.Reader) error {
	if err := o.broker.room(); err != nil {
		return err
	}
	store, err := o.store(ctx, bucketOf(name))
	if err != nil {
		return err
	}
	if err := o.put(ctx, store, name, r); err != nil {
		return writeError("store object "+name, err)
	}
	return nil
}

const (
	objectPiece = 128 << 10 // bytes of a message, as the client's own
	objectAhead = 64        // pieces that may be on their way
)

// put does what the client's own Put does (https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-20.md), but has no more
// on its way than a server has room for. The client sends without waiting, and of a large object a server drops what it cannot store at once.
func (o objects) put(ctx context.Context, store jetstream.ObjectStore, name string, r io.Reader) error {
	before, err := store.GetInfo(ctx, name, jetstream.GetObjectInfoShowDeleted())
	if err != nil && !errors.Is(err, jetstream.ErrObjectNotFound) {
		return err
	}
	bucket := bucketOf(name)
	info := &jetstream.ObjectInfo{Bucket: bucket, NUID: uuid.NewString(), ObjectMeta: jetstream.ObjectMeta{
		Name: name, Opts: &jetstream.ObjectMetaOptions{ChunkSize: objectPiece},
	}}
	if err := o.putPieces(ctx, info, r); err != nil {
		o.purge(ctx, info)
		return err
	}
	document, err := json.Marshal(info)
	if err != nil {
		return err
	}
	m := nats.NewMsg("$O." + bucket + ".M." + base64.URLEncoding.EncodeToString([]byte(name)))
	m.Header.Set(jetstream.MsgRollup, jetstream.MsgRollupSubject)
	m.Data = document
	if _, err := o.broker.js.PublishMsg(ctx, m); err != nil {
		if !isSilence(err) { // else it may have been stored
			o.purge(ctx, info)
		}
		return err
	}
	if before != nil && !before.Deleted {
		o.purge(ctx, before)
	}
	return nil
}

// putPieces stores what the reader gives, and notes size and digest. It is done when all that it sent has an answer.
func (o objects) putPieces(ctx context.Context, info *jetstream.ObjectInfo, r io.Reader) (err error) {
	digest, piece := sha256.New(), make([]byte, objectPiece)
	var sent []jetstream.PubAckFuture
	arrive := func() error {
		first := sent[0]
		sent = sent[1:]
		return answer(ctx, first)
	}
	defer func() {
		for len(sent) > 0 {
			err = cmp.Or(err, arrive())
		}
	}()
	for {
		n, readErr := r.Read(piece)
		if n > 0 {
			if len(sent) == objectAhead {
				if err := arrive(); err != nil {
					return err
				}
			}
			// One that were sent again would come behind those after it.
			future, err := o.broker.js.PublishAsync(pieces(info), piece[:n], jetstream.WithRetryAttempts(0), jetstream.WithStallWait(o.broker.options.Timeout))
			if err != nil {
				return err
			}
			sent = append(sent, future)
			digest.Write(piece[:n])
			info.Size += uint64(n)
			info.Chunks++
		}
		switch {
		case errors.Is(readErr, io.EOF):
			info.Digest = jetstream.GetObjectDigestValue(digest)
			return nil
		case readErr != nil:
			return readErr
		}
	}
}

// answer waits for the one to a message that was sent; it can be had once.
func answer(ctx context.Context, sent jetstream.PubAckFuture) error {
	select {
	case <-sent.Ok():
		return nil
	case err := <-sent.Err():
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// pieces is the subject of an object's pieces.
func pieces(info *jetstream.ObjectInfo) string { return "$O." + info.Bucket + ".C." + info.NUID }

// purge removes pieces that belong to no object.
func (o objects) purge(ctx context.Context, info *jetstream.ObjectInfo) {
	ctx, cancel := o.broker.bounded(context.WithoutCancel(ctx))
	defer cancel()
	if err := o.broker.streams["OBJ_"+info.Bucket].Purge(ctx, jetstream.WithPurgeSubject(pieces(info))); err != nil {
		o.broker.log.Warn("Pieces of an object that is none stay", "object", info.Name, "error", err)
	}
}

func (o objects) Get(ctx context.Context, name string) (io.ReadCloser, error) {
	store, err := o.store(ctx, bucketOf(name))
	if err != nil {
		return nil, err
	}
	r := &objectReader{ctx: ctx, each: o.broker.options.Timeout, store: store, name: name, digest: sha256.New()}
	if err := r.open(); err != nil {
		return nil, err
	}
	return r, nil
}

// objectReader reads an object. Its pieces may come from a server of a cluster that lags behind the others and has not all of them yet, or
// that goes away meanwhile: then it goes on with those of another try.
type objectReader struct {
	ctx    context.Context //nolint:containedctx // Get's, which what it gives lives in
	each   time.Duration   // that a piece may take
	store  jetstream.ObjectStore
	name   string
	part   jetstream.ObjectResult // of this try
	end    context.CancelFunc     // of this try
	info   *jetstream.ObjectInfo
	read   uint64
	digest hash.Hash // of what was read
	tries  int       // since something was read
}

// objectTries is how often an object is read on that ends too early.
const objectTries = 6

// patient is the context of one try. The client takes its deadline for that of a piece, which is asked for anew before each; of a context
// without one it makes a deadline of all, and a large object, or a reader that takes its time, meets it.
type patient struct {
	context.Context
	each time.Duration
}

// Deadline is a piece's.
func (p patient) Deadline() (time.Time, bool) {
	soon := time.Now().Add(p.each)
	if last, ok := p.Context.Deadline(); ok && last.Before(soon) {
		return last, true
	}
	return soon, true
}

// open begins a try behind what was read, and another where that one gets no answer.
func (r *objectReader) open() error {
	err := r.try()
	if r.stalls(err) {
		return r.again(err)
	}
	return err
}

func (r *objectReader) try() error {
	ctx, end := context.WithCancel(r.ctx)
	unanswered := time.AfterFunc(r.each, end)
	part, err := r.store.Get(patient{ctx, r.each}, r.name)
	unanswered.Stop()
	if err != nil {
		end()
		return readError("get object "+r.name, err)
	}
	info, err := part.Info()
	if err == nil && r.info != nil && info.NUID != r.info.NUID {
		err = errors.New("another took its place while it was read")
	}
	if err == nil {
		_, err = io.CopyN(io.Discard, part, int64(r.read))
	}
	if err != nil && !endsEarly(err) {
		end()
		return errors.Join(readError("get object "+r.name, err), part.Close())
	}
	r.part, r.end, r.info = part, end, info
	return nil
}

// endsEarly is for a try that had its end, which what was read says more about.
func endsEarly(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, jetstream.ErrDigestMismatch)
}

// stalls is for a try that nothing came of in time.
func (r *objectReader) stalls(err error) bool { return isSilence(err) && r.ctx.Err() == nil }

func (r *objectReader) Read(p []byte) (int, error) {
	for {
		n, err := r.part.Read(p)
		r.read += uint64(n)
		r.digest.Write(p[:n])
		switch {
		case n > 0:
			r.tries = 0
			return n, nil
		case err == nil:
			return 0, nil
		case r.stalls(err):
		case !endsEarly(err):
			return 0, err
		case r.read >= r.info.Size && jetstream.GetObjectDigestValue(r.digest) == r.info.Digest:
			return 0, io.EOF
		case r.read >= r.info.Size || r.tries == objectTries:
			return 0, fmt.Errorf("object %s is damaged: %w", r.name, jetstream.ErrDigestMismatch)
		}
		_ = r.Close()
		if err := r.again(err); err != nil {
			return 0, err
		}
	}
}

// again is another try, a little later, after one that ended with err.
func (r *objectReader) again(err error) error {
	if r.tries == objectTries {
		return readError("get object "+r.name, err)
	}
	select {
	case <-r.ctx.Done():
		return context.Cause(r.ctx)
	case <-time.After(20 * time.Millisecond << r.tries):
	}
	r.tries++
	return r.open()
}

func (r *objectReader) Close() error {
	r.end()
	return r.part.Close()
}

func (o objects) Delete(ctx context.Context, name string) error {
	store, err := o.store(ctx, bucketOf(name))
	if err != nil {
		return err
	}
	if err := store.Delete(ctx, name); err != nil && !errors.Is(err, jetstream.ErrObjectNotFound) {
		return writeError("delete object "+name, err)
	}
	return nil
}

func (o objects) List(ctx context.Context, prefix string) iter.Seq2[queue.Object, error] {
	return func(yield func(queue.Object, error) bool) {
		for _, bucket := range []string{objectBucket, packBucket} {
			if bucket == objectBucket && strings.HasPrefix(prefix, packPrefix) || bucket == packBucket && !overlap(prefix, packPrefix) {
				continue
			}
			if !o.list(ctx, bucket, prefix, yield) {
				return
			}
		}
	}
}

// overlap tells whether a name can begin with both.
func overlap(a, b string) bool { return strings.HasPrefix(a, b) || strings.HasPrefix(b, a) }

func (o objects) list(ctx context.Context, bucket, prefix string, yield func(queue.Object, error) bool) bool {
	config := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy, FilterSubjects: []string{"$O." + bucket + ".M.>"}}
	for m, err := range o.broker.read(ctx, o.broker.streams["OBJ_"+bucket], config, false) {
		if err != nil {
			yield(queue.Object{}, fmt.Errorf("list objects: %w", err))
			return false
		}
		info, err := objectInfo(m)
		if err != nil {
			yield(queue.Object{}, err)
			return false
		}
		if info.Deleted || !strings.HasPrefix(info.Name, prefix) {
			continue
		}
		if !yield(queue.Object{Name: info.Name, Size: int64(info.Size), At: m.metadata.Timestamp}, nil) {
			return false
		}
	}
	return true
}

// objectInfo reads an object's description, as NATS's own object store keeps it.
func objectInfo(m *message) (*jetstream.ObjectInfo, error) {
	var info jetstream.ObjectInfo
	if err := json.Unmarshal(m.Data(), &info); err != nil {
		return nil, fmt.Errorf("list objects: %s: %w", m.Subject(), err)
	}
	return &info, nil
}
