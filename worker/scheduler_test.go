package worker

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
	"github.com/attune-run/attune/queue/natsq"
)

var schedulerPack = map[string]string{
	"s/pack.yaml":            "ref: s\nversion: 1.0.0\n",
	"s/actions/quick.yaml":   "ref: s.quick\nentry_point: quick.sh\n",
	"s/actions/quick.sh":     "true\n",
	"s/actions/limited.yaml": "ref: s.limited\nentry_point: limited.sh\nconcurrency: 2\n",
	"s/actions/limited.sh":   "sleep 0.05\n",
	"s/actions/flaky.yaml":   "ref: s.flaky\nentry_point: flaky.sh\nconcurrency: 2\nretries: {max: 1, backoff: 100ms}\n",
	"s/actions/flaky.sh":     "exit 3\n",
	"s/actions/failing.yaml": "ref: s.failing\nentry_point: failing.sh\nretries: {max: 1, backoff: 30m}\n",
	"s/actions/failing.sh":   "exit 3\n",
}

// patient are timings with which nobody is taken for lost, however busy the machine is.
var patient = Timing{Heartbeat: 500 * time.Millisecond, Fence: 30 * time.Second, Scheduler: 50 * time.Millisecond, Reconcile: 500 * time.Millisecond, Lease: time.Second}

func patiently(m *member) { m.Timing = patient }

// elected is a scheduler that believes to have the role whatever the lease says.
func (p *testPool) elected(name string, changes ...func(*SchedulerConfig)) {
	cfg := SchedulerConfig{Broker: p.broker, Worker: name, Instance: uuid.NewString(), Timing: quick, Log: testLog()}
	for _, change := range changes {
		change(&cfg)
	}
	s := NewScheduler(cfg)
	s.lease.revision, s.lease.renewed = 1, time.Now().Add(time.Hour)
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	t := &term{Scheduler: s, view: newView(), ticks: newTimetable(), wake: make(chan struct{}, 1)}
	group.Go(func() { _ = t.follow(ctx, queue.Runs, t.view.seeRun) })
	group.Go(func() { _ = t.follow(ctx, queue.Workers, always(t.view.seeWorker)) })
	group.Go(func() { _ = t.loop(ctx) })
	p.t.Cleanup(func() { cancel(); group.Wait() })
}

// atOnce follows how many executions of an action are queued or run at the same time; stop gives the most it saw.
func (p *testPool) atOnce(action string) (stop func() int) {
	ctx, cancel := context.WithCancel(context.Background())
	began, done := make(chan struct{}), make(chan int)
	go func() {
		most, now := 0, map[string]bool{}
		for entry, err := range p.broker.Table(queue.Runs).Watch(ctx, "") {
			if err != nil {
				break
			}
			if entry.Op == queue.Current {
				close(began)
				continue
			}
			r, err := readRecord(entry.Value)
			if err != nil || r.Action != action {
				continue
			}
			if delete(now, r.ID); r.State == queue.Queued || r.State == queue.Running {
				now[r.ID] = true
			}
			most = max(most, len(now))
		}
		done <- most
	}()
	<-began
	return func() int { cancel(); return <-done }
}

func TestALimitHoldsWithTwoSchedulers(t *testing.T) {
	for _, action := range []string{"s.limited", "s.flaky"} {
		t.Run(action, func(t *testing.T) {
			p := newTestPool(t, schedulerPack)
			p.serve(patiently)
			p.elected("second")
			p.elected("third")
			stop := p.atOnce(action)
			var ids []string
			for i := range 30 {
				ids = append(ids, p.submit(executor.Request{Action: action, Priority: i%3 - 1}))
			}
			canceled := p.submit(executor.Request{Action: action, Priority: -1})
			_, err := p.client.Cancel(t.Context(), canceled)
			require.NoError(t, err)
			for _, id := range append(ids, canceled) {
				p.result(id)
			}
			assert.Equal(t, 2, stop())
		})
	}
}

