package executor

import (
	"context"
	"strings"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/runtime"
)

// Explanation is what an execution would use, and why; nothing was run or built for it.
type Explanation struct {
	Action      string              `json:"action"`
	Pack        PackInfo            `json:"pack"`
	PackDir     string              `json:"pack_dir,omitempty"`
	Script      string              `json:"script,omitempty"`
	Runtime     string              `json:"runtime"`
	Constraint  string              `json:"constraint,omitempty"`
	Interpreter runtime.Interpreter `json:"interpreter"`
	Environment EnvironmentPlan     `json:"environment"`
	Settings    []Setting           `json:"settings"`
	Problems    []string            `json:"problems"` // what would make it fail
}

// EnvironmentPlan is the environment an execution would use. Key is empty when it needs none.
type EnvironmentPlan struct {
	Key    string              `json:"key"`
	State  string              `json:"state"` // "hit", "miss" or "none"
	Path   string              `json:"path,omitempty"`
	Layer  string              `json:"layer,omitempty"` // root of the layer that has it
	Inputs []envcache.KeyInput `json:"inputs,omitempty"`
}

// Setting is one choice and who made it.
type Setting struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	Why   string `json:"why"`
}

// Explain takes a request through the stages that decide and stops before anything is built. An error
// means that not even the action or script was found; what fails later is among the Problems.
func (s *Service) Explain(ctx context.Context, req Request) (Explanation, error) {
	x := s.newExecution(req, Observer{})
	defer x.release()
	if err := x.load(ctx); err != nil {
		return Explanation{}, err
	}
	e := Explanation{
		Action: x.job.ref, Pack: x.res.Pack, PackDir: x.job.dir, Script: x.job.script, Runtime: x.job.spec.Name,
		Constraint: x.job.constraint, Settings: x.explainSettings(), Environment: EnvironmentPlan{State: "none"}, Problems: []string{},
	}
	if x.digest != nil {
		e.Pack.Digest = (<-x.digest).text
	}
	problem := func(err error) (Explanation, error) {
		e.Problems = append(e.Problems, err.Error())
		return e, nil
	}
	if err := x.detect(ctx); err != nil {
		return problem(err)
	}
	e.Interpreter = x.interpreter
	p, err := s.plan(ctx, &x.job, x.interpreter, x.local)
	if err != nil {
		return problem(err)
	}
	if !p.needed {
		return e, nil
	}
	store, err := s.Store()
	if err != nil {
		return problem(err)
	}
	e.Environment = EnvironmentPlan{Key: store.ID(p.key), State: "miss", Inputs: p.key.Inputs(store.Root())}
	if info, found := store.Find(p.key); found {
		e.Environment = EnvironmentPlan{Key: info.ID, State: "hit", Path: info.Dir, Layer: info.Layer, Inputs: info.Inputs}
	}
	return e, nil
}

func (x *execution) explainSettings() []Setting {
	set := x.job.settings
	environment, timeout, stdin := "allow-list", "none", "parameters as "+x.job.parameterFormat
	if set.inheritEnv {
		environment = "the caller's"
	}
	if set.timeout > 0 {
		timeout = set.timeout.String()
	}
	if x.job.delivery == "file" {
		stdin = "empty; parameters in the file ATTUNE_PARAMETER_FILE"
	}
	if set.callerStdin {
		stdin = "the caller's; parameters as " + x.job.parameterFormat + " when there are any"
	}
	home := "the caller's"
	if set.private {
		home = "private"
	}
	profile := "profile " + string(set.profile)
	settings := []Setting{
		{"profile", string(set.profile), set.why["profile"]},
		{"cwd", set.cwd, set.why["cwd"]},
		{"environment", environment, set.why["environment"]},
		{"home, tmpdir, umask", home, profile},
		{"stdin", stdin, profile},
		{"timeout", timeout, set.why["timeout"]},
		{"isolation", string(x.job.level), set.why["isolation"]},
	}
	if len(x.job.passEnv) > 0 {
		settings = append(settings, Setting{"pass_env", strings.Join(sortedKeys(x.granted()), " "),
			"asked for: " + strings.Join(x.job.passEnv, " ") + "; allowed: " + strings.Join(x.svc.cfg.AllowEnv, " ")})
	}
	return settings
}
