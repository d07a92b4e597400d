package queuetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/queue"
)

func testEntry(t *testing.T, d Driver) {
	ctx, b := open(t, d)
	for _, name := range []queue.TableName{queue.Runs, queue.Leases, queue.Limits} {
		table, key := b.Table(name), fresh()
		_, err := table.Get(ctx, key)
		require.ErrorIs(t, err, queue.ErrNotFound)
		require.NoError(t, table.Delete(ctx, key, 0), "none is no error")
		require.NoError(t, table.Delete(ctx, key, 7), "none is no error, whichever revision is meant")

		first, err := table.Create(ctx, key, []byte("1"))
		require.NoError(t, err)
		require.NotZero(t, first)
		_, err = table.Create(ctx, key, []byte("2"))
		require.ErrorIs(t, err, queue.ErrExists)
		entry, err := table.Get(ctx, key)
		require.NoError(t, err)
		require.Equal(t, queue.Entry{Key: key, Value: []byte("1"), Revision: first, At: entry.At}, entry)
		require.WithinDuration(t, time.Now(), entry.At, time.Minute)

		second, err := table.Update(ctx, key, []byte("3"), first)
		require.NoError(t, err)
		require.Greater(t, second, first)
		_, err = table.Update(ctx, key, []byte("4"), first)
		require.ErrorIs(t, err, queue.ErrConflict)
		third, err := table.Put(ctx, key, []byte("5"))
		require.NoError(t, err)

		require.ErrorIs(t, table.Delete(ctx, key, second), queue.ErrConflict)
		require.NoError(t, table.Delete(ctx, key, third))
		_, err = table.Get(ctx, key)
		require.ErrorIs(t, err, queue.ErrNotFound)
		_, err = table.Update(ctx, key, []byte("6"), third)
		require.ErrorIs(t, err, queue.ErrConflict, "what was removed cannot be updated")
		again, err := table.Create(ctx, key, []byte("7"))
		require.NoError(t, err)
		require.Greater(t, again, third, "no revision is given twice")
	}
	require.Panics(t, func() { b.Table("none") })
}

// testCompareAndSet lets fifty writers on several connections count up: no step may be lost, and no revision be given twice.
func testCompareAndSet(t *testing.T, d Driver) {
	ctx, first := open(t, d)
	brokers := []queue.Broker{first}
	for range 2 {
		_, b := open(t, d)
		brokers = append(brokers, b)
	}
	key := fresh()
	_, err := first.Table(queue.Runs).Create(ctx, key, []byte("0"))
	require.NoError(t, err)
	var revisions sync.Map
	var writers sync.WaitGroup
	for i := range 50 {
		writers.Go(func() {
			revision, err := increment(ctx, brokers[i%len(brokers)].Table(queue.Runs), key)
			if assert.NoError(t, err) {
				_, taken := revisions.LoadOrStore(revision, true)
				assert.False(t, taken, "revision %d was given twice", revision)
			}
		})
	}
	writers.Wait()
	entry, err := first.Table(queue.Runs).Get(ctx, key)
	require.NoError(t, err)
	require.Equal(t, "50", string(entry.Value))
}

func increment(ctx context.Context, table queue.Table, key string) (uint64, error) {
	for {
		entry, err := table.Get(ctx, key)
		if err != nil {
			return 0, err
		}
		n, err := strconv.Atoi(string(entry.Value))
		if err != nil {
			return 0, err
		}
		revision, err := table.Update(ctx, key, strconv.AppendInt(nil, int64(n+1), 10), entry.Revision)
		if !errors.Is(err, queue.ErrConflict) {
			return revision, err
		}
	}
}

// testManyWriters has each writer's own answer come back to it, however a driver puts writes together.
func testManyWriters(t *testing.T, d Driver) {
	ctx, b := open(t, d)
	table, prefix := b.Table(queue.Runs), fresh()
	var writers sync.WaitGroup
	for i := range 200 {
		writers.Go(func() {
			key := fmt.Sprintf("%s.k%d", prefix, i)
			first, err := table.Create(ctx, key, []byte("1"))
			assert.NoError(t, err)
			second, err := table.Update(ctx, key, []byte("2"), first)
			assert.NoError(t, err)
			if i%10 == 0 {
				_, err = table.Update(ctx, key, []byte("3"), first)
				assert.ErrorIs(t, err, queue.ErrConflict)
				_, err = table.Create(ctx, key, []byte("3"))
				assert.ErrorIs(t, err, queue.ErrExists)
			}
			entry, err := table.Get(ctx, key)
			assert.NoError(t, err)
			assert.Equal(t, queue.Entry{Key: key, Value: []byte("2"), Revision: second, At: entry.At}, entry)
		})
	}
	writers.Wait()
}

