package chaos

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
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

func onLostFail(r *executor.Request) { r.OnLost = queue.OnLostFail }

// settled checks the history of what was accepted. The audit's last line comes after the result, where its worker was killed by another's
// hand.
func (p *pool) settled(accepted ...string) {
	p.t.Helper()
	var o outcome
	if !assert.Eventually(p.t, func() bool {
		o = p.check(accepted, &history{})
		return len(o.bad) == 0
	}, 30*time.Second+time.Duration(len(accepted))*10*time.Millisecond, 200*time.Millisecond) {
		assert.Empty(p.t, o.bad)
	}
}

func TestAWorkerThatIsKilledMidRun(t *testing.T) {
	t.Parallel()
	p := newPool(t)
	first := p.serve().awaitReady(t)
	fail, retry := p.submit(p.work("1.5", onLostFail)), p.submit(p.work("1.5"))
	p.awaitStart(fail)
	p.awaitStart(retry)
	first.kill()
	p.serve().awaitReady(t)

	r := p.wait(fail)
	assert.Equal(t, string(executor.Interrupted), r.Outcome)
	assert.Contains(t, string(r.Result), `"kind":"lost"`)
	assert.Len(t, p.starts()[fail], 1, "side effects are not repeated unless somebody asks for it")
	r = p.wait(retry)
	assert.Equal(t, string(executor.Succeeded), r.Outcome)
	assert.Equal(t, uint64(2), r.Epoch)
	assert.Len(t, p.starts()[retry], 2)
	p.settled(fail, retry)
}

// A worker that was frozen past the ack wait comes back with a result that is nobody's any more.
func TestAFrozenWorkerIsFenced(t *testing.T) {
	t.Parallel()
	p := newPool(t)
	frozen := p.serve().awaitReady(t)
	id := p.submit(p.work("0.7"))
	p.awaitStart(id)
	frozen.signal(syscall.SIGSTOP)
	p.serve().awaitReady(t)
	r := p.wait(id)
	assert.Equal(t, string(executor.Succeeded), r.Outcome)
	assert.Equal(t, uint64(2), r.Epoch)
	frozen.signal(syscall.SIGCONT)
	require.Eventually(t, func() bool { return strings.Contains(frozen.metrics(t), "attune_fenced_total 1") }, 30*time.Second, 50*time.Millisecond, frozen.log())
	after, err := p.client.Record(t.Context(), id)
	require.NoError(t, err)
	assert.Equal(t, r, after)
	p.settled(id)
	// It goes on as a worker of the pool.
	more := p.submit(p.work("0"))
	p.wait(more)
	frozen.signal(syscall.SIGTERM)
	assert.Zero(t, frozen.exit(t), frozen.log())
}

// A worker that cannot reach the broker kills its child before another may have the execution.
func TestAWorkerThatIsCutOff(t *testing.T) {
	t.Parallel()
	p := newPool(t)
	link := p.link()
	cut := p.serveAt(link.url).awaitReady(t)
	id := p.submit(p.work("20"))
	p.awaitStart(id)
	link.set(true)
	begun := time.Now()
	require.Eventually(t, func() bool { return strings.Contains(cut.metrics(t), "attune_fenced_total 1") }, 30*time.Second, 20*time.Millisecond, cut.log())
	assert.Less(t, time.Since(begun), fence+2*time.Second, cut.log())
	short := p.submit(p.work("0"))
	p.serve().awaitReady(t)
	p.wait(short)
	r, err := p.client.Cancel(t.Context(), id) // twenty seconds are long
	require.NoError(t, err)
	r = p.wait(r.ID)
	assert.Equal(t, string(executor.Canceled), r.Outcome)
	link.set(false)
	after := p.submit(p.work("0"))
	p.wait(after)
	p.settled(id, short, after)
}