func TestWhatIsParkedHoldsNobodyUp(t *testing.T) {
	p := newTestPool(t, schedulerPack)
	p.serve(patiently)
	var parked []string
	for i := range 1000 {
		if i%20 == 0 {
			parked = append(parked, p.submit(executor.Request{Action: "s.failing"}))
			continue
		}
		accepted, err := p.client.Submit(t.Context(), Order{Request: executor.Request{Action: "s.quick"}, In: time.Hour})
		require.NoError(t, err)
		parked = append(parked, accepted.ID)
	}
	for _, id := range parked {
		r := p.record(id, func(r *queue.Record) bool { return r.State == queue.Parked })
		require.True(t, r.NotBefore.After(time.Now().Add(time.Minute)), r.NotBefore)
	}
	p.idle() // none of them lies in the queue
	begun := time.Now()
	for range 20 {
		r, _ := p.run(executor.Request{Action: "s.quick"})
		assert.Equal(t, "succeeded", r.Outcome)
	}
	assert.Less(t, time.Since(begun), 20*time.Second)
	for _, id := range parked[:20] {
		r, err := p.client.Cancel(t.Context(), id)
		require.NoError(t, err)
		assert.Equal(t, "canceled", r.Outcome)
	}
}

// The broker forgets a record a week after its last change.
func TestWhatWaitsForDaysIsWrittenAgain(t *testing.T) {
	p := newTestPool(t, schedulerPack)
	p.serve(patiently)
	before := map[string]queue.Entry{}
	for range 20 {
		accepted, err := p.client.Submit(t.Context(), Order{Request: executor.Request{Action: "s.quick"}, In: 5 * 24 * time.Hour})
		require.NoError(t, err)
		before[accepted.ID], err = p.broker.Table(queue.Runs).Get(t.Context(), accepted.ID)
		require.NoError(t, err)
	}
	p.elected("of a later day", func(c *SchedulerConfig) { c.Now = func() time.Time { return time.Now().Add(4 * 24 * time.Hour) } })
	for id, old := range before {
		require.Eventually(t, func() bool {
			now, err := p.broker.Table(queue.Runs).Get(t.Context(), id)
			require.NoError(t, err)
			assert.Equal(t, string(old.Value), string(now.Value))
			return now.Revision > old.Revision
		}, 20*time.Second, 20*time.Millisecond)
	}
}

func TestWhatIsDelayedComesInTime(t *testing.T) {
	p := newTestPool(t, schedulerPack)
	p.serve(patiently)
	begun := time.Now()
	accepted, err := p.client.Submit(t.Context(), Order{Request: executor.Request{Action: "s.quick"}, In: 700 * time.Millisecond})
	require.NoError(t, err)
	assert.Equal(t, queue.Parked, accepted.State)
	r, _ := p.result(accepted.ID)
	assert.Equal(t, "succeeded", r.Outcome)
	assert.GreaterOrEqual(t, r.ClaimedAt.Sub(begun), 600*time.Millisecond)
	assert.Less(t, r.ClaimedAt.Sub(begun), 5*time.Second)
}

func TestWhatNobodyCanRunIsShownAndEnds(t *testing.T) {
	p := newTestPool(t, schedulerPack)
	timing := patient
	timing.Fence, timing.Unroutable = time.Second, 1500*time.Millisecond
	p.client = NewClient(ClientConfig{Broker: p.broker, Unroutable: timing.Unroutable})
	p.serve(func(m *member) { m.Timing, m.Labels = timing, map[string]string{"zone": "a"} })
	id := p.submit(executor.Request{Action: "s.quick", Selector: map[string]any{"zone": "b"}})
	all, err := p.client.List(t.Context(), Filter{Unroutable: true})
	require.NoError(t, err)
	require.Len(t, all, 1)
	assert.Equal(t, []string{"one: it does not have label zone=b"}, all[0].Unroutable)
	info, err := p.client.QueueInfo(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "one", info.Scheduler.Worker)
	require.Len(t, info.Routes, 1)
	assert.Equal(t, 0, info.Routes[0].Workers)

	r, result := p.result(id)
	assert.Equal(t, "error", r.Outcome)
	require.NotNil(t, result.Error)
	assert.Equal(t, "unroutable", result.Error.Kind)
	assert.Contains(t, result.Error.Message, "it does not have label zone=b")
	assert.GreaterOrEqual(t, r.FinishedAt.Sub(r.SubmittedAt), timing.Unroutable)
	require.Eventually(t, func() bool { return slices.Equal([]string{"submit", "result"}, p.audit(id)) }, 20*time.Second, 10*time.Millisecond)
	p.idle()

	// Who comes before the deadline takes it.
	other := p.submit(executor.Request{Action: "s.quick", Selector: map[string]any{"zone": "c"}})
	p.serve(func(m *member) { m.Name, m.Timing, m.Labels = "two", timing, map[string]string{"zone": "c"} })
	r, _ = p.result(other)
	assert.Equal(t, "succeeded", r.Outcome)
	assert.Equal(t, "two", r.Worker)
}

