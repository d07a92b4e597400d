package queuetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/queue"
)

func testJournal(t *testing.T, d Driver) {
	ctx, b := open(t, d)
	audit, mark := b.Audit(), fresh()
	line := func(n int) []byte { return []byte(mark + " " + strconv.Itoa(n)) }
	start := time.Now().Add(-time.Second)
	for i := range 20 {
		require.NoError(t, audit.Append(ctx, line(i), ""))
	}
	require.NoError(t, audit.Append(ctx, line(20), mark))
	require.NoError(t, audit.Append(ctx, line(21), mark), "a repetition is no error")
	require.NoError(t, audit.Append(ctx, line(19), ""), "without a dedupe it is stored again")
	var want []string
	for i := range 21 {
		want = append(want, string(line(i)))
	}
	want = append(want, string(line(19)))
	for _, since := range []time.Time{{}, start} {
		var got []string
		for line, err := range audit.Read(ctx, since, false) {
			require.NoError(t, err)
			if strings.HasPrefix(string(line), mark) {
				got = append(got, string(line))
			}
		}
		require.Equal(t, want, got)
	}
	for range audit.Read(ctx, time.Now().Add(time.Hour), false) {
		require.Fail(t, "nothing is from the future")
	}
	follow, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	heard := 0
	for line, err := range audit.Read(follow, start, true) {
		require.NoError(t, err)
		if !strings.HasPrefix(string(line), mark) {
			continue
		}
		if heard++; heard == len(want) {
			require.NoError(t, audit.Append(ctx, []byte(mark+" later"), ""))
		}
		if heard > len(want) {
			break
		}
	}
	require.Equal(t, len(want)+1, heard)
}

func testLogs(t *testing.T, d Driver) {
	ctx, b := open(t, d)
	_, other := open(t, d)
	id := fresh()
	chunk := []byte("chunk 0")
	for i := range 50 {
		copy(chunk, fmt.Sprintf("chunk %d", i%10))
		require.True(t, b.Logs().Append(id, chunk))
		require.True(t, b.Logs().Append(fresh(), []byte("of another")))
	}
	require.NoError(t, b.Logs().Flush(ctx))
	n := 0
	for chunk, err := range other.Logs().Read(ctx, id, false) {
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("chunk %d", n%10), string(chunk), "in order, and copied before Append returns")
		n++
	}
	require.Equal(t, 50, n, "all that arrived before")
	follow, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for chunk, err := range other.Logs().Read(follow, id, true) {
		require.NoError(t, err)
		if n--; n == 0 {
			require.True(t, b.Logs().Append(id, []byte("last")))
		}
		if string(chunk) == "last" {
			cancel()
		}
	}
	require.Equal(t, -1, n, "following ends with its context")
	require.NoError(t, b.Logs().Flush(ctx), "of nothing")
}

// testLogFlood writes faster than any broker stores: chunks may be dropped, but the writer is never held up.
func testLogFlood(t *testing.T, d Driver) {
	ctx, b := open(t, d)
	id, chunk := fresh(), bytes.Repeat([]byte("x"), queue.ChunkMax)
	var slowest time.Duration
	accepted := 0
	for range 2000 {
		start := time.Now()
		if b.Logs().Append(id, chunk) {
			accepted++
		}
		slowest = max(slowest, time.Since(start))
	}
	require.Less(t, slowest, time.Second)
	require.Positive(t, accepted)
	require.NoError(t, b.Logs().Flush(ctx))
	stored, failure := 0, error(nil)
	require.Eventually(t, func() bool { // the flood keeps a broker busy for a while, and a read does not wait for that
		stored, failure = 0, nil
		for _, err := range b.Logs().Read(ctx, id, false) {
			if failure = err; err == nil {
				stored++
			}
		}
		return !errors.Is(failure, queue.ErrUnavailable)
	}, 30*time.Second, 100*time.Millisecond)
	require.NoError(t, failure)
	require.Positive(t, stored)
	require.LessOrEqual(t, stored, accepted)
}

func testObjects(t *testing.T, d Driver) {
	ctx, b := open(t, d)
	objects := b.Objects()
	for _, prefix := range []string{fresh() + "/", "packs/" + fresh()} {
		name := prefix + "/a"
		_, err := objects.Get(ctx, name)
		require.ErrorIs(t, err, queue.ErrNotFound)
		require.NoError(t, objects.Delete(ctx, name), "none is no error")
		require.NoError(t, objects.Put(ctx, name, strings.NewReader("first")))
		require.NoError(t, objects.Put(ctx, name, strings.NewReader("second, longer")))
		require.NoError(t, objects.Put(ctx, prefix+"/empty", strings.NewReader("")))
		require.Equal(t, "second, longer", read(t, ctx, objects, name))
		require.Empty(t, read(t, ctx, objects, prefix+"/empty"))

		for _, cause := range []error{errBroken, io.ErrUnexpectedEOF} {
			broken := io.MultiReader(strings.NewReader(strings.Repeat("x", 1<<20-1)), iotest.ErrReader(cause))
			require.ErrorIs(t, objects.Put(ctx, prefix+"/broken", broken), cause)
			_, err = objects.Get(ctx, prefix+"/broken")
			require.ErrorIs(t, err, queue.ErrNotFound, "entirely or not at all")
		}

		require.Equal(t, map[string]int64{name: 14, prefix + "/empty": 0}, list(t, ctx, objects, prefix))
		require.NoError(t, objects.Delete(ctx, name))
		_, err = objects.Get(ctx, name)
		require.ErrorIs(t, err, queue.ErrNotFound)
		require.Equal(t, map[string]int64{prefix + "/empty": 0}, list(t, ctx, objects, prefix))
		require.Contains(t, list(t, ctx, objects, ""), prefix+"/empty")
	}
}

