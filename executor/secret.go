package executor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/attune-run/attune/proc"
)

const (
	secretMax     = 1 << 20 // bytes of one secret
	secretTimeout = 30 * time.Second
)

// resolveSecrets fetches what the request's references name. It runs before
// anything else does, so that a reference that leads nowhere costs nothing.
func (x *execution) resolveSecrets(ctx context.Context) error {
	x.secrets = make(map[string]string, len(x.req.Secrets))
	for _, name := range sortedKeys(x.req.Secrets) {
		reference := x.req.Secrets[name]
		value, err := x.resolveSecret(ctx, reference)
		if err != nil {
			return &failure{kind: kindSecret, err: fmt.Errorf("secret %s: %w", name, err),
				hint: "references are env:NAME, file:PATH and exec:COMMAND"}
		}
		if value == "" {
			return &failure{kind: kindSecret, err: fmt.Errorf("secret %s: %s is empty", name, scheme(reference))}
		}
		x.secrets[name] = value
	}
	return nil
}

func (x *execution) resolveSecret(ctx context.Context, reference string) (string, error) {
	kind, rest, ok := strings.Cut(reference, ":")
	switch {
	case !ok || rest == "":
		// The text may be the secret itself, typed by mistake: it is not repeated.
		return "", errors.New("that is not a reference, and a secret's value may not be given here")
	case x.req.Local == nil:
		return "", fmt.Errorf("no provider for %s: references is configured here", kind)
	}
	switch kind {
	case "env":
		value, ok := environment(x.svc.cfg.Environ)[rest]
		if !ok {
			return "", fmt.Errorf("the variable %s is not set", rest)
		}
		return value, nil
	case "file":
		return x.secretFile(rest)
	case "exec":
		return x.secretCommand(ctx, rest)
	case "age", "sops", "vault", "aws-sm", "aws-ssm":
		return "", fmt.Errorf("%s: references are not supported by this version", kind)
	default:
		return "", fmt.Errorf("there is no kind of reference %q", kind)
	}
}

func (x *execution) secretFile(path string) (string, error) {
	if !filepath.IsAbs(path) {
		dir, err := x.callerDir()
		if err != nil {
			return "", err
		}
		path = filepath.Join(dir, path)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, secretMax+1))
	if err != nil {
		return "", err
	}
	if len(data) > secretMax {
		return "", fmt.Errorf("%s is larger than %d bytes", path, secretMax)
	}
	return trimNewline(data), nil
}

// secretCommand runs a command line with the caller's own environment and takes what it prints.
func (x *execution) secretCommand(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, secretTimeout, fmt.Errorf("no answer within %s", secretTimeout))
	defer cancel()
	var stdout limitedBuffer
	stderr := proc.NewCapture(4 << 10)
	exit, err := proc.Run(ctx, proc.Spec{
		Argv: []string{"/bin/sh", "-c", command}, Env: x.svc.cfg.Environ,
		Stdout: &stdout, Stderr: stderr, Grace: time.Second, Force: x.local.Force,
	})
	switch {
	case err != nil:
		return "", err
	case exit.Cause != nil:
		return "", exit.Cause
	case exit.Code != 0:
		return "", fmt.Errorf("the command exited with %d: %s", exit.Code, strings.TrimSpace(stderr.Text()))
	case stdout.Len() > secretMax:
		return "", fmt.Errorf("the command printed more than %d bytes", secretMax)
	}
	return trimNewline(stdout.Bytes()), nil
}

// limitedBuffer keeps at most one byte more than a secret may have.
type limitedBuffer struct{ bytes.Buffer }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if room := secretMax + 1 - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(len(p), room)])
	}
	return len(p), nil
}

func trimNewline(data []byte) string {
	return strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
}

func scheme(reference string) string {
	kind, _, _ := strings.Cut(reference, ":")
	return "what the " + kind + ": reference leads to"
}