func TestALostMessageIsLaidAgain(t *testing.T) {
	p := newTestPool(t, schedulerPack)
	p.serve(patiently)
	prepared, err := p.client.prepare(t.Context(), Order{Request: executor.Request{Action: "s.quick"}})
	require.NoError(t, err)
	value, err := encode(prepared.record)
	require.NoError(t, err)
	_, err = p.broker.Table(queue.Runs).Create(t.Context(), prepared.record.ID, value) // and the submitter is gone
	require.NoError(t, err)
	r, _ := p.result(prepared.record.ID)
	assert.Equal(t, "succeeded", r.Outcome)
}

func TestAMessageThatWasLaidAgainMayBeLostAgain(t *testing.T) {
	p := newTestPool(t, schedulerPack)
	p.serve(patiently)
	prepared, err := p.client.prepare(t.Context(), Order{Request: executor.Request{Action: "s.quick", Selector: map[string]any{"moon": "yes"}}})
	require.NoError(t, err)
	value, err := encode(prepared.record)
	require.NoError(t, err)
	_, err = p.broker.Table(queue.Runs).Create(t.Context(), prepared.record.ID, value)
	require.NoError(t, err)
	m := queue.Message{Route: prepared.record.Route, ID: prepared.record.ID}
	for range 2 {
		require.Eventually(t, func() bool {
			there, err := p.broker.Work().Waiting(t.Context(), m)
			return err == nil && there
		}, 20*time.Second, 10*time.Millisecond)
		require.NoError(t, p.broker.Work().Remove(t.Context(), m))
	}
}

// The server in this process does not sync what wakes workers: a power cut takes some of it away, at worst all.
func TestAllMessagesMayBeLostWithTheMachine(t *testing.T) {
	p := newTestPool(t, schedulerPack)
	_, stop := p.serve(patiently)
	waiting := executor.Request{Action: "s.quick", Selector: map[string]any{"zone": "b"}}
	ids := []string{p.submit(waiting), p.submit(waiting), p.submit(waiting)}
	stop()
	require.NoError(t, p.broker.Close())
	require.NoError(t, os.RemoveAll(filepath.Join(p.store, "jetstream", "$G", "streams", "EXEC")))
	var err error
	p.broker, err = natsq.Open(t.Context(), natsq.Options{Store: p.store, AckWait: quickAck, WorkerTTL: 3 * time.Second})
	require.NoError(t, err)
	p.client = NewClient(ClientConfig{Broker: p.broker})
	p.serve(func(m *member) { patiently(m); m.Labels = map[string]string{"zone": "b"} })
	for _, id := range ids {
		r, _ := p.result(id)
		assert.Equal(t, "succeeded", r.Outcome)
		assert.EqualValues(t, 1, r.Epoch)
	}
}

// mismatched is how many requests are spread over workers that can run some of them only; 10000 is the long form.
var mismatched = flag.Int("mismatched", 120, "requests over mismatched workers")

func TestMismatchedWorkersGetNothingWrong(t *testing.T) {
	p := newTestPool(t, schedulerPack)
	has := map[string]map[string]string{
		"a": {"zone": "a", "disk": "ssd"}, "b": {"zone": "b"}, "ab": {"zone": "b", "disk": "ssd"},
	}
	for name, labels := range has {
		p.serve(func(m *member) { m.Name, m.Labels, m.Slots, m.Timing = name, labels, 2, patient })
	}
	wishes := []map[string]any{{"zone": "a"}, {"zone": "b"}, {"disk": "ssd"}, {"zone": "b", "disk": "ssd"}, {"zone": "a", "disk": "ssd"}, nil}
	// One submitter would wait for two synchronous writes each time; as many as the command line takes from stdin at once keep ahead of
	// the workers.
	var mu sync.Mutex
	wanted := map[string]map[string]any{}
	var submitters errgroup.Group
	submitters.SetLimit(32)
	for range *mismatched {
		wish, priority := wishes[rand.IntN(len(wishes))], rand.IntN(3)-1
		submitters.Go(func() error {
			accepted, err := p.client.Submit(t.Context(), Order{Request: executor.Request{Action: "s.quick", Selector: wish, Priority: priority}})
			mu.Lock()
			defer mu.Unlock()
			wanted[accepted.ID] = wish
			return err
		})
	}
	require.NoError(t, submitters.Wait())
	patience, cancel := context.WithTimeout(t.Context(), 40*time.Second+time.Duration(*mismatched)*50*time.Millisecond)
	defer cancel()
	for id, wish := range wanted {
		r, err := p.client.Wait(patience, id)
		require.NoError(t, err)
		require.Equal(t, "succeeded", r.Outcome)
		for name, value := range wish {
			require.Equal(t, value, has[r.Worker][name], "%s ran on %s", id, r.Worker)
		}
		require.EqualValues(t, 1, r.Epoch)
	}
	p.idle()
}

