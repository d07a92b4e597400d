package worker

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/pack"
	"github.com/attune-run/attune/queue"
	"github.com/attune-run/attune/queue/natsq"
)

// embeddedBroker is a real server in this process, with short times.
func embeddedBroker(t *testing.T) queue.Broker {
	t.Helper()
	broker, err := natsq.Open(t.Context(), natsq.Options{Store: t.TempDir(), Sync: natsq.SyncRelaxed, AckWait: 5 * time.Second})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, broker.Close()) })
	return broker
}

// packWith writes a pack of shell actions: name → metadata and script.
func packWith(t *testing.T, ref, version string, actions map[string][2]string) *pack.Pack {
	t.Helper()
	dir := filepath.Join(t.TempDir(), ref)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "actions"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "pack.yaml"), []byte("ref: "+ref+"\nversion: "+version+"\n"), 0o600))
	for name, action := range actions {
		meta := fmt.Sprintf("ref: %s.%s\nentry_point: %s.sh\n%s", ref, name, name, action[0])
		require.NoError(t, os.WriteFile(filepath.Join(dir, "actions", name+".yaml"), []byte(meta), 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "actions", name+".sh"), []byte(action[1]), 0o600))
	}
	p, err := pack.Load(dir)
	require.NoError(t, err)
	return p
}

const countedMeta = `parameters:
  count: {type: integer, required: true, minimum: 1}
  tags: {type: array, items: {type: string}}
  token: {type: string, secret: true}
`

// offeringClient has a catalog: the pack t with actions echo, counted, limited (2 at once) and retried.
func offeringClient(t *testing.T, broker queue.Broker) *Client {
	t.Helper()
	p := packWith(t, "t", "1.0.0", map[string][2]string{
		"echo": {"", "cat\n"}, "counted": {countedMeta, "cat\n"}, "limited": {"concurrency: 2\n", "true\n"}, "retried": {"retries: {max: 1, backoff: 30m}\n", "exit 3\n"},
	})
	client := NewClient(ClientConfig{Broker: broker})
	_, err := client.PushPack(t.Context(), p, engine(t, filepath.Dir(p.Dir)))
	require.NoError(t, err)
	return client
}

func engine(t *testing.T, packs ...string) *executor.Service {
	t.Helper()
	service, err := executor.New(executor.Config{Packs: packs, CacheDir: t.TempDir(), TempDir: t.TempDir(), RuntimeFiles: []string{}})
	require.NoError(t, err)
	return service
}

func action(name string) Order { return Order{Request: executor.Request{Action: name}} }

func TestASubmissionIsStoredOnceHoweverOftenItComes(t *testing.T) {
	broker := embeddedBroker(t)
	client := offeringClient(t, broker)
	order := action("t.echo")
	order.Request.ID = uuid.NewString()
	var group sync.WaitGroup
	accepted, failed := make([]Accepted, 100), make([]error, 100)
	for i := range accepted {
		group.Go(func() {
			one := NewClient(ClientConfig{Broker: broker})
			accepted[i], failed[i] = one.Submit(t.Context(), order)
		})
	}
	group.Wait()
	fresh := 0
	for i := range accepted {
		require.NoError(t, failed[i])
		assert.Equal(t, order.Request.ID, accepted[i].ID)
		if !accepted[i].Existing {
			fresh++
		}
	}
	assert.Equal(t, 1, fresh)
	backlog, err := broker.Work().Backlog(t.Context())
	require.NoError(t, err)
	waiting := uint64(0)
	for _, b := range backlog {
		waiting += b.Waiting
	}
	assert.EqualValues(t, 1, waiting, "one message")

	order.Request.Parameters = map[string]any{}
	order.Request.Env = map[string]string{"A": "b"}
	_, err = client.Submit(t.Context(), order)
	assert.ErrorContains(t, err, "with another request")

	// After it is over it is still known.
	_, err = client.Cancel(t.Context(), order.Request.ID)
	require.NoError(t, err)
	order.Request.Env, order.Request.Parameters = nil, nil
	again, err := client.Submit(t.Context(), order)
	require.NoError(t, err)
	assert.Equal(t, Accepted{ID: order.Request.ID, State: queue.Done, Action: "t.echo", Existing: true}, again)
	submits := 0
	for line, err := range client.Audit(t.Context(), time.Time{}, false) {
		require.NoError(t, err)
		if line.What == "submit" {
			submits++
		}
	}
	assert.Equal(t, 1, submits)
}

