package proc

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/attune-run/attune/internal/nearest"
)

// Limits bound one execution and all its descendants together; zero means unbounded. The wall clock is the context's.
type Limits struct {
	Memory    int64         // bytes
	Pids      int64         // processes and threads
	CPU       float64       // processors
	CPUTime   time.Duration // of all processes together
	FileSize  int64         // bytes of one file
	OpenFiles int64         // descriptors of one process
	Disk      int64         // bytes below Spec.Isolation.Disk
}

// LimitNames are all limits, in the order of a result.
var LimitNames = []string{"memory", "pids", "cpu", "cpu_time", "file_size", "open_files", "disk"}

// LimitUse is how a limit fared. Limit and Used are bytes, counts, processors or seconds; Used is nil where nobody counts.
type LimitUse struct {
	Name  string
	Limit any
	Used  any
	// EnforcedBy is "cgroup v2", "cgroup v1", "rlimit" (each process for itself), "polled" (may be passed for a moment), or
	// "none".
	EnforcedBy string
	Hit        bool
}

// LimitError is why an execution was ended: it used more than a limit allows.
type LimitError struct {
	Name  string
	Limit any
}

// Error names the limit.
func (e *LimitError) Error() string { return fmt.Sprintf("the limit %s=%v was hit", e.Name, e.Limit) }

// ParseLimits reads limits by name. Sizes are bytes or carry K, M, G (powers of 1024); cpu is a number of processors;
// cpu_time is seconds or a Go duration.
func ParseLimits(values map[string]any) (Limits, error) {
	var l Limits
	for name, value := range values {
		if value == nil {
			continue
		}
		if err := l.set(name, text(value)); err != nil {
			return Limits{}, err
		}
	}
	return l, l.check()
}

func text(value any) string {
	if s, ok := value.(string); ok {
		return strings.TrimSpace(s)
	}
	encoded, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	return string(encoded)
}

func (l *Limits) set(name, value string) (err error) {
	switch name {
	case "memory":
		l.Memory, err = parseSize(value)
	case "pids":
		l.Pids, err = parseCount(value)
	case "cpu":
		l.CPU, err = strconv.ParseFloat(value, 64)
		if err != nil || !(l.CPU >= 0.01) || math.IsInf(l.CPU, 0) {
			err = fmt.Errorf("is no number of processors; write it like 0.5 or 2")
		}
	case "cpu_time":
		l.CPUTime, err = parseSeconds(value)
	case "file_size":
		l.FileSize, err = parseSize(value)
	case "open_files":
		l.OpenFiles, err = parseCount(value)
	case "disk":
		l.Disk, err = parseSize(value)
	default:
		if near := nearest.Name(name, LimitNames); near != "" {
			return fmt.Errorf("there is no limit %q; did you mean %q?", name, near)
		}
		return fmt.Errorf("there is no limit %q; there are %s", name, strings.Join(LimitNames, ", "))
	}
	if err != nil {
		return fmt.Errorf("limit %s: %q %w", name, value, err)
	}
	return nil
}

// parseSize reads 1048576, 512K, 64M, 2G, also as 64Mi, 64MB or 64MiB.
func parseSize(value string) (int64, error) {
	digits := strings.TrimRight(value, "KMGTkmgtiIbB")
	unit := strings.ToUpper(strings.TrimSuffix(strings.TrimRight(value[len(digits):], "bB"), "i"))
	shift, known := map[string]int{"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[unit]
	number, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
	size := number * float64(int64(1)<<shift)
	if err != nil || !known || !(size >= 1) || size >= 1<<62 {
		return 0, fmt.Errorf("is no size; write it like 1048576, 512K, 64M or 2G")
	}
	return int64(size), nil
}

func parseCount(value string) (int64, error) {
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("is no whole number above zero")
	}
	return n, nil
}

func parseSeconds(value string) (time.Duration, error) {
	if seconds, err := strconv.ParseFloat(value, 64); err == nil && seconds > 0 && seconds < 1e9 {
		return time.Duration(seconds * float64(time.Second)), nil
	}
	if d, err := time.ParseDuration(value); err == nil && d > 0 {
		return d, nil
	}
	return 0, fmt.Errorf("is no time; write it in seconds, or like 30s or 5m")
}

// The least that lets an interpreter start at all.
const (
	minMemory    = 4 << 20
	minOpenFiles = 8
)

