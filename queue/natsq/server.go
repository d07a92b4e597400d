package natsq

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/renameio/v2"
	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/sys/unix"

	"github.com/attune-run/attune/queue"
)

// A store holds:
//
//	lock         flock target, never unlinked; holds who serves the store
//	server.json  0600: where the server listens, and the token that lets in
//	jetstream/   the server's own; what it needs for moments only lies in memory (staging)
const (
	lockFile     = "lock"
	endpointFile = "server.json"
)

// startTime is how long the server may take to read its store.
const startTime = 5 * time.Minute

// embedded is a NATS server in this process. It listens on loopback only.
type embedded struct {
	server *server.Server
	store  string
	lock   *os.File // held until close
	user   string
	token  string
	log    *slog.Logger

	jetStream  server.JetStreamConfig
	failures   chan struct{} // written by the server's log when a write to the store failed, read by mend; holds one
	broken     atomic.Bool   // such a write is not mended yet
	endMending func()        // nil unless mend was called
	staging    *staging      // nil when batches are not worth it
}

// endpoint is what endpointFile holds. Port and token stay the same when the server starts again, so that clients find it.
type endpoint struct {
	URL   string `json:"url"`
	User  string `json:"user"`
	Token string `json:"token"`
	Sync  string `json:"sync"`
	PID   int    `json:"pid"`
}

// Discover gives the Options that connect to the server which another process has on a store. It is queue.ErrUnavailable
// where there was none ever; one that has stopped shows when it is connected to.
func Discover(store string) (Options, error) {
	e, err := readEndpoint(store)
	if errors.Is(err, fs.ErrNotExist) {
		return Options{}, fmt.Errorf("no worker serves the store %s: %w", store, queue.ErrUnavailable)
	}
	if err != nil {
		return Options{}, err
	}
	return Options{URL: e.URL, User: e.User, Password: e.Token, Store: store, Sync: e.Sync}, nil
}

func readEndpoint(store string) (endpoint, error) {
	var e endpoint
	text, err := os.ReadFile(filepath.Join(store, endpointFile))
	if err != nil {
		return e, err
	}
	if err := json.Unmarshal(text, &e); err != nil {
		return e, fmt.Errorf("%s: %w", filepath.Join(store, endpointFile), err)
	}
	return e, nil
}

func startEmbedded(o Options) (*embedded, error) {
	if o.Store == "" {
		return nil, errors.New("neither a URL nor a store is given")
	}
	if o.Sync != SyncAlways && o.Sync != SyncRelaxed {
		return nil, fmt.Errorf("sync %q is neither %q nor %q", o.Sync, SyncAlways, SyncRelaxed)
	}
	if err := os.MkdirAll(o.Store, 0o700); err != nil {
		return nil, fmt.Errorf("create the store: %w", storeError(err))
	}
	lock, err := lockStore(o.Store)
	if err != nil {
		return nil, err
	}
	dropProbes(o.Store)
	e := &embedded{store: o.Store, lock: lock, log: o.Log, failures: make(chan struct{}, 1)}
	if err := e.start(o); err != nil {
		return nil, errors.Join(err, e.close())
	}
	if o.Sync == SyncAlways {
		if e.staging, err = openStaging(); err != nil {
			e.log.Debug("Writes to the store are not made in batches", "error", err)
		}
	}
	return e, nil
}

// lockStore keeps a second server out. The kernel lets go when the process ends, however it ends.
func lockStore(store string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(store, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the store: %w", storeError(err))
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder, _ := os.ReadFile(file.Name())
		_ = file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("the store %s is served already by %s", store, orElse(strings.TrimSpace(string(holder)), "another process"))
		}
		return nil, fmt.Errorf("lock the store %s: %w", store, err)
	}
	if err := writeHolder(file); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the store: %w", storeError(err)), file.Close())
	}
	return file, nil
}

func writeHolder(file *os.File) error {
	host, _ := os.Hostname()
	if err := file.Truncate(0); err != nil {
		return err
	}
	_, err := file.WriteAt(fmt.Appendf(nil, "process %d on %s\n", os.Getpid(), host), 0)
	return err
}

// storeError names a full disk.
func storeError(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", queue.ErrFull, err)
	}
	return err
}

func (e *embedded) start(o Options) error {
	before, err := readEndpoint(e.store)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		e.log.Warn("Clients must look for the server anew", "error", err)
	}
	e.user, e.token = userName(), orElse(before.Token, rand.Text())
	limit, err := storeLimit(e.store)
	if err != nil {
		return err
	}
	hashed, err := bcrypt.GenerateFromPassword([]byte(e.token), bcrypt.MinCost) // the token is random: no more is needed
	if err != nil {
		return fmt.Errorf("hash the token: %w", err)
	}
	options := &server.Options{
		ServerName: "attune", Host: "127.0.0.1", Port: freePort(before.URL), NoSigs: true,
		Username: e.user, Password: string(hashed), DisableJetStreamBanner: true,
		JetStream: true, StoreDir: e.store, SyncAlways: o.Sync == SyncAlways,
		JetStreamMaxStore: limit, JetStreamMaxMemory: 64 << 20,
	}
	e.jetStream = jetStreamConfig(options)
	if e.server, err = server.NewServer(options); err != nil {
		return fmt.Errorf("start the server: %w", err)
	}
	failed := make(chan string, 1)
	e.server.SetLoggerV2(serverLog{e.log, failed, e.failures}, false, false, false)
	go e.server.Start()
	if err := e.await(failed); err != nil {
		return err
	}
	return e.publish(o.Sync)
}

