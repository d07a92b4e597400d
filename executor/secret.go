package executor

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

	"github.com/attune-run/attune/internal/nearest"
	"github.com/attune-run/attune/proc"
)

const (
	secretMax     = 1 << 20 // bytes of one secret
	secretsMax    = 4 << 20 // bytes of all secrets of an execution
	secretTimeout = 30 * time.Second
	secretWidth   = 8 // references that are resolved at the same time
)

// The kinds of references.
const (
	refEnv   = "env"
	refFile  = "file"
	refExec  = "exec"
	refAge   = "age"
	refSops  = "sops"
	refVault = "vault"
	refSM    = "aws-sm"
	refSSM   = "aws-ssm"
)

var referenceKinds = []string{refEnv, refFile, refExec, refAge, refSops, refVault, refSM, refSSM}

const referenceHint = "references are env:NAME, file:PATH, exec:COMMAND, age:FILE#key, sops:FILE#key, vault:PATH#key, aws-sm:NAME#key and aws-ssm:NAME"

// resolveSecrets fetches what the request's references name, before anything runs.
func (x *execution) resolveSecrets(ctx context.Context) error {
	values, err := x.svc.Secrets(ctx, x.req.Secrets, x.req.Local)
	x.secrets = values
	if err != nil {
		return err
	}
	for _, name := range sortedKeys(values) {
		variable := slices.Contains(x.req.SecretEnv, name)
		switch value := values[name]; {
		case variable && strings.Contains(value, "\x00"):
			return secretFailure("hand it over as a parameter", "secret %s holds a NUL byte, which a variable cannot", name)
		case !variable && !utf8.ValidString(value):
			return secretFailure("keep it encoded, as base64 for instance", "secret %s is no UTF-8 text, which a parameter must be", name)
		}
	}
	return nil
}

// Secrets resolves references, name → reference, all at the same time. Requests from elsewhere, with a local that is nil or Remote, are
// bound to the operator's Providers. The error names every reference that leads nowhere; no error holds a value.
func (s *Service) Secrets(ctx context.Context, references map[string]string, local *Local) (map[string]string, error) {
	values := make(map[string]string, len(references))
	if len(references) == 0 {
		return values, nil
	}
	proc.Harden() // from here on memory holds what no core dump may
	r := &resolver{cfg: &s.cfg, env: s.host, sources: map[string]*source{}}
	if r.remote = local == nil || local.Remote; !r.remote {
		r.local = *local
	}
	names := sortedKeys(references)
	results, failures := make([]string, len(names)), make([]error, len(names))
	var group errgroup.Group
	group.SetLimit(secretWidth)
	for i, name := range names {
		group.Go(func() error {
			results[i], failures[i] = r.resolve(ctx, references[name])
			return nil
		})
	}
	_ = group.Wait() // failures holds the errors
	total := 0
	for i, name := range names {
		if failures[i] == nil {
			values[name] = results[i]
			total += len(results[i])
		}
	}
	if total > secretsMax {
		return values, secretFailure("hand large ones over as files", "the secrets have %d bytes together, more than %d", total, secretsMax)
	}
	return values, joinSecretErrors(names, failures)
}

func secretFailure(hint, format string, args ...any) *failure {
	return &failure{kind: kindSecret, hint: hint, err: fmt.Errorf(format, args...)}
}

// joinSecretErrors names all that failed; the hint is the first's.
func joinSecretErrors(names []string, failures []error) error {
	var texts []string
	hint := ""
	for i, err := range failures {
		if err == nil {
			continue
		}
		texts = append(texts, fmt.Sprintf("secret %s: %v", names[i], err))
		var f *failure
		if errors.As(err, &f) && hint == "" {
			hint = f.hint
		}
	}
	if len(texts) == 0 {
		return nil
	}
	return secretFailure(first(hint, referenceHint), "%s", strings.Join(texts, "; "))
}

// resolver fetches secrets for one request.
type resolver struct {
	cfg    *Config
	env    map[string]string // the host's
	remote bool              // bound to cfg.Providers
	local  Local             // when not remote

	mu      sync.Mutex
	sources map[string]*source // by kind, name and query: a document with many keys is fetched once
}

// reference is one that was taken apart: kind:name?query#key.
type reference struct {
	kind, name, key string
	query           url.Values
}

// String is what errors show: of a command only the program.
func (r reference) String() string {
	text := r.kind + ":" + r.name
	if r.kind == refExec {
		if words := strings.Fields(r.name); len(words) > 1 {
			text = r.kind + ":" + words[0] + " …"
		}
	}
	if r.key != "" {
		text += "#" + r.key
	}
	return text
}