// check refuses limits that contradict each other, or that nothing could run under.
func (l Limits) check() error {
	switch {
	case l.Disk > 0 && l.FileSize > l.Disk:
		return fmt.Errorf("limits contradict each other: file_size=%d is more than disk=%d allows in all", l.FileSize, l.Disk)
	case l.Memory > 0 && l.Memory < minMemory:
		return fmt.Errorf("limit memory=%d: nothing starts with less than %d bytes", l.Memory, minMemory)
	case l.OpenFiles > 0 && l.OpenFiles < minOpenFiles:
		return fmt.Errorf("limit open_files=%d: nothing starts with less than %d", l.OpenFiles, minOpenFiles)
	}
	return nil
}

// Within lowers limits to an operator's maximum, which also stands where no limit was asked for.
func (l Limits) Within(most Limits) Limits {
	lower := func(value, most int64) int64 {
		if most > 0 && (value == 0 || value > most) {
			return most
		}
		return value
	}
	l.Memory, l.Pids = lower(l.Memory, most.Memory), lower(l.Pids, most.Pids)
	l.CPUTime = time.Duration(lower(int64(l.CPUTime), int64(most.CPUTime)))
	l.FileSize, l.OpenFiles, l.Disk = lower(l.FileSize, most.FileSize), lower(l.OpenFiles, most.OpenFiles), lower(l.Disk, most.Disk)
	if most.CPU > 0 && (l.CPU == 0 || l.CPU > most.CPU) {
		l.CPU = most.CPU
	}
	return l
}

const manyTasks = 1 << 20 // bounds nothing

// counters are what a group counted; zero where it does not.
type counters struct {
	memory, oomKills, pids, pidsHit int64
	cpuTime                         time.Duration
}

// limiter is how the limits of one execution are enforced.
type limiter struct {
	limits  Limits
	by      map[string]string // limit → who enforces it
	group   *group            // nil without cgroups
	rlimits []rlimit
	disk    []string // directories whose size is polled
	used    int64    // the most that was seen there
	begun   time.Time
	hit     string // the limit for which attune ended the execution itself
}

// newLimiter finds for each limit the best that this machine has. With hold there is a control group even without limits, to
// end what is in it.
func newLimiter(l Limits, disk []string, hold bool) (*limiter, error) {
	if l == (Limits{}) && !hold {
		return nil, nil
	}
	m := &limiter{limits: l, by: map[string]string{}, disk: disk, begun: time.Now()}
	if hold && l.Pids == 0 {
		l.Pids = manyTasks
	}
	if l.Memory > 0 || l.Pids > 0 || l.CPU > 0 || l.CPUTime > 0 {
		var err error
		if m.group, err = newGroup(l); err != nil {
			return nil, err
		}
		for name := range m.group.enforces {
			m.by[name] = m.group.version
		}
	}
	if dataLimited {
		m.fallBack("memory", l.Memory, unix.RLIMIT_DATA, 0) // RLIMIT_AS counts what Go and Node only reserve
	}
	m.fallBack("cpu_time", int64((l.CPUTime+time.Second-1)/time.Second), unix.RLIMIT_CPU, 1)
	m.fallBack("file_size", l.FileSize, unix.RLIMIT_FSIZE, 0)
	m.fallBack("open_files", l.OpenFiles, unix.RLIMIT_NOFILE, 0)
	if unix.Geteuid() != 0 && m.limits.Pids > 0 { // root is exempt
		m.fallBack("pids", l.Pids+tasksOf(unix.Geteuid()), unix.RLIMIT_NPROC, 0)
	}
	if l.Disk > 0 {
		m.by["disk"] = "polled"
	}
	return m, nil
}

// fallBack has each process bound by itself where no cgroup binds them together. More is the distance of the hard limit:
// without it a process gets SIGKILL in place of SIGXCPU.
func (m *limiter) fallBack(name string, limit int64, resource int, more uint64) {
	if limit > 0 && m.by[name] == "" {
		m.by[name] = "rlimit"
		m.rlimits = append(m.rlimits, rlimit{Resource: resource, Soft: uint64(limit), Hard: uint64(limit) + more})
	}
}

// tick is how often what nothing else enforces is looked at.
const tick = 50 * time.Millisecond

// polls tells whether exceeded must be asked again and again.
func (m *limiter) polls() bool {
	return m != nil && (m.by["disk"] == "polled" || m.limits.CPUTime > 0 && m.by["cpu_time"] != "rlimit")
}

