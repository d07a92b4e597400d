package worker

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/singleflight"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/pack"
	"github.com/attune-run/attune/queue"
)

// ClientConfig is what a Client works with.
type ClientConfig struct {
	Broker queue.Broker
	// Key signs what is submitted; nil leaves it unsigned.
	Key ed25519.PrivateKey
	// Service knows local packs, for actions that no worker has offered yet, and the runtimes of scripts; nil means neither.
	Service *executor.Service
	// Who does things where neither the key nor the broker says so: "client" unless said.
	Who string
	// Unroutable is how long a request waits for a worker that is able to run it; zero means 10 min.
	Unroutable time.Duration
	Now        func() time.Time // nil means the broker's clock
}

// Client submits executions and follows them. It is safe for concurrent use.
type Client struct {
	cfg     ClientConfig
	broker  queue.Broker
	journal *auditor

	lookAtClock func(ctx context.Context) // before times go into what is stored
	asking      singleflight.Group        // for offers

	mu      sync.Mutex
	offers  map[string]offers    // pack → what the catalog has of it
	routes  map[string]time.Time // those that are known to be open
	schemas map[string]*pack.Schema
}

// NewClient makes a client.
func NewClient(cfg ClientConfig) *Client {
	if cfg.Unroutable == 0 {
		cfg.Unroutable = defaultUnroutable
	}
	look := func(context.Context) {} // somebody else looks at the clock
	if cfg.Now == nil {
		clock := &clock{broker: cfg.Broker}
		cfg.Now, look = clock.now, func(ctx context.Context) { clock.ask(ctx) }
	}
	if cfg.Who == "" {
		cfg.Who = "client"
	}
	c := &Client{cfg: cfg, broker: cfg.Broker, lookAtClock: look, offers: map[string]offers{}, routes: map[string]time.Time{}, schemas: map[string]*pack.Schema{}}
	c.journal = newAuditor(cfg.Broker.Audit(), c.who(), 0)
	return c
}

const defaultUnroutable = 10 * time.Minute

// RefusedError is a wish that was not granted, with what to do about it.
type RefusedError struct {
	Err  error
	Todo string // what to do next; may be empty
	Exit int    // of a command that ends here; zero means executor.ExitAttune
}

// Error is the reason.
func (e *RefusedError) Error() string { return e.Err.Error() }

// Unwrap is the reason.
func (e *RefusedError) Unwrap() error { return e.Err }

// Hint says what to do next.
func (e *RefusedError) Hint() string { return e.Todo }

// ExitCode is what a command exits with that ends here.
func (e *RefusedError) ExitCode() int {
	if e.Exit == 0 {
		return executor.ExitAttune
	}
	return e.Exit
}

func refuse(hint, format string, args ...any) error {
	return &RefusedError{Err: fmt.Errorf(format, args...), Todo: hint}
}

// who is written down as the one who does something: the key, else the broker's user.
func (c *Client) who() string {
	switch {
	case c.cfg.Key != nil:
		public, _ := c.cfg.Key.Public().(ed25519.PublicKey)
		return pack.PublicKey(public).String()
	case c.broker.User() != "":
		return c.broker.User()
	}
	return c.cfg.Who
}

// audit writes one line down, together with those of others who write at the same time; it is stored when audit returns.
func (c *Client) audit(ctx context.Context, line queue.AuditLine) error {
	return written(ctx, c.journal.add(line, c.cfg.Now()))
}

