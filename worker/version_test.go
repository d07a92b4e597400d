package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
)

// later is a broker as a later minor version would use it: each document that it writes has a field that this version does not know.
type later struct{ queue.Broker }

func (n later) Table(name queue.TableName) queue.Table { return laterTable{n.Broker.Table(name)} }

type laterTable struct{ queue.Table }

// said is what a later version writes down about where it was written, in every document.
const said = `"later":{"note":"<kept>"}`

func withLater(value []byte) []byte {
	if text := string(value); strings.HasPrefix(text, "{") && !strings.Contains(text, said) {
		return []byte("{" + said + "," + text[1:])
	}
	return value
}

func (t laterTable) Create(ctx context.Context, key string, value []byte) (uint64, error) {
	return t.Table.Create(ctx, key, withLater(value))
}

func (t laterTable) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	return t.Table.Update(ctx, key, withLater(value), revision)
}

func (t laterTable) Put(ctx context.Context, key string, value []byte) (uint64, error) {
	return t.Table.Put(ctx, key, withLater(value))
}

func (n later) Work() queue.Work { return laterWork{n.Broker.Work()} }

type laterWork struct{ queue.Work }

func (w laterWork) Publish(ctx context.Context, m queue.Message) error {
	m.Copy.Value = withLater(m.Copy.Value)
	return w.Work.Publish(ctx, m)
}

// raw is a record as it lies in the pool.
func (p *testPool) raw(id string) string {
	p.t.Helper()
	entry, err := p.broker.Table(queue.Runs).Get(p.t.Context(), id)
	require.NoError(p.t, err)
	return string(entry.Value)
}

// An upgrade while everything runs: a process of this version and one of a later minor version, each with its scheduler, take work in
// turn; what the later one wrote is there after the older one has written.
func TestAnUpgradeWhileBothVersionsRun(t *testing.T) {
	t.Parallel()
	p := newTestPool(t, schedulerPack)
	old := p.spawn(func(m *member) { m.Name, m.Timing = "old", patient })
	next := p.spawn(func(m *member) { m.Name, m.Timing, m.Newer = "next", patient, true })
	upgraded := NewClient(ClientConfig{Broker: later{p.broker}})
	by := map[string]int{}
	var ids []string
	for i := range 60 {
		client, req := p.client, executor.Request{Action: "s.limited"} // parked, and queued by whoever is elected
		if i%2 == 0 {
			client = upgraded
		}
		if i%3 == 0 {
			req = executor.Request{Action: "s.failing", Retries: &executor.Retries{Max: 1, Backoff: executor.Duration(50 * time.Millisecond)}}
		}
		accepted, err := client.Submit(t.Context(), Order{Request: req})
		require.NoError(t, err)
		ids = append(ids, accepted.ID)
	}
	for i, id := range ids {
		r, _ := p.result(id)
		by[r.Worker]++
		assert.Equal(t, map[bool]string{true: "failed", false: "succeeded"}[i%3 == 0], r.Outcome)
		if i%2 == 0 {
			assert.Equal(t, 1, strings.Count(p.raw(id), said), p.raw(id))
		}
	}
	assert.Len(t, by, 2, "both took work: %v", by)
	_, err := upgraded.AddSchedule(t.Context(), NewSchedule{Name: "often", Cron: "@every 1s", Request: executor.Request{Action: "s.quick"}}, false)
	require.NoError(t, err)
	next.drain() // from now on the older one is elected
	require.Eventually(t, func() bool { return len(p.ticksOf("often")) >= 3 }, 30*time.Second, 20*time.Millisecond)
	entry, err := p.broker.Table(queue.Schedules).Get(t.Context(), "often")
	require.NoError(t, err)
	assert.Contains(t, string(entry.Value), said)
	old.drain()
}

