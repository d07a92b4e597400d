package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
	"github.com/attune-run/attune/queue/natsq"
	"github.com/attune-run/attune/worker"
)

// poolServer is an attune-worker that serves a store of its own.
type poolServer struct {
	cmd    *exec.Cmd
	store  string
	broker queue.Broker
	client *worker.Client
}

// noopRequest is core.noop, which costs what attune itself costs.
func noopRequest() executor.Request {
	return executor.Request{Schema: executor.RequestSchema, Action: "core.noop"}
}

func (b *bench) engine() (*executor.Service, error) {
	packs, err := filepath.Abs("packs")
	if err != nil {
		return nil, err
	}
	return executor.New(executor.Config{CacheDir: filepath.Join(b.work, "cache"), Packs: []string{packs}, KeepDirs: 4 * runtime.NumCPU()}) // as a worker's
}

// servePool starts a worker on a store and connects to it.
func (b *bench) servePool(store, sync string, flags ...string) (*poolServer, error) {
	binary := filepath.Join(filepath.Dir(b.attune), "attune-worker")
	notify := filepath.Join(b.work, "pool.log")
	log, err := os.OpenFile(notify, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	cmd := b.command(binary, append([]string{"serve", "--store", store, "--mode", "agent", "--packs", "packs"}, flags...)...)
	cmd.Env = append(cmd.Env, "ATTUNE_SYNC="+sync, "ATTUNE_NATS_URL=", "ATTUNE_CONFIG=/dev/null")
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &poolServer{cmd: cmd, store: store}
	for begun := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		text, _ := os.ReadFile(notify)
		if strings.Contains(string(text), `"msg":"ready"`) {
			break
		}
		if time.Since(begun) > time.Minute {
			return s, fmt.Errorf("attune-worker does not become ready: %s", text)
		}
	}
	options, err := natsq.Discover(store)
	if err != nil {
		return s, err
	}
	if s.broker, err = natsq.Open(context.Background(), options); err != nil {
		return s, err
	}
	service, err := b.engine()
	if err != nil {
		return s, err
	}
	s.client = worker.NewClient(worker.ClientConfig{Broker: s.broker, Service: service, Who: "bench", Unroutable: time.Hour})
	return s, nil
}

