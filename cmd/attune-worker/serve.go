package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/config"
	"github.com/attune-run/attune/internal/telemetry"
	"github.com/attune-run/attune/internal/version"
	"github.com/attune-run/attune/pack"
	"github.com/attune-run/attune/queue"
	"github.com/attune-run/attune/worker"
)

// serveCmd serves the pool until it is told to stop.
type serveCmd struct {
	config.WorkerFlags
}

// server is one serving process.
type server struct {
	settings config.Worker
	log      *slog.Logger
	metrics  *telemetry.Metrics
	traces   *telemetry.Traces
	systemd  telemetry.Systemd
	broker   queue.Broker
	worker   atomic.Pointer[worker.Worker] // nil until the broker is there
}

// Run serves. The first SIGTERM or SIGINT drains, the second ends what runs, the third ends the process.
func (s *serveCmd) Run(a *app) (err error) {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	settings, err := cfg.Worker(s.WorkerFlags)
	if err != nil {
		return err
	}
	place, err := cfg.Broker(a.cli.BrokerFlags)
	if err != nil {
		return err
	}
	log, err := logger(a.std.err, settings)
	if err != nil {
		return err
	}
	take, work, stop := drainSignals(a.ctx, log)
	defer stop()
	traces, err := telemetry.NewTraces(take, "attune-worker", version.String(), log)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := traces.Close(ctx); err != nil {
			log.Warn("traces: what was left is lost", "error", err)
		}
	}()
	v := &server{settings: settings, log: log, metrics: telemetry.NewMetrics(version.String()), traces: traces, systemd: telemetry.Systemd{Log: log}}
	if settings.HTTP != "" {
		address, stop, err := telemetry.Serve(settings.HTTP, v.metrics.Registry, v.ready, log)
		if err != nil {
			return err
		}
		defer stop()
		log.Info("http", "address", address)
	}
	if place.URL == "" {
		tuneGarbage()
	}
	if v.broker, err = reach(take, place, log); err != nil {
		if take.Err() != nil {
			return nil
		}
		return err
	}
	defer func() { err = errors.Join(err, v.broker.Close()) }()
	return v.serve(take, work, cfg)
}

// serve runs the worker on a broker that is there.
func (v *server) serve(take, work context.Context, cfg config.Config) (err error) {
	service, err := v.service(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, service.Close()) }()
	keys, err := submitters(v.settings.TrustedKeys)
	if err != nil {
		return err
	}
	w, err := worker.New(worker.Config{
		Broker: v.broker, Service: service, Execute: v.traces.Around(service.Execute),
		Name: v.settings.Name, Version: version.String(), Slots: v.settings.Concurrency,
		Labels: v.settings.Labels, Taints: v.settings.Taints,
		TrustedKeys: keys, AllowActions: v.settings.AllowActions, AllowScripts: v.settings.AllowScripts,
		PackDir: v.settings.PackDir, Grace: v.settings.Grace,
		Timing: worker.Timing{Heartbeat: v.settings.Heartbeat, Fence: v.settings.Fence, Unroutable: v.settings.Unroutable},
		Log:    v.log, Observer: observer{v.metrics, v.traces},
	})
	if err != nil {
		return err
	}
	v.metrics.Slots(0, v.settings.Concurrency)
	v.worker.Store(w)
	background, end := context.WithCancel(work)
	defer end()
	go v.systemd.Watch(background, func() bool { return true })
	go v.announce(take)
	defer context.AfterFunc(take, func() { v.systemd.Stopping("draining") })()
	return w.Run(take, work)
}

func (v *server) service(cfg config.Config) (*executor.Service, error) {
	engine := cfg.Executor()
	engine.Mode, engine.Worker, engine.Log = v.settings.Mode, v.settings.Name, v.log
	engine.Concurrency, engine.KeepDirs = v.settings.Concurrency, v.settings.Concurrency
	return executor.New(engine)
}

// announce says once that work is taken.
func (v *server) announce(take context.Context) {
	for ; ; time.Sleep(20 * time.Millisecond) {
		if take.Err() != nil {
			return
		}
		if v.ready(take) == nil {
			v.log.Info("ready", "worker", v.settings.Name, "slots", v.settings.Concurrency, "mode", v.settings.Mode.String())
			v.systemd.Ready("taking work")
			return
		}
	}
}

// ready tells whether this worker takes work now.
func (v *server) ready(ctx context.Context) error {
	w := v.worker.Load()
	if w == nil {
		return errors.New("the broker was not reached yet")
	}
	if err := w.Ready(); err != nil {
		return err
	}
	return v.broker.Ready(ctx)
}

// observer tells metrics and traces what happens to executions.
type observer struct {
	*telemetry.Metrics
	traces *telemetry.Traces
}

// Claimed is what both want to know.
func (o observer) Claimed(r *queue.Record, waited time.Duration, redelivered bool) {
	o.Metrics.Claimed(r, waited, redelivered)
	o.traces.Claimed(r, waited)
}

// submitters reads NAME=KEY, or a KEY that is its own name.
func submitters(texts []string) ([]worker.Key, error) {
	var keys []worker.Key
	for _, text := range texts {
		name, value, named := strings.Cut(text, "=")
		if !named || strings.ContainsAny(name, ":/") { // the base64 of a key ends in "="
			name, value = "", text
		}
		public, err := pack.ParsePublicKey(value)
		if err != nil {
			return nil, fmt.Errorf("trusted submitter: %w", err)
		}
		if name == "" {
			name = public.String()
		}
		keys = append(keys, worker.Key{Name: name, Public: []byte(public)})
	}
	return keys, nil
}

// drainSignals are the two contexts of a worker. stop gives the signals back.
func drainSignals(ctx context.Context, log *slog.Logger) (take, work context.Context, stop func()) {
	take, endTake := context.WithCancel(ctx)
	work, endWork := context.WithCancel(ctx)
	signals := make(chan os.Signal, 3)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	done := make(chan struct{})
	go func() {
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			case s := <-signals:
				switch n {
				case 0:
					log.Info("draining: no more work is taken; a second signal ends what runs", "signal", s.String())
					endTake()
				case 1:
					log.Warn("ending what runs; a third signal ends the process", "signal", s.String())
					endWork()
				default:
					log.Error("ended by the third signal", "signal", s.String())
					os.Exit(128 + int(syscall.SIGTERM))
				}
			}
		}
	}()
	return take, work, func() {
		signal.Stop(signals)
		close(done)
		endTake()
		endWork()
	}
}

// logger writes JSON for collectors, text for people.
func logger(to *os.File, settings config.Worker) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(settings.LogLevel)); err != nil {
		return nil, fmt.Errorf("worker.log_level %q: write debug, info, warn or error", settings.LogLevel)
	}
	options := &slog.HandlerOptions{Level: level}
	format := settings.LogFormat
	if format == "" {
		format = "json"
		if term.IsTerminal(int(to.Fd())) {
			format = "text"
		}
	}
	switch format {
	case "json":
		return slog.New(slog.NewJSONHandler(to, options)), nil
	case "text":
		return slog.New(slog.NewTextHandler(to, options)), nil
	}
	return nil, fmt.Errorf("worker.log_format %q: write json or text", format)
}