func written(ctx context.Context, line <-chan error) error {
	select {
	case err := <-line:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Record is the truth about an execution.
func (c *Client) Record(ctx context.Context, id string) (*queue.Record, error) {
	r, _, err := c.record(ctx, id)
	return r, err
}

func (c *Client) record(ctx context.Context, id string) (*queue.Record, uint64, error) {
	if _, err := uuid.Parse(id); err != nil {
		return nil, 0, refuse("`attune-worker ls` shows them", "%q is no id of an execution, which is a UUID", id)
	}
	entry, err := c.broker.Table(queue.Runs).Get(ctx, id)
	if errors.Is(err, queue.ErrNotFound) {
		return nil, 0, &RefusedError{Err: fmt.Errorf("there is no execution %s", id), Exit: executor.ExitNotFound,
			Todo: fmt.Sprintf("`attune-worker ls` shows those of the last %d days", int(queue.Retention.Hours()/24))}
	}
	if err != nil {
		return nil, 0, err
	}
	r, err := readRecord(entry.Value)
	return r, entry.Revision, err
}

// readRecord gives, beside a *queue.NewerError, as much of the record as this version understands.
func readRecord(value []byte) (*queue.Record, error) {
	var r queue.Record
	if err := r.UnmarshalJSON(value); err != nil { // directly: it is read once less
		return newerRecord(value, err)
	}
	if err := queue.CheckSchema(r.Schema, queue.RecordSchema); err != nil {
		return &r, fmt.Errorf("record %s: %w", r.ID, err)
	}
	switch r.State {
	case queue.Queued, queue.Parked, queue.Running, queue.Done:
		return &r, nil
	}
	return &r, fmt.Errorf("record %s: %w", r.ID, &queue.NewerError{What: fmt.Sprintf("in state %q", r.State)})
}

// newerRecord is what can be told of a record that cannot be decoded.
func newerRecord(value []byte, err error) (*queue.Record, error) {
	var r queue.Record
	var fields map[string]json.RawMessage
	_ = json.Unmarshal(value, &fields)
	for name, field := range map[string]any{"schema": &r.Schema, "id": &r.ID, "state": &r.State, "action": &r.Action, "submitted_at": &r.SubmittedAt} {
		_ = json.Unmarshal(fields[name], field) // as far as it goes
	}
	var newer *queue.NewerError
	if errors.As(queue.CheckSchema(r.Schema, queue.RecordSchema), &newer) {
		return &r, fmt.Errorf("record %s: %w", r.ID, newer)
	}
	return nil, fmt.Errorf("record: %w", err)
}

// understood is a *queue.NewerError for a submission, or its request, that takes a newer attune; nil also for what is broken.
func understood(text string) error {
	var s struct {
		Schema  string          `json:"schema"`
		Request json.RawMessage `json:"request"`
	}
	var request struct {
		Schema string `json:"schema"`
	}
	_ = json.Unmarshal([]byte(text), &s) // as far as it goes
	_ = json.Unmarshal(s.Request, &request)
	var newer *queue.NewerError
	if errors.As(queue.CheckSchema(s.Schema, queue.SubmissionSchema), &newer) || errors.As(queue.CheckSchema(request.Schema, executor.RequestSchema), &newer) {
		return newer
	}
	return nil
}

// Submission is the text of what was submitted.
func (c *Client) Submission(ctx context.Context, r *queue.Record) (string, error) {
	if r.SubmissionObject == "" {
		return r.Submission, nil
	}
	text, err := c.object(ctx, r.SubmissionObject)
	return string(text), err
}

// Result is the attune.result/v1 document of an execution that is done.
func (c *Client) Result(ctx context.Context, r *queue.Record) (json.RawMessage, error) {
	switch {
	case r.State != queue.Done:
		return nil, refuse("`attune-worker result --wait` waits for it", "execution %s is %s: there is no result yet", r.ID, r.State)
	case r.ResultObject != "":
		return c.object(ctx, r.ResultObject)
	case len(r.Result) == 0:
		return nil, fmt.Errorf("execution %s is done and its record holds no result", r.ID)
	}
	return r.Result, nil
}

func (c *Client) object(ctx context.Context, name string) ([]byte, error) {
	r, err := c.broker.Objects().Get(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", name, err)
	}
	data, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, fmt.Errorf("object %s: %w", name, err)
	}
	return data, nil
}

// Artifact opens a file that an execution left behind, by the digest its result has of it.
func (c *Client) Artifact(ctx context.Context, id string, artifact executor.Artifact) (io.ReadCloser, error) {
	r, err := c.broker.Objects().Get(ctx, queue.ArtifactObject(id, artifact.Digest))
	if errors.Is(err, queue.ErrNotFound) {
		return nil, fmt.Errorf("artifact %s of execution %s is gone: %w", artifact.Path, id, err)
	}
	return r, err
}

// encode is JSON without HTML escapes and without a newline: what is hashed and signed.
func encode(value any) ([]byte, error) {
	if document, ok := value.(interface{ Document() ([]byte, error) }); ok {
		return document.Document()
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(value)
	return bytes.TrimRight(b.Bytes(), "\n"), err
}

// bareAction is "pack.name" without the constraint.
func bareAction(name string) string {
	bare, _, _ := strings.Cut(name, "@")
	return bare
}
