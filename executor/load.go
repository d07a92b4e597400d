package executor

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/attune-run/attune/pack"
	"github.com/attune-run/attune/proc"
	"github.com/attune-run/attune/runtime"
)

// job is what to run and how, once everything that was said about it — by the
// action, the request, the profile and the operator — has been taken together.
type job struct {
	ref        string       // as in the result
	pack       *pack.Pack   // nil for a bare script
	action     *pack.Action // nil for a bare script
	schema     *pack.Schema // nil for a bare script: any parameter, all strings
	spec       *runtime.Spec
	constraint string // of the runtime's version
	// interpreter is the path a script's own first line names; empty means by version.
	interpreter     string
	interpreterArgs []string // what that line says behind the interpreter
	preferPath      bool     // without a constraint, the interpreter that PATH names first

	dir    string // the pack's, or the script's
	script string // absolute; empty for inline code
	inline string

	delivery, parameterFormat, outputFormat string
	outputSchema                            *pack.Schema
	env                                     map[string]string
	passEnv                                 []string
	settings                                settings
	isolation, isolationNetwork             string // as asked for; empty means by profile, and the host's
	limits                                  map[string]any
	level                                   proc.Level  // the isolation that applies
	bounds                                  proc.Limits // the limits that apply
}

const defaultTimeout = 300 * time.Second

// load finds out what is to be run.
func (x *execution) load(context.Context) error {
	if err := x.checkRequest(); err != nil {
		return err
	}
	var err error
	if x.req.Action != "" {
		err = x.loadAction()
	} else {
		err = x.loadScript()
	}
	if err != nil {
		return err
	}
	return x.applySettings()
}

func (x *execution) checkRequest() error { return x.req.check() }

// check refuses a request that contradicts itself.
func (r *Request) check() error {
	switch {
	case r.Schema != "" && r.Schema != RequestSchema:
		return badRequest("", "schema %q is not known here, want %q", r.Schema, RequestSchema)
	case r.Pack != (PackPin{}) && (r.Pack.Version == "" || r.Pack.Digest == "" || !strings.HasPrefix(r.Action, r.Pack.Ref+".")):
		return badRequest("a pin has the ref of the action's pack, a version and a digest", "pack %s %s does not go with action %q", r.Pack.Ref, r.Pack.Version, r.Action)
	case (r.Action == "") == (r.Script == nil):
		return badRequest("", "a request names either an action or a script")
	case r.Script != nil && (r.Script.Path == "") == (r.Script.Inline == ""):
		return badRequest("", "a script has either a path or inline code")
	case len(r.Args) > 0 && r.Action != "":
		return badRequest("pass them as parameters: -p name=value", "action %s takes parameters, not arguments: %q", r.Action, r.Args)
	case r.Timeout < 0:
		return badRequest("leave it out for the default", "timeout %s is negative", time.Duration(r.Timeout))
	}
	if r.ID != "" {
		if _, err := uuid.Parse(r.ID); err != nil {
			return badRequest("leave it out and one is made", "id %q is not a UUID", r.ID)
		}
	}
	return nil
}

func (x *execution) loadAction() error {
	catalog, err := x.svc.catalog()
	if err != nil {
		return noRuntime(err)
	}
	found, err := x.svc.actions.Action(x.finder(), catalog, x.pinned())
	if err != nil {
		return packFailure(err)
	}
	action := found.Action
	if err := x.hashPack(found); err != nil {
		return err
	}
	for _, p := range action.Warnings {
		x.warn("%v", p)
	}
	spec, err := x.svc.usable(found.Runtime, found.RuntimeErr)
	if err != nil {
		return noRuntime(fmt.Errorf("action %s: %w", action.Ref, err))
	}
	x.job = job{
		ref: action.Ref, pack: action.Pack, action: action, schema: action.Parameters, spec: spec,
		constraint: first(x.req.RuntimeVersion, action.RuntimeVersion),
		dir:        action.Pack.Dir, script: action.EntryPoint,
		delivery: action.Delivery, parameterFormat: action.ParameterFormat,
		outputFormat: action.OutputFormat, outputSchema: action.OutputSchema,
		env: action.Env, passEnv: action.PassEnv,
		isolation: first(x.req.Isolation, action.Isolation), isolationNetwork: first(x.req.IsolationNetwork, action.IsolationNetwork),
		limits: merged(action.Limits, x.req.Limits),
	}
	x.job.settings = x.profile(Sealed, action.Timeout, action.Cwd)
	return nil
}

// finder looks for packs where the request's door says, then where the service does.
func (x *execution) finder() pack.Finder {
	return pack.Finder{Dirs: slices.Concat(x.local.Packs, x.svc.finder.Dirs)}
}

// pinned is the action's name with the version that was asked for.
func (x *execution) pinned() string {
	if x.req.Pack == (PackPin{}) {
		return x.req.Action
	}
	name, _, _ := strings.Cut(x.req.Action, "@")
	return name + "@=" + x.req.Pack.Version
}

// awaitPin refuses a pack whose digest is not the one asked for. Nothing of the pack has been run or built yet.
func (x *execution) awaitPin() error {
	pin := x.req.Pack
	if pin == (PackPin{}) || x.job.pack == nil {
		return nil
	}
	if err := x.awaitDigest(); err != nil {
		return &failure{kind: kindPack, err: fmt.Errorf("digest of pack %s: %w", pin.Ref, err)}
	}
	if got := x.res.Pack; got.Ref != pin.Ref || got.Version != pin.Version || got.Digest != pin.Digest {
		return &failure{kind: kindPack, err: &PinError{Want: pin, Got: PackPin{got.Ref, got.Version, got.Digest}},
			hint: "the pack was changed after the request was made; ask for what is there now, or bring back what was"}
	}
	return nil
}

