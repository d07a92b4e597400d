package chaos

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
)

var (
	chaosFor     = flag.Duration("chaos", 20*time.Second, "how long workers and brokers are disturbed")
	chaosCluster = flag.Bool("chaos-cluster", false, "also on a cluster of three brokers")
	chaosSeed    = flag.Uint64("chaos-seed", 0, "of what happens when; 0 means any")
	// The least that a run must have seen; it goes on until it has.
	leastKills       = flag.Int64("chaos-kills", 20, "how many workers are killed at least")
	leastBrokerKills = flag.Int64("chaos-broker-kills", 3, "how many times brokers are killed at least")
)

const (
	leastFreezes = 10
	leastCuts    = 3
	leastDrains  = 3
)

// longest is what a run may take: on two processors that do nothing else it is a fourth of that.
func longest() time.Duration {
	return *chaosFor + 2*time.Minute + time.Duration(*leastKills)*2*time.Second + time.Duration(*leastBrokerKills)*20*time.Second
}

// storm is one run.
type storm struct {
	*pool
	ctx context.Context // ends when enough has happened

	mu       sync.Mutex
	workers  []*disturbed
	accepted []string

	uncertain, duplicates, canceled                          atomic.Int64
	kills, brokerKills, brokerFreezes, freezes, cuts, drains atomic.Int64
}

// places is how many workers there are at a time. About half of them are frozen, cut off or drain at any moment.
const places = 8

// disturbed is a place in the pool; the worker in it changes.
type disturbed struct {
	mu   sync.Mutex // held by whoever disturbs it
	link *link
	now  *server
}

func TestStorm(t *testing.T) {
	t.Parallel()
	weather(t, newPool(t))
}

func TestStormOverACluster(t *testing.T) {
	if !*chaosCluster {
		t.Skip("it takes a machine of its own: make chaos, or -chaos-cluster")
	}
	weather(t, newPoolOf(t, 3, 0))
}

// weather disturbs a pool until enough has happened, and checks its history.
func weather(t *testing.T, p *pool) {
	seed := *chaosSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d", seed)
	s := &storm{pool: p}
	var stop context.CancelFunc
	s.ctx, stop = context.WithCancel(t.Context())
	defer stop()
	watching, endWatch := context.WithCancel(t.Context())
	seen, watched := s.watch(watching)

	for range places {
		l := s.link()
		s.workers = append(s.workers, &disturbed{link: l, now: s.serveAt(l.url, "--concurrency", "3")})
	}
	for _, d := range s.workers {
		d.now.awaitReady(t)
	}
	begun := time.Now()
	var tasks sync.WaitGroup
	for i, task := range []func(*rand.Rand){s.submitting, s.submitting, s.submitting, s.killing, s.killing, s.freezing, s.freezing, s.cutting, s.draining, s.breaking} {
		tasks.Go(func() { task(rand.New(rand.NewPCG(seed, uint64(i)))) }) //nolint:gosec // repeatable on purpose
	}
	enough := func() bool {
		return time.Since(begun) >= *chaosFor && s.kills.Load() >= *leastKills && s.brokerKills.Load() >= *leastBrokerKills &&
			s.freezes.Load() >= leastFreezes && s.cuts.Load() >= leastCuts && s.drains.Load() >= leastDrains
	}
	require.Eventually(t, enough, longest(), 50*time.Millisecond)
	stop()
	tasks.Wait()
	disturbedFor := time.Since(begun)
	s.settle()
	endWatch()
	<-watched

	o := s.check(s.accepted, seen)
	t.Log(s.report(o, seen, disturbedFor, time.Since(begun)-disturbedFor))
	for _, why := range o.bad {
		t.Error(why)
	}
	assert.Equal(t, o.accepted, o.done)
	assert.Positive(t, o.takeovers, "a storm in which nothing was taken over shows nothing")
}

// settle waits until everything that was accepted is done.
func (s *storm) settle() {
	ctx, cancel := context.WithTimeout(s.t.Context(), 3*time.Minute)
	defer cancel()
	for _, id := range s.accepted {
		if _, err := s.client.Wait(ctx, id); err != nil {
			break // the checker says what is missing
		}
	}
	// What is written down after the result is there shortly after it.
	for _, d := range s.workers {
		s.term(d)
	}
	for _, d := range s.workers {
		assert.Zero(s.t, d.now.exit(s.t), d.now.log())
	}
}

func (s *storm) report(o outcome, seen *history, storm, settled time.Duration) string {
	var b strings.Builder
	line := func(what string, value any) { _, _ = fmt.Fprintf(&b, "  %-44s %v\n", what, value) }
	b.WriteString("\n")
	line("disturbed for, then settled in", fmt.Sprintf("%s, %s", storm.Round(time.Second), settled.Round(100*time.Millisecond)))
	line("workers killed (SIGKILL)", s.kills.Load())
	line("workers frozen past the ack wait (SIGSTOP)", s.freezes.Load())
	line("workers cut off the broker", s.cuts.Load())
	line("workers drained (SIGTERM)", s.drains.Load())
	line("brokers killed (SIGKILL)", s.brokerKills.Load())
	line("brokers frozen, of several (SIGSTOP)", s.brokerFreezes.Load())
	line("submissions accepted", o.accepted)
	line("  without an answer, sent again", s.uncertain.Load())
	line("  sent twice on purpose", s.duplicates.Load())
	line("cancellations", s.canceled.Load())
	line("results", o.done)
	line("  by status", o.byStatus)
	line("children started", o.children)
	line("executions claimed more than once", o.takeovers)
	line("claims in the audit", o.claims)
	line("claims of workers killed before they wrote", o.unwrittenClaims)
	line("versions of records seen", seen.seen)
	line("commits fenced (nothing was stored)", s.fenced())
	line("executions by their last epoch", o.epochs)
	line("accepted and lost", o.accepted-o.done)
	line("promises broken", len(o.bad))
	return b.String()
}

