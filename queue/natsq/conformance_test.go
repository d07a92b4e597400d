package natsq_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/queue"
	"github.com/attune-run/attune/queue/natsq"
	"github.com/attune-run/attune/queue/queuetest"
)

func TestEmbedded(t *testing.T) {
	t.Parallel()
	store := t.TempDir()
	first := open(t, natsq.Options{Store: store})
	t.Cleanup(func() { require.NoError(t, first.Close()) })
	queuetest.Run(t, queuetest.Driver{AckWait: ackWait, WorkerTTL: workerTTL, Damage: damage(store), Open: func(t *testing.T) queue.Broker {
		options, err := natsq.Discover(store)
		require.NoError(t, err)
		return open(t, options)
	}})
}

func TestServer(t *testing.T) {
	t.Parallel()
	server := startServer(t, serverConfig{Name: "alone", User: "ada", Pass: "secret"})
	options := natsq.Options{URL: server.url(), User: "ada", Password: "secret"}
	queuetest.Run(t, queuetest.Driver{
		AckWait: ackWait, WorkerTTL: workerTTL,
		Open: func(t *testing.T) queue.Broker { return open(t, options) },
		Interrupt: func(t *testing.T) {
			server.kill()
			server.start(t)
		},
	})
}

func TestCluster(t *testing.T) {
	t.Parallel()
	servers := startCluster(t)
	queuetest.Run(t, queuetest.Driver{
		AckWait: ackWait, WorkerTTL: workerTTL,
		Open: func(t *testing.T) queue.Broker { return open(t, natsq.Options{URL: servers.url()}) },
		Interrupt: func(t *testing.T) {
			p := servers.leader(t, "KV_RUN")
			p.kill()
			p.start(t)
		},
	})
}

// damage removes one piece of an object.
func damage(store string) func(t *testing.T, name string) {
	return func(t *testing.T, name string) {
		options, err := natsq.Discover(store)
		require.NoError(t, err)
		_, js := connected(t, options)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		objects, err := js.ObjectStore(ctx, "attune")
		require.NoError(t, err)
		info, err := objects.GetInfo(ctx, name)
		require.NoError(t, err)
		stream, err := js.Stream(ctx, "OBJ_attune")
		require.NoError(t, err)
		chunk, err := stream.GetLastMsgForSubject(ctx, "$O.attune.C."+info.NUID)
		require.NoError(t, err)
		require.NoError(t, stream.DeleteMsg(ctx, chunk.Sequence-1))
	}
}