// await waits until the server has read its store. It reports what keeps it from starting to its log only.
func (e *embedded) await(failed <-chan string) error {
	for deadline := time.Now().Add(startTime); time.Now().Before(deadline); {
		if e.server.ReadyForConnections(time.Microsecond) { // as long as it waits it keeps a processor busy
			return nil
		}
		select {
		case why := <-failed:
			return fmt.Errorf("start the server on %s: %s", e.store, why)
		case <-time.After(2 * time.Millisecond):
		}
	}
	return fmt.Errorf("the server on %s did not start within %v: %w", e.store, startTime, queue.ErrUnavailable)
}

// publish writes where clients find the server.
func (e *embedded) publish(sync string) error {
	text, err := json.Marshal(endpoint{URL: "nats://" + e.server.Addr().String(), User: e.user, Token: e.token, Sync: sync, PID: os.Getpid()})
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(filepath.Join(e.store, endpointFile), text, 0o600, renameio.IgnoreUmask()); err != nil {
		return fmt.Errorf("tell clients where the server is: %w", storeError(err))
	}
	return nil
}

// stage has the server gather batches in memory. It works without, too.
func (e *embedded) stage() {
	if e.staging == nil {
		return
	}
	if err := e.staging.link(e.store); err != nil {
		e.log.Debug("Batches of writes are not gathered in memory", "error", err)
	}
}

func (e *embedded) close() error {
	if e.endMending != nil {
		e.endMending()
	}
	if e.server != nil {
		e.server.Shutdown()
		e.server.WaitForShutdown()
	}
	var err error
	if e.staging != nil {
		err = e.staging.close(e.store)
	}
	return errors.Join(err, e.lock.Close())
}

// userName is whom the server in this process knows its clients as: they could read its token.
func userName() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return "uid-" + strconv.Itoa(os.Getuid())
}

// freePort is the port of the URL when nobody listens there, otherwise one that the kernel chooses.
func freePort(url string) int {
	_, port, err := net.SplitHostPort(strings.TrimPrefix(url, "nats://"))
	if err != nil {
		return server.RANDOM_PORT
	}
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return server.RANDOM_PORT
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

// storeLimit is what the store may grow to: nine tenths of what it has and what is free beside it, so that the server says that it
// is full before the disk is.
func storeLimit(store string) (int64, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(store, &stat); err != nil {
		return 0, fmt.Errorf("size of the disk of %s: %w", store, err)
	}
	limit := int64(stat.Bavail) * int64(stat.Bsize)
	err := filepath.WalkDir(store, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			limit += info.Size()
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("size of the store: %w", err)
	}
	return limit / 10 * 9, nil
}

// diskReserve stays free: a server whose write fails keeps the stream closed until its store is opened again.
const diskReserve = 16 << 20

// room is queue.ErrFull when a store that is known has no room left, whoever filled its disk.
func (b *broker) room() error {
	if b.server != nil {
		if err := b.server.usable(); err != nil {
			return err
		}
	}
	if b.options.Store == "" {
		return nil
	}
	return b.space.look(b.options.Store)
}

// space is what was found out about the room on a disk. Every write asks, and there are thousands in a second.
type space struct {
	mu     sync.Mutex
	looked time.Time
	full   error
}

// spaceAge is how long a look is good for: a disk that is filled at a GiB/s takes longer for diskReserve.
const spaceAge = 10 * time.Millisecond

func (s *space) look(store string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.Sub(s.looked) >= spaceAge {
		s.looked, s.full = now, roomIn(store)
	}
	return s.full
}

func roomIn(store string) error {
	var stat unix.Statfs_t
	if unix.Statfs(store, &stat) != nil {
		return nil
	}
	if free := int64(stat.Bavail) * int64(stat.Bsize); free < diskReserve {
		return fmt.Errorf("the disk of %s has %d KiB left: %w", store, free>>10, queue.ErrFull)
	}
	return nil
}

// serverLog hands the server's messages to slog. What it starts with is told at debug level only.
type serverLog struct {
	log    *slog.Logger
	failed chan<- string   // the first fatal message
	writes chan<- struct{} // failures of writes to the store
}

func (l serverLog) say(level slog.Level, format string, values []any) {
	l.log.Log(context.Background(), level, fmt.Sprintf(format, values...), "from", "nats-server")
}

func (l serverLog) Noticef(format string, v ...any) { l.say(slog.LevelDebug, format, v) }
func (l serverLog) Warnf(format string, v ...any)   { l.say(slog.LevelWarn, format, v) }
func (l serverLog) Debugf(format string, v ...any)  {}
func (l serverLog) Tracef(format string, v ...any)  {}

func (l serverLog) Errorf(format string, v ...any) {
	l.say(slog.LevelError, format, v)
	if isWriteFailure(format) {
		select {
		case l.writes <- struct{}{}:
		default:
		}
	}
}

func (l serverLog) Fatalf(format string, v ...any) {
	l.say(slog.LevelError, format, v)
	select {
	case l.failed <- fmt.Sprintf(format, v...):
	default:
	}
}