// fenced counts, in what all workers said, the attempts that had been taken over, and so committed nothing.
func (s *storm) fenced() int {
	n := 0
	logs, _ := filepath.Glob(filepath.Join(s.dir, "w*.log"))
	for _, log := range logs {
		text, _ := os.ReadFile(log)
		n += strings.Count(string(text), "fenced: nothing is committed")
	}
	return n
}

// every does something at random intervals around a pause, until the storm is over.
func (s *storm) every(r *rand.Rand, pause time.Duration, do func()) {
	for {
		timer := time.NewTimer(time.Duration((0.5 + r.Float64()) * float64(pause)))
		select {
		case <-s.ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
			do()
		}
	}
}

// submitting keeps the workers busy with executions of every kind. What gets no answer is sent again until it does, as a client would.
func (s *storm) submitting(r *rand.Rand) {
	s.every(r, 60*time.Millisecond, func() {
		order := s.work(fmt.Sprintf("%.3f", r.ExpFloat64()*0.15), func(req *executor.Request) {
			req.ID, req.Priority = uuid.NewString(), r.IntN(3)-1
			if r.IntN(3) == 0 {
				req.OnLost = queue.OnLostFail
			}
		})
		if r.IntN(10) == 0 {
			order.In = time.Duration(r.IntN(2000)) * time.Millisecond
		}
		for {
			_, err := s.client.Submit(s.t.Context(), order)
			if err == nil {
				break
			}
			s.uncertain.Add(1)
			if s.t.Context().Err() != nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		s.mu.Lock()
		s.accepted = append(s.accepted, order.Request.ID)
		s.mu.Unlock()
		switch r.IntN(25) {
		case 0:
			s.duplicates.Add(1)
			_, _ = s.client.Submit(s.t.Context(), order)
		case 1:
			if _, err := s.client.Cancel(s.t.Context(), order.Request.ID); err == nil {
				s.canceled.Add(1)
			}
		}
	})
}

// disturb does something to a worker that nobody else disturbs. Where there is none it lets the moment pass.
func (s *storm) disturb(r *rand.Rand, do func(d *disturbed)) {
	for _, i := range r.Perm(len(s.workers)) {
		d := s.workers[i]
		if d.mu.TryLock() {
			defer d.mu.Unlock()
			do(d)
			return
		}
	}
}

func (s *storm) killing(r *rand.Rand) {
	s.every(r, 700*time.Millisecond, func() {
		s.disturb(r, func(d *disturbed) {
			d.now.kill()
			s.kills.Add(1)
			d.now = s.serveAt(d.link.url, "--concurrency", "3")
		})
	})
}

func (s *storm) freezing(r *rand.Rand) {
	s.every(r, 500*time.Millisecond, func() {
		s.disturb(r, func(d *disturbed) {
			d.now.signal(syscall.SIGSTOP)
			time.Sleep(ackWait + 500*time.Millisecond)
			d.now.signal(syscall.SIGCONT)
			s.freezes.Add(1)
		})
	})
}

func (s *storm) cutting(r *rand.Rand) {
	s.every(r, 3*time.Second, func() {
		s.disturb(r, func(d *disturbed) {
			d.link.set(true)
			time.Sleep(fence + ackWait)
			d.link.set(false)
			s.cuts.Add(1)
		})
	})
}

// term asks a worker to drain; one that has just been started does not listen to signals yet.
func (s *storm) term(d *disturbed) {
	assert.Eventually(s.t, func() bool { return strings.Contains(d.now.log(), `"msg":"http"`) }, 30*time.Second, 10*time.Millisecond)
	d.now.signal(syscall.SIGTERM)
}

func (s *storm) draining(r *rand.Rand) {
	s.every(r, 4*time.Second, func() {
		s.disturb(r, func(d *disturbed) {
			s.term(d)
			if code := d.now.exit(s.t); code != 0 {
				s.t.Errorf("a worker that was drained exits with %d: %s", code, d.now.log())
			}
			s.drains.Add(1)
			d.now = s.serveAt(d.link.url, "--concurrency", "3")
		})
	})
}

// breaking kills a broker, or freezes one of several: the others do without it.
func (s *storm) breaking(r *rand.Rand) {
	s.every(r, 4*time.Second, func() {
		i := r.IntN(len(s.brokers))
		if len(s.brokers) > 1 && r.IntN(2) == 0 {
			s.brokers[i].signal(syscall.SIGSTOP)
			time.Sleep(time.Duration(r.IntN(6000)) * time.Millisecond)
			s.brokers[i].signal(syscall.SIGCONT)
			s.brokerFreezes.Add(1)
			return
		}
		s.brokers[i].kill()
		s.brokerKills.Add(1)
		time.Sleep(time.Duration(r.IntN(1000)) * time.Millisecond)
		s.startBroker(i)
		s.awaitBroker(i)
	})
}