// awaitDigest is done when the pack's digest is in the result.
func (x *execution) awaitDigest() error {
	switch {
	case x.res.Pack.Digest != "":
		return nil
	case x.digest == nil:
		text, err := x.job.pack.Digest()
		x.res.Pack.Digest = text
		return err
	}
	d := <-x.digest
	x.digest, x.res.Pack.Digest = nil, d.text
	return d.err
}

// PinError says that a pack is not the one that was asked for.
type PinError struct{ Want, Got PackPin }

// Error names both.
func (e *PinError) Error() string {
	return fmt.Sprintf("pack %s %s here is %s, and %s %s was asked for", e.Got.Ref, e.Got.Version, e.Got.Digest, e.Want.Version, e.Want.Digest)
}

// hashPack digests the pack beside the rest of the work, unless that was done before; finish waits for it. Where signatures are required
// the pack is verified before anything of it is used.
func (x *execution) hashPack(found *pack.Found) error {
	p := found.Action.Pack
	x.res.Pack = PackInfo{Ref: p.Ref, Version: p.Version}
	if x.svc.cfg.RequireSignature || x.local.RequireSignature {
		return x.verifyPack(p)
	}
	if x.local.Direct && x.req.Pack == (PackPin{}) {
		return nil
	}
	done := make(chan digest, 1)
	x.digest = done
	hash := func() {
		text, err := found.Digest()
		done <- digest{text, err}
	}
	if found.Hashed() {
		hash()
	} else {
		go hash()
	}
	return nil
}

func (x *execution) verifyPack(p *pack.Pack) error {
	verified, err := p.Verify(x.svc.cfg.TrustedKeys)
	if err != nil {
		return &failure{kind: kindPack, err: err, hint: "`attune-run pack sign` signs a pack; trusted_keys in the configuration names the keys that count"}
	}
	x.res.Pack.Digest, x.res.Pack.SignedBy = verified.Digest, verified.Key.String()
	return nil
}

// lookup finds a runtime by the name that an action of p uses, or with p nil a bare script.
func (s *Service) lookup(f pack.Finder, p *pack.Pack, name string) (*runtime.Spec, error) {
	catalog, err := s.catalog()
	if err != nil {
		return nil, err
	}
	return s.usable(f.Runtime(catalog, p, name))
}

// usable is the runtime that was found, if the operator's list has it.
func (s *Service) usable(spec *runtime.Spec, err error) (*runtime.Spec, error) {
	if err != nil {
		return nil, err
	}
	if !s.allowed(spec) {
		return nil, &switchedOffError{Runtime: spec.Name, List: s.cfg.Runtimes}
	}
	return spec, nil
}

// switchedOffError is a runtime that the operator's list leaves out.
type switchedOffError struct{ Runtime, List string }

func (e *switchedOffError) Error() string {
	return fmt.Sprintf("runtime %s is switched off by ATTUNE_WORKER_RUNTIMES=%s", e.Runtime, e.List)
}

// settings are a profile's choices after the flags that change one at a time.
type settings struct {
	profile     Profile
	cwd         string // "pack", "caller", "workspace", or an absolute path
	inheritEnv  bool
	private     bool // HOME, TMPDIR and umask of its own
	callerStdin bool // the caller's stdin when there are no parameters
	timeout     time.Duration
	why         map[string]string // setting → who decided; for Explain
}

// profile starts from the default profile, unless another was asked for, and
// overlays the action's own words and then the request's.
func (x *execution) profile(byDefault Profile, timeout time.Duration, cwd string) settings {
	profile, why := byDefault, map[string]string{"profile": "default for an action of a pack"}
	if byDefault == Host {
		why["profile"] = "default for a bare script"
	}
	if x.local.Profile != "" {
		profile, why["profile"] = x.local.Profile, "--profile"
	}
	set := settings{profile: profile, cwd: "pack", private: true, timeout: defaultTimeout, why: why}
	if profile == Host {
		set = settings{profile: profile, cwd: "caller", inheritEnv: true, callerStdin: true, why: why}
	}
	for _, name := range []string{"cwd", "environment", "timeout"} {
		why[name] = "profile " + string(profile)
	}
	if timeout > 0 {
		set.timeout, why["timeout"] = timeout, "the action's timeout"
	}
	if x.req.Timeout > 0 {
		set.timeout, why["timeout"] = time.Duration(x.req.Timeout), "the request's timeout"
	}
	if limit := x.svc.cfg.MaxTimeout; limit > 0 && (set.timeout == 0 || set.timeout > limit) {
		set.timeout, why["timeout"] = limit, "the operator's maximum"
	}
	if cwd != "" && cwd != "pack" && profile == Sealed {
		set.cwd, why["cwd"] = cwd, "the action's cwd"
	}
	if x.local.Cwd != "" {
		set.cwd, why["cwd"] = x.local.Cwd, "--cwd"
	}
	if x.local.InheritEnv {
		set.inheritEnv, why["environment"] = true, "--inherit-env"
	}
	return set
}

// applySettings checks what the job asks of this machine and resolves its directory.
func (x *execution) applySettings() error {
	if err := x.applyIsolation(); err != nil {
		return err
	}
	if err := x.applyLimits(); err != nil {
		return err
	}
	set := &x.job.settings
	if !slices.Contains([]string{"pack", "caller", "workspace"}, set.cwd) && !filepath.IsAbs(set.cwd) {
		dir, err := x.callerDir()
		if err != nil {
			return err
		}
		set.cwd = filepath.Join(dir, set.cwd)
	}
	return nil
}