func TestTheBrokerIsKilledWhileWorkRuns(t *testing.T) {
	t.Parallel()
	p := newPool(t)
	w := p.serve().awaitReady(t)
	id := p.submit(p.work("0.4", onLostFail))
	p.awaitStart(id)
	p.brokers[0].kill() // the result cannot be stored when it is there
	time.Sleep(600 * time.Millisecond)
	p.startBroker(0)
	r := p.wait(id)
	assert.Equal(t, string(executor.Succeeded), r.Outcome, "%s\n%s", r.Result, w.log())
	assert.Equal(t, uint64(1), r.Epoch)
	p.settled(id)
}

// Without a URL the server is in the worker's own process, and dies with it.
func TestTheEmbeddedServerIsKilledUnderLoad(t *testing.T) {
	t.Parallel()
	p := newDir(t)
	store := p.dir + "/store"
	serve := func() *server { return p.serveWith("--store", store).awaitReady(t) }
	first := serve()
	found, err := natsq.Discover(store)
	require.NoError(t, err)
	p.connect(found)
	var accepted []string
	for range 40 {
		accepted = append(accepted, p.submit(p.work("0.05")))
	}
	second := p.serveWith("--store", store)
	assert.NotZero(t, second.exit(t), "a store has one server")
	assert.Contains(t, second.log(), "served already by process")
	first.kill()
	again := serve()
	found, err = natsq.Discover(store)
	require.NoError(t, err)
	p.connect(found)
	for _, id := range accepted {
		assert.Equal(t, string(executor.Succeeded), p.wait(id).Outcome)
	}
	p.settled(accepted...)
	again.signal(syscall.SIGTERM)
	assert.Zero(t, again.exit(t), again.log())
}

func TestOneHundredOfOneID(t *testing.T) {
	t.Parallel()
	p := newPool(t)
	p.serve().awaitReady(t)
	p.serve().awaitReady(t)
	order := p.work("0.2", func(r *executor.Request) { r.ID = uuid.NewString() })
	var wg sync.WaitGroup
	hundred := func() {
		for range 100 {
			wg.Go(func() {
				accepted, err := p.client.Submit(t.Context(), order)
				assert.NoError(t, err)
				assert.Equal(t, order.Request.ID, accepted.ID)
			})
		}
		wg.Wait()
	}
	hundred()
	p.awaitStart(order.Request.ID)
	hundred()
	r := p.wait(order.Request.ID)
	hundred()
	other := order
	other.Request.Parameters = map[string]any{"ledger": p.ledger, "seconds": number("0.3")}
	_, err := p.client.Submit(t.Context(), other)
	assert.ErrorContains(t, err, "with another request")
	assert.Len(t, p.starts()[order.Request.ID], 1)
	assert.Equal(t, uint64(1), r.Epoch)
	p.settled(order.Request.ID)
}

// What cannot be read is put aside once, and keeps nobody waiting.
func TestPoison(t *testing.T) {
	t.Parallel()
	p := newPool(t)
	p.serve().awaitReady(t)
	first := p.submit(p.work("0"))
	route := p.wait(first).Route
	poison := uuid.NewString()
	_, err := p.direct.Table(queue.Runs).Create(t.Context(), poison, []byte(`{"schema":`))
	require.NoError(t, err)
	orphan := uuid.NewString() // a message without a record
	for _, id := range []string{poison, orphan} {
		require.NoError(t, p.direct.Work().Publish(t.Context(), queue.Message{Route: route, ID: id}))
	}
	var accepted []string
	for range 20 {
		accepted = append(accepted, p.submit(p.work("0")))
	}
	for _, id := range accepted {
		p.wait(id)
	}
	for _, id := range []string{poison, orphan} {
		require.Eventually(t, func() bool {
			_, err := p.direct.Table(queue.Dead).Get(t.Context(), id)
			return err == nil
		}, 30*time.Second, 20*time.Millisecond)
		require.Eventually(t, func() bool {
			waiting, err := p.direct.Work().Waiting(t.Context(), queue.Message{Route: route, ID: id})
			return err == nil && !waiting
		}, 30*time.Second, 20*time.Millisecond, "it comes once")
	}
	p.settled(accepted...)
}

