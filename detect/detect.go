// Package detect finds the interpreters this machine has: it looks where PATH and the runtimes' specs say,
// resolves version managers' shims to the real binaries, verifies each by a probe, and remembers the answers.
package detect

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/attune-run/attune/runtime"
)

// Options say where to look. The zero value looks nowhere.
type Options struct {
	Path      string            // a PATH value
	Home      string            // what "~/" in a spec's locations means
	Dir       string            // working directory: version managers read files from here upwards
	Env       map[string]string // variables version managers read, PYENV_VERSION for one; may be nil
	CacheFile string            // where verified interpreters are remembered; empty, or unwritable, remembers nothing
	Memories  []string          // such files of others, a layer's for one: only read, and asked after the own one
	CacheMode fs.FileMode       // of the directories made for CacheFile, its own and the one above; zero means 0700
	Timeout   time.Duration     // of one probe; zero means 2 s
}

// Detector finds interpreters. It is safe for concurrent use.
type Detector struct {
	opt    Options
	memory *memory
	recent recent
}

const (
	defaultTimeout = 2 * time.Second
	parallelProbes = 8
)

// New makes a detector; it touches nothing yet.
func New(opt Options) *Detector {
	if opt.Timeout == 0 {
		opt.Timeout = defaultTimeout
	}
	memory := &memory{file: opt.CacheFile, dirMode: cmp.Or(opt.CacheMode, 0o700), lower: opt.Memories}
	return &Detector{opt: opt, memory: memory}
}

// NotFoundError says what was looked for and what was there instead.
type NotFoundError struct {
	Runtime    string
	Constraint string
	Found      []runtime.Interpreter // verified, of versions that do not satisfy
	Probed     []string              // "path: why not", or the places that hold nothing
	Gone       string                // the path of one that was known and is not there any more; empty otherwise
}

// Error lists every version found, or every place that was probed.
func (e *NotFoundError) Error() string {
	if e.Gone != "" {
		return fmt.Sprintf("the %s at %s is not there", e.Runtime, e.Gone)
	}
	if len(e.Found) > 0 {
		list := make([]string, len(e.Found))
		for i, f := range e.Found {
			list[i] = fmt.Sprintf("%s (%s)", cmp.Or(f.Version, "unknown version"), f.Path)
		}
		return fmt.Sprintf("no %s here satisfies %q; there are %s", e.Runtime, e.Constraint, strings.Join(list, ", "))
	}
	return fmt.Sprintf("no %s was found; probed: %s", e.Runtime, strings.Join(e.Probed, "; "))
}

// All finds every interpreter of the given runtimes, in the order of runtimes, then best first. Finding none
// is no error; only an ended context is.
func (d *Detector) All(ctx context.Context, specs []*runtime.Spec) ([]runtime.Interpreter, error) {
	perSpec := make([]survey, len(specs))
	var group errgroup.Group
	group.SetLimit(parallelProbes)
	for i, spec := range specs {
		group.Go(func() error {
			perSpec[i] = d.survey(ctx, spec, nil)
			return nil
		})
	}
	_ = group.Wait()
	d.memory.save()
	var all []runtime.Interpreter
	for _, s := range perSpec {
		all = append(all, s.interpreters()...)
	}
	return all, context.Cause(ctx)
}

// Find is the best interpreter of a runtime: among the verified ones that satisfy the constraint, those of the
// most preferred probe, and of these the highest version; without a constraint the spec's default version comes
// first. The error is a *NotFoundError or a *runtime.ConstraintError. What was found is found again for a second without another
// look around, as long as its binary is the same: one that is installed meanwhile is seen after that.
func (d *Detector) Find(ctx context.Context, spec *runtime.Spec, constraint string) (runtime.Interpreter, error) {
	if _, err := runtime.ParseConstraint(constraint); err != nil {
		return runtime.Interpreter{}, err
	}
	if spec.Verification.AlwaysAvailable {
		return runtime.Interpreter{Runtime: spec.Name, OnPath: true}, nil
	}
	if best, ok := d.recent.get(spec, constraint); ok {
		return best, nil
	}
	begun := time.Now()
	s := d.survey(ctx, spec, nil)
	d.memory.save()
	if err := context.Cause(ctx); err != nil {
		return runtime.Interpreter{}, err
	}
	for _, tier := range s.tiers() {
		if best, ok := choose(spec, tier, constraint); ok {
			d.recent.put(spec, constraint, best, begun)
			return best, nil
		}
	}
	return runtime.Interpreter{}, &NotFoundError{Runtime: spec.Name, Constraint: constraint, Found: s.interpreters(), Probed: s.probed()}
}

