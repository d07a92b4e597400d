package executor

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/attune-run/attune/pack"
	"github.com/attune-run/attune/proc"
	"github.com/attune-run/attune/runtime"
)

// Toleration, Preference and RuntimeNeed are as the metadata of actions has them.
type (
	Toleration  = pack.Toleration
	Preference  = pack.Preference
	RuntimeNeed = pack.RuntimeNeed
)

// Requirement is what a worker must have to run a request. Two that mean the same have the same Route.
type Requirement struct {
	Pack    PackPin           `json:"pack,omitzero"` // zero: a script
	Runtime string            `json:"runtime"`       // its name
	Version string            `json:"version,omitempty"`
	Also    []RuntimeNeed     `json:"also,omitempty"` // further runtimes
	Labels  map[string]string `json:"labels,omitempty"`
	// Tolerations are the taints that the worker may have.
	Tolerations []Toleration `json:"tolerations,omitempty"`
	// Isolation is the level that the worker's host must give in full, and Network "none" where it must keep the child off the
	// network; both are empty where nothing is demanded, or only as far as it can be had.
	Isolation string `json:"isolation,omitempty"`
	Network   string `json:"network,omitempty"`
	// Limits are the names of those that the host must enforce.
	Limits []string `json:"limits,omitempty"`
}

// UnmarshalJSON refuses fields that it does not know: whoever does not understand a requirement does not satisfy it.
func (r *Requirement) UnmarshalJSON(document []byte) error {
	type plain Requirement
	decoder := json.NewDecoder(bytes.NewReader(document))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode((*plain)(r)); err != nil {
		return fmt.Errorf("a newer attune may understand it: %w", err)
	}
	return nil
}

// Route is one token (letters and digits) for the requirement.
func (r Requirement) Route() string {
	r.normalize()
	text, err := json.Marshal(r) // maps are written in the order of their keys
	if err != nil {
		panic(err) // it holds texts only
	}
	sum := sha256.Sum256(text)
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16]))
}

// normalize sorts what has no order.
func (r *Requirement) normalize() {
	r.Version = strings.TrimSpace(r.Version)
	r.Also = sortedSet(r.Also, func(a, b RuntimeNeed) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Version, b.Version))
	})
	r.Tolerations = sortedSet(r.Tolerations, func(a, b Toleration) int {
		return cmp.Or(strings.Compare(a.Key, b.Key), strings.Compare(a.Operator, b.Operator), strings.Compare(a.Value, b.Value))
	})
	r.Limits = sortedSet(r.Limits, strings.Compare)
}

// sortedSet is a sorted copy in which nothing comes twice.
func sortedSet[T comparable](list []T, compare func(a, b T) int) []T {
	return slices.Compact(slices.SortedFunc(slices.Values(list), compare))
}

// With adds what a request asks for to the requirement of its action. A label that both name must have the same value.
func (r Requirement) With(req Request) (Requirement, error) {
	labels, err := pack.ReadSelector(req.Selector)
	if err != nil {
		return r, badRequest("", "selector: %w", err)
	}
	tolerations, err := pack.ReadTolerations(req.Tolerations)
	if err != nil {
		return r, badRequest("", "tolerations: %w", err)
	}
	if _, err := runtime.ParseConstraint(req.RuntimeVersion); err != nil {
		return r, badRequest("", "runtime_version: %w", err)
	}
	for _, name := range sortedKeys(labels) {
		if own, ok := r.Labels[name]; ok && own != labels[name] {
			return r, badRequest("", "selector: %s=%s contradicts the action's own, %s=%s", name, labels[name], name, own)
		}
	}
	r.Version = first(req.RuntimeVersion, r.Version)
	if len(labels) > 0 {
		r.Labels = merged(r.Labels, labels)
	}
	r.Tolerations = slices.Concat(r.Tolerations, tolerations)
	if err := r.confine(req); err != nil {
		return r, err
	}
	r.normalize()
	return r, nil
}