// ticksOf are the executions of a schedule, by their tick.
func (p *testPool) ticksOf(name string) map[time.Time]*queue.Record {
	p.t.Helper()
	all := map[time.Time]*queue.Record{}
	for entry, err := range p.broker.Table(queue.Runs).List(p.t.Context(), "") {
		require.NoError(p.t, err)
		r, err := readRecord(entry.Value)
		require.NoError(p.t, err)
		if r.Schedule != nil && r.Schedule.Name == name {
			require.Equal(p.t, tickID(name, r.Schedule.At), r.ID)
			all[r.Schedule.At] = r
		}
	}
	return all
}

func TestAKilledSchedulerMissesNoTick(t *testing.T) {
	p := newTestPool(t, schedulerPack)
	members := map[string]*process{}
	for i := range 3 {
		name := fmt.Sprint("w", i)
		members[name] = p.spawn(func(m *member) { m.Name = name })
	}
	require.Eventually(t, func() bool {
		all, err := p.client.Catalog(t.Context(), "s")
		return err == nil && len(all) > 0
	}, 10*time.Second, 10*time.Millisecond)
	_, err := p.client.AddSchedule(t.Context(), NewSchedule{Name: "beat", Cron: "@every 1s", Missed: MissedAll, Request: executor.Request{Action: "s.quick"}}, false)
	require.NoError(t, err)
	killed := 0
	for seen := 0; killed < 2; {
		require.Eventually(t, func() bool { return len(p.ticksOf("beat")) > seen }, 20*time.Second, time.Millisecond)
		seen = len(p.ticksOf("beat"))
		entry, err := p.broker.Table(queue.Leases).Get(t.Context(), schedulerRole)
		require.NoError(t, err)
		var lease queue.Lease
		require.NoError(t, json.Unmarshal(entry.Value, &lease))
		if leader := members[lease.Worker]; leader != nil && leader.ProcessState == nil {
			leader.signal(syscall.SIGKILL)
			_ = leader.Wait()
			killed++
		}
	}
	before := len(p.ticksOf("beat"))
	require.Eventually(t, func() bool { return len(p.ticksOf("beat")) > before+3 }, 30*time.Second, 20*time.Millisecond)
	require.NoError(t, p.client.RemoveSchedule(t.Context(), "beat"))
	all := p.ticksOf("beat")
	first, last := time.Now(), time.Time{}
	for at, r := range all {
		if at.Before(first) {
			first = at
		}
		if at.After(last) {
			last = at
		}
		done, _ := p.result(r.ID)
		assert.Contains(t, []string{"succeeded", "interrupted"}, done.Outcome)
	}
	assert.Len(t, all, int(last.Sub(first)/time.Second)+1, "each tick once")
}

