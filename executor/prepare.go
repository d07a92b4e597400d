package executor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	stdruntime "runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/attune-run/attune/detect"
	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/pack"
	"github.com/attune-run/attune/recipe"
	"github.com/attune-run/attune/runtime"
)

// Prepared is one environment that actions need, or what kept it from being made.
type Prepared struct {
	Pack        string              `json:"pack"`    // the actions' pack, or packs joined by ", "; empty when not even that is known
	Actions     []string            `json:"actions"` // who shares it, sorted; empty when the pack could not be loaded
	Runtime     string              `json:"runtime"` // empty when it is not known
	Version     string              `json:"version"` // the interpreter's, or the one that is missing
	Interpreter runtime.Interpreter `json:"interpreter"`
	Key         string              `json:"key"` // empty when the actions need no environment
	State       string              `json:"state"`
	Reason      string              `json:"reason,omitempty"` // why it failed or was skipped
	Err         error               `json:"-"`                // set when it failed
	Elapsed     time.Duration       `json:"elapsed_ns"`       // planning excluded
}

// States of a Prepared beside those of envcache.State ("hit", "built", "waited").
const (
	PreparedNone    = "none"    // the actions run with the interpreter alone
	PreparedFailed  = "failed"  // tried again on first use
	PreparedSkipped = "skipped" // disabled, switched off, refused, or no interpreter here
)

// PrepareOptions say what Prepare makes ready. The zero value is everything.
type PrepareOptions struct {
	Actions     []string       // globs over "pack.action" (path.Match); none means all
	Concurrency int            // environments made at once; zero means Config.Concurrency
	Locked      bool           // as Local.Locked
	Network     recipe.Network // as Local.Network
	RetryFailed bool           // as Local.RetryFailed
	// Refuse may be nil; a reason it gives keeps an environment from being built: its row is skipped. The key is the zero Key where
	// none is needed. It is called by several goroutines at once.
	Refuse func(row Prepared, key envcache.Key) (reason string)
	// Progress may be nil; it is told about every build, by several goroutines at once.
	Progress func(Prepared, envcache.Progress)
}

// Prepare makes every environment ready that the chosen actions of all packs could need on this machine, several at once. Which
// those are: for each action the one it would run with (the interpreter that its runtime_version chooses), and, where its runtime lists
// versions, one for each of these that satisfies runtime_version, with the best interpreter of that version. Other interpreters that merely
// happen to be installed are not prepared for.
//
// The rows are one for each environment, whoever shares it, and one for whatever could not be made; they are in the order of their packs,
// actions and versions. What fails is no error: that is an ended context, a glob that cannot be read, one that fits no action, or a host's
// runtime file that cannot be used. The rows say then how far it came.
func (s *Service) Prepare(ctx context.Context, opt PrepareOptions) ([]Prepared, error) {
	if _, err := s.catalog(); err != nil {
		return nil, err
	}
	p := &preparation{svc: s, opt: opt, local: Local{Direct: true, Locked: opt.Locked, Network: opt.Network, RetryFailed: opt.RetryFailed}}
	refs, err := p.choose()
	if err != nil {
		return nil, err
	}
	if s.cfg.Mode.worker {
		if _, problems, err := s.Detect(ctx); err != nil {
			return p.rows, err
		} else if len(problems) > 0 {
			s.cfg.Log.Error("runtimes of packs cannot be read", "error", errors.Join(problems...))
		}
		if unknown := s.unknownRuntimes(); len(unknown) > 0 {
			s.cfg.Log.Warn("the list of runtimes names what is no runtime", "names", unknown)
		}
	}
	p.each(len(refs), func(i int) { p.plan(ctx, refs[i]) })
	p.each(len(p.units), func(i int) { p.make(ctx, p.units[i]) })
	slices.SortFunc(p.rows, func(a, b Prepared) int {
		return cmp.Or(cmp.Compare(a.Pack, b.Pack), slices.Compare(a.Actions, b.Actions), runtime.CompareVersions(a.Version, b.Version), cmp.Compare(a.Key, b.Key))
	})
	return p.rows, context.Cause(ctx)
}

// preparation is one Prepare.
type preparation struct {
	svc   *Service
	opt   PrepareOptions
	local Local

	mu    sync.Mutex
	units []*unit
	rows  []Prepared
}

