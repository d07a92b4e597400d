package natsq

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/attune-run/attune/queue"
)

// The server keeps a stream closed once a write to its file has failed, gives no answer to who wrote, and opens it again with
// its next start only. What it knows by then of writes that failed is nothing: they are not there afterwards. So the server in
// this process begins anew with its store, within the same process and with the same connections, as soon as it can be written.

const (
	reopenEvery = time.Second // how often is looked whether the store can be written again
	probeSize   = 1 << 20     // bytes that are written to find out
)

// mend opens the store again after writes that failed, until the server is closed.
func (e *embedded) mend(reopened func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	e.endMending = func() { cancel(); <-done }
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-e.failures:
			}
			e.broken.Store(true)
			e.log.Error("a write to the store failed: nothing is accepted until it can be written again", "store", e.store)
			if !e.reopen(ctx) {
				return
			}
			e.broken.Store(false)
			e.log.Info("the store is open again", "store", e.store)
			reopened()
		}
	}()
}

// reopen tries until it is done; false when the context ended.
func (e *embedded) reopen(ctx context.Context) bool {
	ticker := time.NewTicker(reopenEvery)
	defer ticker.Stop()
	for {
		err := e.tryReopen()
		if err == nil {
			return true
		}
		e.log.Debug("The store cannot be opened again yet", "store", e.store, "error", err)
		select {
		case <-ctx.Done():
			return false
		case <-ticker.C:
		}
	}
}

func (e *embedded) tryReopen() error {
	if err := roomIn(e.store); err != nil {
		return err
	}
	if err := e.probe(); err != nil {
		return err
	}
	if err := e.server.ShutdownJetStream(); err != nil {
		return err
	}
	select { // failures of what was closed just now
	case <-e.failures:
	default:
	}
	config := e.jetStream
	if err := e.server.EnableJetStream(&config); err != nil {
		return err
	}
	e.stage()
	return nil
}

// probe writes something: statfs knows nothing of quotas and of file systems that became read-only.
func (e *embedded) probe() error {
	file, err := os.CreateTemp(e.store, "probe-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(file.Name()) }()
	_, err = file.Write(make([]byte, probeSize))
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// dropProbes removes what a process left that was killed meanwhile.
func dropProbes(store string) {
	left, _ := filepath.Glob(filepath.Join(store, "probe-*"))
	for _, file := range left {
		_ = os.Remove(file)
	}
}

// isWriteFailure tells what the server says, in no other way, about a stream that it has closed.
func isWriteFailure(format string) bool {
	return strings.Contains(format, "Critical write error") || strings.HasPrefix(format, "JetStream failed to store a msg")
}

// usable is queue.ErrFull while the store of the server in this process waits to be opened again.
func (e *embedded) usable() error {
	if e.broken.Load() {
		return fmt.Errorf("a write to %s failed, and it waits for room: %w", e.store, queue.ErrFull)
	}
	return nil
}

// jetStreamConfig is that of Options that start a server.
func jetStreamConfig(o *server.Options) server.JetStreamConfig {
	return server.JetStreamConfig{StoreDir: o.StoreDir, MaxMemory: o.JetStreamMaxMemory, MaxStore: o.JetStreamMaxStore, SyncAlways: o.SyncAlways, Strict: !o.NoJetStreamStrict}
}
