package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
)

// slowJournal takes a message whenever the test lets it.
type slowJournal struct {
	queue.Journal
	let chan error // what Append returns

	mu   sync.Mutex
	text []string
}

func (j *slowJournal) Append(_ context.Context, text []byte, _ string) error {
	j.mu.Lock()
	j.text = append(j.text, string(text))
	j.mu.Unlock()
	return <-j.let
}

func TestAuditLinesShareMessages(t *testing.T) {
	j := &slowJournal{let: make(chan error)}
	a := newAuditor(j, "one", 0)
	first := a.add(queue.AuditLine{What: "claim", ID: "0"}, time.Unix(1, 0))
	require.Eventually(t, func() bool { j.mu.Lock(); defer j.mu.Unlock(); return len(j.text) == 1 }, 5*time.Second, time.Millisecond)
	var rest []<-chan error
	for i := range 50 {
		rest = append(rest, a.add(queue.AuditLine{What: "claim", ID: fmt.Sprint(i + 1)}, time.Unix(1, 0)))
	}
	big := a.add(queue.AuditLine{What: "claim", Detail: strings.Repeat("x", auditMax)}, time.Unix(1, 0))
	failed := errors.New("no room")
	j.let <- nil
	j.let <- failed
	j.let <- nil
	require.NoError(t, <-first)
	for _, done := range rest {
		require.ErrorIs(t, <-done, failed)
	}
	require.NoError(t, <-big)
	require.Len(t, j.text, 3)
	assert.Equal(t, 49, strings.Count(j.text[1], "\n"))
	var line queue.AuditLine
	require.NoError(t, json.Unmarshal([]byte(strings.Split(j.text[1], "\n")[49]), &line))
	assert.Equal(t, "50", line.ID)
	assert.Equal(t, "one", line.Who)
}

// someLogs lose every chunk but the wanted.
type someLogs struct {
	chunks []queue.LogChunk
	take   func(n int) bool
	n      int
}

func (l *someLogs) Append(_ string, chunk []byte) bool {
	l.n++
	if !l.take(l.n) {
		return false
	}
	var c queue.LogChunk
	if err := json.Unmarshal(chunk, &c); err != nil {
		panic(err)
	}
	l.chunks = append(l.chunks, c)
	return true
}
func (*someLogs) Flush(context.Context) error { return nil }
func (*someLogs) Read(context.Context, string, bool) iter.Seq2[[]byte, error] {
	return nil
}

func TestLogChunks(t *testing.T) {
	logs := &someLogs{take: func(n int) bool { return n != 2 }}
	l := &logWriter{logs: logs, epoch: 7, now: time.Now}
	out, err := logStream{l, "stdout"}, logStream{l, "stderr"}
	_, _ = out.Write(bytes.Repeat([]byte("a"), queue.ChunkMax+1))
	_, _ = err.Write([]byte("problem"))
	_, _ = err.Write([]byte("s"))
	l.close()
	var numbers []uint64
	for _, c := range logs.chunks {
		assert.LessOrEqual(t, len(c.Data), queue.ChunkMax)
		assert.EqualValues(t, 7, c.Epoch)
		numbers = append(numbers, c.Number)
	}
	assert.Equal(t, []uint64{1, 3, 4}, numbers, "the gap is seen")
	assert.Equal(t, "problems", string(logs.chunks[1].Data))
	assert.Equal(t, "stderr", logs.chunks[1].Stream)
	assert.Equal(t, "end", logs.chunks[2].Stream)

	full := &someLogs{take: func(n int) bool { return n > 3 }}
	l = &logWriter{logs: full, now: time.Now}
	_, _ = logStream{l, "stdout"}.Write([]byte("lost"))
	l.close()
	assert.Empty(t, full.chunks)
	require.True(t, l.cut)
	l.finish(t.Context())
	require.Len(t, full.chunks, 1)
	assert.Equal(t, "end", full.chunks[0].Stream)
	assert.EqualValues(t, 4, full.chunks[0].Number, "what is missing shows")

	quiet := &someLogs{take: func(int) bool { return true }}
	(&logWriter{logs: quiet, now: time.Now}).close()
	assert.Empty(t, quiet.chunks, "silence costs nothing")
}

func TestBackoffDoublesAndIsCapped(t *testing.T) {
	for attempt, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 9: 256 * time.Second, 10: 5 * time.Minute, 1000: 5 * time.Minute} {
		for range 50 {
			got := backoff(&queue.Record{Attempt: attempt})
			assert.InDelta(t, want.Seconds(), got.Seconds(), 0.2*want.Seconds()+1e-6, attempt)
		}
	}
	assert.InDelta(t, 0.04, backoff(&queue.Record{Attempt: 3, BackoffMS: 10}).Seconds(), 0.0081)
}