// confine adds the isolation and the limits that a request demands. With best effort it demands nothing.
func (r *Requirement) confine(req Request) error {
	if err := checkIsolation(proc.Level(first(req.Isolation, string(proc.None))), req.IsolationMode, req.IsolationNetwork); err != nil {
		return err
	}
	if _, err := proc.ParseLimits(req.Limits); err != nil {
		return badRequest("limits come from the action's metadata and the request", "%w", err)
	}
	if req.IsolationMode == bestEffort {
		r.Isolation, r.Network, r.Limits = "", "", nil
		return nil
	}
	r.demand(first(req.Isolation, r.Isolation), first(req.IsolationNetwork, r.Network))
	for name, value := range req.Limits {
		r.Limits = slices.DeleteFunc(slices.Clone(r.Limits), func(known string) bool { return known == name })
		if value != nil {
			r.Limits = append(r.Limits, name)
		}
	}
	return nil
}

// demand sets the isolation, in the one spelling of each meaning.
func (r *Requirement) demand(level, network string) {
	if r.Isolation = level; level == string(proc.None) {
		r.Isolation = ""
	}
	if r.Network = network; network == "host" {
		r.Network = ""
	}
}

// Defaults are what an action's metadata says about how the pool runs it, with the request's own words over them.
type Defaults struct {
	Retries  int
	Backoff  time.Duration // before the first retry; zero means the pool's own
	Limit    int           // of the action's executions at once; zero means any number
	Affinity []Preference
	Timeout  time.Duration // zero means none
}

// With lays a request's own words over the defaults. Preferences of both count.
func (d Defaults) With(req Request) (Defaults, error) {
	affinity, err := pack.ReadAffinity(req.Affinity)
	if err != nil {
		return d, badRequest("", "affinity: %w", err)
	}
	d.Affinity = slices.Concat(d.Affinity, affinity)
	if req.Retries != nil {
		if req.Retries.Max < 0 || req.Retries.Backoff < 0 {
			return d, badRequest("", "retries: %d after %s is negative", req.Retries.Max, time.Duration(req.Retries.Backoff))
		}
		d.Retries, d.Backoff = req.Retries.Max, cmp.Or(time.Duration(req.Retries.Backoff), d.Backoff)
	}
	if req.Timeout > 0 {
		d.Timeout = time.Duration(req.Timeout)
	}
	return d, nil
}

// Requirement finds out what a request needs of a worker, from the packs that are here. Parameters and secrets are not looked
// at. A script must be inline: a path means nothing elsewhere.
func (s *Service) Requirement(ctx context.Context, req Request) (Requirement, Defaults, error) {
	x := s.newExecution(req, Observer{})
	defer x.release()
	if req.Script != nil && req.Script.Path != "" {
		return Requirement{}, Defaults{}, badRequest("send its text as inline code, with the name of its runtime", "script %s is a file, which other machines do not have", req.Script.Path)
	}
	if err := x.load(ctx); err != nil {
		return Requirement{}, Defaults{}, err
	}
	r := Requirement{Runtime: x.job.spec.Name}
	d := Defaults{Timeout: x.job.settings.timeout}
	if x.job.pack != nil {
		if err := x.require(&r, &d); err != nil {
			return r, d, err
		}
	}
	d, err := d.With(req)
	if err != nil {
		return r, d, err
	}
	r, err = r.With(req)
	return r, d, err
}

// require takes over what the action's metadata says.
func (x *execution) require(r *Requirement, d *Defaults) error {
	if err := x.awaitDigest(); err != nil {
		return packFailure(err)
	}
	r.Pack = PackPin{x.res.Pack.Ref, x.res.Pack.Version, x.res.Pack.Digest}
	if pin := x.req.Pack; pin != (PackPin{}) && pin != r.Pack {
		return &failure{kind: kindPack, err: &PinError{Want: pin, Got: r.Pack}}
	}
	action := x.job.action
	r.Version, r.Labels, r.Tolerations = action.RuntimeVersion, maps.Clone(action.Placement.Selector), action.Placement.Tolerations
	for _, need := range action.Placement.Runtimes {
		if spec, err := x.svc.lookup(x.finder(), x.job.pack, need.Name); err == nil {
			need.Name = spec.Name // also where an alias was written
		}
		r.Also = append(r.Also, need)
	}
	r.demand(action.Isolation, action.IsolationNetwork)
	for name, value := range action.Limits {
		if value != nil {
			r.Limits = append(r.Limits, name)
		}
	}
	d.Retries, d.Backoff, d.Limit, d.Affinity = action.Retries.Max, action.Retries.Backoff, action.Concurrency, action.Placement.Affinity
	return nil
}

