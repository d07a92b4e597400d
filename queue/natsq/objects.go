package natsq

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

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
	object, err := store.Get(ctx, name)
	if err != nil {
		return nil, readError("get object "+name, err)
	}
	return object, nil
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