// unit is one environment to be made, with who shares it. One without a key is the interpreter of the actions of one pack.
type unit struct {
	row   Prepared
	users []user
}

// user is an action, and the plan that is its own but for the key.
type user struct {
	pack, ref string
	plan      plan
}

// each does n things, as many at once as the bound allows.
func (p *preparation) each(n int, do func(i int)) {
	var group errgroup.Group
	group.SetLimit(cmp.Or(p.opt.Concurrency, p.svc.cfg.Concurrency, stdruntime.NumCPU()))
	for i := range n {
		group.Go(func() error { do(i); return nil })
	}
	_ = group.Wait() // rows hold the errors
}

func (p *preparation) add(row Prepared) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if row.Actions == nil {
		row.Actions = []string{}
	}
	p.rows = append(p.rows, row)
}

func (p *preparation) fail(row Prepared, err error) {
	row.State, row.Reason, row.Err = PreparedFailed, err.Error(), err
	p.add(row)
}

func (p *preparation) skip(row Prepared, reason string) {
	row.State, row.Reason = PreparedSkipped, reason
	p.add(row)
}

// action is one to prepare: ref leads to the very pack, also where several versions of it lie side by side.
type action struct{ pack, ref string }

// choose lists the actions that are wanted, and notes those that cannot be.
func (p *preparation) choose() ([]action, error) {
	packs, problems := p.svc.finder.List()
	for _, problem := range problems {
		p.fail(Prepared{}, problem)
	}
	fits := make([]bool, len(p.opt.Actions))
	var wanted []action
	for _, one := range packs {
		suffix := ""
		if strings.Contains(filepath.Base(one.Dir), "@") {
			suffix = "@=" + one.Version
		}
		actions, broken := one.Actions()
		for _, err := range broken {
			if len(p.opt.Actions) == 0 {
				p.fail(Prepared{Pack: one.Ref}, err)
			}
		}
		for _, a := range actions {
			switch chosen, err := p.wants(a, fits); {
			case err != nil:
				return nil, err
			case !chosen:
			case !a.Enabled:
				disabled := pack.DisabledError{Ref: a.Ref, File: a.File}
				p.skip(Prepared{Pack: one.Ref, Actions: []string{a.Ref + suffix}, Runtime: a.Runtime}, disabled.Error())
			default:
				wanted = append(wanted, action{one.Ref, a.Ref + suffix})
			}
		}
	}
	if i := slices.Index(fits, false); i >= 0 {
		return nil, badRequest("`attune-run pack list` shows what there is", "no action is named %s", p.opt.Actions[i])
	}
	return wanted, nil
}

func (p *preparation) wants(a *pack.Action, fits []bool) (bool, error) {
	chosen := len(p.opt.Actions) == 0
	for i, glob := range p.opt.Actions {
		ok, err := path.Match(glob, a.Ref)
		if err != nil {
			return false, badRequest("", "%q is no pattern of action names: %v", glob, err)
		}
		fits[i], chosen = fits[i] || ok, chosen || ok
	}
	return chosen, nil
}

// plan finds out what one action needs: nothing is built yet.
func (p *preparation) plan(ctx context.Context, a action) {
	if ctx.Err() != nil {
		return
	}
	x := p.svc.newExecution(Request{Action: a.ref, Local: &p.local}, Observer{})
	defer x.release()
	row := Prepared{Pack: a.pack, Actions: []string{a.ref}}
	if err := x.load(ctx); err != nil {
		var off *switchedOffError
		if ctx.Err() != nil {
			return // nothing is wrong with it
		}
		if errors.As(err, &off) {
			row.Runtime = off.Runtime
			p.skip(row, off.Error())
		} else {
			p.fail(row, err)
		}
		return
	}
	row.Runtime = x.job.spec.Name
	own, _ := runtime.ParseConstraint(x.job.constraint)
	for _, version := range versionsOf(x.job.spec) {
		row, job := row, x.job
		row.Version, job.constraint = version, both(x.job.constraint, version)
		interpreter, err := p.svc.find(ctx, &job)
		var missing *detect.NotFoundError
		switch {
		case ctx.Err() != nil:
			return
		case errors.As(err, &missing) && version != "" && !own.Match(version):
			continue // the action would refuse that version anyhow
		case errors.As(err, &missing):
			p.skip(row, err.Error())
			continue
		case err != nil:
			p.fail(row, err)
			continue
		}
		row.Interpreter, row.Version = interpreter, interpreter.Version
		plan, err := p.svc.plan(ctx, &job, interpreter, p.local)
		if err != nil {
			if ctx.Err() == nil {
				p.fail(row, err)
			}
			continue
		}
		p.share(row, user{a.pack, a.ref, plan})
	}
}

