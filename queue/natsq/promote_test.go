package natsq_test

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/queue"
	"github.com/attune-run/attune/queue/natsq"
)

func TestPromote(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	store := t.TempDir()
	source := open(t, natsq.Options{Store: store})
	runs := source.Table(queue.Runs)
	revisions := map[string]uint64{}
	for _, id := range []string{"a", "b", "c"} {
		_, err := runs.Create(ctx, id, []byte("1"))
		require.NoError(t, err)
		revisions[id], err = runs.Put(ctx, id, []byte("2"))
		require.NoError(t, err)
	}
	require.NoError(t, source.Work().Open(ctx, "route"))
	for _, id := range []string{"a", "b", "c"} {
		require.NoError(t, source.Work().Publish(ctx, queue.Message{Route: "route", ID: id}))
	}
	taker := source.Work().Taker()
	got, err := taker.Take(ctx, []string{"route"}, 1)
	require.NoError(t, err)
	require.NoError(t, got[0].Ack(ctx))
	done := got[0].Message().ID
	require.NoError(t, source.Audit().Append(ctx, []byte("line"), ""))
	require.NoError(t, source.Objects().Put(ctx, "packs/x", strings.NewReader(strings.Repeat("pack", 1<<20))))

	servers := startCluster(t)
	to := natsq.Options{URL: servers.url()}
	_, err = natsq.Promote(ctx, natsq.Options{Store: store}, to)
	require.ErrorContains(t, err, "served already", "the source is in use")
	require.NoError(t, source.Close())
	require.NoError(t, open(t, to).Close()) // an empty target may have its streams
	promoted, err := natsq.Promote(ctx, natsq.Options{Store: store}, to)
	require.NoError(t, err)
	counts := map[string]uint64{}
	for _, p := range promoted {
		counts[p.Stream] = p.Messages
	}
	require.EqualValues(t, 3, counts["KV_RUN"])
	require.EqualValues(t, 2, counts["EXEC"])

	_, err = natsq.Promote(ctx, natsq.Options{Store: store}, to)
	require.ErrorIs(t, err, queue.ErrExists, "the target holds data")

	servers.leader(t, "KV_RUN").kill() // three copies: one server may go
	target := open(t, to)
	defer target.Close()
	for id, revision := range revisions {
		var entry queue.Entry
		require.Eventually(t, func() bool {
			entry, err = target.Table(queue.Runs).Get(ctx, id)
			return err == nil
		}, 30*time.Second, 100*time.Millisecond)
		require.Equal(t, revision, entry.Revision)
	}
	left := map[string]bool{}
	for len(left) < 2 {
		taken := target.Work().Taker()
		got, err := taken.Take(ctx, []string{"route"}, 2)
		require.NoError(t, err)
		for _, d := range got {
			left[d.Message().ID] = true
			require.NoError(t, d.Ack(ctx))
		}
	}
	require.NotContains(t, left, done)
	r, err := target.Objects().Get(ctx, "packs/x")
	require.NoError(t, err)
	n, err := io.Copy(io.Discard, r)
	require.NoError(t, err)
	require.EqualValues(t, 4<<20, n)
	for line, err := range target.Audit().Read(ctx, time.Time{}, false) {
		require.NoError(t, err)
		require.Equal(t, "line", string(line))
	}
}
