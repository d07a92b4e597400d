package executor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/attune-run/attune/pack"
)

// Portable makes a request that another machine can execute: what was typed is read by its declared type, and Local is gone.
// Everything that can be known without running it is checked, with schema, the action's, the parameters too; only the values of
// secrets are not there. A secret's literal value is refused, for it would lie in the queue. The error has a Hint and an ExitCode.
func (r Request) Portable(schema *pack.Schema) (Request, error) {
	if r.Schema == "" {
		r.Schema = RequestSchema
	}
	if err := r.check(); err != nil {
		return r, err
	}
	if r.Script != nil && r.Script.Path != "" {
		return r, badRequest("send the code itself: script.inline", "script %s lies on this machine alone", r.Script.Path)
	}
	if err := r.checkNames(r.name(), schema); err != nil {
		return r, err
	}
	for _, name := range sortedKeys(r.Secrets) {
		if _, err := parseReference(r.Secrets[name]); err != nil {
			return r, joinSecretErrors([]string{name}, []error{err})
		}
	}
	var arguments []Argument
	if r.Local != nil {
		arguments, r.Local = r.Local.Arguments, nil
	}
	given, misread := readArguments(schema, r.Parameters, arguments)
	if len(given) > 0 {
		r.Parameters = given
	}
	return r, r.checkParameters(schema, misread)
}

// checkParameters validates the parameters without their secrets.
func (r *Request) checkParameters(schema *pack.Schema, misread []pack.Violation) error {
	if schema == nil {
		return misreadOr(misread, nil)
	}
	for _, name := range schema.Secrets() {
		if _, literal := r.Parameters[name]; literal {
			return secretFailure("give a reference that the worker can resolve: secrets."+name, "%s is a secret: its value may not be given here", name)
		}
	}
	_, err := schema.Bind(r.Parameters)
	var violations *pack.ViolationsError
	if errors.As(err, &violations) {
		err = r.withoutSecrets(violations.Violations)
	}
	return misreadOr(misread, err)
}

// withoutSecrets leaves out what is said of parameters whose values the worker will get.
func (r *Request) withoutSecrets(violations []pack.Violation) error {
	rest := &pack.ViolationsError{}
	for _, v := range violations {
		top, _, _ := strings.Cut(v.Path, ".")
		top, _, _ = strings.Cut(top, "[")
		if _, secret := r.Secrets[top]; !secret {
			rest.Violations = append(rest.Violations, v)
		}
	}
	if len(rest.Violations) == 0 {
		return nil
	}
	return rest
}

// scriptMax is the size in bytes of a script that travels in a request.
const scriptMax = 1 << 20

// Inline replaces the path of the request's script, if it has one, by the code and the name of its runtime.
func (s *Service) Inline(ctx context.Context, req Request) (Request, error) {
	if req.Script == nil || req.Script.Path == "" {
		return req, nil
	}
	x := s.newExecution(req, Observer{})
	defer x.release()
	if err := x.load(ctx); err != nil {
		return req, err
	}
	info, err := os.Stat(x.job.script)
	if err != nil {
		return req, err
	}
	if info.Size() > scriptMax {
		return req, badRequest("put it into a pack", "script %s has %d bytes, more than %d", req.Script.Path, info.Size(), scriptMax)
	}
	code, err := os.ReadFile(x.job.script)
	if err != nil {
		return req, fmt.Errorf("script %s: %w", req.Script.Path, err)
	}
	if req.RuntimeVersion == "" {
		req.RuntimeVersion = x.job.constraint
	}
	req.Script = &Script{Inline: string(code), Runtime: x.job.spec.Name}
	return req, nil
}

// Parameters is the schema of an action of the packs that are here.
func (s *Service) Parameters(action string) (*pack.Schema, error) {
	found, err := s.finder.Action(action)
	if err != nil {
		return nil, packFailure(err)
	}
	return found.Parameters, nil
}