// Offer is an action of a pack that is here.
type Offer struct {
	Action      string
	Requirement Requirement
	Defaults    Defaults
	Parameters  *pack.Schema
}

// Offers are the actions of all packs that are here, in the order of their names, without those that are disabled or cannot run here
// in any case; what is broken is logged. An error is an ended context.
func (s *Service) Offers(ctx context.Context) ([]Offer, error) {
	packs, _ := s.finder.List()
	var all []Offer
	for _, p := range packs {
		digest, err := p.Digest()
		if err != nil {
			continue // Capabilities logs it
		}
		actions, _ := p.Actions()
		for _, a := range actions {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if !a.Enabled {
				continue
			}
			offer, err := s.offer(ctx, a, digest)
			if err != nil {
				s.cfg.Log.Info("action is not offered", "action", a.Ref, "error", err)
				continue
			}
			all = append(all, offer)
		}
	}
	return all, nil
}

func (s *Service) offer(ctx context.Context, a *pack.Action, digest string) (Offer, error) {
	x := s.newExecution(Request{Action: a.Ref + "@=" + a.Pack.Version, Local: &Local{Direct: true}}, Observer{})
	defer x.release()
	if err := x.load(ctx); err != nil {
		return Offer{}, err
	}
	x.res.Pack.Digest = digest
	o := Offer{Action: a.Ref, Requirement: Requirement{Runtime: x.job.spec.Name}, Defaults: Defaults{Timeout: x.job.settings.timeout}, Parameters: a.Parameters}
	err := x.require(&o.Requirement, &o.Defaults)
	o.Requirement.normalize()
	return o, err
}

// Taint keeps off a worker what does not tolerate it.
type Taint struct {
	Key   string `json:"key"`
	Value string `json:"value,omitempty"`
}

// ParseTaint reads "key", "key=value", either with ":NoSchedule" behind it, the one effect there is.
func ParseTaint(text string) (Taint, error) {
	body, effect, said := strings.Cut(text, ":")
	key, value, _ := strings.Cut(body, "=")
	if key == "" || said && effect != "NoSchedule" {
		return Taint{}, fmt.Errorf("taint %q: write it like key=value or key=value:NoSchedule", text)
	}
	return Taint{key, value}, nil
}

// String is the taint as ParseTaint reads it.
func (t Taint) String() string {
	if t.Value == "" {
		return t.Key
	}
	return t.Key + "=" + t.Value
}

// Capabilities are what a worker has.
type Capabilities struct {
	Packs    []PackPin           `json:"packs,omitempty"`
	Runtimes []RuntimeCapability `json:"runtimes,omitempty"`
	Labels   map[string]string   `json:"labels,omitempty"`
	Taints   []Taint             `json:"taints,omitempty"`
	Scripts  bool                `json:"scripts,omitempty"` // runs code that requests bring
	// Isolation has the levels that this host was tried at, each with the guarantees that it cannot give there; the network is one.
	Isolation map[string][]string `json:"isolation,omitempty"`
	Limits    []string            `json:"limits,omitempty"` // those that are enforced
}

// RuntimeCapability is a runtime with the versions that were found; those of native code are none.
type RuntimeCapability struct {
	Name     string   `json:"name"`
	Aliases  []string `json:"aliases,omitempty"`
	Versions []string `json:"versions,omitempty"`
}

// Capabilities looks at the packs and runtimes of this machine. Labels, Taints and Scripts are the operator's to add. Packs that cannot
// be read are left out.
func (s *Service) Capabilities(ctx context.Context) (Capabilities, error) {
	found, _, err := s.Detect(ctx)
	if err != nil {
		return Capabilities{}, err
	}
	c := confines()
	specs, _ := s.Runtimes()
	for _, spec := range specs {
		r := RuntimeCapability{Name: spec.Name, Aliases: spec.Aliases}
		for _, i := range found {
			if i.Runtime == spec.Name && !slices.Contains(r.Versions, i.Version) {
				r.Versions = append(r.Versions, i.Version)
			}
		}
		if len(r.Versions) > 0 || spec.Verification.AlwaysAvailable {
			c.Runtimes = append(c.Runtimes, r)
		}
	}
	packs, _ := s.finder.List()
	for _, p := range packs {
		digest, err := p.Digest()
		if err != nil {
			s.cfg.Log.Error("pack cannot be offered", "pack", p.Ref, "error", err)
			continue
		}
		c.Packs = append(c.Packs, PackPin{p.Ref, p.Version, digest})
	}
	return c, context.Cause(ctx)
}