// watch tells, once, when a limit that is polled is exceeded.
func (m *limiter) watch() (<-chan error, func()) {
	if !m.polls() {
		return nil, func() {}
	}
	exceeded, stop, stopped := make(chan error, 1), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		ticker := time.NewTicker(tick)
		defer ticker.Stop()
		for {
			select {
			case <-stop:
				return
			case <-ticker.C:
			}
			if err := m.exceeded(); err != nil {
				exceeded <- err
				return
			}
		}
	}()
	return exceeded, func() { close(stop); <-stopped }
}

// exceeded is the limit that the execution is over now, of those that are polled.
func (m *limiter) exceeded() error {
	switch {
	case m.limits.CPUTime > 0 && m.group != nil && m.group.cpuTime() > m.limits.CPUTime:
		m.hit = "cpu_time"
		return &LimitError{Name: m.hit, Limit: m.limits.CPUTime.Seconds()}
	case m.limits.Disk > 0 && m.measure() > m.limits.Disk:
		m.hit = "disk"
		return &LimitError{Name: m.hit, Limit: m.limits.Disk}
	}
	return nil
}

func (m *limiter) measure() int64 {
	var sum int64
	for _, dir := range m.disk {
		sum += diskUse(dir, m.limits.Disk)
	}
	m.used = max(m.used, sum)
	return sum
}

// report is every limit that was set and how it fared.
func (m *limiter) report(exit *Exit) []LimitUse {
	if m == nil {
		return nil
	}
	counted := m.group.counters()
	all := []LimitUse{
		{Name: "memory", Limit: m.limits.Memory, Used: number(counted.memory), Hit: counted.oomKills > 0},
		{Name: "pids", Limit: m.limits.Pids, Used: number(counted.pids), Hit: counted.pidsHit > 0},
		{Name: "cpu", Limit: m.limits.CPU},
		{Name: "cpu_time", Limit: m.limits.CPUTime.Seconds(), Hit: m.hit == "cpu_time" || exit.Signal == unix.SIGXCPU},
		{Name: "file_size", Limit: m.limits.FileSize, Hit: exit.Signal == unix.SIGXFSZ},
		{Name: "open_files", Limit: m.limits.OpenFiles},
		{Name: "disk", Limit: m.limits.Disk, Hit: m.hit == "disk"},
	}
	if m.by["memory"] == "rlimit" {
		all[0].Used = exit.Usage.MaxRSS
	}
	spent := counted.cpuTime
	if spent == 0 {
		spent = exit.Usage.User + exit.Usage.System
	}
	all[2].Used = math.Round(100*spent.Seconds()/max(time.Since(m.begun).Seconds(), 0.001)) / 100
	all[3].Used = math.Round(1000*spent.Seconds()) / 1000
	if m.limits.Disk > 0 {
		m.measure()
		all[6].Used = m.used
	}
	all = slices.DeleteFunc(all, func(u LimitUse) bool { return u.Limit == int64(0) || u.Limit == 0.0 })
	for i := range all {
		if all[i].EnforcedBy = m.by[all[i].Name]; all[i].EnforcedBy == "" {
			all[i].EnforcedBy = "none"
		}
	}
	return all
}

// rlimit is one limit of setrlimit(2), soft and hard.
type rlimit struct {
	Resource int
	Soft     uint64
	Hard     uint64
}

// setRlimit lowers a limit of the calling process; a hard one that is lower already stays.
func setRlimit(l rlimit) error {
	var now unix.Rlimit
	if err := unix.Getrlimit(l.Resource, &now); err != nil {
		return err
	}
	most := min(now.Max, mostOf(l.Resource))
	return unix.Setrlimit(l.Resource, &unix.Rlimit{Cur: min(l.Soft, most), Max: min(l.Hard, most)})
}

// diskUse is what the files below dir take, in bytes. A path too long to follow counts as too much.
func diskUse(dir string, limit int64) int64 {
	var sum int64
	seen := map[uint64]bool{}
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if errors.Is(err, unix.ENAMETOOLONG) {
			sum = limit + 1
			return fs.SkipAll
		}
		if err != nil {
			return nil
		}
		if info, err := e.Info(); err == nil {
			if stat, ok := info.Sys().(*syscall.Stat_t); ok && !seen[stat.Ino] {
				seen[stat.Ino] = stat.Nlink > 1
				sum += stat.Blocks * 512
			}
		}
		return nil
	})
	return sum
}

func number(n int64) any {
	if n == 0 {
		return nil
	}
	return n
}

func (m *limiter) close() {
	if m != nil && m.group != nil {
		m.group.remove()
	}
}
