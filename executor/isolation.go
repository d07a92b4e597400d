package executor

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/attune-run/attune/proc"
)

// bestEffort is the isolation mode that leaves out what cannot be had.
const bestEffort = "best-effort"

// applyIsolation decides the level: the request's word, else the action's, else the profile's, and never less than the
// operator's minimum.
func (x *execution) applyIsolation() error {
	set := &x.job.settings
	requested := proc.None
	if set.profile == Sealed {
		requested = proc.Basic
	}
	set.why["isolation"] = "profile " + string(set.profile)
	if x.job.isolation != "" {
		requested, set.why["isolation"] = proc.Level(x.job.isolation), "the request's or the action's isolation"
	}
	x.res.Isolation.Requested, x.res.Isolation.Mode = string(requested), x.req.IsolationMode
	if nobodyAsked := x.job.isolation == "" && x.job.isolationNetwork != "none"; nobodyAsked && requested != proc.None && !proc.Isolates {
		// To fail closed would leave no action of a pack that runs without a flag. The operator's minimum holds all the same.
		x.res.Isolation.Mode = bestEffort
		set.why["isolation"] += ", as far as it can be had: attune isolates on Linux only"
	}
	if err := checkIsolation(requested, x.req.IsolationMode, x.job.isolationNetwork); err != nil {
		return err
	}
	x.job.level = requested
	if least := x.svc.cfg.MinIsolation; !requested.Least(least) {
		x.job.level, set.why["isolation"] = least, "the operator's minimum"
		if x.job.isolation != "" {
			x.warn("isolation %s was asked for; the operator's minimum, %s, applies", requested, least)
		}
	}
	if x.job.isolationNetwork == "none" && x.job.level == proc.None {
		return isolationWord("isolation network none needs isolation basic or strict")
	}
	proc.Prepare(x.job.level)
	return nil
}

// checkIsolation refuses words that mean nothing.
func checkIsolation(level proc.Level, mode, network string) error {
	switch {
	case !slices.Contains(proc.Levels, level):
		return isolationWord("isolation %q is not a level; there are none, basic and strict", level)
	case !slices.Contains([]string{"", bestEffort}, mode):
		return isolationWord("isolation mode %q is not known; leave it out, or say best-effort", mode)
	case !slices.Contains([]string{"", "host", "none"}, network):
		return isolationWord("isolation network %q is not known; there are host and none", network)
	}
	return nil
}

func isolationWord(format string, args ...any) error {
	return &failure{kind: kindIsolation, err: fmt.Errorf(format, args...)}
}

// applyLimits reads the limits and lowers them to the operator's maximum.
func (x *execution) applyLimits() error {
	limits, err := proc.ParseLimits(x.job.limits)
	if err != nil {
		return badRequest("limits come from the action's metadata, the request and --limit", "%w", err)
	}
	x.job.bounds = limits.Within(x.svc.cfg.MaxLimits)
	return nil
}

// isolation is what the child may see and change. Its own directory is the only place to write.
func (x *execution) isolation(cwd string) proc.Isolation {
	i := proc.Isolation{
		Level: x.job.level, Network: x.job.isolationNetwork, BestEffort: x.res.Isolation.Mode == bestEffort, Minimum: x.svc.cfg.MinIsolation,
		Writable: []string{x.private.Path}, Disk: []string{x.private.Path},
	}
	if i.Level != proc.Strict {
		return i
	}
	i.ReadOnly = append(i.ReadOnly, x.job.dir, cwd, x.svc.cfg.CacheDir)
	if x.job.script != "" {
		i.ReadOnly = append(i.ReadOnly, filepath.Dir(x.job.script))
	}
	for _, program := range []string{x.interpreter.Path, x.command.Argv[0]} {
		if prefix := installation(program); prefix != "" {
			i.ReadOnly = append(i.ReadOnly, prefix)
		}
	}
	i.Hidden = append(i.Hidden, x.svc.cfg.TempDir, "/etc/attune")
	for _, home := range []string{x.svc.host["HOME"], x.svc.host["XDG_CONFIG_HOME"]} {
		if filepath.IsAbs(home) && home != "/" {
			i.Hidden = append(i.Hidden, home)
		}
	}
	return i
}

// installation is the directory a program was installed in with all that belongs to it: what holds its bin.
func installation(program string) string {
	real, err := filepath.EvalSymlinks(program)
	if err != nil || !filepath.IsAbs(real) {
		return ""
	}
	dir := filepath.Dir(real)
	if base := filepath.Base(dir); base == "bin" || base == "sbin" {
		dir = filepath.Dir(dir)
	}
	if dir == "/" || dir == "/usr" || dir == "/usr/local" {
		return ""
	}
	return dir
}

// reportIsolation says in the result what was done, and how the limits fared.
func (x *execution) reportIsolation() {
	applied := x.exit.Isolation
	info := &x.res.Isolation
	info.Applied, info.Guarantees = string(applied.Level), applied.Guarantees
	if info.Applied == "" {
		info.Applied = string(proc.None)
	}
	info.Missing = append(info.Missing, applied.Missing...)
	for _, l := range x.exit.Limits {
		x.res.Limits = append(x.res.Limits, LimitInfo{Name: l.Name, Limit: l.Limit, Used: l.Used, EnforcedBy: l.EnforcedBy, Hit: l.Hit})
		if l.EnforcedBy == "none" {
			x.warn("nothing on this machine enforces the limit %s", l.Name)
		}
	}
}

// limitFailure is why an execution failed that used more than it may; nil when no limit was hit.
func (x *execution) limitFailure() *failure {
	var names []string
	for _, l := range x.exit.Limits {
		if l.Hit {
			names = append(names, fmt.Sprintf("%s=%v", l.Name, l.Limit))
		}
	}
	if len(names) == 0 || errors.Is(x.exit.Cause, errTimedOut) {
		return nil
	}
	exit := x.exit.Code
	if exit == 0 {
		exit = ExitAttune
	}
	return &failure{kind: kindLimit, status: Failed, exit: exit,
		err:  fmt.Errorf("%s hit its limit %s", x.job.ref, strings.Join(names, ", ")),
		hint: "--limit, or limits in the action's metadata, gives it more, up to the operator's maximum"}
}

// isolationFailure refuses an execution that cannot be isolated.
func isolationFailure(err *proc.IsolationError) error {
	hint := "`attune-run doctor` shows what this machine offers; --isolation-mode=best-effort runs with what can be had"
	if !proc.Isolates {
		hint = "run it on Linux, in a container or a virtual machine for one; --isolation-mode=best-effort runs with supervision and limits of single processes alone"
	}
	return &failure{kind: kindIsolation, err: err, hint: hint}
}