func TestARepetitionMayBeDelayedOtherwiseAndPinnedAnew(t *testing.T) {
	broker := embeddedBroker(t)
	client := offeringClient(t, broker)
	order := action("t.echo")
	order.Request.ID, order.In = IDOf("nightly 2026-01-01"), time.Hour
	first, err := client.Submit(t.Context(), order)
	require.NoError(t, err)
	assert.Equal(t, queue.Parked, first.State)
	newer := packWith(t, "t", "1.1.0", map[string][2]string{"echo": {"", "echo new\n"}})
	_, err = client.PushPack(t.Context(), newer, engine(t, filepath.Dir(newer.Dir)))
	require.NoError(t, err)
	again, err := NewClient(ClientConfig{Broker: broker}).Submit(t.Context(), order)
	require.NoError(t, err)
	assert.True(t, again.Existing)
	r, err := client.Record(t.Context(), first.ID)
	require.NoError(t, err)
	assert.Contains(t, r.Submission, `"version":"1.0.0"`)
	other, err := NewClient(ClientConfig{Broker: broker}).Submit(t.Context(), action("t.echo@1.0"))
	require.NoError(t, err)
	r, err = client.Record(t.Context(), other.ID)
	require.NoError(t, err)
	assert.Contains(t, r.Submission, `"version":"1.0.0"`)
	newest, err := NewClient(ClientConfig{Broker: broker}).Submit(t.Context(), action("t.echo"))
	require.NoError(t, err)
	r, err = client.Record(t.Context(), newest.ID)
	require.NoError(t, err)
	assert.Contains(t, r.Submission, `"version":"1.1.0"`)
}

func TestWhatIsWrongIsRefusedAtOnce(t *testing.T) {
	client := offeringClient(t, embeddedBroker(t))
	typed := func(arguments ...executor.Argument) executor.Request {
		return executor.Request{Action: "t.counted", Local: &executor.Local{Arguments: arguments}}
	}
	for name, c := range map[string]struct {
		req  executor.Request
		want []string // in the error or its hint
	}{
		"an action's name":     {executor.Request{Action: "t.ecko"}, []string{"no worker has offered an action t.ecko", "did you mean t.echo?"}},
		"a pack":               {executor.Request{Action: "other.echo"}, []string{"no worker has offered an action other.echo"}},
		"no pack at all":       {executor.Request{Action: "echo"}, []string{"no worker has offered"}},
		"a version":            {executor.Request{Action: "t.echo@^2"}, []string{"there is 1.0.0"}},
		"a constraint":         {executor.Request{Action: "t.echo@=="}, []string{"action t.echo@=="}},
		"a type":               {typed(executor.Argument{Name: "count", Text: "many"}), []string{"count: must be an integer"}},
		"a bound":              {typed(executor.Argument{Name: "count", Text: "0"}), []string{"count: must be at least 1"}},
		"a parameter":          {executor.Request{Action: "t.echo", Parameters: map[string]any{"x": "y"}}, []string{"x"}},
		"a literal secret":     {executor.Request{Action: "t.counted", Parameters: map[string]any{"count": json.Number("1"), "token": "hunter2"}}, []string{"token is a secret"}},
		"no reference":         {executor.Request{Action: "t.counted", Parameters: map[string]any{"count": json.Number("1")}, Secrets: map[string]string{"token": "hunter2"}}, []string{"that is not a reference"}},
		"an undeclared secret": {executor.Request{Action: "t.counted", Secrets: map[string]string{"tokem": "env:T"}}, []string{"did you mean token?"}},
		"arguments":            {executor.Request{Action: "t.echo", Args: []string{"x"}}, []string{"takes parameters, not arguments"}},
		"a reserved variable":  {executor.Request{Action: "t.echo", Env: map[string]string{"ATTUNE_X": "1"}}, []string{"reserved"}},
		"nothing":              {executor.Request{}, []string{"names either an action or a script"}},
		"a script":             {executor.Request{Script: &executor.Script{Inline: "true"}}, []string{"scripts cannot be submitted here"}},
		"an id":                {executor.Request{ID: "x", Action: "t.echo"}, []string{"is not a UUID"}},
		"a time":               {executor.Request{Action: "t.echo", NotBefore: "tomorrow"}, []string{`not_before "tomorrow"`}},
		"too far ahead":        {executor.Request{Action: "t.echo", NotBefore: time.Now().Add(queue.Retention).Format(time.RFC3339)}, []string{"schedule add"}},
		"what lost means":      {executor.Request{Action: "t.echo", OnLost: "ignore"}, []string{"write fail or retry"}},
		"an impossible label":  {executor.Request{Action: "t.echo", Selector: map[string]any{"a b": []any{}}}, []string{"selector"}},
		"its size":             {executor.Request{Action: "t.counted", Parameters: map[string]any{"count": json.Number("1"), "tags": []any{strings.Repeat("x", submissionMax)}}}, []string{"more than", "by reference"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := client.Submit(t.Context(), Order{Request: c.req})
			require.Error(t, err)
			said := err.Error()
			var hinted interface{ Hint() string }
			if assert.ErrorAs(t, err, &hinted) {
				said += "\n" + hinted.Hint()
			}
			for _, want := range c.want {
				assert.Contains(t, said, want)
			}
			assert.NotContains(t, said, "hunter2")
		})
	}
	all, err := client.List(t.Context(), Filter{})
	require.NoError(t, err)
	assert.Empty(t, all)
}