var errBroken = errors.New("broken")

func read(t *testing.T, ctx context.Context, objects queue.Objects, name string) string {
	t.Helper()
	r, err := objects.Get(ctx, name)
	require.NoError(t, err)
	text, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	return string(text)
}

func list(t *testing.T, ctx context.Context, objects queue.Objects, prefix string) map[string]int64 {
	t.Helper()
	all := map[string]int64{}
	for object, err := range objects.List(ctx, prefix) {
		require.NoError(t, err)
		require.WithinDuration(t, time.Now(), object.At, time.Hour)
		all[object.Name] = object.Size
	}
	return all
}

func testLargeObject(t *testing.T, d Driver) {
	ctx, b := open(t, d)
	_, other := open(t, d)
	const size = 50 << 20
	name, written, got := fresh(), sha256.New(), sha256.New()
	source := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), size), written)
	require.NoError(t, b.Objects().Put(ctx, name, source))
	r, err := other.Objects().Get(ctx, name)
	require.NoError(t, err)
	n, err := io.Copy(got, r)
	require.NoError(t, err)
	require.EqualValues(t, size, n)
	require.Equal(t, written.Sum(nil), got.Sum(nil))
	require.NoError(t, r.Close())
	require.NoError(t, b.Objects().Delete(ctx, name))
}

func testDamage(t *testing.T, d Driver) {
	if d.Damage == nil {
		t.Skip("objects cannot be damaged")
	}
	ctx, b := open(t, d)
	name := fresh()
	require.NoError(t, b.Objects().Put(ctx, name, strings.NewReader(strings.Repeat("all is well. ", 100_000))))
	d.Damage(t, name)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r, err := b.Objects().Get(ctx, name)
	require.NoError(t, err)
	defer r.Close()
	_, err = io.ReadAll(r)
	require.Error(t, err)
}

func testSignals(t *testing.T, d Driver) {
	ctx, b := open(t, d)
	_, other := open(t, d)
	topic := "done." + fresh()
	require.NoError(t, b.Signals().Send(ctx, topic, []byte("nobody listens")))
	heard := make(chan string, 10)
	stop, err := b.Signals().Listen(topic, func(data []byte) { heard <- string(data) })
	require.NoError(t, err)
	require.Eventually(t, func() bool { // until it is known everywhere that somebody listens
		require.NoError(t, other.Signals().Send(ctx, topic, []byte("anybody?")))
		select {
		case <-heard:
			return true
		case <-time.After(50 * time.Millisecond):
			return false
		}
	}, patience, time.Millisecond)
	for _, text := range []string{"one", "two", ""} {
		require.NoError(t, other.Signals().Send(ctx, topic, []byte(text)))
	}
	for _, want := range []string{"one", "two", ""} {
		select {
		case got := <-heard:
			for got == "anybody?" {
				got = <-heard
			}
			require.Equal(t, want, got)
		case <-time.After(patience):
			require.Fail(t, "not heard", want)
		}
	}
	stop()
	require.NoError(t, other.Signals().Send(ctx, topic, []byte("three")))
	require.NoError(t, b.Signals().Send(ctx, topic, []byte("four")))
	select {
	case got := <-heard:
		require.Fail(t, "heard after stop", got)
	case <-time.After(100 * time.Millisecond):
	}
}

func testQuestions(t *testing.T, d Driver) {
	ctx, b := open(t, d)
	_, other := open(t, d)
	topic := "submit" + fresh()
	_, err := b.Signals().Ask(ctx, topic, nil)
	require.ErrorIs(t, err, queue.ErrNotFound)
	var answered atomic.Int32
	answer := func(_ context.Context, question []byte) []byte {
		answered.Add(1)
		return append([]byte("you asked "), question...)
	}
	for _, broker := range []queue.Broker{b, other} {
		stop, err := broker.Signals().Answer(topic, answer)
		require.NoError(t, err)
		defer stop()
	}
	for i := range 20 {
		got, err := b.Signals().Ask(ctx, topic, []byte(strconv.Itoa(i)))
		require.NoError(t, err)
		require.Equal(t, "you asked "+strconv.Itoa(i), string(got))
	}
	require.EqualValues(t, 20, answered.Load(), "each question goes to one")
}

func testContexts(t *testing.T, d Driver) {
	ctx, b := open(t, d)
	require.NoError(t, b.Ready(ctx))
	over, cancel := context.WithCancel(ctx)
	cancel()
	_, err := b.Table(queue.Runs).Get(over, fresh())
	require.ErrorIs(t, err, context.Canceled)
	_, err = b.Table(queue.Runs).Create(over, fresh(), []byte("{}"))
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, b.Audit().Append(over, []byte("x"), ""), context.Canceled)
	got, err := taker(t, b).Take(over, []string{route(t, ctx, b)}, 1)
	require.Empty(t, got)
	require.ErrorIs(t, err, context.Canceled)
}

func testClock(t *testing.T, d Driver) {
	ctx, b := open(t, d)
	before, err := b.Now(ctx)
	require.NoError(t, err)
	key := fresh()
	_, err = b.Table(queue.Dead).Create(ctx, key, []byte("{}"))
	require.NoError(t, err)
	entry, err := b.Table(queue.Dead).Get(ctx, key)
	require.NoError(t, err)
	after, err := b.Now(ctx)
	require.NoError(t, err)
	require.WithinRange(t, entry.At, before, after, "one clock says what is written, and what is asked for")
}