// An execution that takes its worker down each time comes to an end.
func TestAnExecutionThatKillsItsWorkers(t *testing.T) {
	t.Parallel()
	p := newPool(t)
	id := p.submit(p.work("30"))
	neighbours := []string{}
	for attempt := 1; attempt <= queue.LostMax; attempt++ {
		w := p.serve().awaitReady(t)
		require.Eventually(t, func() bool { return len(p.starts()[id]) == attempt }, 60*time.Second, 10*time.Millisecond)
		n := p.submit(p.work("0"))
		p.wait(n)
		neighbours = append(neighbours, n)
		w.kill()
	}
	p.serve().awaitReady(t)
	r := p.wait(id)
	assert.Equal(t, string(executor.Interrupted), r.Outcome)
	assert.Equal(t, queue.LostMax, r.Attempt)
	p.settled(append(neighbours, id)...)
}

func TestDrains(t *testing.T) {
	t.Parallel()
	p := newPool(t)
	first := p.serve().awaitReady(t)
	finishes := p.submit(p.work("0.6", onLostFail))
	p.awaitStart(finishes)
	first.signal(syscall.SIGTERM)
	queued := p.submit(p.work("0", onLostFail))
	assert.Zero(t, first.exit(t), first.log())
	assert.Equal(t, string(executor.Succeeded), p.wait(finishes).Outcome, "what runs is finished within the grace")
	workers, err := p.client.Workers(t.Context())
	require.NoError(t, err)
	assert.Empty(t, workers, "it is deregistered")

	second := p.serve().awaitReady(t)
	assert.Equal(t, uint64(1), p.wait(queued).Epoch, "a worker that drains takes nothing")
	interrupted := p.submit(p.work("30", onLostFail))
	retried := p.submit(p.work("1"))
	p.awaitStart(interrupted)
	p.awaitStart(retried)
	begun := time.Now()
	second.signal(syscall.SIGTERM)
	require.Eventually(t, func() bool { return strings.Contains(second.log(), "draining: no more work") }, 10*time.Second, 10*time.Millisecond)
	second.signal(syscall.SIGTERM)
	assert.Zero(t, second.exit(t), second.log())
	assert.Less(t, time.Since(begun), 15*time.Second)
	assert.Equal(t, string(executor.Interrupted), p.wait(interrupted).Outcome)
	p.serve().awaitReady(t)
	assert.Equal(t, string(executor.Succeeded), p.wait(retried).Outcome)
	p.settled(finishes, queued, interrupted, retried)
}

func TestCancellations(t *testing.T) {
	t.Parallel()
	p := newPool(t)
	queued := p.submit(p.work("0"))
	_, err := p.client.Cancel(t.Context(), queued)
	require.NoError(t, err)
	w := p.serve().awaitReady(t)
	running := p.submit(p.work("30"))
	p.awaitStart(running)
	begun := time.Now()
	_, err = p.client.Cancel(t.Context(), running)
	require.NoError(t, err)
	for _, id := range []string{queued, running} {
		assert.Equal(t, string(executor.Canceled), p.wait(id).Outcome)
	}
	assert.Less(t, time.Since(begun), 5*time.Second, "gone within two seconds, and what the machine needs\n%s", w.log())
	assert.Empty(t, p.starts()[queued])
	p.settled(queued, running)
}

// Whoever reads logs slowly holds nobody up, and is told where something is missing.
func TestASlowReaderOfLogs(t *testing.T) {
	t.Parallel()
	p := newPool(t)
	p.serve().awaitReady(t)
	id := p.submit(p.work("0", func(r *executor.Request) { r.Action, r.Parameters = "chaos.shout", nil }))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	read := make(chan []queue.LogChunk)
	go func() {
		var chunks []queue.LogChunk
		for chunk, err := range p.client.Logs(ctx, id, true) {
			if err != nil {
				break
			}
			chunks = append(chunks, chunk)
			time.Sleep(time.Millisecond)
		}
		read <- chunks
	}()
	r := p.wait(id)
	assert.Equal(t, string(executor.Succeeded), r.Outcome)
	var chunks []queue.LogChunk
	select {
	case chunks = <-read:
	case <-time.After(60 * time.Second):
		require.Fail(t, "the log does not end")
	}
	require.NotEmpty(t, chunks)
	last, bytes, gaps := uint64(0), 0, 0
	for _, chunk := range chunks {
		assert.Greater(t, chunk.Number, last)
		assert.LessOrEqual(t, len(chunk.Data), queue.ChunkMax)
		if chunk.Number != last+1 {
			gaps++
		}
		last, bytes = chunk.Number, bytes+len(chunk.Data)
	}
	if whole := 20_000_000 + (20_000_000+98)/99 - 1; bytes != whole { // fold ends every line but the last
		assert.Positive(t, gaps, "%d bytes of %d, and no gap shows", bytes, whole)
	}
}