func TestWhatHasJustBeenOfferedIsKnown(t *testing.T) {
	broker := embeddedBroker(t)
	client := offeringClient(t, broker)
	_, err := client.Submit(t.Context(), action("t.echo"))
	require.NoError(t, err)
	_, err = client.Submit(t.Context(), action("t.later"))
	require.ErrorContains(t, err, "no worker has offered an action t.later")
	p := packWith(t, "t", "1.1.0", map[string][2]string{"echo": {"", "cat\n"}, "later": {"", "cat\n"}})
	_, err = NewClient(ClientConfig{Broker: broker}).PushPack(t.Context(), p, engine(t, filepath.Dir(p.Dir)))
	require.NoError(t, err)
	for _, wanted := range []string{"t.later", "t.echo@1.1"} {
		_, err = client.Submit(t.Context(), action(wanted))
		assert.NoError(t, err, wanted)
	}
}

func TestTypedParametersTravelAsValues(t *testing.T) {
	client := offeringClient(t, embeddedBroker(t))
	accepted, err := client.Submit(t.Context(), Order{Request: executor.Request{Action: "t.counted", Secrets: map[string]string{"token": "env:TOKEN"}, Local: &executor.Local{
		Arguments: []executor.Argument{{Name: "count", Text: "9007199254740993"}, {Name: "tags", Text: "a"}, {Name: "tags", Text: "b"}},
	}}})
	require.NoError(t, err)
	r, err := client.Record(t.Context(), accepted.ID)
	require.NoError(t, err)
	var s queue.Submission
	require.NoError(t, json.Unmarshal([]byte(r.Submission), &s))
	assert.JSONEq(t, `{"schema": "attune.request/v1", "id": "`+accepted.ID+`", "action": "t.counted", "secrets": {"token": "env:TOKEN"},
		"parameters": {"count": 9007199254740993, "tags": ["a", "b"]}}`, string(s.Request))
	assert.Equal(t, textDigest(r.Submission), r.Digest)
}

func TestALargeSubmissionIsAnObject(t *testing.T) {
	client := offeringClient(t, embeddedBroker(t))
	req := executor.Request{Action: "t.counted", Parameters: map[string]any{"count": json.Number("1"), "tags": []any{strings.Repeat("x", 1<<20)}}}
	accepted, err := client.Submit(t.Context(), Order{Request: req})
	require.NoError(t, err)
	r, err := client.Record(t.Context(), accepted.ID)
	require.NoError(t, err)
	assert.Empty(t, r.Submission)
	text, err := client.Submission(t.Context(), r)
	require.NoError(t, err)
	assert.Equal(t, r.Digest, textDigest(text))
	req.ID = accepted.ID
	again, err := client.Submit(t.Context(), Order{Request: req})
	require.NoError(t, err)
	assert.True(t, again.Existing)
}

