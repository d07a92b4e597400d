package proc

// Diagnosis is what this machine offers, each found by trying.
type Diagnosis struct {
	Guarantees []Offered  `json:"guarantees"`
	Limits     []Enforced `json:"limits"`
}

// Offered is one guarantee at each level that promises it; a level that does not has no entry.
type Offered struct {
	Name    string              `json:"name"`
	Promise string              `json:"promise"`
	At      map[Level]Guarantee `json:"levels"`
}

// Enforced is who would enforce a limit: as in LimitUse.
type Enforced struct {
	Name       string `json:"name"`
	EnforcedBy string `json:"enforced_by"`
}

var promises = map[string]string{
	NoNewPrivs:     "set-user-id programs give no rights",
	NoCapabilities: "no capabilities, not even root's",
	ParentMemory:   "attune's environment and memory cannot be read",
	ParentSignal:   "attune cannot be signalled",
	Syscalls:       "no ptrace, mounts, namespaces, bpf, keys, foreign ABIs",
	FSWrite:        "writes only to the private directory",
	FSRead:         "home and credentials are hidden",
	KillAll:        "nothing outlives the execution or attune",
	Net:            "no network, where none was asked for",
}

// Diagnose tries everything out. It takes some tens of milliseconds the first time.
func Diagnose() Diagnosis {
	d := Diagnosis{}
	at := map[Level]map[string]Guarantee{}
	for _, level := range []Level{Basic, Strict} {
		_, at[level] = offered(level)
	}
	for _, name := range Guarantees() {
		o := Offered{Name: name, Promise: promises[name], At: map[Level]Guarantee{}}
		for level, had := range at {
			if g, ok := had[name]; ok {
				o.At[level] = g
			}
		}
		d.Guarantees = append(d.Guarantees, o)
	}
	m, err := newLimiter(Limits{Memory: 1 << 30, Pids: 1 << 15, CPU: 1, CPUTime: 1 << 40, FileSize: 1 << 40, OpenFiles: 64, Disk: 1 << 40}, nil, false)
	defer m.close()
	for _, name := range LimitNames {
		by := "none"
		if err == nil && m.by[name] != "" {
			by = m.by[name]
		}
		d.Limits = append(d.Limits, Enforced{Name: name, EnforcedBy: by})
	}
	return d
}

// Missing are the guarantees of a level that cannot be had.
func (d Diagnosis) Missing(level Level) []string {
	var missing []string
	for _, o := range d.Guarantees {
		if g, promised := o.At[level]; promised && g.By == "" {
			missing = append(missing, o.Name)
		}
	}
	return missing
}
