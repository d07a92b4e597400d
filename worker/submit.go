package worker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
)

// Order is one wish: a request, and what of it the request itself does not say.
type Order struct {
	Request executor.Request
	// In delays it, from now. Beside it Request.NotBefore must be empty.
	In time.Duration
	// Deadline is when it is no longer wanted unless it has started; zero means never, or for a signed one signedFor from now.
	Deadline time.Time
}

// signedFor is how long a signed submission may start unless it says otherwise: a signature does not hold for ever.
const signedFor = 24 * time.Hour

// Accepted is an execution that the pool has taken on.
type Accepted struct {
	ID       string      `json:"id"`
	State    queue.State `json:"state"`
	Action   string      `json:"action"`
	Existing bool        `json:"existing,omitempty"` // it was submitted before, with the same id
}

// notBeforeMax is how far ahead something may be submitted: what large submissions are kept in is forgotten after Retention.
const notBeforeMax = queue.Retention - 24*time.Hour

// submissionMax is the size in bytes of a submission.
const submissionMax = 8 << 20

// Submit checks an order, pins its pack and hands it to the pool. It is stored when Submit returns. An id that was submitted before
// with the same request gives what became of the first; with another request it is refused. Refusals have a Hint and an ExitCode.
func (c *Client) Submit(ctx context.Context, o Order) (Accepted, error) {
	p, err := c.prepare(ctx, o)
	if err != nil {
		return Accepted{}, err
	}
	return c.accept(ctx, p)
}

// prepared is a submission with its record, ready to be stored.
type prepared struct {
	text    string
	record  *queue.Record
	request json.RawMessage
	delayed bool // not_before was counted from now, so that it says nothing about whether two are the same
	tick    bool // the id follows from a schedule, and means the same whoever submits it
}

func (c *Client) prepare(ctx context.Context, o Order) (*prepared, error) {
	c.lookAtClock(ctx)
	if o.In < 0 {
		return nil, refuse("leave it out to start now", "a delay of %s lies in the past", o.In)
	}
	if o.In > 0 {
		if o.Request.NotBefore != "" {
			return nil, refuse("give one of them", "not_before and a delay contradict each other")
		}
		o.Request.NotBefore = c.cfg.Now().Add(o.In).UTC().Format(time.RFC3339Nano)
	}
	if o.Request.ID == "" {
		o.Request.ID = uuid.Must(uuid.NewV7()).String()
	}
	t, err := c.check(ctx, &o.Request)
	if err != nil {
		return nil, err
	}
	deadline := o.Deadline
	if deadline.IsZero() && c.cfg.Key != nil {
		deadline = c.cfg.Now().Add(signedFor)
	}
	request, err := encode(o.Request)
	if err != nil {
		return nil, refuse("", "request: %w", err)
	}
	text, err := encode(queue.Submission{Schema: queue.SubmissionSchema, ID: o.Request.ID, Request: request, Pack: t.pin, Deadline: deadline.UTC()})
	if err != nil {
		return nil, err
	}
	p := &prepared{text: string(text), request: request, delayed: o.In > 0}
	if p.record, err = c.newRecord(p.text, o.Request, t); err != nil {
		return nil, err
	}
	if c.cfg.Key != nil {
		p.record.Signature = sign(c.cfg.Key, queue.SubmissionSchema, p.text)
	}
	return p, nil
}

// check validates a request against its action, and makes it one that can travel.
func (c *Client) check(ctx context.Context, req *executor.Request) (target, error) {
	if req.Script != nil && req.Script.Path != "" && c.cfg.Service != nil {
		inline, err := c.cfg.Service.Inline(ctx, *req)
		if err != nil {
			return target{}, err
		}
		*req = inline
	}
	if req.Action == "" { // says what is wrong with it before it is looked for
		if _, err := req.Portable(nil); err != nil {
			return target{}, err
		}
	}
	t, err := c.resolve(ctx, *req)
	if err != nil {
		return t, err
	}
	if *req, err = req.Portable(t.schema); err != nil {
		return t, err
	}
	if id, err := uuid.Parse(req.ID); err == nil {
		req.ID = id.String() // one spelling, for it is a key
	}
	req.Pack = executor.PackPin{} // the submission's own names it
	return t, nil
}