func TestWhatIsWorthAnotherAttempt(t *testing.T) {
	for status, want := range map[executor.Status]bool{executor.Succeeded: false, executor.Failed: true, executor.TimedOut: true, executor.Canceled: false, executor.Interrupted: false} {
		assert.Equal(t, want, worthRetrying(&executor.Result{Status: status}), status)
	}
	for kind, want := range map[string]bool{"request": false, "parameters": false, "pack": false, "isolation": false, "environment": true, "spawn": true, "secret": true, "internal": true, "runtime": true} {
		assert.Equal(t, want, worthRetrying(&executor.Result{Status: executor.Errored, Error: &executor.Error{Kind: kind}}), kind)
	}
}

func TestConfigurationsThatAreRefused(t *testing.T) {
	_, err := New(Config{})
	require.Error(t, err)
	for want, change := range map[string]func(*Config){
		"worker name": func(c *Config) { c.Name = "a b" },
		"no pattern":  func(c *Config) { c.AllowActions = []string{"[core"} },
	} {
		service, err := executor.New(executor.Config{CacheDir: t.TempDir()})
		require.NoError(t, err)
		cfg := Config{Broker: &faulty{}, Service: service, Name: "x"}
		change(&cfg)
		_, err = New(cfg)
		assert.ErrorContains(t, err, want)
	}
}

// shifted is a broker whose clock is wrong.
type shifted struct {
	queue.Broker
	by *atomic.Int64 // nanoseconds that it is ahead
}

func (s shifted) Now(context.Context) (time.Time, error) {
	return time.Now().Add(time.Duration(s.by.Load())), nil
}

// Deadlines and retries go by the broker's clock: a worker whose own is wrong ends nothing early.
func TestTheBrokersClockCounts(t *testing.T) {
	by := &atomic.Int64{}
	w := &Worker{clock: clock{broker: shifted{by: by}}}
	req := executor.Request{Action: "core.noop", Pack: executor.PackPin{Ref: "core"}}
	s := &queue.Submission{Deadline: time.Now().Add(-time.Minute)}
	require.NotNil(t, w.permit(&queue.Record{}, s, &req))
	by.Store(int64(-time.Hour))
	require.NoError(t, w.clock.refresh(t.Context()))
	assert.Nil(t, w.permit(&queue.Record{}, s, &req), "our clock is an hour ahead")
	by.Store(0)
	require.NoError(t, w.clock.refresh(t.Context()))
	assert.Nil(t, w.permit(&queue.Record{Attempt: 1}, s, &req), "it has started before")
}

func TestTheClockGoesOnWhileTheBrokerIsAway(t *testing.T) {
	by := &atomic.Int64{}
	by.Store(int64(5 * time.Hour))
	c := clock{broker: shifted{by: by}}
	assert.WithinDuration(t, time.Now(), c.now(), time.Second, "nothing is known yet")
	assert.WithinDuration(t, time.Now().Add(5*time.Hour), c.ask(t.Context()), time.Second)
	by.Store(0)
	assert.WithinDuration(t, time.Now().Add(5*time.Hour), c.ask(t.Context()), time.Second, "it was asked just now")
	require.NoError(t, c.refresh(t.Context()))
	assert.WithinDuration(t, time.Now(), c.now(), time.Second)
}

// A scheduler does nothing else while it sees to executions: of a long backlog it takes some at a time.
func TestALongBacklogIsSeenToInTurn(t *testing.T) {
	v := newView()
	see := func(i int, revision uint64, state queue.State) {
		text, err := encode(&queue.Record{Schema: queue.RecordSchema, ID: fmt.Sprint(i), State: state, Action: "p.a", Route: "r", Submission: "{}",
			Requirement: json.RawMessage("{}"), Unroutable: time.Unix(1, 0)})
		require.NoError(t, err)
		v.seeRun(queue.Entry{Key: fmt.Sprint(i), Value: text, Revision: revision, At: time.Unix(1, 0)})
	}
	for i := range 250 {
		see(i, uint64(i+1), queue.Queued)
	}
	for i := range 120 {
		see(i, uint64(1000+i), queue.Done)
	}
	assert.Empty(t, v.takeFresh(time.Hour, 100))
	var seen []string
	for range 3 {
		some := v.takeFresh(0, 100)
		assert.LessOrEqual(t, len(some), 100)
		for _, r := range some {
			seen = append(seen, r.id)
		}
	}
	require.Len(t, seen, 130, "each that still waits, once")
	for i, id := range seen {
		assert.Equal(t, fmt.Sprint(120+i), id, "the oldest first")
	}
	for most, want := range map[int]int{100: 100, 1000: 130} {
		assert.Len(t, v.takeOld(time.Now(), time.Hour, most), want)
		assert.Len(t, v.takeUnroutable(time.Now(), Timing{}, most), want)
	}
}