var mismatched = flag.Int("mismatched", 150, "how many executions meet workers that are able to run only some of them")

// What a worker is not able to run never reaches it.
func TestMismatchedWorkers(t *testing.T) {
	t.Parallel()
	p := newPool(t)
	zones := map[string]string{}
	for _, zone := range []string{"a", "b", "c"} {
		w := p.serve("--labels", "zone="+zone).awaitReady(t)
		zones[w.name] = zone
	}
	tainted := p.serve("--taints", "gpu=yes", "--labels", "zone=a").awaitReady(t)
	begun := time.Now()
	accepted := make([]string, *mismatched)
	var submitters errgroup.Group
	submitters.SetLimit(16)
	for i := range accepted {
		submitters.Go(func() (err error) {
			order := p.work("0", func(r *executor.Request) { r.Selector = map[string]any{"zone": string("abc"[i%3])} })
			a, err := p.client.Submit(t.Context(), order)
			accepted[i] = a.ID
			return err
		})
	}
	require.NoError(t, submitters.Wait())
	submitted := time.Since(begun)
	for i, id := range accepted {
		r := p.wait(id)
		assert.Equal(t, string("abc"[i%3]), zones[r.Worker], "%s ran on %s", id, r.Worker)
		assert.NotEqual(t, tainted.name, r.Worker)
	}
	t.Logf("%d submitted in %s, all done after %s", len(accepted), submitted.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond))
	p.settled(accepted...)
}

// The disk of a worker's own server has no room any more: nothing is accepted, the worker says why, and goes on by itself when there is.
func TestTheDiskIsFull(t *testing.T) {
	t.Parallel()
	p := newDir(t)
	disk := filepath.Join(p.dir, "disk")
	require.NoError(t, os.Mkdir(disk, 0o700))
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=96m"); errors.Is(err, syscall.EPERM) {
		t.Skip("file systems cannot be mounted here")
	} else {
		require.NoError(t, err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_FORCE|2) }) // 2: MNT_DETACH
	store := filepath.Join(disk, "store")
	w := p.serveWith("--store", store).awaitReady(t)
	found, err := natsq.Discover(store)
	require.NoError(t, err)
	p.connect(found)
	accepted := []string{p.submit(p.work("0")), p.submit(p.work("2"))} // one is over, one runs when it happens
	p.wait(accepted[0])
	p.awaitStart(accepted[1])

	other := filepath.Join(disk, "other")
	fillUp(t, other)
	_, err = p.client.Submit(t.Context(), p.work("0"))
	require.ErrorIs(t, err, queue.ErrFull)
	blind := found // looks at no disk, so that the server itself finds out
	blind.Store, blind.Timeout = "", 500*time.Millisecond
	direct, err := natsq.Open(t.Context(), blind)
	require.NoError(t, err)
	defer func() { _ = direct.Close() }()
	require.Eventually(t, func() bool {
		_, err := direct.Table(queue.Runs).Create(t.Context(), uuid.NewString(), []byte(strings.Repeat("x", 8192)))
		return errors.Is(err, queue.ErrUncertain)
	}, 30*time.Second, 10*time.Millisecond)
	require.Eventually(t, func() bool { return strings.Contains(w.health(t), "store is full") }, 30*time.Second, 20*time.Millisecond, w.log())

	require.NoError(t, os.Remove(other))
	w.awaitReady(t)
	require.Eventually(t, func() bool {
		a, err := p.client.Submit(t.Context(), p.work("0"))
		if err == nil {
			accepted = append(accepted, a.ID)
		}
		return err == nil
	}, 30*time.Second, 50*time.Millisecond, w.log())
	for _, id := range accepted {
		r := p.wait(id)
		assert.Equal(t, []any{"succeeded", uint64(1)}, []any{r.Outcome, r.Epoch}, "%s\n%s", r.Result, w.log())
	}
	p.settled(accepted...)
	w.signal(syscall.SIGTERM)
	assert.Zero(t, w.exit(t), w.log())

	require.NoError(t, syscall.Mount("", disk, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	w = p.serveWith("--store", store)
	assert.Equal(t, executor.ExitAttune, w.exit(t))
	assert.Contains(t, w.log(), "read-only file system")
	assert.Contains(t, w.log(), "hint: --store names a directory that this user can write")
}

// fillUp leaves nothing of a disk.
func fillUp(t *testing.T, name string) {
	t.Helper()
	file, err := os.Create(name)
	require.NoError(t, err)
	for block := make([]byte, 4096); err == nil; {
		_, err = file.Write(block)
	}
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, file.Close())
}