func TestASignatureCoversEveryWord(t *testing.T) {
	broker := embeddedBroker(t)
	offeringClient(t, broker)
	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	client := NewClient(ClientConfig{Broker: broker, Key: private})
	trusted := []Key{{Name: "ops", Public: public}}
	accepted, err := client.Submit(t.Context(), action("t.echo"))
	require.NoError(t, err)
	r, err := client.Record(t.Context(), accepted.ID)
	require.NoError(t, err)
	assert.Equal(t, pack.PublicKey(public).String(), r.SubmittedBy)
	key, err := VerifyRecord(r, r.Submission, trusted)
	require.NoError(t, err)
	assert.Equal(t, "ops", key.Name)

	other, _, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	for name, spoil := range map[string]func(r *queue.Record) (string, []Key){
		"another action": func(r *queue.Record) (string, []Key) {
			return strings.Replace(r.Submission, "t.echo", "t.evil", 1), trusted
		},
		"another key":  func(r *queue.Record) (string, []Key) { return r.Submission, []Key{{Name: "x", Public: other}} },
		"no key":       func(r *queue.Record) (string, []Key) { return r.Submission, nil },
		"no signature": func(r *queue.Record) (string, []Key) { r.Signature = nil; return r.Submission, trusted },
		"another id":   func(r *queue.Record) (string, []Key) { r.ID = uuid.NewString(); return r.Submission, trusted },
		"a schedule's": func(r *queue.Record) (string, []Key) {
			r.Schedule = &queue.Tick{Name: "s", At: time.Now(), Text: "{}"}
			return r.Submission, trusted
		},
		"broken": func(r *queue.Record) (string, []Key) { return "{", trusted },
		"without deadline": func(r *queue.Record) (string, []Key) {
			var s queue.Submission
			_ = json.Unmarshal([]byte(r.Submission), &s)
			s.Deadline = time.Time{}
			text, _ := encode(s)
			r.Signature = sign(private, queue.SubmissionSchema, string(text))
			return string(text), trusted
		},
	} {
		spoiled := *r
		text, keys := spoil(&spoiled)
		_, err := VerifyRecord(&spoiled, text, keys)
		assert.ErrorIs(t, err, ErrUntrusted, name)
	}
}

func TestWhoeverHasNoClientAsks(t *testing.T) {
	broker := embeddedBroker(t)
	client := offeringClient(t, broker)
	stop, err := client.AnswerSubmissions()
	require.NoError(t, err)
	defer stop()
	ask := func(question string) (answer queue.SubmitAnswer) {
		data, err := broker.Signals().Ask(t.Context(), queue.SubmitTopic, []byte(question))
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(data, &answer))
		return answer
	}
	id := uuid.NewString()
	text, err := json.Marshal(`{"id": "` + id + `", "request": {"action": "t.counted", "parameters": {"count": 2}}}`)
	require.NoError(t, err)
	assert.Equal(t, queue.SubmitAnswer{ID: id, State: queue.Queued}, ask(`{"submission": `+string(text)+`}`))
	assert.Contains(t, ask(`{"submission": "{\"request\": {\"action\": \"t.counted\", \"parameters\": {\"count\": \"x\"}}}"}`).Error, "count: must be an integer")
	assert.Contains(t, ask(`{"submission": "{\"request\": {\"actoin\": \"t.echo\"}}"}`).Error, "actoin")
	assert.Contains(t, ask(`nonsense`).Error, "question")

	// Somebody else's signed text is stored as it is.
	_, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	entries, err := client.Catalog(t.Context(), "t")
	require.NoError(t, err)
	signedID := uuid.NewString()
	submission := fmt.Sprintf(`{ "schema": "attune.submission/v1", "id": %q, "deadline": "2999-01-01T00:00:00Z", "request": {"id": %q, "action": "t.echo"},
		"pack": {"ref": "t", "version": "1.0.0", "digest": %q} }`, signedID, signedID, entries[0].Pack.Digest)
	question, err := json.Marshal(queue.SubmitQuestion{Submission: submission, Signature: sign(private, queue.SubmissionSchema, submission)})
	require.NoError(t, err)
	require.Equal(t, queue.SubmitAnswer{ID: signedID, State: queue.Queued}, ask(string(question)))
	r, err := client.Record(t.Context(), signedID)
	require.NoError(t, err)
	assert.Equal(t, submission, r.Submission)
	_, err = VerifyRecord(r, r.Submission, []Key{{Name: "k", Public: private.Public().(ed25519.PublicKey)}})
	assert.NoError(t, err)
}

