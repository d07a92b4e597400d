package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/bundle"
	"github.com/attune-run/attune/internal/runtimeapi"
)

type lambdaCmd struct {
	Invoke lambdaInvokeCmd `cmd:"" help:"Run a bundle on this machine, through Lambda's Runtime API."`
}

type lambdaInvokeCmd struct {
	Bundle string   `arg:"" optional:"" default:"." type:"path" help:"What attune bundle made, an archive or a directory; the current directory without it."`
	Local  bool     `help:"On this machine: the only place there is."`
	Event  []string `required:"" placeholder:"FILE" sep:"none" help:"The event, JSON; - is stdin. Repeated: the same process gets them one after the other."`
	Env    []string `short:"e" placeholder:"NAME=VALUE" sep:"none" help:"A variable of the function; NAME alone takes its value here (repeatable)."`

	Timeout executor.Duration `default:"5m" placeholder:"DURATION" help:"Of one invocation (${default})."`
	Memory  int               `default:"1024" placeholder:"MIB" help:"What the function is told that it has (${default} MiB)."`
}

// Help shows examples under `lambda invoke --help`.
func (lambdaInvokeCmd) Help() string {
	return `Examples:
  attune lambda invoke --local fn.zip --event event.json -e ATTUNE_LAMBDA_ACTION=core.echo
  echo '{"message": "hi"}' | attune lambda invoke --local fn.zip --event - -e ATTUNE_LAMBDA_ACTION=core.echo

The response goes to stdout, what the function writes to stderr. The exit code is 0 when the function answered, 1 when it reported an error or did
not answer in time, and 125 when it could not be started.`
}

// Run prints each response as it comes.
func (c *lambdaInvokeCmd) Run(a *app) error {
	if !c.Local {
		return errors.New("--local is missing: this runs bundles on this machine only; `aws lambda invoke` runs functions of an account")
	}
	events, err := c.events(a.std.in)
	if err != nil {
		return err
	}
	env := make([]string, len(c.Env))
	for i, text := range c.Env {
		if env[i], err = bundle.Variable(text, os.LookupEnv); err != nil {
			return err
		}
	}
	ctx, _ := signals(a.ctx)
	failed := false
	local := bundle.Local{Bundle: c.Bundle, Env: env, Timeout: time.Duration(c.Timeout), Memory: c.Memory, Log: a.std.err}
	err = local.Invoke(ctx, events, func(answer runtimeapi.Answer) error {
		failed = failed || answer.Failed
		_, err := fmt.Fprintf(a.std.out, "%s\n", answer.Payload)
		return err
	}, func(text string) { _, _ = fmt.Fprintf(a.std.err, "%s: warning: %s\n", a.name, text) })
	var exit *bundle.ExitError
	switch {
	case errors.Is(err, bundle.ErrTimeout) || errors.As(err, &exit) && !exit.Init:
		_, _ = fmt.Fprintf(a.std.err, "%s: error: %v\n", a.name, err)
		return exitCode(1)
	case err == nil && failed:
		return exitCode(1)
	}
	return err
}

// events reads them all before anything starts.
func (c *lambdaInvokeCmd) events(stdin io.Reader) ([][]byte, error) {
	var all [][]byte
	for _, name := range c.Event {
		data, err := readEvent(name, stdin)
		if err != nil {
			return nil, fmt.Errorf("event: %w", err)
		}
		switch {
		case !json.Valid(data):
			return nil, fmt.Errorf("event %s is not JSON", name)
		case len(data) > runtimeapi.MaxPayload:
			return nil, fmt.Errorf("event %s has %d bytes, and Lambda takes %d", name, len(data), runtimeapi.MaxPayload)
		}
		all = append(all, data)
	}
	return all, nil
}

func readEvent(name string, stdin io.Reader) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(stdin)
	}
	return os.ReadFile(name)
}