// poorHost becomes a program that can make no namespaces, which strict isolation needs.
var poorHost = []string{"unshare", "--user", "--map-root-user", "sh", "-c",
	`for kind in user mnt pid; do echo 0 > /proc/sys/user/max_${kind}_namespaces || exit; done; exec "$@"`, "sh"}

// What demands strict isolation waits for a host that can give it.
func TestIsolationThatAHostCannotGive(t *testing.T) {
	t.Parallel()
	if out, err := exec.Command(poorHost[0], append(slices.Clone(poorHost[1:]), "true")...).CombinedOutput(); err != nil {
		t.Skipf("there are no user namespaces here: %s", out)
	}
	p := newPool(t)
	poor := p.serveUnder(poorHost, "--nats", p.url).awaitReady(t)
	strict := func(r *executor.Request) { r.Isolation, r.Action, r.Parameters = "strict", "core.noop", nil }
	waits := p.submit(p.work("0", strict))
	effort := p.submit(p.work("0", strict, func(r *executor.Request) { r.IsolationMode = "best-effort" }))
	plain := p.submit(p.work("0"))
	for _, id := range []string{effort, plain} {
		assert.Equal(t, poor.name, p.wait(id).Worker, poor.log())
	}
	status, err := p.client.Status(t.Context(), waits)
	require.NoError(t, err)
	require.Len(t, status.Unroutable, 1)
	assert.Contains(t, status.Unroutable[0], poor.name+": its host cannot give isolation strict; missing: ")
	assert.Equal(t, []any{queue.Queued, uint64(0)}, []any{status.State, status.Epoch}, "it reached no worker")
	able := p.serve().awaitReady(t)
	r := p.wait(waits)
	assert.Equal(t, []string{able.name, "succeeded"}, []string{r.Worker, r.Outcome}, "%s", r.Result)
	p.settled(plain)
}

