package executor

import (
	"cmp"
	"path"
	"slices"
	"strings"

	"github.com/attune-run/attune/runtime"
)

// reserved are the child's contract: never inherited from attune's own surroundings, so
// that an attune inside an action is not steered by its parent's.
var reserved = []string{
	"ATTUNE_EXEC_ID", "ATTUNE_ACTION", "ATTUNE_PACK_REF", "ATTUNE_PARAMETER_DELIVERY",
	"ATTUNE_PARAMETER_FORMAT", "ATTUNE_PARAMETER_FILE", "ATTUNE_ARTIFACTS_DIR", "ATTUNE_RESULT_FILE",
	"ATTUNE_PACK_CONFIG", "ATTUNE_RULE", "ATTUNE_TRIGGER",
}

var proxies = []string{
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
	"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS",
}

// childEnv is the child's whole environment: where it starts from, then the runtime's, the
// environment's, the action's and the request's variables, then what the action asks of its host,
// then the contract's own.
func (x *execution) childEnv() ([]string, error) {
	vars := runtime.Vars{
		PackDir: x.job.dir, Interpreter: x.interpreter.Path, ActionFile: x.job.script,
	}
	if x.env != nil {
		vars.EnvDir = x.env.Dir
	}
	runtimes := x.spec().EnvVars
	if x.job.pack == nil { // a bare script has no pack, and what lies beside it is not a pack's
		runtimes = slices.DeleteFunc(slices.Clone(runtimes), func(v runtime.EnvVar) bool { return strings.Contains(v.Value, "{pack_dir}") })
	}
	env, err := runtime.ApplyEnv(x.baseEnv(), runtimes, vars)
	if err != nil {
		return nil, err
	}
	if env, err = runtime.ApplyEnv(env, x.command.Env, vars); err != nil {
		return nil, err
	}
	set := environment(env)
	for _, layer := range []map[string]string{x.job.env, x.req.Env, x.granted()} {
		for name, value := range layer {
			set[name] = value
		}
	}
	for _, name := range x.req.SecretEnv {
		set[name] = x.secrets[name]
	}
	for name, value := range x.contract() {
		set[name] = value
	}
	return flatten(set), nil
}

// baseEnv is the caller's environment without the variables that hold its secrets, or, sealed,
// nothing but an allow-list.
func (x *execution) baseEnv() []string {
	base := make(map[string]string, len(x.svc.host))
	if x.job.settings.inheritEnv {
		secret := x.secretVariables()
		for name, value := range x.svc.host {
			if !secret[name] && !slices.Contains(reserved, name) {
				base[name] = value
			}
		}
	} else {
		base["SHELL"] = defaultShell
		for name, value := range x.svc.host {
			if slices.Contains([]string{"PATH", "LANG", "TZ", "TERM"}, name) || strings.HasPrefix(name, "LC_") ||
				x.svc.cfg.PassProxies && slices.Contains(proxies, name) {
				base[name] = value
			}
		}
		base["PATH"] = cmp.Or(base["PATH"], defaultPath)
	}
	if x.job.settings.private {
		base["HOME"] = x.privatePath("home")
		base["TMPDIR"] = x.privatePath("tmp")
	}
	return flatten(base)
}

// What a sealed environment has whatever its host's is. The shell is as cron(8) sets it: a program that is not told asks who the user
// is, which takes a shell longer than its script where the answer is not in a file.
const (
	defaultPath  = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	defaultShell = "/bin/sh"
)

// granted are the host's variables that the action asks for and the operator allows.
func (x *execution) granted() map[string]string {
	granted := map[string]string{}
	if x.job.settings.inheritEnv || len(x.job.passEnv) == 0 {
		return granted
	}
	secret := x.secretVariables()
	for name, value := range x.svc.host {
		if !secret[name] && matchAny(x.job.passEnv, name) && matchAny(x.svc.cfg.AllowEnv, name) {
			granted[name] = value
		}
	}
	return granted
}

// secretVariables are the host's variables that the request names as secrets: the child gets them as those.
func (x *execution) secretVariables() map[string]bool {
	names := map[string]bool{}
	for _, reference := range x.req.Secrets {
		if name, ok := strings.CutPrefix(reference, "env:"); ok {
			names[name] = true
		}
	}
	return names
}

// contract are the variables every action can rely on.
func (x *execution) contract() map[string]string {
	set := map[string]string{
		"ATTUNE_EXEC_ID":            x.res.ID,
		"ATTUNE_ACTION":             x.job.ref,
		"ATTUNE_PARAMETER_DELIVERY": x.job.delivery,
		"ATTUNE_PARAMETER_FORMAT":   x.job.parameterFormat,
		"ATTUNE_ARTIFACTS_DIR":      x.privatePath("artifacts"),
		"ATTUNE_RESULT_FILE":        x.privatePath("result"),
	}
	optional := map[string]string{
		"ATTUNE_RULE": x.req.Context.Rule, "ATTUNE_TRIGGER": x.req.Context.Trigger,
		"TRACEPARENT": x.req.Context.Traceparent,
	}
	if x.job.pack != nil {
		set["ATTUNE_PACK_REF"] = x.job.pack.Ref
		set["ATTUNE_PACK_CONFIG"] = x.privatePath("config.json")
	}
	if x.job.delivery == "file" {
		set["ATTUNE_PARAMETER_FILE"] = x.privatePath("parameters")
	}
	for name, value := range optional {
		if value != "" {
			set[name] = value
		}
	}
	return set
}

func matchAny(globs []string, name string) bool {
	return slices.ContainsFunc(globs, func(glob string) bool {
		ok, err := path.Match(glob, name)
		return err == nil && ok
	})
}

// environment reads NAME=value entries; the last of a name wins.
func environment(entries []string) map[string]string {
	env := make(map[string]string, len(entries))
	for _, entry := range entries {
		if name, value, ok := strings.Cut(entry, "="); ok && name != "" {
			env[name] = value
		}
	}
	return env
}

// flatten gives NAME=value entries, in the same order each time.
func flatten(env map[string]string) []string {
	entries := make([]string, 0, len(env))
	for name, value := range env {
		entries = append(entries, name+"="+value)
	}
	slices.Sort(entries)
	return entries
}