func testCreateOnce(t *testing.T, d Driver) {
	ctx, b := open(t, d)
	_, other := open(t, d)
	for _, prepare := range []func(key string){
		func(string) {},
		func(key string) { // a mark of a removal is in the way
			_, err := b.Table(queue.Runs).Create(ctx, key, []byte("x"))
			require.NoError(t, err)
			require.NoError(t, b.Table(queue.Runs).Delete(ctx, key, 0))
		},
	} {
		key := fresh()
		prepare(key)
		var won atomic.Int32
		var writers sync.WaitGroup
		for i := range 50 {
			table := []queue.Broker{b, other}[i%2].Table(queue.Runs)
			writers.Go(func() {
				_, err := table.Create(ctx, key, []byte("{}"))
				if err == nil {
					won.Add(1)
					return
				}
				assert.ErrorIs(t, err, queue.ErrExists)
			})
		}
		writers.Wait()
		require.EqualValues(t, 1, won.Load())
	}
}

func testReadsSeeWrites(t *testing.T, d Driver) {
	ctx, b := open(t, d)
	_, other := open(t, d)
	key := fresh()
	for i := range 200 {
		revision, err := b.Table(queue.Cancels).Put(ctx, key, []byte(strconv.Itoa(i)))
		require.NoError(t, err)
		entry, err := other.Table(queue.Cancels).Get(ctx, key)
		require.NoError(t, err)
		require.Equal(t, revision, entry.Revision)
	}
}

func put(t *testing.T, ctx context.Context, table queue.Table, key, value string) {
	t.Helper()
	_, err := table.Put(ctx, key, []byte(value))
	require.NoError(t, err)
}

func keys(t *testing.T, entries iter.Seq2[queue.Entry, error]) []string {
	t.Helper()
	var all []string
	for entry, err := range entries {
		require.NoError(t, err)
		require.Empty(t, entry.Op)
		require.NotEmpty(t, entry.Value)
		all = append(all, entry.Key)
	}
	return all
}

func testList(t *testing.T, d Driver) {
	ctx, b := open(t, d)
	table, pack := b.Table(queue.Catalog), fresh()
	require.Empty(t, keys(t, table.List(ctx, pack)))
	for _, key := range []string{".a.x", ".b.x", ".a.y", "-other.a", ".gone"} {
		put(t, ctx, table, pack+key, "{}")
	}
	put(t, ctx, table, pack+".a.x", "{}")
	require.NoError(t, table.Delete(ctx, pack+".gone", 0))
	require.Equal(t, []string{pack + ".b.x", pack + ".a.y", pack + ".a.x"}, keys(t, table.List(ctx, pack)), "in the order of the last change")
	require.Equal(t, []string{pack + ".a.y", pack + ".a.x"}, keys(t, table.List(ctx, pack+".a")), "whole tokens")
	require.Equal(t, []string{pack + ".b.x"}, keys(t, table.List(ctx, pack+".b.x")), "the key itself")
	for range table.List(ctx, pack) {
		break
	}
	require.Contains(t, keys(t, table.List(ctx, "")), pack+"-other.a", "all")
	many := fresh()
	for i := range 600 {
		put(t, ctx, table, fmt.Sprintf("%s.k%d", many, i), "{}")
	}
	require.Len(t, keys(t, table.List(ctx, many)), 600)
}

// watch collects what a watch gives.
type watch struct {
	t      *testing.T
	events chan queue.Entry
	cancel func()
	done   chan error // of the watch's end
}

func newWatch(t *testing.T, ctx context.Context, table queue.Table, prefix string) *watch {
	ctx, cancel := context.WithCancel(ctx)
	w := &watch{t: t, events: make(chan queue.Entry, 1000), cancel: cancel, done: make(chan error, 1)}
	go func() {
		var last error
		for entry, err := range table.Watch(ctx, prefix) {
			if last = err; err == nil {
				w.events <- entry
			}
		}
		w.done <- last
	}()
	t.Cleanup(w.end)
	return w
}

func (w *watch) end() {
	w.cancel()
	select {
	case err := <-w.done:
		assert.NoError(w.t, err, "the end of the context is no error")
		w.done <- err
	case <-time.After(patience):
		assert.Fail(w.t, "the watch does not end")
	}
}

func (w *watch) next() queue.Entry {
	w.t.Helper()
	select {
	case entry := <-w.events:
		return entry
	case <-time.After(patience):
		require.Fail(w.t, "the watch gives nothing")
		return queue.Entry{}
	}
}

