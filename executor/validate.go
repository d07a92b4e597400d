package executor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/attune-run/attune/internal/nearest"
	"github.com/attune-run/attune/internal/redact"
	"github.com/attune-run/attune/pack"
)

// validate reads the parameters, resolves the secrets, merges them, and checks
// everything at once.
func (x *execution) validate(ctx context.Context) error {
	if err := x.checkVariables(); err != nil {
		return err
	}
	given, misread := x.arguments()
	err := x.resolveSecrets(ctx)
	x.protect(given) // also what was resolved when something else was not: the error is masked
	if err != nil {
		return err
	}
	for name, value := range x.secrets {
		if !slices.Contains(x.req.SecretEnv, name) {
			given[name] = value
		}
	}
	if x.job.schema == nil {
		x.values = given
		return misreadOr(misread, nil)
	}
	for name, value := range x.secrets {
		if x.job.schema.IsSecret(name) {
			parsed, err := x.job.schema.Parse(name, value)
			if err != nil {
				return parameterFailure(fmt.Errorf("%s: the secret is no %s", name, x.job.schema.Type(name)))
			}
			given[name] = parsed
		}
	}
	values, err := x.job.schema.Bind(given)
	if err := misreadOr(misread, err); err != nil {
		return err
	}
	x.values = values
	x.protect(x.values) // defaults and nested values of secret parameters
	return nil
}

// misreadOr joins what could not be read on the command line with what is wrong with the rest.
func misreadOr(misread []pack.Violation, err error) error {
	var violations *pack.ViolationsError
	if len(misread) == 0 || err != nil && !errors.As(err, &violations) {
		if err == nil {
			return nil
		}
		return parameterFailure(err)
	}
	all := &pack.ViolationsError{Violations: misread}
	if violations != nil {
		for _, v := range violations.Violations {
			if !slices.ContainsFunc(misread, func(m pack.Violation) bool { return m.Path == v.Path }) {
				all.Violations = append(all.Violations, v)
			}
		}
	}
	return parameterFailure(all)
}

// arguments are the request's parameters with those of the command line laid over them.
func (x *execution) arguments() (given map[string]any, misread []pack.Violation) {
	return readArguments(x.job.schema, x.req.Parameters, x.local.Arguments)
}

// readArguments reads what was typed by its declared type, and lays it over what was given as values. A nil schema is a bare
// script's.
func readArguments(schema *pack.Schema, parameters map[string]any, arguments []Argument) (given map[string]any, misread []pack.Violation) {
	given = maps.Clone(parameters)
	if given == nil {
		given = map[string]any{}
	}
	typed := map[string]any{}
	for _, a := range arguments {
		value, err := readArgument(schema, a, typed[a.Name])
		if err != nil {
			misread = append(misread, pack.Violation{Path: a.Name, Message: err.Error()})
			continue
		}
		typed[a.Name] = value
	}
	maps.Copy(given, typed)
	return given, misread
}

func readArgument(schema *pack.Schema, a Argument, before any) (any, error) {
	if schema != nil && schema.IsSecret(a.Name) {
		return nil, errors.New("is a secret: its value would be visible in the process list; use --secret " + a.Name + "=env:NAME, or --params-file")
	}
	if a.JSON {
		return pack.DecodeJSON([]byte(a.Text))
	}
	if schema == nil {
		return a.Text, nil
	}
	value, err := schema.Parse(a.Name, a.Text)
	if err != nil {
		return nil, err
	}
	if list, ok := before.([]any); ok {
		if more, ok := value.([]any); ok {
			return append(list, more...), nil
		}
	}
	return value, nil
}

// protect makes every resolved secret, and every value of a secret parameter, one that is masked. It is called before and after
// defaults are filled in.
func (x *execution) protect(values map[string]any) {
	if x.protected == nil {
		x.protected = map[string]bool{}
	}
	for _, name := range sortedKeys(x.secrets) {
		x.protectValue(name, x.secrets[name])
	}
	if x.job.schema == nil {
		return
	}
	for _, name := range x.job.schema.Secrets() {
		eachString(values[name], func(value string) { x.protectValue(name, value) })
	}
}

