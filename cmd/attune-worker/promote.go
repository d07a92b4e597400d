package main

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/attune-run/attune/internal/show"
	"github.com/attune-run/attune/queue"
	"github.com/attune-run/attune/queue/natsq"
)

type queuePromoteCmd struct{ show.Format }

// Help shows how it is used under `queue promote --help`.
func (queuePromoteCmd) Help() string {
	return `Stop the workers that serve the store first; afterwards start them with the same --nats. Examples:
  attune-worker queue promote --store /var/lib/attune/pool --nats nats://a:4222,nats://b:4222,nats://c:4222
The store stays as it is. Do not serve it again: from then on the cluster holds the truth.`
}

// Run brings everything that a store holds to a server or a cluster.
func (c *queuePromoteCmd) Run(a *app) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	place, err := cfg.Broker(a.cli.BrokerFlags)
	if err != nil {
		return err
	}
	if place.URL == "" {
		return hinted(errors.New("promote: where to is not said"), "--nats names the cluster, --store what is brought there")
	}
	if _, err := natsq.Discover(place.Store); err != nil {
		return hinted(fmt.Errorf("promote: %w", err), "--store names the directory that attune-worker serve has kept the pool in")
	}
	from := natsq.Options{Store: place.Store}
	all, err := natsq.Promote(a.ctx, from, brokerOptions(place))
	switch {
	case errors.Is(err, queue.ErrExists):
		return hinted(fmt.Errorf("promote: %w", err), "a cluster that has been used keeps what it has; promote to an empty one")
	case err != nil:
		return fmt.Errorf("promote: %w", err)
	}
	var rows [][]string
	for _, one := range all {
		rows = append(rows, []string{one.Stream, strconv.FormatUint(one.Messages, 10), one.Digest})
	}
	return c.Show(a.std.out, all, []string{"STREAM", "MESSAGES", "SHA-256"}, rows)
}