func TestASignedScheduleRunsWhereKeysCount(t *testing.T) {
	p := newTestPool(t, schedulerPack)
	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	p.serve(func(m *member) { m.Keys = []Key{{Name: "ops", Public: public}} })
	signer := NewClient(ClientConfig{Broker: p.broker, Key: private})
	_, err = signer.AddSchedule(t.Context(), NewSchedule{Name: "signed", Cron: "@every 1s", Request: executor.Request{Action: "s.quick"}}, false)
	require.NoError(t, err)
	_, err = p.client.AddSchedule(t.Context(), NewSchedule{Name: "unsigned", Cron: "@every 1s", Request: executor.Request{Action: "s.quick"}}, false)
	require.NoError(t, err)
	ended := func(name, outcome string) func() bool {
		return func() bool {
			for _, r := range p.ticksOf(name) {
				if r.Outcome == outcome {
					return true
				}
			}
			return false
		}
	}
	require.Eventually(t, ended("signed", "succeeded"), 20*time.Second, 20*time.Millisecond)
	require.Eventually(t, ended("unsigned", "error"), 20*time.Second, 20*time.Millisecond)
	all, err := p.client.Schedules(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 2)
	assert.NotEmpty(t, all[0].Pack.Digest)
	assert.Empty(t, all[1].Pack.Digest)
	assert.Equal(t, "s.quick", all[0].Action())
	assert.False(t, all[0].LastTick.IsZero())
}

func TestSchedulesAreCheckedWhenTheyAreAdded(t *testing.T) {
	client := offeringClient(t, embeddedBroker(t))
	add := func(n NewSchedule) string {
		_, err := client.AddSchedule(t.Context(), n, false)
		if err == nil {
			return ""
		}
		return err.Error()
	}
	req := executor.Request{Action: "t.echo"}
	assert.Contains(t, add(NewSchedule{Name: "x", Cron: "61 * * * *", Request: req}), "61 * * * *")
	assert.Contains(t, add(NewSchedule{Name: "x", Cron: "@daily", Request: executor.Request{Action: "t.ecko"}}), "did you mean t.echo?")
	assert.Contains(t, add(NewSchedule{Name: "x", Cron: "@daily", Request: executor.Request{ID: uuid.NewString(), Action: "t.echo"}}), "neither an id nor a time")
	assert.Empty(t, add(NewSchedule{Name: "x", Cron: "@daily", Zone: "Europe/Berlin", Request: req}))
	assert.Contains(t, add(NewSchedule{Name: "x", Cron: "@daily", Request: req}), "already")
	_, err := client.AddSchedule(t.Context(), NewSchedule{Name: "x", Cron: "@hourly", Request: req}, true)
	require.NoError(t, err)
	require.NoError(t, client.RemoveSchedule(t.Context(), "x"))
	assert.ErrorContains(t, client.RemoveSchedule(t.Context(), "x"), "there is no schedule x")
}

func TestTicksWithAnotherClock(t *testing.T) {
	broker := embeddedBroker(t)
	client := offeringClient(t, broker)
	var clock atomic.Int64
	clock.Store(time.Date(2026, 3, 28, 12, 0, 0, 0, time.UTC).UnixNano())
	now := func() time.Time { return time.Unix(0, clock.Load()) }
	adder := NewClient(ClientConfig{Broker: broker, Now: now})
	_, err := adder.AddSchedule(t.Context(), NewSchedule{Name: "night", Cron: "30 2 * * *", Zone: "Europe/Berlin", Missed: MissedOnce, Request: executor.Request{Action: "t.echo"}}, false)
	require.NoError(t, err)
	s := NewScheduler(SchedulerConfig{Broker: broker, Worker: "w", Instance: "i", Timing: quick, Now: now})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	defer func() { cancel(); <-done }()
	last := func() time.Time {
		all, err := client.Schedules(t.Context())
		require.NoError(t, err)
		return all[0].LastTick
	}
	reaches := func(at, tick time.Time) {
		clock.Store(at.UnixNano())
		require.Eventually(t, func() bool { return last().Equal(tick) }, 10*time.Second, 5*time.Millisecond)
	}
	spring := time.Date(2026, 3, 29, 1, 30, 0, 0, time.UTC) // the clocks jumped over 02:30
	reaches(spring.Add(time.Second), spring)
	later := time.Date(2026, 10, 25, 0, 30, 0, 0, time.UTC) // half a year without a scheduler; the first 02:30 of two
	reaches(later.Add(90*time.Minute), later)
	pool := &testPool{t: t, broker: broker}
	var ticks []string
	for at := range pool.ticksOf("night") {
		ticks = append(ticks, at.Format(time.RFC3339))
	}
	assert.ElementsMatch(t, []string{"2026-03-29T01:30:00Z", "2026-10-25T00:30:00Z"}, ticks)
}