// parseReference never repeats what may be the secret itself, typed by mistake.
func parseReference(text string) (reference, error) {
	kind, name, ok := strings.Cut(text, ":")
	if !slices.Contains(referenceKinds, kind) || !ok {
		message := "that is not a reference, and a secret's value may not be given here"
		if near := nearest.Name(kind, referenceKinds); ok && near != "" {
			message += "; did you mean " + near + ":?"
		}
		return reference{}, secretFailure(referenceHint, "%s", message)
	}
	ref := reference{kind: kind, name: name}
	if slices.Contains([]string{refAge, refSops, refVault, refSM, refSSM}, kind) {
		if at := strings.LastIndexByte(name, '#'); at >= 0 {
			ref.name, ref.key = name[:at], name[at+1:]
			if ref.key == "" {
				return ref, secretFailure("write the key behind it, or leave it out", "%s: there is nothing behind #", ref)
			}
		}
	}
	if slices.Contains([]string{refVault, refSM, refSSM}, kind) {
		path, query, _ := strings.Cut(ref.name, "?")
		values, err := url.ParseQuery(query)
		if err != nil {
			return ref, secretFailure("write ?version=3", "%s: what stands behind ? cannot be read", ref)
		}
		ref.name, ref.query = path, values
	}
	if ref.name == "" {
		return ref, secretFailure(referenceHint, "%s: names nothing", ref)
	}
	return ref, nil
}

// onlyQuery refuses a query that a kind does not know.
func (r reference) onlyQuery(known ...string) error {
	for _, name := range sortedKeys(r.query) {
		if !slices.Contains(known, name) {
			return secretFailure("it takes "+strings.Join(known, ", "), "%s: there is no ?%s=", r, name)
		}
	}
	return nil
}

func (r *resolver) resolve(ctx context.Context, text string) (string, error) {
	ref, err := parseReference(text)
	if err != nil {
		return "", err
	}
	if err := r.permit(ref); err != nil {
		return "", named(ref, err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, secretTimeout, fmt.Errorf("no answer within %s", secretTimeout))
	defer cancel()
	value, err := r.source(ref).value(ctx, r, ref)
	switch {
	case err != nil && ctx.Err() != nil:
		return "", named(ref, context.Cause(ctx))
	case err != nil:
		return "", named(ref, err)
	case value == "":
		return "", secretFailure("a secret has at least one byte", "%s is empty", ref)
	case len(value) > secretMax:
		return "", secretFailure("hand it over as a file", "%s has more than %d bytes", ref, secretMax)
	}
	return value, nil
}

// named puts the reference before an error and keeps its hint.
func named(ref reference, err error) error {
	f := secretFailure("", "%s: %w", ref, err)
	var inner *failure
	if errors.As(err, &inner) {
		f.hint = inner.hint
	}
	return f
}

func (r *resolver) source(ref reference) *source {
	id := ref.kind + ":" + ref.name + "?" + ref.query.Encode()
	if ref.kind == refSops && ref.key != "" {
		id += "#" // with a key it is read as a document
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sources[id] == nil {
		r.sources[id] = &source{}
	}
	return r.sources[id]
}

// source is one place secrets come from, fetched by the first that asks.
type source struct {
	once sync.Once
	doc  document
	err  error
}

func (s *source) value(ctx context.Context, r *resolver, ref reference) (string, error) {
	s.once.Do(func() { s.doc, s.err = r.fetch(ctx, ref) })
	if s.err != nil {
		return "", s.err
	}
	return s.doc.pick(ref.key)
}

func (r *resolver) fetch(ctx context.Context, ref reference) (document, error) {
	switch ref.kind {
	case refEnv:
		return r.variable(ref.name)
	case refFile:
		return r.file(ref.name)
	case refExec:
		return r.command(ctx, ref.name)
	case refAge:
		return r.age(ref.name)
	case refSops:
		return r.sops(ctx, ref)
	case refVault:
		return r.vault(ctx, ref)
	case refSM:
		return r.secretsManager(ctx, ref)
	default:
		return r.parameterStore(ctx, ref)
	}
}

// path is relative to the caller's directory.
func (r *resolver) path(name string) (string, error) {
	if rest, ok := strings.CutPrefix(name, "~/"); ok && r.env["HOME"] != "" {
		return filepath.Join(r.env["HOME"], rest), nil
	}
	if filepath.IsAbs(name) || r.local.Dir == "" {
		return filepath.Abs(name)
	}
	return filepath.Join(r.local.Dir, name), nil
}