// versionsOf are the versions an action is prepared for: the one it runs with (""), and each that its runtime lists.
func versionsOf(spec *runtime.Spec) []string {
	all := []string{""}
	for _, v := range spec.Versions {
		if !slices.Contains(all, v.Version) {
			all = append(all, v.Version)
		}
	}
	return all
}

// both joins two constraints; an empty one means any.
func both(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "," + b
}

// share adds a user to the unit of its environment. An action may come twice: without a constraint it runs with one of its
// runtime's versions.
func (p *preparation) share(row Prepared, u user) {
	if u.plan.needed {
		store, err := p.svc.Store()
		if err != nil {
			p.fail(row, environmentFailure(err))
			return
		}
		row.Key = store.ID(u.plan.key)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, other := range p.units {
		if other.row.Key != row.Key || row.Key == "" && (other.row.Pack != row.Pack || other.row.Interpreter != row.Interpreter) {
			continue
		}
		if !slices.ContainsFunc(other.users, func(o user) bool { return o.ref == u.ref }) {
			other.users = append(other.users, u)
		}
		return
	}
	p.units = append(p.units, &unit{row: row, users: []user{u}})
}

// make builds one environment and asks for each user's command, which may fail for one alone.
func (p *preparation) make(ctx context.Context, u *unit) {
	slices.SortFunc(u.users, func(a, b user) int { return strings.Compare(a.ref, b.ref) })
	row := u.row
	row.describe(u.users)
	if ctx.Err() != nil {
		return
	}
	if p.opt.Refuse != nil {
		if reason := p.opt.Refuse(row, u.users[0].plan.key); reason != "" {
			p.skip(row, reason)
			return
		}
	}
	begun := time.Now()
	var env *envcache.Env
	row.State = PreparedNone
	if plan := u.users[0].plan; plan.needed {
		var err error
		env, err = p.svc.acquire(ctx, plan, p.local, func(step envcache.Progress) {
			if p.opt.Progress != nil {
				p.opt.Progress(row, step)
			}
		})
		row.Elapsed = time.Since(begun)
		if ctx.Err() != nil && err != nil {
			return // it was asked to end
		}
		if err != nil {
			p.fail(row, vanished(row.Interpreter, environmentFailure(err)))
			return
		}
		defer func() { _ = env.Close() }()
		row.State = string(env.State)
	}
	ready := slices.DeleteFunc(u.users, func(one user) bool {
		_, err := one.plan.recipe.Command(one.plan.input, env)
		if err != nil {
			broken := row
			broken.describe([]user{one})
			p.fail(broken, environmentFailure(err))
		}
		return err != nil
	})
	if len(ready) > 0 {
		row.describe(ready)
		p.add(row)
	}
}

// describe names the users.
func (r *Prepared) describe(users []user) {
	var packs []string
	r.Actions = []string{}
	for _, u := range users {
		r.Actions = append(r.Actions, u.ref)
		if !slices.Contains(packs, u.pack) {
			packs = append(packs, u.pack)
		}
	}
	r.Pack = strings.Join(packs, ", ")
}

// logPrepared writes what is not ready, one record each, and the sum.
func (s *Service) logPrepared() {
	count := map[string]int{}
	for _, row := range s.prepared {
		count[row.State]++
		about := []any{"pack", row.Pack, "actions", row.Actions, "runtime", row.Runtime, "version", row.Version}
		switch row.State {
		case PreparedFailed:
			s.cfg.Log.Error("not ready", append(about, "error", row.Reason)...)
		case PreparedSkipped:
			s.cfg.Log.Info("skipped", append(about, "reason", row.Reason)...)
		}
	}
	s.cfg.Log.Info("prepared", "states", fmt.Sprint(count))
}