func TestARefusedTickShows(t *testing.T) {
	broker := embeddedBroker(t)
	client := offeringClient(t, broker)
	_, err := client.AddSchedule(t.Context(), NewSchedule{Name: "beat", Cron: "@every 1s", Request: executor.Request{Action: "t.echo"}}, false)
	require.NoError(t, err)
	pool := &testPool{t: t, broker: broker}
	_, err = client.RemovePack(t.Context(), "t", true)
	require.NoError(t, err)
	s := NewScheduler(SchedulerConfig{Broker: broker, Worker: "w", Instance: "i", Timing: quick})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	defer func() { cancel(); <-done }()
	trouble := func() string {
		all, err := client.Schedules(t.Context())
		require.NoError(t, err)
		return all[0].Trouble()
	}
	require.Eventually(t, func() bool { return trouble() != "" }, 20*time.Second, 10*time.Millisecond)
	assert.Contains(t, trouble(), "t.echo")
	assert.Empty(t, pool.ticksOf("beat"))
	offeringClient(t, broker)
	require.Eventually(t, func() bool { return trouble() == "" && len(pool.ticksOf("beat")) > 0 }, 20*time.Second, 10*time.Millisecond)
}

// A submitter, a scheduler and a worker whose clocks differ by hours: a delay is a delay, and what waits for a worker waits as long.
func TestClocksThatDiffer(t *testing.T) {
	t.Parallel()
	p := newTestPool(t, schedulerPack)
	p.serve(patiently)
	for _, wrong := range []time.Duration{-3 * time.Hour, 3 * time.Hour} {
		wrongly := func() time.Time { return time.Now().Add(wrong) }
		begun := time.Now()
		accepted, err := p.client.Submit(t.Context(), Order{Request: executor.Request{Action: "s.quick"}, In: time.Second})
		require.NoError(t, err)
		// As it was before clients looked at the broker's clock, or with one that cannot: never early by more than it is wrong.
		other, err := NewClient(ClientConfig{Broker: p.broker, Now: wrongly}).Submit(t.Context(), Order{Request: executor.Request{Action: "s.quick"}, In: 4 * time.Hour})
		require.NoError(t, err)
		r, _ := p.result(accepted.ID)
		assert.GreaterOrEqual(t, r.ClaimedAt.Sub(begun), time.Second-50*time.Millisecond)
		late, err := p.client.Record(t.Context(), other.ID)
		require.NoError(t, err)
		assert.Equal(t, queue.Parked, late.State)
		assert.WithinDuration(t, time.Now().Add(4*time.Hour+wrong), late.NotBefore, 10*time.Second)
	}
}

// The broker's clock is put forward and back by hours while things wait: nothing is lost, and nothing comes before its time has come
// by some clock that was shown.
func TestTheClockJumps(t *testing.T) {
	t.Parallel()
	p := newTestPool(t, schedulerPack)
	sound, by := p.broker, &atomic.Int64{}
	p.broker = shifted{sound, by}
	p.client = NewClient(ClientConfig{Broker: p.broker})
	p.serve(patiently) // looks at the clock at each heartbeat
	p.broker = sound
	jump := func(to time.Duration) {
		by.Store(int64(to))
		time.Sleep(3 * patient.Heartbeat) // until everybody has looked
	}
	in := func(delay time.Duration) string {
		accepted, err := p.client.Submit(t.Context(), Order{Request: executor.Request{Action: "s.quick"}, In: delay})
		require.NoError(t, err)
		return accepted.ID
	}
	hour := in(time.Hour)
	jump(-2 * time.Hour)
	short := in(time.Second) // the client looked within the minute: it is three hours ahead, and the scheduler is not
	r, err := p.client.Record(t.Context(), hour)
	require.NoError(t, err)
	assert.Equal(t, queue.Parked, r.State)
	quick, _ := p.run(executor.Request{Action: "s.quick"})
	assert.Equal(t, "succeeded", quick.Outcome, "what need not wait does not")
	jump(0)
	r, _ = p.result(short)
	assert.Equal(t, "succeeded", r.Outcome)
	r, err = p.client.Record(t.Context(), hour)
	require.NoError(t, err)
	assert.Equal(t, queue.Parked, r.State, "its time has not come")
	jump(2 * time.Hour)
	r, _ = p.result(hour)
	assert.Equal(t, "succeeded", r.Outcome)
	jump(0)
	r, _ = p.run(executor.Request{Action: "s.failing", Retries: &executor.Retries{Max: 1, Backoff: executor.Duration(200 * time.Millisecond)}})
	assert.Equal(t, 2, r.Attempt)
	p.idle()
}

