package worker

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
)

// slowEnd is a broker that stores the end of one execution when it is let.
type slowEnd struct {
	queue.Broker
	id      string
	reached chan struct{} // closed when somebody wants to store it
	let     chan struct{} // closed by the test
}

func (b *slowEnd) Table(name queue.TableName) queue.Table {
	if name == queue.Runs {
		return slowTable{b.Broker.Table(name), b}
	}
	return b.Broker.Table(name)
}

type slowTable struct {
	queue.Table
	broker *slowEnd
}

func (t slowTable) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	var r queue.Record
	if json.Unmarshal(value, &r) == nil && r.ID == t.broker.id && r.State == queue.Done {
		close(t.broker.reached)
		<-t.broker.let
	}
	return t.Table.Update(ctx, key, value, revision)
}

func TestASlotIsAnothersWhileAResultIsStored(t *testing.T) {
	p := newTestPool(t, nil)
	sound := p.broker
	broker := &slowEnd{Broker: sound, id: uuid.NewString(), reached: make(chan struct{}), let: make(chan struct{})}
	p.broker = broker
	w, stop := p.serve(func(m *member) { m.Slots = 1 })
	p.broker = sound
	req := executor.Request{ID: broker.id, Action: "core.noop"}
	p.submit(req)
	<-broker.reached
	assert.Zero(t, w.busySlots())
	_, result := p.run(executor.Request{Action: "core.noop"})
	assert.Equal(t, executor.Succeeded, result.Status)
	running, err := p.client.Record(t.Context(), broker.id)
	require.NoError(t, err)
	assert.Equal(t, queue.Running, running.State)

	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	require.Eventually(t, w.draining.Load, 20*time.Second, time.Millisecond)
	select {
	case <-stopped:
		require.Fail(t, "a worker does not leave what it has not settled")
	case <-time.After(100 * time.Millisecond):
	}
	close(broker.let)
	<-stopped
	_, result = p.result(broker.id)
	assert.Equal(t, executor.Succeeded, result.Status)
	p.idle()
}

func TestSlotsAreKeptWhenTooMuchIsNotSettled(t *testing.T) {
	s := newSlots(1)
	var seats []*seat
	for range settlingMin {
		require.Equal(t, 1, s.acquire(t.Context()))
		seats = append(seats, &seat{slots: s})
		require.True(t, seats[len(seats)-1].vacate())
	}
	require.Equal(t, 1, s.acquire(t.Context()))
	last := &seat{slots: s}
	require.False(t, last.vacate())
	over, cancel := context.WithCancel(t.Context())
	cancel()
	require.Zero(t, s.acquire(over), "the slot is not free")
	require.False(t, s.idle(over))

	last.leave()
	require.Equal(t, 1, s.acquire(t.Context()))
	s.release(1)
	require.False(t, s.idle(over), "what is not settled yet counts")
	for _, seat := range seats {
		seat.leave()
	}
	require.True(t, s.idle(t.Context()))
	require.Equal(t, 1, s.acquire(t.Context()), "all is as it was")
}

func TestTheHeadOfARecord(t *testing.T) {
	r := queue.Record{Schema: queue.RecordSchema, ID: "a", State: queue.Running, Epoch: 3, Attempt: 2, Worker: "one", Started: true, Submission: "{}"}
	text, err := encode(&r)
	require.NoError(t, err)
	head, ok := readHead(text)
	require.True(t, ok)
	assert.Equal(t, glance{Schema: queue.RecordSchema, State: queue.Running, Attempt: 2, Worker: "one"}, head, "of what is long nothing was read")
	for _, broken := range []string{"", "[]", `{"state":7}`, `{"state":"done`, `{"state":"done"`, `{"state":`, "\xff{ no", `["state","done"]`} {
		head, ok := readHead([]byte(broken))
		assert.True(t, !ok || head.State == "", broken)
	}
	r.Limit, r.Priority, r.Route, r.Action, r.Requirement = 4, queue.Low, "r", "a.b", json.RawMessage(`{"runtime":"shell"}`)
	r.NotBefore, r.Unroutable = time.Now().UTC(), time.Now().Add(time.Hour).UTC()
	text, err = encode(&r)
	require.NoError(t, err)
	g, ok := readGlance(string(text))
	require.True(t, ok)
	assert.Equal(t, glance{
		Schema: r.Schema, State: r.State, Attempt: 2, Worker: "one", Action: "a.b", Route: "r", Priority: queue.Low, Requirement: string(r.Requirement),
		NotBefore: r.NotBefore, Limit: 4, Unroutable: r.Unroutable,
	}, g)
}