func (s *poolServer) stop() error {
	if s == nil {
		return nil
	}
	if s.broker != nil {
		_ = s.broker.Close()
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	return s.cmd.Wait()
}

// submit sends n no-ops from many goroutines.
func (s *poolServer) submit(n int) error {
	return s.submitEach(n, func(int) executor.Request { return noopRequest() })
}

func (s *poolServer) submitEach(n int, request func(i int) executor.Request) error {
	send := func(i int) error {
		_, err := s.client.Submit(context.Background(), worker.Order{Request: request(i)})
		return err
	}
	if err := send(0); err != nil { // asks the catalog, which the others then need not
		return err
	}
	var next atomic.Int64
	var group errgroup.Group
	for range min(64, n) {
		group.Go(func() error {
			for {
				i := int(next.Add(1))
				if i >= n {
					return nil
				}
				if err := send(i); err != nil {
					return err
				}
			}
		})
	}
	return group.Wait()
}

// drained waits until nothing lies on any route.
func (s *poolServer) drained() error {
	for {
		left := uint64(0)
		routes, err := s.broker.Work().Backlog(context.Background())
		if err != nil {
			return err
		}
		for _, b := range routes {
			left += b.Waiting + b.Taken
		}
		if left == 0 {
			return nil
		}
		time.Sleep(100 * time.Millisecond) // looking is work for the server
	}
}

// poolLatency compares a request's way through an idle pool with the same execution in this process.
func (b *bench) poolLatency() (err error) {
	s, err := b.servePool(filepath.Join(b.work, "latency"), "always")
	defer func() { err = errors.Join(err, s.stop()) }()
	if err != nil {
		return err
	}
	service, err := b.engine()
	if err != nil {
		return err
	}
	var direct, pooled []time.Duration
	for round := range 201 {
		begun := time.Now()
		if result := service.Execute(context.Background(), noopRequest(), executor.Observer{}); result.Status != executor.Succeeded {
			return fmt.Errorf("in process: %+v", result.Error)
		}
		first := time.Since(begun)
		begun = time.Now()
		accepted, err := s.client.Submit(context.Background(), worker.Order{Request: noopRequest()})
		if err != nil {
			return err
		}
		if r, err := s.client.Wait(context.Background(), accepted.ID); err != nil || r.Outcome != string(executor.Succeeded) {
			return fmt.Errorf("through the pool: %+v: %w", r, err)
		}
		if round > 0 {
			direct, pooled = append(direct, first), append(pooled, time.Since(begun))
		}
	}
	baseline, took := median(direct), median(pooled)
	row("core.noop through an idle pool, against in process", baseline, took, plus(baseline, took), "<= +5 ms")
	return nil
}

// poolThroughput compares a saturated worker with fork, exec and pipes alone, each at its best concurrency. They take turns, for the machine
// may be faster or slower a minute later; the figure is the median of what the turns give.
func (b *bench) poolThroughput() error {
	ways, err := b.saturated()
	if err != nil {
		return err
	}
	best := make([]int, len(ways))
	reached := make([]float64, len(ways))
	for at := runtime.NumCPU(); at <= 16*runtime.NumCPU(); at *= 2 { // children run on the processors, and their results wait for the disk
		tried, err := inTurn(ways, 3, 1500, func(int) int { return at })
		if err != nil {
			return err
		}
		for i := range ways {
			if rate := median(tried[i]); rate > reached[i] {
				best[i], reached[i] = at, rate
			}
		}
	}
	all, err := inTurn(ways, 9, 4000, func(way int) int { return best[way] })
	if err != nil {
		return err
	}
	for i, way := range ways[1:] {
		shares := make([]float64, len(all[0]))
		for turn, bare := range all[0] {
			shares[turn] = all[i+1][turn] / bare
		}
		what := fmt.Sprintf("core.noop/s %s, against fork+exec", way.name)
		rates(what, median(slices.Clone(all[0])), median(all[i+1]), fmt.Sprintf("%.0f %%", 100*median(shares)), way.wanted)
	}
	for i, way := range ways {
		point("at its best concurrency: "+way.name, strconv.Itoa(best[i]))
	}
	return nil
}

// inTurn gives the rates of each way, turn by turn.
func inTurn(ways []saturation, turns, n int, concurrency func(way int) int) ([][]float64, error) {
	all := make([][]float64, len(ways))
	for range turns {
		for i, way := range ways {
			rate, err := way.rate(n, concurrency(i))
			if err != nil {
				return nil, err
			}
			all[i] = append(all[i], rate)
		}
	}
	return all, nil
}

// saturation is one way to execute core.noop as often as possible.
type saturation struct {
	name, wanted string
	rate         func(n, concurrency int) (float64, error)
}

// saturated are the ways; the first is what the others are measured against.
func (b *bench) saturated() ([]saturation, error) {
	service, err := b.engine()
	if err != nil {
		return nil, err
	}
	warm := service.Execute(context.Background(), noopRequest(), executor.Observer{})
	ways := []saturation{
		{"fork+exec", "", func(n, at int) (float64, error) {
			return concurrently(n, at, func() error {
				cmd := b.command(warm.Runtime.Path, "packs/core/actions/noop.sh")
				cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader("{}"), io.MultiWriter(), io.MultiWriter() // pipes
				return cmd.Run()
			})
		}},
		{"in process", "-", func(n, at int) (float64, error) {
			return concurrently(n, at, func() error {
				if result := service.Execute(context.Background(), noopRequest(), executor.Observer{}); result.Status != executor.Succeeded {
					return fmt.Errorf("in process: %+v", result.Error)
				}
				return nil
			})
		}},
	}
	for _, pool := range []struct{ sync, wanted string }{{natsq.SyncAlways, ">= 60 %"}, {natsq.SyncRelaxed, ">= 85 %"}} {
		ways = append(ways, saturation{"pooled, sync " + pool.sync, pool.wanted, func(n, at int) (float64, error) {
			store, err := os.MkdirTemp(b.work, "throughput-")
			if err != nil {
				return 0, err
			}
			rate, err := b.poolRate(store, pool.sync, n, at)
			return rate, errors.Join(err, os.RemoveAll(store))
		}})
	}
	return ways, nil
}

// concurrently does something n times and gives how often a second.
func concurrently(n, concurrency int, do func() error) (float64, error) {
	var started atomic.Int64
	var group errgroup.Group
	begun := time.Now()
	for range concurrency {
		group.Go(func() error {
			for started.Add(1) <= int64(n) {
				if err := do(); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := group.Wait()
	return float64(n) / time.Since(begun).Seconds(), err
}

// poolRate queues everything on a worker that is not able to run it, then times one that is, once it has started.
func (b *bench) poolRate(store, sync string, n, concurrency int) (rate float64, err error) {
	if err := b.fill(store, n); err != nil {
		return 0, err
	}
	syscall.Sync() // what waits was written before
	s, err := b.servePool(store, sync, "--concurrency", strconv.Itoa(concurrency))
	defer func() { err = errors.Join(err, s.stop()) }()
	if err != nil {
		return 0, err
	}
	if err := s.drained(); err != nil {
		return 0, err
	}
	var finished []time.Time
	for entry, err := range s.broker.Table(queue.Runs).List(context.Background(), "") {
		if err != nil {
			return 0, err
		}
		var r queue.Record
		if err := json.Unmarshal(entry.Value, &r); err != nil || r.Outcome != string(executor.Succeeded) {
			return 0, fmt.Errorf("%s: %s %s %w", r.ID, r.State, r.Outcome, err)
		}
		finished = append(finished, r.FinishedAt)
	}
	if len(finished) != n {
		return 0, fmt.Errorf("%d results of %d", len(finished), n)
	}
	slices.SortFunc(finished, time.Time.Compare)
	begun := n / 10 // by then the worker has looked at the host, the packs and all that waits
	return float64(n-1-begun) / finished[n-1].Sub(finished[begun]).Seconds(), nil
}

// fill queues n no-ops on a store whose worker has no runtime for them.
func (b *bench) fill(store string, n int) (err error) {
	s, err := b.servePool(store, "relaxed", "--allow-actions", "none.*", "--runtimes", "python")
	defer func() { err = errors.Join(err, s.stop()) }()
	if err != nil {
		return err
	}
	return s.submit(n)
}

// poolProtocol is everything but the child: submission, claim, commit, acknowledgement, audit. The baseline is what the disk syncs.
func (b *bench) poolProtocol() (err error) {
	const n = 4000
	syncs, err := b.syncRate()
	if err != nil {
		return err
	}
	broker, err := natsq.Open(context.Background(), natsq.Options{Store: filepath.Join(b.work, "protocol")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, broker.Close()) }()
	service, err := b.engine()
	if err != nil {
		return err
	}
	w, err := worker.New(worker.Config{Broker: broker, Service: service, Name: "bench", Slots: 64,
		Execute: func(_ context.Context, req executor.Request, _ executor.Observer) executor.Result {
			return executor.Result{Schema: executor.ResultSchema, ID: req.ID, Action: req.Action, Status: executor.Succeeded}
		}})
	if err != nil {
		return err
	}
	take, end := context.WithCancel(context.Background())
	defer end()
	done := make(chan error, 1)
	go func() { done <- w.Run(take, context.Background()) }()
	s := &poolServer{broker: broker, client: worker.NewClient(worker.ClientConfig{Broker: broker, Service: service, Who: "bench"})}
	if err := s.submit(100); err != nil { // the route is opened, the worker awake
		return err
	}
	begun := time.Now()
	if err := s.submit(n); err != nil {
		return err
	}
	if err := s.drained(); err != nil {
		return err
	}
	rate := float64(n) / time.Since(begun).Seconds()
	end()
	if err := <-done; err != nil {
		return err
	}
	rates("protocol alone/s, sync always, beside syncs/s", syncs, rate, fmt.Sprintf("%.0f /s", rate), ">= 800 /s")
	return nil
}

// syncRate is how often a second one small write reaches the disk.
func (b *bench) syncRate() (float64, error) {
	file, err := os.Create(filepath.Join(b.work, "syncs"))
	if err != nil {
		return 0, err
	}
	defer func() { _ = file.Close() }()
	begun, n := time.Now(), 0
	for ; time.Since(begun) < time.Second; n++ {
		if _, err := file.Write(make([]byte, 1024)); err != nil {
			return 0, err
		}
		if err := file.Sync(); err != nil {
			return 0, err
		}
	}
	return float64(n) / time.Since(begun).Seconds(), nil
}

// poolBacklog is how soon a worker serves, and what it needs, in front of many requests.
func (b *bench) poolBacklog() (err error) {
	n := 100_000
	if text := os.Getenv("ATTUNE_BENCH_BACKLOG"); text != "" {
		if n, err = strconv.Atoi(text); err != nil {
			return err
		}
	}
	empty, err := b.servePool(filepath.Join(b.work, "backlog-empty"), "always")
	if err != nil {
		return errors.Join(err, empty.stop())
	}
	time.Sleep(2 * time.Second)
	before := empty.memory()
	if err := empty.stop(); err != nil {
		return err
	}
	store := filepath.Join(b.work, "backlog")
	begun := time.Now()
	if err := b.fill(store, n); err != nil {
		return err
	}
	filled := time.Since(begun)
	address, err := freeAddress()
	if err != nil {
		return err
	}
	begun = time.Now()
	s, err := b.servePool(store, "always", "--http", address)
	defer func() { err = errors.Join(err, s.stop()) }()
	if err != nil {
		return err
	}
	ready := time.Since(begun)
	if err := firstDone(address); err != nil {
		return err
	}
	first := time.Since(begun)
	most := 0.0
	for range 100 {
		most = max(most, s.memory())
		time.Sleep(100 * time.Millisecond)
	}
	fmt.Printf("%-44s %10s %10s %10s   %s\n", fmt.Sprintf("%d queued in %s: ready, first result", n, filled.Round(time.Second)),
		milliseconds(ready), milliseconds(first), plus(ready, first), "at once")
	fmt.Printf("%-44s %10s %10s %10s   %s\n", "worker and server in front of them, against none",
		mebibytes(before), mebibytes(most), "+"+mebibytes(most-before), "< 150 MiB")
	return nil
}

// firstDone waits until the worker's own page counts a result: looking at the records would itself be work for the server.
func firstDone(address string) error {
	for begun := time.Now(); time.Since(begun) < time.Minute; time.Sleep(5 * time.Millisecond) {
		response, err := http.Get("http://" + address + "/metrics") //nolint:noctx // a bench's
		if err != nil {
			return err
		}
		page, err := io.ReadAll(response.Body)
		if err = errors.Join(err, response.Body.Close()); err != nil {
			return err
		}
		if strings.Contains(string(page), "\nattune_executions_total{") {
			return nil
		}
	}
	return errors.New("nothing is done within a minute")
}

// freeAddress is one of loopback that nobody listens on.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

// poolIdle is what a worker with its server needs while nothing happens, and after something did.
func (b *bench) poolIdle() (err error) {
	s, err := b.servePool(filepath.Join(b.work, "idle"), "always")
	defer func() { err = errors.Join(err, s.stop()) }()
	if err != nil {
		return err
	}
	_ = s.broker.Close() // the bench itself is no part of it
	time.Sleep(3 * time.Second)
	const watched = 15 * time.Second
	before := s.cpu()
	time.Sleep(watched)
	share := 100 * (s.cpu() - before).Seconds() / watched.Seconds()
	fresh := s.memory()
	options, err := natsq.Discover(s.store)
	if err != nil {
		return err
	}
	if s.broker, err = natsq.Open(context.Background(), options); err != nil {
		return err
	}
	service, err := b.engine()
	if err != nil {
		return err
	}
	s.client = worker.NewClient(worker.ClientConfig{Broker: s.broker, Service: service, Who: "bench"})
	if err := errors.Join(s.submit(2000), s.drained()); err != nil {
		return err
	}
	after := s.memory()
	fmt.Printf("%-44s %10s %10s %10s   %s\n", "idle worker and server: processor, memory", "-", mebibytes(fresh), fmt.Sprintf("%.2f %%", share), "< 1 %, < 40 MiB")
	fmt.Printf("%-44s %10s %10s %10s   %s\n", "  after 2,000 executions", mebibytes(fresh), mebibytes(after), "+"+mebibytes(after-fresh), "< 100 MiB")
	return nil
}

// memory is the resident size of the process in MiB, without the pages of its binary, which the page cache holds anyway.
func (s *poolServer) memory() float64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kilobytes, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kilobytes / 1024
		}
	}
	return 0
}

// cpu is the processor time of the process so far (proc_pid_stat(5): utime and stime, in ticks of 10 ms).
func (s *poolServer) cpu() time.Duration {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

func rates(what string, baseline, attune float64, figure, wanted string) {
	fmt.Printf("%-44s %10s %10s %10s   %s\n", what, fmt.Sprintf("%.0f /s", baseline), fmt.Sprintf("%.0f /s", attune), figure, wanted)
}

func mebibytes(n float64) string { return fmt.Sprintf("%.1f MiB", n) }