func testWatch(t *testing.T, d Driver) {
	ctx, b := open(t, d)
	_, other := open(t, d)
	table, pack := b.Table(queue.Catalog), fresh()
	empty := newWatch(t, ctx, table, pack)
	require.Equal(t, queue.Current, empty.next().Op, "of nothing")

	put(t, ctx, table, pack+".a", "1")
	put(t, ctx, table, pack+".gone", "1")
	require.NoError(t, table.Delete(ctx, pack+".gone", 0))
	put(t, ctx, table, pack+"-other", "1")
	full := newWatch(t, ctx, other.Table(queue.Catalog), pack)
	first := full.next()
	require.Equal(t, pack+".a", first.Key)
	require.Equal(t, "1", string(first.Value))
	then := full.next()
	if then.Op == queue.Deleted {
		require.Equal(t, pack+".gone", then.Key)
		then = full.next()
	}
	require.Equal(t, queue.Current, then.Op, "before anything that changes later")

	revision, err := table.Put(ctx, pack+".a", []byte("2"))
	require.NoError(t, err)
	stored := full.next()
	require.Equal(t, queue.Entry{Key: pack + ".a", Value: []byte("2"), Revision: revision, At: stored.At}, stored)
	require.NoError(t, table.Delete(ctx, pack+".a", 0))
	deleted := full.next()
	require.Equal(t, pack+".a", deleted.Key)
	require.Equal(t, queue.Deleted, deleted.Op)
	require.Greater(t, deleted.Revision, revision)
	_, err = table.Create(ctx, pack+".b", []byte("3"))
	require.NoError(t, err)
	require.Equal(t, pack+".b", full.next().Key)
}

// testWatchOfWhatGoesMeanwhile removes an entry that was given before the watch is up to date.
func testWatchOfWhatGoesMeanwhile(t *testing.T, d Driver) {
	ctx, b := open(t, d)
	table, pack := b.Table(queue.Catalog), fresh()
	for i := range 1000 {
		put(t, ctx, table, fmt.Sprintf("%s.k%d", pack, i), "{}")
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	there, gone, current := map[string]bool{}, pack+".k0", false
	for entry, err := range table.Watch(ctx, pack) {
		require.NoError(t, err)
		if entry.Key == gone && entry.Op == queue.Stored {
			require.NoError(t, table.Delete(ctx, gone, entry.Revision))
		}
		switch entry.Op {
		case queue.Stored:
			there[entry.Key] = true
		case queue.Deleted:
			delete(there, entry.Key)
		case queue.Current:
			current = true
		}
		if current && !there[gone] { // which a watch that is up to date hears of, if not before
			require.Len(t, there, 999)
			return
		}
	}
	require.Fail(t, "the watch ended")
}

// until reads on until an entry of that key is as wanted.
func (w *watch) until(key string, op queue.Op, value string) queue.Entry {
	w.t.Helper()
	for {
		if e := w.next(); e.Key == key && e.Op == op && string(e.Value) == value {
			return e
		}
	}
}

func testExpiry(t *testing.T, d Driver) {
	ctx, b := open(t, d)
	table, silent, alive := b.Table(queue.Workers), fresh(), fresh()
	w := newWatch(t, ctx, table, "")
	put(t, ctx, table, silent, "{}")
	for start := time.Now(); time.Since(start) < 2*d.WorkerTTL; time.Sleep(d.WorkerTTL / 4) {
		put(t, ctx, table, alive, "{}")
	}
	w.until(silent, queue.Deleted, "")
	_, err := table.Get(ctx, silent)
	require.ErrorIs(t, err, queue.ErrNotFound)
	_, err = table.Get(ctx, alive)
	require.NoError(t, err, "what is written again lives")
	require.NotContains(t, keys(t, table.List(ctx, "")), silent)
	_, err = table.Create(ctx, silent, []byte("{}"))
	require.NoError(t, err, "the name is free again")
}

func testSizes(t *testing.T, d Driver) {
	ctx, b := open(t, d)
	table, key := b.Table(queue.Runs), fresh()
	whole := bytes.Repeat([]byte("x"), 3*queue.InlineMax) // a submission, a result, and base64 or escapes
	put(t, ctx, table, key, string(whole))
	entry, err := table.Get(ctx, key)
	require.NoError(t, err)
	require.True(t, bytes.Equal(whole, entry.Value))
	_, err = table.Update(ctx, key, bytes.Repeat([]byte("x"), 80<<20), entry.Revision)
	require.ErrorIs(t, err, queue.ErrTooLarge)
	_, err = table.Update(ctx, key, []byte("{}"), entry.Revision)
	require.NoError(t, err, "the connection lives on")
}

func testWatchInterrupted(t *testing.T, d Driver) {
	if d.Interrupt == nil {
		t.Skip("the broker cannot be taken away")
	}
	ctx, b := open(t, d)
	table, prefix := b.Table(queue.Runs), fresh()
	w := newWatch(t, ctx, table, prefix)
	require.Equal(t, queue.Current, w.next().Op)
	put(t, ctx, table, prefix+".a", "1")
	before := w.until(prefix+".a", queue.Stored, "1")
	for i := range 2 {
		d.Interrupt(t)
		value := strconv.Itoa(10 + i)
		require.Eventually(t, func() bool {
			_, err := table.Put(ctx, prefix+".a", []byte(value))
			return err == nil
		}, 2*patience, 50*time.Millisecond)
		after := w.until(prefix+".a", queue.Stored, value)
		require.Greater(t, after.Revision, before.Revision, "revisions rise over a break")
		before = after
	}
}
