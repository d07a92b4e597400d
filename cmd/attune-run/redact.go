package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/redact"
	"github.com/attune-run/attune/internal/requestflags"
)

// identityFlag is how age: and sops: references are opened.
type identityFlag struct {
	AgeIdentity string `placeholder:"FILE" type:"path" help:"Age identities for age: and sops: references. [$ATTUNE_AGE_KEY_FILE, $SOPS_AGE_KEY_FILE]"`
}

type redactCmd struct {
	requestflags.Secrets `embed:""`
	identityFlag         `embed:""`
}

// Help shows an example under `redact --help`.
func (redactCmd) Help() string {
	return `Examples:
  make deploy 2>&1 | attune-run redact --secret token=env:DEPLOY_TOKEN

Masks secrets, in all forms attune masks them in an action's output, on their way from stdin to stdout.
Nothing passes before all secrets are known. What is printed is delayed only where it may be the beginning of a secret.`
}

// Run copies stdin to stdout. A reader of stdout that went away ends it as it ends any filter.
func (c *redactCmd) Run(a *app) error {
	references, err := c.References()
	if err != nil {
		return err
	}
	if len(references) == 0 {
		return errors.New("nothing to mask; name each secret with --secret NAME=REFERENCE")
	}
	service, _, err := a.service()
	if err != nil {
		return err
	}
	values, err := service.Secrets(a.ctx, references, &executor.Local{AgeIdentity: c.AgeIdentity})
	if err != nil {
		return err
	}
	set := redact.New()
	for _, name := range slices.Sorted(maps.Keys(values)) {
		switch set.Add(values[name]) {
		case redact.TooShort:
			_, _ = fmt.Fprintf(a.std.err, "%s: warning: secret %s is too short to be masked: it has under %d bytes\n", a.name, name, redact.MinLength)
		case redact.Plain:
			_, _ = fmt.Fprintf(a.std.err, "%s: warning: secret %s is masked as it is and line by line, but not in its encoded forms\n", a.name, name)
		}
	}
	masked := set.Writer(a.std.out)
	if _, err := io.Copy(masked, struct{ io.Reader }{a.std.in}); err != nil {
		return fmt.Errorf("redact: %w", err)
	}
	return masked.Close()
}
