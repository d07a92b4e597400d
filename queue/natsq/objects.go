package natsq

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"strings"
	"time"

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
	if _, err := store.Put(ctx, jetstream.ObjectMeta{Name: name}, r); err != nil {
		return writeError("store object "+name, err)
	}
	return nil
}

func (o objects) Get(ctx context.Context, name string) (io.ReadCloser, error) {
	store, err := o.store(ctx, bucketOf(name))
	if err != nil {
		return nil, err
	}
	r := &objectReader{ctx: ctx, store: store, name: name, digest: sha256.New()}
	if err := r.open(); err != nil {
		return nil, err
	}
	return r, nil
}

// objectReader reads an object. Its pieces may come from a server of a cluster that lags behind the others and has not all of them yet: then
// it goes on with those of another try.
type objectReader struct {
	ctx    context.Context //nolint:containedctx // Get's, which what it gives lives in
	store  jetstream.ObjectStore
	name   string
	part   jetstream.ObjectResult // of this try
	info   *jetstream.ObjectInfo
	read   uint64
	digest hash.Hash // of what was read
	tries  int
}

// objectTries is how often an object is read on that ends too early.
const objectTries = 6

// open begins a try behind what was read.
func (r *objectReader) open() error {
	part, err := r.store.Get(r.ctx, r.name)
	if err != nil {
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
		return errors.Join(readError("get object "+r.name, err), part.Close())
	}
	r.part, r.info = part, info
	return nil
}

// endsEarly is for a try that had its end, which what was read says more about.
func endsEarly(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, jetstream.ErrDigestMismatch)
}

func (r *objectReader) Read(p []byte) (int, error) {
	for {
		n, err := r.part.Read(p)
		r.read += uint64(n)
		r.digest.Write(p[:n])
		switch {
		case n > 0 || err == nil:
			return n, nil
		case !endsEarly(err):
			return 0, err
		case r.read >= r.info.Size && jetstream.GetObjectDigestValue(r.digest) == r.info.Digest:
			return 0, io.EOF
		case r.read >= r.info.Size || r.tries == objectTries:
			return 0, fmt.Errorf("object %s is damaged: %w", r.name, jetstream.ErrDigestMismatch)
		}
		if err := r.again(); err != nil {
			return 0, err
		}
	}
}

// again is another try, a little later.
func (r *objectReader) again() error {
	select {
	case <-r.ctx.Done():
		return context.Cause(r.ctx)
	case <-time.After(20 * time.Millisecond << r.tries):
	}
	r.tries++
	_ = r.part.Close()
	return r.open()
}

func (r *objectReader) Close() error { return r.part.Close() }

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