func TestAScheduleAfterTheClockWasAhead(t *testing.T) {
	t.Parallel()
	broker := embeddedBroker(t)
	offeringClient(t, broker)
	var ahead atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	client := NewClient(ClientConfig{Broker: broker, Now: now})
	_, err := client.AddSchedule(t.Context(), NewSchedule{Name: "often", Cron: "@every 1s", Request: executor.Request{Action: "t.echo"}}, false)
	require.NoError(t, err)
	s := NewScheduler(SchedulerConfig{Broker: broker, Worker: "w", Instance: "i", Timing: quick, Now: now})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	defer func() { cancel(); <-done }()
	pool := &testPool{t: t, broker: broker}
	lastTick := func() (last time.Time) {
		for at := range pool.ticksOf("often") {
			if at.After(last) {
				last = at
			}
		}
		return last
	}
	for _, jump := range []time.Duration{0, 5 * time.Hour, 0} {
		ahead.Store(int64(jump))
		from := now()
		require.Eventually(t, func() bool {
			all := pool.ticksOf("often")
			n := 0
			for at := range all {
				if at.After(from) && at.Before(from.Add(time.Minute)) {
					n++
				}
			}
			return n >= 2
		}, 30*time.Second, 20*time.Millisecond, "ticks come, also after the clock was put back: %s", lastTick())
	}
}

func TestTheRoleIsOnesAlone(t *testing.T) {
	broker := embeddedBroker(t)
	candidate := func(name string) *lease {
		return newLease(broker.Table(queue.Leases), queue.Lease{Worker: name, Instance: name}, 400*time.Millisecond)
	}
	first, second := candidate("first"), candidate("second")
	require.NoError(t, first.acquire(t.Context(), time.Now))
	ctx, freeze := context.WithCancel(t.Context())
	kept := make(chan error, 1)
	go func() { kept <- first.keep(ctx) }()
	short, cancel := context.WithTimeout(t.Context(), 1200*time.Millisecond)
	defer cancel()
	require.Error(t, second.acquire(short, time.Now), "the first renews it")
	assert.True(t, first.valid())
	freeze()
	<-kept
	require.NoError(t, second.acquire(t.Context(), time.Now))
	assert.False(t, first.valid(), "it stopped believing before")
	assert.ErrorIs(t, first.keep(t.Context()), errNotElected)
	second.release()
	require.NoError(t, candidate("third").acquire(t.Context(), time.Now))
}

func TestDeadLetters(t *testing.T) {
	broker := embeddedBroker(t)
	client := offeringClient(t, broker)
	accepted, err := client.Submit(t.Context(), action("t.echo"))
	require.NoError(t, err)
	r, err := client.Record(t.Context(), accepted.ID)
	require.NoError(t, err)
	record, err := encode(r)
	require.NoError(t, err)
	for id, document := range map[string]json.RawMessage{accepted.ID: record, "broken": json.RawMessage(`"nonsense"`)} {
		value, err := encode(queue.DeadLetter{Schema: queue.DeadSchema, ID: id, Reason: "because", At: time.Now(), Record: document})
		require.NoError(t, err)
		_, err = broker.Table(queue.Dead).Put(t.Context(), id, value)
		require.NoError(t, err)
	}
	all, err := client.DeadLetters(t.Context())
	require.NoError(t, err)
	assert.Len(t, all, 2)
	_, err = client.RetryDead(t.Context(), "broken")
	assert.ErrorContains(t, err, "cannot be submitted again")
	again, err := client.RetryDead(t.Context(), accepted.ID)
	require.NoError(t, err)
	assert.NotEqual(t, accepted.ID, again.ID)
	assert.Equal(t, queue.Queued, again.State)
	require.NoError(t, client.DropDead(t.Context(), "broken"))
	assert.ErrorContains(t, client.DropDead(t.Context(), "broken"), "there is no dead letter")
	var did []string
	for line, err := range client.Audit(t.Context(), time.Time{}, false) {
		require.NoError(t, err)
		did = append(did, line.What)
	}
	assert.Equal(t, "packs.push submit submit dlq.retry drop", strings.Join(did, " "))
}
