package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"syscall"
	"time"

	"github.com/attune-run/attune/internal/config"
	"github.com/attune-run/attune/queue"
	"github.com/attune-run/attune/queue/natsq"
)

// answerWithin is how long a client command looks for the broker.
const answerWithin = 10 * time.Second

// connect reaches the pool as a client: the server that the configuration names, or the one that serves the store.
func (a *app) connect(ctx context.Context) (queue.Broker, config.Config, error) {
	cfg, err := a.config()
	if err != nil {
		return nil, cfg, err
	}
	place, err := cfg.Broker(a.cli.BrokerFlags)
	if err != nil {
		return nil, cfg, err
	}
	options := brokerOptions(place)
	if place.URL == "" {
		found, err := natsq.Discover(place.Store)
		if err != nil {
			return nil, cfg, unserved(place, err)
		}
		options.URL, options.User, options.Password = found.URL, found.User, found.Password
	}
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	broker, err := natsq.Open(ctx, options)
	if err != nil && place.URL == "" {
		err = unserved(place, err)
	}
	return broker, cfg, err
}

// reach opens the pool for serving, and starts its server where no URL is given. A broker that is away is waited for: a worker may
// start before it.
func reach(ctx context.Context, place config.Broker, log *slog.Logger) (queue.Broker, error) {
	options := brokerOptions(place)
	options.Name, options.Log = "attune-worker", log
	if place.URL == "" {
		options.Store = place.Store
		log.Info("serving the store", "store", place.Store, "sync", options.Sync)
	}
	late := time.AfterFunc(answerWithin, func() { log.Warn("the broker cannot be reached; waiting for it") })
	defer late.Stop()
	broker, err := natsq.Open(ctx, options)
	if place.URL == "" && (errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) || errors.Is(err, queue.ErrFull)) {
		err = hinted(err, "--store names a directory that this user can write, on a disk with room")
	}
	return broker, err
}

func brokerOptions(place config.Broker) natsq.Options {
	options := natsq.Options{
		URL: place.URL, Creds: place.Credentials, User: place.User, Password: place.Password, Token: place.Token, CA: place.CA, Cert: place.Cert, Key: place.Key,
		Replicas: place.Replicas, AckWait: place.AckWait, Sync: natsq.SyncAlways,
	}
	if place.Relaxed {
		options.Sync = natsq.SyncRelaxed
	}
	return options
}

// unservedError is a store without a server.
type unservedError struct {
	store string
	err   error
}

func unserved(place config.Broker, err error) error {
	if !errors.Is(err, queue.ErrUnavailable) {
		return err
	}
	return &unservedError{place.Store, err}
}

func (e *unservedError) Error() string { return fmt.Sprintf("nobody serves the pool: %v", e.err) }
func (e *unservedError) Unwrap() error { return e.err }

// Hint says where else the pool may be.
func (e *unservedError) Hint() string {
	return "`attune-worker serve` serves one on the store " + e.store + "; --store and --nats (ATTUNE_STORE, ATTUNE_NATS_URL) name another"
}