// newRecord is the record of a new execution.
func (c *Client) newRecord(text string, req executor.Request, t target) (*queue.Record, error) {
	if len(text) > submissionMax {
		return nil, refuse("hand large inputs over by reference: a URL, or an object of a store",
			"the submission has %d bytes, more than %d", len(text), submissionMax)
	}
	requirement, err := encode(t.requirement)
	if err != nil {
		return nil, err
	}
	var affinity json.RawMessage
	if len(t.defaults.Affinity) > 0 {
		if affinity, err = encode(t.defaults.Affinity); err != nil {
			return nil, err
		}
	}
	now := c.cfg.Now().UTC()
	r := &queue.Record{
		Schema: queue.RecordSchema, ID: req.ID, State: queue.Queued, Submission: text, Digest: textDigest(text),
		SubmittedBy: c.who(), SubmittedAt: now, Action: t.action, Route: t.requirement.Route(), Requirement: requirement,
		Limit: t.defaults.Limit, Retries: t.defaults.Retries, BackoffMS: t.defaults.Backoff.Milliseconds(), OnLost: req.OnLost,
		Affinity: affinity, Priority: priority(req.Priority), Traceparent: req.Context.Traceparent,
	}
	switch r.OnLost {
	case "", queue.OnLostFail, queue.OnLostRetry:
	default:
		return nil, refuse("", "on_lost %q: write fail or retry", r.OnLost)
	}
	if req.NotBefore != "" {
		if r.NotBefore, err = time.Parse(time.RFC3339, req.NotBefore); err != nil {
			return nil, refuse("", "not_before %q: write a time like 2026-01-31T15:04:05Z (RFC 3339)", req.NotBefore)
		}
		if r.NotBefore = r.NotBefore.UTC(); r.NotBefore.Sub(now) > notBeforeMax {
			return nil, refuse("`attune-worker schedule add` submits it when its time comes", "not_before %q is more than %s from now, longer than the pool keeps things", req.NotBefore, notBeforeMax)
		}
	}
	start := now
	switch {
	case r.NotBefore.After(now):
		r.State, r.Waits, start = queue.Parked, queue.WaitsForTime, r.NotBefore
	case r.Limit > 0:
		r.State, r.Waits = queue.Parked, queue.WaitsForPlace
	}
	r.Unroutable = start.Add(c.cfg.Unroutable)
	return r, nil
}

func priority(wished int) queue.Priority {
	switch {
	case wished > 0:
		return queue.High
	case wished < 0:
		return queue.Low
	}
	return queue.Normal
}

func textDigest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// accept stores a record, and wakes a worker where it is due. From the moment the record is there it is the scheduler's business
// that it runs, so nothing behind that fails the submission.
func (c *Client) accept(ctx context.Context, p *prepared) (Accepted, error) {
	r := p.record
	if len(r.Submission) >= queue.InlineMax {
		r.SubmissionObject = queue.SubmissionObject(r.ID, r.Digest)
		if err := c.broker.Objects().Put(ctx, r.SubmissionObject, strings.NewReader(r.Submission)); err != nil {
			return Accepted{}, storing(r.ID, err)
		}
		r.Submission = ""
	}
	value, err := encode(r)
	if err != nil {
		return Accepted{}, err
	}
	revision, err := c.broker.Table(queue.Runs).Create(ctx, r.ID, value)
	switch {
	case errors.Is(err, queue.ErrExists):
		return c.existing(ctx, p)
	case errors.Is(err, queue.ErrUncertain):
		accepted, again := c.existing(ctx, p)
		if isUnknown(again) { // it did not happen, as far as can be told now
			return Accepted{}, storing(r.ID, err)
		}
		if again != nil {
			return accepted, storing(r.ID, again)
		}
		accepted.Existing = false
		return accepted, nil
	case err != nil:
		return Accepted{}, storing(r.ID, err)
	}
	line := c.journal.add(submitted(r), c.cfg.Now())
	if r.State == queue.Queued {
		_ = publish(ctx, c, r, queue.Copy{Value: value, Revision: revision}) // the scheduler does it again
	}
	if err := written(ctx, line); err != nil {
		return Accepted{}, storing(r.ID, fmt.Errorf("audit: %w", err))
	}
	return Accepted{ID: r.ID, State: r.State, Action: r.Action}, nil
}

// isUnknown tells whether an error says that there is no such execution.
func isUnknown(err error) bool {
	var refused *RefusedError
	return errors.As(err, &refused) && refused.Exit == executor.ExitNotFound
}

// storeError is a submission that was right and could not be stored, or nobody knows.
type storeError struct {
	id  string
	err error
}

func (e *storeError) Error() string { return fmt.Sprintf("submit %s: %v", e.id, e.err) }
func (e *storeError) Unwrap() error { return e.err }

