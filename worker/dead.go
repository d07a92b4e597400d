package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/google/uuid"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
)

// DeadLetters are the executions that used up their attempts, and what could not be read, oldest first.
func (c *Client) DeadLetters(ctx context.Context) ([]queue.DeadLetter, error) {
	var all []queue.DeadLetter
	for entry, err := range c.broker.Table(queue.Dead).List(ctx, "") {
		if err != nil {
			return nil, err
		}
		var d queue.DeadLetter
		if err := json.Unmarshal(entry.Value, &d); err != nil {
			d = queue.DeadLetter{ID: entry.Key, Reason: fmt.Sprintf("it cannot be read: %v", err), At: entry.At}
		}
		all = append(all, d)
	}
	return all, nil
}

// DeadLetter is one of them.
func (c *Client) DeadLetter(ctx context.Context, id string) (queue.DeadLetter, error) {
	var d queue.DeadLetter
	if !scheduleName.MatchString(id) { // a key of the table; what arrived broken need not be a UUID
		return d, refuse("`attune-worker dlq ls` shows them", "%q is no id", id)
	}
	entry, err := c.broker.Table(queue.Dead).Get(ctx, id)
	if errors.Is(err, queue.ErrNotFound) {
		return d, &RefusedError{Err: fmt.Errorf("there is no dead letter %s", id), Todo: "`attune-worker dlq ls` shows them", Exit: executor.ExitNotFound}
	}
	if err != nil {
		return d, err
	}
	return d, json.Unmarshal(entry.Value, &d)
}

// RetryDead submits the request of a dead letter again, as a new execution, and drops the letter. The new id follows from the old one,
// so that doing it twice submits once.
func (c *Client) RetryDead(ctx context.Context, id string) (Accepted, error) {
	d, err := c.DeadLetter(ctx, id)
	if err != nil {
		return Accepted{}, err
	}
	r, err := readRecord(d.Record)
	if err != nil {
		return Accepted{}, refuse("`attune-worker dlq show` shows it; drop it", "dead letter %s cannot be submitted again: %w", id, err)
	}
	text, err := c.Submission(ctx, r)
	if err != nil {
		return Accepted{}, err
	}
	var s queue.Submission
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return Accepted{}, refuse("drop it", "the submission of dead letter %s cannot be read: %w", id, err)
	}
	req, err := DecodeRequest(s.Request)
	if err != nil {
		return Accepted{}, err
	}
	req.ID = uuid.NewSHA1(tickNamespace, []byte("retry\n"+id)).String()
	req.NotBefore, req.Pack = "", executor.PackPin(s.Pack)
	accepted, err := c.Submit(ctx, Order{Request: req})
	if err != nil {
		return accepted, err
	}
	if err := c.broker.Table(queue.Dead).Delete(ctx, id, 0); err != nil {
		return accepted, err
	}
	return accepted, c.audit(ctx, queue.AuditLine{What: "dlq.retry", ID: id, Action: r.Action, Digest: r.Digest, Detail: accepted.ID})
}

// DropDead forgets a dead letter; its execution's result stays.
func (c *Client) DropDead(ctx context.Context, id string) error {
	d, err := c.DeadLetter(ctx, id)
	if err != nil {
		return err
	}
	if err := c.broker.Table(queue.Dead).Delete(ctx, id, 0); err != nil {
		return err
	}
	return c.audit(ctx, queue.AuditLine{What: "drop", ID: id, Detail: d.Reason})
}

// Audit gives what was done since a time, oldest first, each thing once; with follow until the context ends.
func (c *Client) Audit(ctx context.Context, since time.Time, follow bool) iter.Seq2[queue.AuditLine, error] {
	return func(yield func(queue.AuditLine, error) bool) {
		seen := newRecent(auditWindow)
		for message, err := range c.broker.Audit().Read(ctx, since, follow) {
			if err != nil {
				yield(queue.AuditLine{}, err)
				return
			}
			for line := range auditLines(message) {
				if line.At.Before(since) || !seen.add(auditKey(line)) {
					continue
				}
				if !yield(line, nil) {
					return
				}
			}
		}
	}
}

// auditLines are the lines of one message: whoever wrote it may have put several together.
func auditLines(message []byte) iter.Seq[queue.AuditLine] {
	return func(yield func(queue.AuditLine) bool) {
		for text := range bytes.Lines(message) {
			var line queue.AuditLine
			if json.Unmarshal(text, &line) == nil && !yield(line) {
				return
			}
		}
	}
}

// auditWindow is among how many lines a repetition is found; one that follows a lost answer comes soon.
const auditWindow = 100_000

func auditKey(l queue.AuditLine) string {
	if l.ID == "" {
		return "" // nothing that is repeated
	}
	return fmt.Sprintf("%s %d %s", l.ID, l.Epoch, l.What)
}

// recent remembers the last keys.
type recent struct {
	keys map[string]bool
	ring []string
	at   int
}

func newRecent(size int) *recent { return &recent{keys: map[string]bool{}, ring: make([]string, size)} }

// add tells whether the key is new; an empty one always is.
func (r *recent) add(key string) bool {
	if key == "" {
		return true
	}
	if r.keys[key] {
		return false
	}
	delete(r.keys, r.ring[r.at])
	r.ring[r.at], r.keys[key] = key, true
	r.at = (r.at + 1) % len(r.ring)
	return true
}