// A worker starts before its broker, and outlives one that is away.
func TestTheBrokerIsAwayAtStart(t *testing.T) {
	t.Parallel()
	p := newPool(t)
	p.brokers[0].kill()
	w := p.serve()
	require.Eventually(t, func() bool { return strings.Contains(w.log(), `"msg":"http"`) }, 30*time.Second, 20*time.Millisecond)
	time.Sleep(time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := p.client.Submit(ctx, p.work("0"))
	assert.True(t, errors.Is(err, queue.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, queue.ErrUncertain), "%v", err)
	p.startBroker(0)
	w.awaitReady(t)
	id := p.submit(p.work("0"))
	p.wait(id)
	p.settled(id)
}

// The broker is away for longer than anybody waits: what ran is ended and taken up again by what its on_lost says, and all go on without
// a new start.
func TestTheBrokerIsAwayForLong(t *testing.T) {
	t.Parallel()
	p := newPool(t)
	w := p.serve().awaitReady(t)
	fail, retry, queued := p.submit(p.work("20", onLostFail)), p.submit(p.work("2")), []string{}
	p.awaitStart(fail)
	p.awaitStart(retry)
	for range 5 {
		queued = append(queued, p.submit(p.work("0.2")))
	}
	p.brokers[0].kill()
	two := regexp.MustCompile(`attune_fenced_total [2-9]`) // and what of the rest ran just then
	require.Eventually(t, func() bool { return two.MatchString(w.metrics(t)) }, 30*time.Second, 20*time.Millisecond, w.path)
	assert.Contains(t, w.health(t), "the broker cannot be reached")
	time.Sleep(2 * ackWait) // everything that anybody waits for is over
	p.startBroker(0)
	w.awaitReady(t)
	r := p.wait(fail)
	assert.Equal(t, string(executor.Interrupted), r.Outcome)
	assert.Contains(t, string(r.Result), `"kind":"lost"`)
	r = p.wait(retry)
	assert.Equal(t, []any{string(executor.Succeeded), uint64(2)}, []any{r.Outcome, r.Epoch})
	for _, id := range queued {
		assert.Equal(t, string(executor.Succeeded), p.wait(id).Outcome)
	}
	p.settled(append(queued, fail, retry)...)
	w.signal(syscall.SIGTERM)
	assert.Zero(t, w.exit(t), w.log())
}

// A worker is cut off for so long that another of its name takes its place: it finds so when it is back, and leaves.
func TestAWorkerWhoseNameWasTaken(t *testing.T) {
	t.Parallel()
	p := newPoolOf(t, 1, 11*time.Second) // longer than the scheduler's lease
	link := p.link()
	first := p.serveAt(link.url).awaitReady(t)
	id := p.submit(p.work("1"))
	p.awaitStart(id)
	link.set(true)
	early := p.serve("--name", first.name)
	assert.NotZero(t, early.exit(t), "while the first one is known")
	assert.Contains(t, early.log(), "does not answer; end it, or wait")
	require.Eventually(t, func() bool {
		workers, err := p.client.Workers(t.Context())
		return err == nil && len(workers) == 0
	}, 60*time.Second, 100*time.Millisecond)
	second := p.serve("--name", first.name).awaitReady(t)
	r := p.wait(id)
	assert.Equal(t, []any{string(executor.Succeeded), uint64(2)}, []any{r.Outcome, r.Epoch}, second.log())
	link.set(false)
	assert.Equal(t, executor.ExitAttune, first.exit(t), first.log())
	assert.Contains(t, first.log(), "another worker took this worker's name")
	again := p.submit(p.work("0"))
	p.wait(again)
	p.settled(id, again)
}

// Two of one name that start at the same moment: one serves.
func TestTwoWorkersOfOneNameAtOnce(t *testing.T) {
	t.Parallel()
	p := newPool(t)
	twins := []*server{p.serve("--name", "twin"), p.serve("--name", "twin")}
	ended := make(chan *server, len(twins))
	for _, w := range twins {
		go func() { <-w.done; ended <- w }()
	}
	select {
	case loser := <-ended:
		assert.Equal(t, executor.ExitAttune, loser.cmd.ProcessState.ExitCode())
		assert.Contains(t, loser.log(), "another worker")
		twins = slices.DeleteFunc(twins, func(w *server) bool { return w == loser })
	case <-time.After(60 * time.Second):
		require.Fail(t, "both serve", twins[0].log()+twins[1].log())
	}
	twins[0].awaitReady(t)
	p.wait(p.submit(p.work("0")))
}

func TestTwoWorkersOfOneName(t *testing.T) {
	t.Parallel()
	p := newPool(t)
	first := p.serve().awaitReady(t)
	second := p.serve("--name", first.name)
	assert.NotZero(t, second.exit(t))
	assert.Contains(t, second.log(), fmt.Sprintf("%s is alive", first.name))
	id := p.submit(p.work("0"))
	p.wait(id)
}