func TestWaitHearsOfTheEndAtOnce(t *testing.T) {
	broker := embeddedBroker(t)
	client := offeringClient(t, broker)
	accepted, err := client.Submit(t.Context(), action("t.echo"))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), lookAgain/2)
	defer cancel()
	done := make(chan *queue.Record, 1)
	go func() {
		r, err := client.Wait(ctx, accepted.ID)
		assert.NoError(t, err)
		done <- r
	}()
	time.Sleep(50 * time.Millisecond) // it listens by now, or finds it done; both are right
	_, err = client.Cancel(t.Context(), accepted.ID)
	require.NoError(t, err)
	r := <-done
	require.NotNil(t, r)
	assert.Equal(t, "canceled", r.Outcome)
	document, err := client.Result(t.Context(), r)
	require.NoError(t, err)
	assert.Contains(t, string(document), "before it started")
	_, err = client.Record(t.Context(), uuid.NewString())
	assert.ErrorContains(t, err, "there is no execution")
}

func TestListChooses(t *testing.T) {
	broker := embeddedBroker(t)
	client := offeringClient(t, broker)
	var ids []string
	for _, name := range []string{"t.echo", "t.limited", "t.retried"} {
		accepted, err := client.Submit(t.Context(), action(name))
		require.NoError(t, err)
		ids = append(ids, accepted.ID)
	}
	_, err := client.Cancel(t.Context(), ids[2])
	require.NoError(t, err)
	for name, c := range map[string]struct {
		filter Filter
		want   []string
	}{
		"all, the newest first": {Filter{}, []string{ids[2], ids[1], ids[0]}},
		"queued":                {Filter{State: queue.Queued}, ids[:1]},
		"parked":                {Filter{State: queue.Parked}, ids[1:2]},
		"an outcome":            {Filter{Outcome: "canceled"}, ids[2:]},
		"actions":               {Filter{Action: "t.*ed", Limit: 1}, ids[2:]},
		"unroutable":            {Filter{Unroutable: true}, ids[:1]},
		"since":                 {Filter{Since: time.Now().Add(time.Hour)}, nil},
	} {
		all, err := client.List(t.Context(), c.filter)
		require.NoError(t, err)
		var got []string
		for _, s := range all {
			got = append(got, s.ID)
		}
		assert.Equal(t, c.want, got, name)
	}
	s, err := client.Status(t.Context(), ids[0])
	require.NoError(t, err)
	assert.Equal(t, []string{"there is no worker"}, s.Unroutable)
}

func TestPacksArePushedAndRemoved(t *testing.T) {
	broker := embeddedBroker(t)
	client := offeringClient(t, broker)
	accepted, err := client.Submit(t.Context(), action("t.echo"))
	require.NoError(t, err)
	all, err := client.Packs(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 1)
	assert.Equal(t, "t", all[0].Pack.Ref)
	_, err = client.RemovePack(t.Context(), "t@1.0.0", false)
	assert.ErrorContains(t, err, accepted.ID)
	_, err = client.RemovePack(t.Context(), "u", true)
	assert.ErrorContains(t, err, "no pack u was pushed")
	_, err = client.RemovePack(t.Context(), all[0].Pack.Digest[:20], true)
	require.NoError(t, err)
	_, err = NewClient(ClientConfig{Broker: broker}).Submit(t.Context(), action("t.echo"))
	assert.ErrorContains(t, err, "no worker has offered")
}