// Hint says what a submitter can do.
func (e *storeError) Hint() string {
	switch {
	case errors.Is(e.err, queue.ErrFull), errors.Is(e.err, queue.ErrTooLarge):
		return "nothing was stored; give the broker more room"
	case errors.Is(e.err, queue.ErrUncertain), errors.Is(e.err, queue.ErrUnavailable), errors.Is(e.err, context.DeadlineExceeded):
		return "submit it again with --idempotency-key " + e.id + ": it runs once"
	}
	return ""
}

func storing(id string, err error) error {
	var refused *RefusedError
	if errors.As(err, &refused) {
		return err
	}
	return &storeError{id, err}
}

// existing answers a submission whose id is taken: the same request gets the first one's state.
func (c *Client) existing(ctx context.Context, p *prepared) (Accepted, error) {
	first, err := c.Record(ctx, p.record.ID)
	if err != nil {
		return Accepted{}, err
	}
	if first.Digest != p.record.Digest && !p.tick {
		same, err := c.sameRequest(ctx, first, p)
		if err != nil {
			return Accepted{}, err
		}
		if !same {
			return Accepted{}, refuse("an id belongs to one request; leave it out for a new execution, or repeat the request word by word",
				"id %s was submitted before, by %s at %s, with another request", first.ID, first.SubmittedBy, first.SubmittedAt.Format(time.RFC3339))
		}
	}
	// Whoever was first may have come no further than the record; readers leave a repetition out.
	if err := c.audit(ctx, submitted(first)); err != nil {
		return Accepted{}, storing(first.ID, fmt.Errorf("audit: %w", err))
	}
	return Accepted{ID: first.ID, State: first.State, Action: first.Action, Existing: true}, nil
}

func submitted(r *queue.Record) queue.AuditLine {
	return queue.AuditLine{Who: r.SubmittedBy, What: "submit", ID: r.ID, Action: r.Action, Digest: r.Digest}
}

// sameRequest compares what was asked for; the pack's version and the deadline that were filled in may be others by now.
func (c *Client) sameRequest(ctx context.Context, first *queue.Record, p *prepared) (bool, error) {
	text, err := c.Submission(ctx, first)
	if err != nil {
		return false, err
	}
	var s queue.Submission
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return false, nil
	}
	before, err := c.comparable(s.Request, p.delayed)
	if err != nil {
		return false, nil
	}
	now, err := c.comparable(p.request, p.delayed)
	return err == nil && bytes.Equal(before, now), err
}

func (*Client) comparable(request json.RawMessage, delayed bool) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(request, &fields); err != nil {
		return nil, err
	}
	if delayed {
		delete(fields, "not_before")
	}
	var origin executor.Context // a repetition comes in another trace
	if len(fields["context"]) > 0 {
		if err := json.Unmarshal(fields["context"], &origin); err != nil {
			return nil, err
		}
		origin.Traceparent = ""
	}
	delete(fields, "context")
	return json.Marshal(struct {
		Fields  map[string]json.RawMessage
		Context executor.Context
	}{fields, origin})
}

// publish opens the record's route where it is new, and lays its message there, with a copy of the record or without.
func publish(ctx context.Context, c *Client, r *queue.Record, stored queue.Copy) error {
	if err := c.open(ctx, r.Route, r.Requirement); err != nil {
		return err
	}
	m := queue.Message{Route: r.Route, Priority: r.Priority, ID: r.ID, Copy: stored}
	err := c.broker.Work().Publish(ctx, m)
	if !errors.Is(err, queue.ErrNotFound) {
		return err
	}
	c.forget(r.Route) // somebody closed it
	if err := c.open(ctx, r.Route, r.Requirement); err != nil {
		return err
	}
	return c.broker.Work().Publish(ctx, m)
}

// open makes a route and lists it for the workers. Both may be there already.
func (c *Client) open(ctx context.Context, route string, requirement json.RawMessage) error {
	c.mu.Lock()
	_, known := c.routes[route]
	c.mu.Unlock()
	if known {
		return nil
	}
	if err := c.broker.Work().Open(ctx, route); err != nil {
		return fmt.Errorf("open route %s: %w", route, err)
	}
	value, err := encode(queue.RouteEntry{Requirement: requirement, CreatedAt: c.cfg.Now().UTC()})
	if err != nil {
		return err
	}
	if _, err := c.broker.Table(queue.Routes).Create(ctx, route, value); err != nil && !errors.Is(err, queue.ErrExists) {
		return fmt.Errorf("list route %s: %w", route, err)
	}
	c.mu.Lock()
	c.routes[route] = c.cfg.Now()
	c.mu.Unlock()
	return nil
}

