// Package queuetest holds a broker's driver to what package queue promises.
package queuetest

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/queue"
)

// Driver is what the suite runs against.
type Driver struct {
	// Open makes a connection of its own to the one broker of the suite. The suite closes it.
	Open func(t *testing.T) queue.Broker
	// AckWait and WorkerTTL are those of the broker, a few seconds at most: the suite waits for them to pass.
	AckWait, WorkerTTL time.Duration
	// Interrupt takes the broker away from all its connections and brings it back; nil where that cannot be done.
	Interrupt func(t *testing.T)
	// Damage changes a stored object behind the driver's back; nil where that cannot be done.
	Damage func(t *testing.T, name string)
}

// Run holds the driver to every promise, each in a subtest.
func Run(t *testing.T, d Driver) {
	for name, test := range map[string]func(*testing.T, Driver){
		"table/one entry":            testEntry,
		"table/compare and set":      testCompareAndSet,
		"table/many writers":         testManyWriters,
		"table/create once":          testCreateOnce,
		"table/reads see writes":     testReadsSeeWrites,
		"table/list":                 testList,
		"table/watch":                testWatch,
		"table/expiry":               testExpiry,
		"table/sizes":                testSizes,
		"table/watch over a break":   testWatchInterrupted,
		"table/watch of what goes":   testWatchOfWhatGoesMeanwhile,
		"work/publish":               testPublish,
		"work/priorities":            testPriorities,
		"work/turns":                 testTurns,
		"work/limit":                 testLimit,
		"work/many takers":           testManyTakers,
		"work/waits":                 testTakeWaits,
		"work/busy taker":            testBusyTaker,
		"work/redelivery":            testRedelivery,
		"work/release":               testRelease,
		"work/backlog":               testBacklog,
		"work/take over a break":     testTakeInterrupted,
		"journal":                    testJournal,
		"logs":                       testLogs,
		"logs/flood":                 testLogFlood,
		"objects":                    testObjects,
		"objects/large":              testLargeObject,
		"objects/damage":             testDamage,
		"signals":                    testSignals,
		"signals/questions":          testQuestions,
		"clock":                      testClock,
		"contexts end what they can": testContexts,
	} {
		t.Run(name, func(t *testing.T) { test(t, d) })
	}
}

// patience bounds what should take milliseconds.
const patience = 30 * time.Second

func open(t *testing.T, d Driver) (context.Context, queue.Broker) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	b := d.Open(t)
	t.Cleanup(func() { cancel(); assert.NoError(t, b.Close()) })
	return ctx, b
}

// fresh is a token that no other test uses.
func fresh() string { return uuid.NewString() }

func route(t *testing.T, ctx context.Context, b queue.Broker) string {
	t.Helper()
	name := "r" + uuid.NewString()[:8]
	require.NoError(t, b.Work().Open(ctx, name))
	require.NoError(t, b.Work().Open(ctx, name), "what is open stays open")
	return name
}

func publish(t *testing.T, ctx context.Context, b queue.Broker, messages ...queue.Message) {
	t.Helper()
	for _, m := range messages {
		require.NoError(t, b.Work().Publish(ctx, m))
	}
}

func taker(t *testing.T, b queue.Broker) queue.Taker {
	t.Helper()
	taker := b.Work().Taker()
	t.Cleanup(taker.Close)
	return taker
}

// takeNone holds that nothing comes within a time.
func takeNone(t *testing.T, ctx context.Context, from queue.Taker, routes []string, within time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	got, err := from.Take(ctx, routes, 1)
	require.Empty(t, got)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// takeAll takes and acknowledges n messages, at most at once at a time.
func takeAll(t *testing.T, ctx context.Context, from queue.Taker, routes []string, n, atOnce int) []queue.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var all []queue.Message
	for len(all) < n {
		got, err := from.Take(ctx, routes, min(atOnce, n-len(all)))
		require.NoError(t, err, "after %d of %d", len(all), n)
		require.LessOrEqual(t, len(got), min(atOnce, n-len(all)))
		for _, d := range got {
			all = append(all, d.Message())
			require.NoError(t, d.Ack(ctx))
		}
	}
	return all
}