// First is the interpreter that PATH names first; where PATH names none it is what Find finds. A script that is
// run by hand expects the interpreter its user would get.
func (d *Detector) First(ctx context.Context, spec *runtime.Spec) (runtime.Interpreter, error) {
	s := d.survey(ctx, spec, func(c candidate) bool { return c.onPath })
	d.memory.save()
	for _, tier := range s.tiers() {
		return tier[0], nil
	}
	return d.Find(ctx, spec, "")
}

// Verify probes one given binary. One that is not there, or not any more, is a *NotFoundError with Gone.
func (d *Detector) Verify(ctx context.Context, spec *runtime.Spec, path string) (runtime.Interpreter, error) {
	missing := &NotFoundError{Runtime: spec.Name}
	target, err := realBinary(path)
	if err != nil {
		missing.Gone = path
		return runtime.Interpreter{}, missing
	}
	defer d.memory.save()
	questions := d.questions(spec, path, target)
	if len(questions) == 0 {
		missing.Probed = []string{fmt.Sprintf("%s: %s answers for %s alone", path, spec.Verification.Probes[0].Binary, spec.Interpreter.Binary)}
	}
	for _, c := range questions {
		found := d.verify(ctx, spec, c)
		if found.reason == "" {
			return found.interpreter, nil
		}
		missing.Probed = append(missing.Probed, path+": "+found.reason)
	}
	if err := context.Cause(ctx); err != nil {
		return runtime.Interpreter{}, err
	}
	if _, err := os.Stat(target); errors.Is(err, fs.ErrNotExist) {
		missing.Gone = path
	}
	missing.Probed = slices.Compact(missing.Probed)
	return runtime.Interpreter{}, missing
}

// questions are what a spec and its versions ask about one binary.
func (d *Detector) questions(spec *runtime.Spec, path, target string) []candidate {
	list := &candidateList{entry: -1}
	ask := func(spec *runtime.Spec) {
		for _, probe := range spec.Verification.Probes {
			if command, ok := d.spokesman(spec, probe, target); ok {
				list.add(candidate{path: path, target: target, command: command, probe: probe})
			}
		}
		if len(spec.Verification.Probes) == 0 {
			list.add(candidate{path: path, target: target, command: target})
		}
	}
	for i, v := range spec.Versions {
		if binary, sole := soleBinary(spec.With(v)); sole && ownsInterpreters(v) && binary == path {
			list.entry = i
			ask(spec.With(v))
		}
	}
	list.entry = -1
	ask(spec)
	return list.all
}

// choose ranks one tier of interpreters.
func choose(spec *runtime.Spec, tier []runtime.Interpreter, constraint string) (runtime.Interpreter, bool) {
	versions := make([]string, len(tier))
	for i, t := range tier {
		versions[i] = t.Version
	}
	best, err := spec.Rank(versions, constraint)
	if err != nil {
		return runtime.Interpreter{}, false
	}
	return tier[slices.Index(versions, best)], true
}

// survey is what was found of one runtime.
type survey struct {
	spec    *runtime.Spec
	results []result
	places  []string // where nothing lay
}

type result struct {
	candidate   candidate
	interpreter runtime.Interpreter
	reason      string // why it is none; empty when it was verified
}

// survey verifies every candidate of a spec that wanted accepts; nil accepts all.
func (d *Detector) survey(ctx context.Context, spec *runtime.Spec, wanted func(candidate) bool) survey {
	s := survey{spec: spec}
	if spec.Verification.AlwaysAvailable {
		s.results = []result{{interpreter: runtime.Interpreter{Runtime: spec.Name, OnPath: true}}}
		return s
	}
	candidates := d.candidates(spec)
	if wanted != nil {
		candidates = slices.DeleteFunc(candidates, func(c candidate) bool { return !wanted(c) })
	}
	s.places = d.places(spec)
	s.results = make([]result, len(candidates))
	var unknown []int
	for i, c := range candidates {
		var known bool
		if s.results[i], known = d.recall(spec, c); !known {
			unknown = append(unknown, i)
		}
	}
	if len(unknown) > 0 {
		d.learn(ctx, spec, candidates, unknown, s.results)
	}
	for i := range s.results {
		s.results[i].place(spec)
	}
	return s
}

// learn asks the binaries of which nothing is remembered. Processes that start at once take turns: fifty first ones would start
// hundreds of interpreters, and those that come after the first find its answers.
func (d *Detector) learn(ctx context.Context, spec *runtime.Spec, candidates []candidate, unknown []int, results []result) {
	defer d.memory.takeProbing(ctx)()
	var group errgroup.Group
	group.SetLimit(parallelProbes)
	for _, i := range unknown {
		group.Go(func() error {
			results[i] = d.verify(ctx, spec, candidates[i])
			return nil
		})
	}
	_ = group.Wait()
	d.memory.save()
}