func (c *Client) forget(route string) {
	c.mu.Lock()
	delete(c.routes, route)
	c.mu.Unlock()
}

// SubmitText takes on a submission that somebody else wrote, and perhaps signed. A signed one is stored as it is; of one that is not,
// id, schema and pack are filled in.
func (c *Client) SubmitText(ctx context.Context, text string, signature *queue.Signature) (Accepted, error) {
	var s queue.Submission
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&s); err != nil {
		return Accepted{}, refuse("it is "+queue.SubmissionSchema, "submission: %w", err)
	}
	if s.Schema != "" && s.Schema != queue.SubmissionSchema {
		return Accepted{}, refuse("", "schema %q is not known here, want %q", s.Schema, queue.SubmissionSchema)
	}
	req, err := DecodeRequest(s.Request)
	if err != nil {
		return Accepted{}, err
	}
	if req.ID != "" && s.ID != "" && req.ID != s.ID {
		return Accepted{}, refuse("", "the submission's id is %s, its request's %s", s.ID, req.ID)
	}
	if s.Pack.Digest != "" {
		req.Pack = executor.PackPin(s.Pack)
	}
	if signature == nil {
		if req.ID == "" {
			req.ID = s.ID
		}
		return c.Submit(ctx, Order{Request: req, Deadline: s.Deadline})
	}
	return c.submitSigned(ctx, text, s, req, signature)
}

func (c *Client) submitSigned(ctx context.Context, text string, s queue.Submission, req executor.Request, signature *queue.Signature) (Accepted, error) {
	c.lookAtClock(ctx)
	if s.ID == "" || req.ID != s.ID || s.Deadline.IsZero() || req.Script == nil && s.Pack.Digest == "" {
		return Accepted{}, refuse("", "a signed submission has an id, the same in its request, a deadline, and the digest of its pack")
	}
	t, err := c.check(ctx, &req)
	if err != nil {
		return Accepted{}, err
	}
	r, err := c.newRecord(text, req, t)
	if err != nil {
		return Accepted{}, err
	}
	r.Signature, r.SubmittedBy = signature, keyPrefix+signature.Key
	return c.accept(ctx, &prepared{text: text, record: r, request: s.Request})
}

// keyPrefix is how a public key is written down (package pack's form).
const keyPrefix = "ed25519:"

// DecodeRequest reads an attune.request/v1, strictly: a field that is not known would be lost.
func DecodeRequest(document []byte) (executor.Request, error) {
	var req executor.Request
	decoder := json.NewDecoder(bytes.NewReader(document))
	decoder.UseNumber()
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&req); err != nil {
		return req, refuse("it is "+executor.RequestSchema, "request: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if decoder.More() {
		return req, refuse("one line holds one request", "request: there is more behind it")
	}
	return req, nil
}

// AnswerSubmissions takes on what is submitted by question, until stop.
func (c *Client) AnswerSubmissions() (stop func(), err error) {
	return c.broker.Signals().Answer(queue.SubmitTopic, func(ctx context.Context, data []byte) []byte {
		answer, _ := json.Marshal(c.answer(ctx, data)) // it holds texts only
		return answer
	})
}

func (c *Client) answer(ctx context.Context, data []byte) queue.SubmitAnswer {
	var question queue.SubmitQuestion
	if err := json.Unmarshal(data, &question); err != nil {
		return queue.SubmitAnswer{Error: "question: " + err.Error(), Hint: `ask {"submission": "…", "signature": {…}}`}
	}
	accepted, err := c.SubmitText(ctx, question.Submission, question.Signature)
	if err != nil {
		answer := queue.SubmitAnswer{Error: err.Error()}
		var hinted interface{ Hint() string }
		if errors.As(err, &hinted) {
			answer.Hint = hinted.Hint()
		}
		return answer
	}
	return queue.SubmitAnswer{ID: accepted.ID, State: accepted.State}
}

// IDOf is the id that an idempotency key stands for: itself where it is a UUID, else one that follows from it (RFC 9562, version 5).
func IDOf(key string) string {
	if id, err := uuid.Parse(key); err == nil {
		return id.String()
	}
	return uuid.NewSHA1(keyNamespace, []byte(key)).String()
}

var keyNamespace = uuid.NewSHA1(uuid.NameSpaceURL, []byte("attune.idempotency-key/v1"))
