// Package telemetry is what a worker tells its operators: Prometheus metrics, OpenTelemetry traces, health over HTTP and systemd's
// notifications. Each wraps the execution from outside; the engine knows none of them.
package telemetry

import (
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
	"github.com/attune-run/attune/worker"
)

// labelsMax is how many actions, and how many runtimes, have figures of their own. Names come from submitters: what is beyond it
// is counted as "other", so that nobody fills the memory of whoever collects.
const labelsMax = 200

// Metrics are the figures of one worker, in a registry of their own. It is a worker.Observer.
type Metrics struct {
	Registry *prometheus.Registry

	actions, runtimes bounded

	executions   *prometheus.CounterVec
	duration     *prometheus.HistogramVec
	environments *prometheus.CounterVec
	wait         prometheus.Histogram
	redelivered  prometheus.Counter
	fenced       prometheus.Counter
	slots, busy  prometheus.Gauge
	childMemory  prometheus.Histogram
}

var _ worker.Observer = (*Metrics)(nil)

// seconds reach from a no-op to a day.
var seconds = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 86400}

// NewMetrics makes the figures of a worker of that version.
func NewMetrics(version string) *Metrics {
	m := &Metrics{
		Registry: prometheus.NewRegistry(),
		executions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "attune_executions_total", Help: "Executions that this worker committed a result of."}, []string{"status", "runtime", "action"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "attune_execution_duration_seconds", Help: "From the start of an execution to its result, the environment included.", Buckets: seconds}, []string{"runtime"}),
		environments: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "attune_environments_total", Help: "Environments that executions needed, by whether they were there (hit) or built."}, []string{"state"}),
		wait: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "attune_queue_wait_seconds", Help: "From when an execution could start to its claim.", Buckets: seconds}),
		redelivered: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "attune_redeliveries_total", Help: "Claims from a message that had been delivered before."}),
		fenced: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "attune_fenced_total", Help: "Executions that were taken over by another worker, so that nothing was committed."}),
		slots: prometheus.NewGauge(prometheus.GaugeOpts{Name: "attune_slots", Help: "Executions this worker runs at once."}),
		busy:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "attune_slots_busy", Help: "Executions this worker holds now."}),
		childMemory: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "attune_execution_max_rss_bytes", Help: "Largest resident size of an execution's processes.",
			Buckets: prometheus.ExponentialBuckets(1<<20, 4, 9)}),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{Name: "attune_build_info", Help: "1, with the version as a label.",
		ConstLabels: prometheus.Labels{"version": version}})
	info.Set(1)
	m.Registry.MustRegister(m.executions, m.duration, m.environments, m.wait, m.redelivered, m.fenced, m.slots, m.busy, m.childMemory, info,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Claimed counts an execution that was taken on.
func (m *Metrics) Claimed(_ *queue.Record, waited time.Duration, redelivered bool) {
	m.wait.Observe(waited.Seconds())
	if redelivered {
		m.redelivered.Inc()
	}
}

// Committed counts an execution whose result is in its record.
func (m *Metrics) Committed(r *queue.Record, result *executor.Result) {
	name := m.runtimes.label(result.Runtime.Name)
	action := r.Action
	if action == "" || strings.HasPrefix(action, "script:") { // their names are anybody's
		action = "script"
	}
	m.executions.WithLabelValues(string(result.Status), name, m.actions.label(action)).Inc()
	m.duration.WithLabelValues(name).Observe(result.DurationMS / 1000)
	if result.Environment.State != "none" {
		m.environments.WithLabelValues(result.Environment.State).Inc()
	}
	if result.Usage.MaxRSSBytes > 0 {
		m.childMemory.Observe(float64(result.Usage.MaxRSSBytes))
	}
}

// Fenced counts an execution that was lost to another worker.
func (m *Metrics) Fenced(string) { m.fenced.Inc() }

// Slots shows how full the worker is.
func (m *Metrics) Slots(busy, all int) {
	m.busy.Set(float64(busy))
	m.slots.Set(float64(all))
}

// bounded are the first labelsMax values of a label.
type bounded struct {
	mu    sync.Mutex
	known map[string]bool
}

func (b *bounded) label(value string) string {
	if value == "" {
		return "none"
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.known[value] {
		return value
	}
	if len(b.known) >= labelsMax {
		return "other"
	}
	if b.known == nil {
		b.known = map[string]bool{}
	}
	b.known[value] = true
	return value
}