// confines is how far this host can cut off and bound what it runs. It is tried out once in a process.
func confines() Capabilities {
	found := diagnosis()
	c := Capabilities{Isolation: map[string][]string{}}
	for _, level := range []proc.Level{proc.Basic, proc.Strict} {
		c.Isolation[string(level)] = found.Missing(level)
	}
	for _, l := range found.Limits {
		if l.EnforcedBy != "none" {
			c.Limits = append(c.Limits, l.Name)
		}
	}
	return c
}

var diagnosis = sync.OnceValue(proc.Diagnose)

// Satisfies tells whether a worker with these capabilities can run what requires r, and otherwise why not.
func (c Capabilities) Satisfies(r Requirement) (ok bool, why string) {
	switch {
	case r.Pack == (PackPin{}) && !c.Scripts:
		return false, "it runs no code that requests bring"
	case r.Pack != (PackPin{}) && !slices.Contains(c.Packs, r.Pack):
		return false, fmt.Sprintf("it does not have pack %s %s (%s)", r.Pack.Ref, r.Pack.Version, r.Pack.Digest)
	}
	for _, need := range append([]RuntimeNeed{{Name: r.Runtime, Version: r.Version}}, r.Also...) {
		if why := c.lacks(need, r.Pack); why != "" {
			return false, why
		}
	}
	for _, name := range sortedKeys(r.Labels) {
		if have, ok := c.Labels[name]; !ok || have != r.Labels[name] {
			return false, fmt.Sprintf("it does not have label %s=%s", name, r.Labels[name])
		}
	}
	for _, taint := range c.Taints {
		if !slices.ContainsFunc(r.Tolerations, func(t Toleration) bool { return t.Tolerates(taint.Key, taint.Value) }) {
			return false, fmt.Sprintf("its taint %s is not tolerated", taint)
		}
	}
	if why := c.unconfined(r); why != "" {
		return false, why
	}
	return true, ""
}

// unconfined says which part of the demanded isolation, or which limit, the host cannot give.
func (c Capabilities) unconfined(r Requirement) string {
	level := first(r.Isolation, string(proc.Basic))
	missing, tried := c.Isolation[level]
	missing = slices.DeleteFunc(slices.Clone(missing), func(guarantee string) bool {
		return guarantee == proc.Net && r.Network == "" || guarantee != proc.Net && r.Isolation == ""
	})
	demanded := r.Isolation != "" || r.Network != ""
	switch {
	case demanded && !tried:
		return "it does not say whether it can give isolation " + level
	case demanded && len(missing) > 0:
		return fmt.Sprintf("its host cannot give isolation %s; missing: %s", level, strings.Join(missing, ", "))
	}
	for _, name := range r.Limits {
		if !slices.Contains(c.Limits, name) {
			return "nothing on its host enforces the limit " + name
		}
	}
	return ""
}

// lacks says why a runtime is not there. One that the pinned pack itself brings is known only once the pack is: it is not asked for.
func (c Capabilities) lacks(need RuntimeNeed, pin PackPin) string {
	if pin.Ref != "" && strings.HasPrefix(need.Name, pin.Ref+".") {
		return ""
	}
	constraint, err := runtime.ParseConstraint(need.Version)
	if err != nil {
		return err.Error()
	}
	for _, have := range c.Runtimes {
		if !strings.EqualFold(have.Name, need.Name) && !slices.ContainsFunc(have.Aliases, func(alias string) bool { return strings.EqualFold(alias, need.Name) }) {
			continue
		}
		if constraint.Any() || slices.ContainsFunc(have.Versions, constraint.Match) {
			return ""
		}
		return fmt.Sprintf("its %s is %s, not %s", have.Name, strings.Join(have.Versions, ", "), need.Version)
	}
	return "it has no " + strings.TrimSpace(need.Name+" "+need.Version)
}

// Affinity is the sum of the weights of the preferences that hold.
func (c Capabilities) Affinity(prefs []Preference) int {
	score := 0
	for _, p := range prefs {
		holds := true
		for name, value := range p.Labels {
			have, ok := c.Labels[name]
			holds = holds && ok && have == value
		}
		if holds {
			score += p.Weight
		}
	}
	return score
}