// protectValue says by name what is not masked.
func (x *execution) protectValue(name, value string) {
	if value == "" || x.protected[value] {
		return
	}
	x.protected[value] = true
	if x.redact == x.svc.masked {
		x.redact = redact.New(x.svc.cfg.Masked...)
	}
	switch x.redact.Add(value) {
	case redact.TooShort:
		x.warn("secret %s is too short to be masked in the output: it has under %d bytes", name, redact.MinLength)
	case redact.Plain:
		x.warn("secret %s is masked as it is and line by line, but not in its encoded forms: it has %d bytes", name, len(value))
	}
}

// tellSecrets tells the observer what is masked.
func (x *execution) tellSecrets() {
	if x.obs.Secrets != nil && !x.redact.Empty() {
		masked := sortedKeys(x.protected)
		x.obs.Secrets(slices.DeleteFunc(masked, func(value string) bool { return len(value) < redact.MinLength }))
	}
}

// checkVariables refuses variables the child could not get or that are attune's own.
func (x *execution) checkVariables() error {
	if err := checkVariables(x.job.env); err != nil {
		return err
	}
	return x.req.checkNames(x.job.ref, x.job.schema)
}

// checkNames refuses variables, arguments and secrets that the child could not get.
func (r *Request) checkNames(ref string, schema *pack.Schema) error {
	if err := checkVariables(r.Env); err != nil {
		return err
	}
	for _, arg := range r.Args {
		if strings.Contains(arg, "\x00") {
			return badRequest("arguments cannot hold one; pass it as a parameter", "argument %q holds a NUL byte", arg)
		}
	}
	for _, name := range r.SecretEnv {
		if at := strings.IndexByte(name, '='); at > 0 { // as --secret is written
			return badRequest(fmt.Sprintf("a secret is named once, and handed over by its name: --secret %s --secret-env %s", name, name[:at]),
				"secret_env: %q is not the name of a secret", name)
		}
		if err := checkVariables(map[string]string{name: ""}); err != nil {
			return err
		}
		if _, ok := r.Secrets[name]; !ok {
			return badRequest("add secrets."+name, "secret_env: there is no secret %s", name)
		}
	}
	if schema == nil {
		return nil
	}
	for _, name := range sortedKeys(r.Secrets) {
		if !slices.Contains(r.SecretEnv, name) && !schema.IsSecret(name) {
			return undeclaredSecret(ref, schema, name)
		}
	}
	return nil
}

func checkVariables(env map[string]string) error {
	for _, name := range sortedKeys(env) {
		switch {
		case name == "" || strings.ContainsAny(name, "=\x00"):
			return badRequest("a name holds neither = nor NUL, and is not empty", "env: %q is not the name of a variable", name)
		case strings.HasPrefix(name, "ATTUNE_"):
			return badRequest("choose another name", "env: %s: the prefix ATTUNE_ is reserved", name)
		case strings.Contains(env[name], "\x00"):
			return badRequest("variables cannot hold one; pass it as a parameter", "env: %s holds a NUL byte", name)
		}
	}
	return nil
}

func undeclaredSecret(ref string, schema *pack.Schema, name string) error {
	declared := schema.Secrets()
	hint := "a secret fills a parameter declared `secret: true`, or a variable named with --secret-env"
	if near := nearest.Name(name, declared); near != "" {
		hint = "did you mean " + near + "?"
	}
	return &failure{kind: kindSecret, hint: hint, err: fmt.Errorf("%s declares no secret parameter %s", ref, name)}
}

func parameterFailure(err error) error {
	return &failure{kind: kindParameters, err: err, hint: "`attune-run pack show ACTION` lists the parameters"}
}