// place holds a result against the versions of its spec: one found for a version must be of it, and where a version says itself
// where its interpreters are, none found elsewhere is.
func (r *result) place(spec *runtime.Spec) {
	if r.reason != "" {
		return
	}
	version := r.interpreter.Version
	at := spec.Entry(version)
	switch own := r.candidate.entry; {
	case own >= 0 && at != own:
		r.reason = fmt.Sprintf("it is %s, not %s as the runtime's versions say", cmp.Or(version, "of no known version"), spec.Versions[own].Version)
	case own < 0 && at >= 0 && ownsInterpreters(spec.Versions[at]):
		r.reason = fmt.Sprintf("%s is taken from where the runtime's versions say (%s)", version, spec.Versions[at].Version)
	}
}

// tiers are the verified interpreters grouped by their probe's priority, each in candidates' order. A binary that passed several
// probes counts for the most preferred.
func (s survey) tiers() [][]runtime.Interpreter {
	byPriority := map[int][]runtime.Interpreter{}
	var priorities []int
	results := slices.Clone(s.results)
	slices.SortStableFunc(results, func(a, b result) int { return a.candidate.probe.Priority - b.candidate.probe.Priority })
	taken := map[string]bool{}
	for _, r := range results {
		if r.reason != "" || taken[r.interpreter.Path] {
			continue
		}
		taken[r.interpreter.Path] = true
		p := r.candidate.probe.Priority
		if _, ok := byPriority[p]; !ok {
			priorities = append(priorities, p)
		}
		byPriority[p] = append(byPriority[p], r.interpreter)
	}
	slices.Sort(priorities)
	tiers := make([][]runtime.Interpreter, len(priorities))
	for i, p := range priorities {
		tiers[i] = byPriority[p]
	}
	return tiers
}

// interpreters are all verified ones, best first.
func (s survey) interpreters() []runtime.Interpreter {
	var all []runtime.Interpreter
	for _, tier := range s.tiers() {
		slices.SortStableFunc(tier, func(a, b runtime.Interpreter) int { return runtime.CompareVersions(b.Version, a.Version) })
		all = append(all, tier...)
	}
	return all
}

func (s survey) probed() []string {
	var all []string
	for _, r := range s.results {
		if r.reason != "" {
			all = append(all, r.candidate.path+": "+r.reason)
		}
	}
	if len(all) == 0 {
		return s.places
	}
	return all
}

// places name where a spec is looked for, for people.
func (d *Detector) places(spec *runtime.Spec) []string {
	all := d.placesOf(spec)
	for _, v := range spec.Versions {
		if ownsInterpreters(v) {
			all = append(all, d.placesOf(spec.With(v))...)
		}
	}
	return slices.Compact(all)
}

func (d *Detector) placesOf(spec *runtime.Spec) []string {
	var names []string
	for _, probe := range spec.Verification.Probes {
		names = append(names, probe.Binary)
	}
	slices.Sort(names)
	if binary, sole := soleBinary(spec); sole && runtime.IsPath(binary) {
		return []string{binary + " (" + spec.Origin + ")"}
	} else if sole {
		return []string{binary + " in PATH (" + d.opt.Path + ")"}
	}
	all := []string{strings.Join(slices.Compact(names), ", ") + " in PATH (" + d.opt.Path + ")"}
	for _, place := range spec.Verification.Locations {
		// Names that are listed one by one, python3.8 to python3.19, are one place.
		if stem := strings.TrimRight(place, "0123456789"); stem != place {
			place = stem + "*"
		}
		if !slices.Contains(all, place) {
			all = append(all, place)
		}
	}
	return all
}

// Restrict keeps the runtimes that list names, by name or alias in any case, separated by commas or blanks. An
// empty list keeps all. unknown are the names that fit none.
func Restrict(specs []*runtime.Spec, list string) (kept []*runtime.Spec, unknown []string) {
	names := strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' })
	if len(names) == 0 {
		return specs, nil
	}
	for _, name := range names {
		if !slices.ContainsFunc(specs, func(s *runtime.Spec) bool { return s.Is(name) }) {
			unknown = append(unknown, name)
		}
	}
	for _, spec := range specs {
		if slices.ContainsFunc(names, spec.Is) {
			kept = append(kept, spec)
		}
	}
	return kept, unknown
}

// isExecutable tells whether path leads to a file that may be run.
func isExecutable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// realBinary follows links to the binary itself. A virtual environment's python stays what it is: the
// link beside pyvenv.cfg is what makes it one (PEP 405). So does a link to a program that is what it is called by: busybox is
// no shell, its link sh is.
func realBinary(path string) (string, error) {
	if _, err := os.Stat(filepath.Join(filepath.Dir(filepath.Dir(path)), "pyvenv.cfg")); err == nil {
		return path, nil
	}
	target, err := filepath.EvalSymlinks(path)
	if err != nil || !slices.Contains([]string{"busybox", "busybox.static", "toybox"}, filepath.Base(target)) {
		return target, err
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path)) // /bin may be a link to /usr/bin
	return filepath.Join(dir, filepath.Base(path)), err
}
