package worker

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
	"github.com/attune-run/attune/queue/natsq"
)

// faulty is a broker whose table of records fails as a test wants.
type faulty struct {
	queue.Broker
	away    atomic.Bool // reading fails
	updates faults
	lines   atomic.Int64 // that were to be written down
}

// faults are what happens to the next writes; none is left: they work.
type faults struct {
	mu   sync.Mutex
	next []string // "lost answer", "lost write", "full"
}

func (f *faults) take() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.next) == 0 {
		return ""
	}
	first := f.next[0]
	f.next = f.next[1:]
	return first
}

func (f *faulty) Table(name queue.TableName) queue.Table {
	if name == queue.Runs {
		return faultyTable{f.Broker.Table(name), f}
	}
	return f.Broker.Table(name)
}

type faultyTable struct {
	queue.Table
	broker *faulty
}

func (t faultyTable) Get(ctx context.Context, key string) (queue.Entry, error) {
	if t.broker.away.Load() {
		return queue.Entry{}, fmt.Errorf("get %s: %w", key, queue.ErrUnavailable)
	}
	return t.Table.Get(ctx, key)
}

func (t faultyTable) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	switch t.broker.updates.take() {
	case "lost answer":
		if _, err := t.Table.Update(ctx, key, value, revision); err != nil {
			return 0, err
		}
		return 0, queue.ErrUncertain
	case "lost write":
		return 0, queue.ErrUncertain
	case "full":
		return 0, queue.ErrFull
	}
	return t.Table.Update(ctx, key, value, revision)
}

// serveFaulty runs a worker whose broker fails; the test's client has one that does not.
func (p *testPool) serveFaulty(change func(*member), faults ...string) *faulty {
	p.t.Helper()
	sound := p.broker
	f := &faulty{Broker: sound}
	f.updates.next = faults
	p.broker = f
	p.serve(change)
	p.broker = sound
	return f
}

func TestWritesWithoutAnAnswerAreReadBack(t *testing.T) {
	for _, faults := range [][]string{
		{"lost answer", "lost answer"},
		{"", "lost write", "lost write", "lost answer"},
		{"", "full", "full"},
		{"lost write"}, // of the claim: the message comes again
	} {
		t.Run(fmt.Sprint(faults), func(t *testing.T) {
			p := newTestPool(t, acts(nil))
			p.serveFaulty(nil, faults...)
			f := file(t)
			r, result := p.run(executor.Request{Action: "t.flaky", Parameters: map[string]any{"file": f, "times": 1}})
			assert.Equal(t, executor.Succeeded, result.Status)
			assert.EqualValues(t, 1, r.Epoch)
			text, err := os.ReadFile(f)
			require.NoError(t, err)
			assert.Equal(t, "x\n", string(text), "it ran once")
			p.idle()
		})
	}
}

// deafJournal stores the first line without an answer, and not the second.
type deafJournal struct {
	queue.Journal
	tries *atomic.Int64
}

func (j deafJournal) Append(ctx context.Context, line []byte, dedupe string) error {
	switch j.tries.Add(1) {
	case 1:
		if err := j.Journal.Append(ctx, line, dedupe); err != nil {
			return err
		}
		return queue.ErrUncertain
	case 2:
		return queue.ErrUnavailable
	}
	return j.Journal.Append(ctx, line, dedupe)
}

func (f *faulty) Audit() queue.Journal { return deafJournal{f.Broker.Audit(), &f.lines} }

func TestACancellationIsWrittenDownOnceWhateverAnswersAreLost(t *testing.T) {
	for _, faults := range [][]string{{}, {"lost answer"}, {"lost write", "lost write"}} {
		t.Run(fmt.Sprint(faults), func(t *testing.T) {
			p := newTestPool(t, acts(nil))
			p.serve(nil)
			var accepted Accepted
			require.Eventually(t, func() (ok bool) { // once it is offered
				var err error
				accepted, err = p.client.Submit(t.Context(), Order{Request: with("t.stuck", "unused"), In: time.Hour})
				return err == nil
			}, 10*time.Second, 10*time.Millisecond)
			broker := &faulty{Broker: p.broker}
			broker.updates.next = faults
			r, err := NewClient(ClientConfig{Broker: broker}).Cancel(t.Context(), accepted.ID)
			require.NoError(t, err)
			assert.Equal(t, "canceled", r.Outcome)
			assert.Equal(t, []string{"submit", "cancel"}, p.audit(accepted.ID))
		})
	}
}

func TestAWorkerThatCannotReachTheRecordEndsItsChild(t *testing.T) {
	p := newTestPool(t, acts(nil))
	broker := p.serveFaulty(func(m *member) { m.Name = "cut-off" })
	f := file(t)
	id := p.submit(with("t.stuck", f))
	pid := p.waitFile(f)
	broker.away.Store(true)
	cut := time.Now()
	require.Eventually(t, func() bool { return gone(pid) }, 10*time.Second, 5*time.Millisecond)
	assert.Less(t, time.Since(cut), quickAck+time.Second, "also one that ignores SIGTERM: before the message comes again")
	r, err := p.client.Record(t.Context(), id)
	require.NoError(t, err)
	assert.Equal(t, queue.Running, r.State, "nothing was committed")
	p.serve(func(m *member) { m.Name = "other" })
	_, result := p.result(id)
	assert.Equal(t, "lost", result.Error.Kind)
	p.idle()
	broker.away.Store(false)
}

// The ack wait goes by the broker's wall clock: put back by hours, it would keep for as long what a lost worker had.
func TestALostWorkersMessageIsNotWaitedForAsLongAsTheBrokerSays(t *testing.T) {
	t.Parallel()
	p := newTestPoolOf(t, acts(nil), natsq.Options{AckWait: time.Hour, WorkerTTL: 3 * time.Second})
	f := file(t)
	lost := p.spawn(func(m *member) { m.Name = "lost" })
	id := p.submit(with("t.stuck", f))
	p.waitFile(f)
	lost.signal(syscall.SIGKILL)
	p.serve(func(m *member) { m.Name = "other" })
	_, result := p.result(id)
	assert.Equal(t, "lost", result.Error.Kind)
	p.idle()
}

func TestWhatWasTakenOverWhileItBuiltStartsNothing(t *testing.T) {
	f := file(t)
	p := newTestPool(t, map[string]string{
		"g/pack.yaml": "ref: g\nversion: 1.0.0\n", "g/actions/a.yaml": "ref: g.a\nrunner_type: slow\nentry_point: a.sh\n",
		"g/actions/a.sh": "echo ran > " + f + ".ran\n", "g/runtimes/slow.yaml": fmt.Sprintf(slowRuntime, f),
	})
	slow := quick
	slow.Heartbeat, slow.Fence = time.Minute, time.Hour // it finds out when it is about to start, not before
	w, stop := p.serve(func(m *member) { m.Timing = slow })
	id := p.submit(executor.Request{Action: "g.a"})
	r := p.record(id, func(r *queue.Record) bool { return r.State == queue.Running && !r.Started })
	other, err := r.Claim("another", time.Now())
	require.NoError(t, err)
	value, err := encode(other)
	require.NoError(t, err)
	_, err = p.broker.Table(queue.Runs).Put(t.Context(), id, value)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(f+".go", nil, 0o600))
	require.Eventually(t, func() bool { return len(w.running()) == 0 }, 10*time.Second, 5*time.Millisecond)
	stop()
	assert.NoFileExists(t, f+".ran")
	after, err := p.client.Record(t.Context(), id)
	require.NoError(t, err)
	assert.Equal(t, &other, after)
}
