package worker

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/attune-run/attune/queue"
)

// Key is a public key whose owner may submit (Ed25519, RFC 8032), and the name that is written down as the submitter.
type Key struct {
	Name   string
	Public ed25519.PublicKey
}

// ErrUntrusted is a record whose signature does not hold; it comes wrapped, with the reason.
var ErrUntrusted = errors.New("not signed by a trusted key")

// sign signs the text of a Submission or of a ScheduleText; schema says which.
func sign(key ed25519.PrivateKey, schema, text string) *queue.Signature {
	public, _ := key.Public().(ed25519.PublicKey)
	return &queue.Signature{
		Key:   base64.StdEncoding.EncodeToString(public),
		Value: base64.StdEncoding.EncodeToString(ed25519.Sign(key, signedBytes(schema, text))),
	}
}

// signedBytes keep a signature of one kind of document from counting for another.
func signedBytes(schema, text string) []byte { return []byte(schema + "\n" + text) }

// verify finds the trusted key that signed a text.
func verify(signature *queue.Signature, schema, text string, trusted []Key) (Key, error) {
	if signature == nil {
		return Key{}, fmt.Errorf("%w: there is no signature", ErrUntrusted)
	}
	at := slices.IndexFunc(trusted, func(k Key) bool { return base64.StdEncoding.EncodeToString(k.Public) == signature.Key })
	if at < 0 {
		return Key{}, fmt.Errorf("%w: key %s is not trusted here", ErrUntrusted, signature.Key)
	}
	value, err := base64.StdEncoding.DecodeString(signature.Value)
	if err != nil || !ed25519.Verify(trusted[at].Public, signedBytes(schema, text), value) {
		return Key{}, fmt.Errorf("%w: the signature by %s is false", ErrUntrusted, trusted[at].Name)
	}
	return trusted[at], nil
}

// VerifyRecord wants the record's submission, text, signed by a trusted key: itself, or as one tick of a schedule that is. What the
// record says beside it is not signed and must not be trusted more than its broker is. The error wraps ErrUntrusted.
func VerifyRecord(r *queue.Record, text string, trusted []Key) (Key, error) {
	var s queue.Submission
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return Key{}, fmt.Errorf("%w: the submission cannot be read: %w", ErrUntrusted, err)
	}
	if s.ID != r.ID {
		return Key{}, fmt.Errorf("%w: the submission is of execution %s", ErrUntrusted, s.ID)
	}
	if r.Schedule != nil {
		return verifyTick(r, s, trusted)
	}
	key, err := verify(r.Signature, queue.SubmissionSchema, text, trusted)
	if err == nil && s.Deadline.IsZero() {
		err = fmt.Errorf("%w: a signed submission needs a deadline", ErrUntrusted)
	}
	return key, err
}

// verifyTick wants a submission to be what its signed schedule says, and nothing else.
func verifyTick(r *queue.Record, s queue.Submission, trusted []Key) (Key, error) {
	key, err := verify(r.Signature, queue.ScheduleSchema, r.Schedule.Text, trusted)
	if err != nil {
		return key, err
	}
	var text queue.ScheduleText
	if err := json.Unmarshal([]byte(r.Schedule.Text), &text); err != nil {
		return key, fmt.Errorf("%w: the schedule cannot be read: %w", ErrUntrusted, err)
	}
	plan, err := parseSchedule(text)
	switch {
	case err != nil:
		return key, fmt.Errorf("%w: %w", ErrUntrusted, err)
	case text.Name != r.Schedule.Name || !plan.isTick(r.Schedule.At):
		return key, fmt.Errorf("%w: %s is no tick of schedule %s", ErrUntrusted, r.Schedule.At, r.Schedule.Name)
	case text.Pack.Digest == "":
		return key, fmt.Errorf("%w: a signed schedule names its pack by digest", ErrUntrusted)
	}
	want, err := tickSubmission(text, text.Pack, r.Schedule.At)
	if err != nil {
		return key, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	got, err := json.Marshal(s)
	if err != nil || !bytes.Equal(got, want) {
		return key, fmt.Errorf("%w: the submission is not what schedule %s says", ErrUntrusted, text.Name)
	}
	return key, nil
}

// tickNamespace is what the ids of ticks are made in (RFC 9562, version 5).
var tickNamespace = uuid.NewSHA1(uuid.NameSpaceURL, []byte("attune.schedule/v1"))

// tickID is the execution of one tick: the same whoever submits it.
func tickID(name string, at time.Time) string {
	return uuid.NewSHA1(tickNamespace, []byte(name+"\n"+at.UTC().Format(time.RFC3339Nano))).String()
}

// tickDeadline is how long after its tick an execution of a schedule may still start.
const tickDeadline = 24 * time.Hour

// tickSubmission is the text that one tick of a schedule submits. The same text comes out whoever computes it.
func tickSubmission(text queue.ScheduleText, pin queue.Pin, at time.Time) ([]byte, error) {
	var request map[string]json.RawMessage
	if err := json.Unmarshal(text.Request, &request); err != nil {
		return nil, fmt.Errorf("schedule %s: request: %w", text.Name, err)
	}
	id := tickID(text.Name, at)
	request["id"] = json.RawMessage(`"` + id + `"`)
	document, err := json.Marshal(request) // keys sorted
	if err != nil {
		return nil, err
	}
	return json.Marshal(queue.Submission{
		Schema: queue.SubmissionSchema, ID: id, Request: document, Pack: pin, Deadline: at.UTC().Add(tickDeadline),
	})
}
