package main

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/pack"
	"github.com/attune-run/attune/queue"
	"github.com/attune-run/attune/worker"
)

// signFlag is how submissions are signed.
type signFlag struct {
	Sign string `placeholder:"KEYFILE" type:"path" env:"ATTUNE_SIGN_KEY" help:"Sign with this private key, which 'keys new' makes. [$ATTUNE_SIGN_KEY]"`
}

func (f signFlag) key() (ed25519.PrivateKey, error) {
	if f.Sign == "" {
		return nil, nil
	}
	key, err := pack.ReadPrivateKey(f.Sign)
	if err != nil {
		return nil, hinted(fmt.Errorf("--sign: %w", err), "`attune-worker keys new FILE` makes one")
	}
	return key, nil
}

// client connects to the pool. Where withPacks is set it knows the runtimes of this machine as well, and the packs of --packs.
func (a *app) client(sign signFlag, withPacks bool) (*worker.Client, func(), error) {
	key, err := sign.key()
	if err != nil {
		return nil, nil, err
	}
	broker, cfg, err := a.connect(a.ctx)
	if err != nil {
		return nil, nil, err
	}
	closer := func() { _ = broker.Close() }
	settings := worker.ClientConfig{Broker: broker, Key: key, Who: userName()}
	if withPacks {
		if len(a.cli.Packs) == 0 {
			cfg.Packs = nil // a pool runs what its workers have, not what happens to lie here
		}
		if settings.Service, err = executor.New(cfg.Executor()); err != nil {
			closer()
			return nil, nil, err
		}
	}
	return worker.NewClient(settings), closer, nil
}

// withClient does something with a client of the pool.
func (a *app) withClient(do func(c *worker.Client) error) error {
	client, closer, err := a.client(signFlag{}, false)
	if err != nil {
		return err
	}
	defer closer()
	return do(client)
}

// hinted adds what to do next to an error.
func hinted(err error, todo string) error { return &worker.RefusedError{Err: err, Todo: todo} }

// timeFlag is a time: RFC 3339, or how long ago.
type timeFlag struct{ time.Time }

// UnmarshalText reads "2026-01-31T15:04:05Z", "2026-01-31", or "90m" for so long ago.
func (t *timeFlag) UnmarshalText(text []byte) (err error) {
	if ago, parseErr := time.ParseDuration(string(text)); parseErr == nil {
		t.Time = time.Now().Add(-ago)
		return nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t.Time, err = time.Parse(layout, string(text)); err == nil {
			return nil
		}
	}
	return errors.New("write a time like 2026-01-31T15:04:05Z, or 90m for so long ago")
}

// outcome is how an execution stands, in one word.
func outcome(r *queue.Record) string {
	if r.State == queue.Done {
		return r.Outcome
	}
	return string(r.State)
}