// What only a later major version understands is nobody's until one is there: it is shown with the reason, and is no dead letter.
func TestWhatIsForANewerVersionIsLeft(t *testing.T) {
	t.Parallel()
	p := newTestPool(t, schedulerPack)
	old := p.spawn(func(m *member) {
		m.Name, m.Timing = "old", Timing{Unroutable: time.Second, Heartbeat: quick.Heartbeat, Fence: quick.Fence, Scheduler: quick.Scheduler, Reconcile: quick.Reconcile, Lease: quick.Lease}
	})
	first, _ := p.run(executor.Request{Action: "s.quick"}) // its route is served
	left := map[string]string{}
	lay := func(reason string, change func(r *queue.Record, document map[string]any)) {
		prepared, err := p.client.prepare(t.Context(), Order{Request: executor.Request{Action: "s.quick"}})
		require.NoError(t, err)
		r, document := prepared.record, map[string]any{}
		change(r, document)
		text, err := encode(r)
		require.NoError(t, err)
		if len(document) > 0 {
			var all map[string]any
			require.NoError(t, json.Unmarshal(text, &all))
			for name, value := range document {
				all[name] = value
			}
			text, err = json.Marshal(all)
			require.NoError(t, err)
		}
		_, err = p.broker.Table(queue.Runs).Create(t.Context(), r.ID, text)
		require.NoError(t, err)
		require.NoError(t, p.client.open(t.Context(), r.Route, r.Requirement))
		require.NoError(t, p.broker.Work().Publish(t.Context(), queue.Message{Route: r.Route, ID: r.ID}))
		left[r.ID] = reason
	}
	submission := func(schema, request string) func(r *queue.Record, _ map[string]any) {
		return func(r *queue.Record, _ map[string]any) {
			r.Submission = fmt.Sprintf(`{"schema":%q,"id":%q,"request":%s}`, schema, r.ID, request)
			r.Digest = textDigest(r.Submission)
		}
	}
	lay("attune.record/v2", func(_ *queue.Record, d map[string]any) { d["schema"] = "attune.record/v2" })
	lay("attune.record/v3", func(_ *queue.Record, d map[string]any) {
		d["schema"], d["attempt"] = "attune.record/v3", "of another type"
	})
	lay(`in state "paused"`, func(_ *queue.Record, d map[string]any) { d["state"] = "paused" })
	lay("attune.submission/v2", submission("attune.submission/v2", `"of another type"`))
	lay("attune.request/v2", submission(queue.SubmissionSchema, `{"schema":"attune.request/v2","do":["s.quick"]}`))
	lay(`unknown field "accelerator"`, func(r *queue.Record, _ map[string]any) {
		r.Requirement = json.RawMessage(strings.Replace(string(r.Requirement), "{", `{"accelerator":"tpu",`, 1))
		r.Route = "newer" + r.Route
	})
	before := map[string]string{}
	for id := range left {
		before[id] = p.raw(id)
	}
	time.Sleep(quickAck + 2*time.Second) // each comes twice, and all of them would have been unroutable for long
	for range 10 {
		r, _ := p.run(executor.Request{Action: "s.quick"})
		assert.Equal(t, first.Route, r.Route, "its neighbours go on")
	}
	listed := map[string][]string{}
	all, err := p.client.List(t.Context(), Filter{Unroutable: true})
	require.NoError(t, err)
	for _, s := range all {
		listed[s.ID] = s.Unroutable
	}
	for id, reason := range left {
		assert.Equal(t, before[id], p.raw(id), "nobody wrote it")
		assert.Contains(t, strings.Join(listed[id], "; "), reason)
	}
	dead, err := p.client.DeadLetters(t.Context())
	require.NoError(t, err)
	assert.Empty(t, dead)
	old.drain()
}

func TestUnknownFieldsAreKept(t *testing.T) {
	text := `{"schema":"attune.record/v1","id":"` + uuid.NewString() + `","state":"queued","epoch":0,"attempt":0,"digest":"d","submitted_at":"2030-01-02T03:04:05Z","action":"a","route":"r","requirement":{},"x":{"<":[1.50]},"y":null}`
	r, err := readRecord([]byte(text))
	require.NoError(t, err)
	again, err := encode(r)
	require.NoError(t, err)
	assert.Equal(t, text, string(again))
	claimed, err := r.Claim("w", time.Now())
	require.NoError(t, err)
	again, err = encode(claimed)
	require.NoError(t, err)
	assert.Contains(t, string(again), `"x":{"<":[1.50]},"y":null}`)
	listed, err := json.Marshal(Status{Record: r, Unroutable: []string{"why"}})
	require.NoError(t, err)
	assert.Contains(t, string(listed), `"unroutable_because":["why"]`)
	assert.NotContains(t, r.Unknown, "unroutable_because")
}
