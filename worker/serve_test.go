package worker

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/pack"
	"github.com/attune-run/attune/queue"
)

// acts is a pack whose actions do what tests need; parameters come as shell variables.
func acts(more map[string]string) map[string]string {
	files := map[string]string{"t/pack.yaml": "ref: t\nversion: 1.0.0\n"}
	for name, script := range map[string]string{
		"big":    `head -c 400000 /dev/zero | tr '\0' x`,
		"keep":   `mkdir "$ATTUNE_ARTIFACTS_DIR/d"; echo one > "$ATTUNE_ARTIFACTS_DIR/d/one"; head -c 300000 /dev/zero > "$ATTUNE_ARTIFACTS_DIR/zeros"`,
		"hang":   `echo $$ > "$file.new"; mv "$file.new" "$file"; sleep 1000 & wait`,
		"stuck":  `trap '' TERM; echo $$ > "$file.new"; mv "$file.new" "$file"; while :; do sleep 0.1; done`,
		"short":  `echo $$ > "$file.new"; mv "$file.new" "$file"; while [ ! -e "$file.go" ]; do sleep 0.02; done; echo finished`,
		"flaky":  `echo x >> "$file"; [ "$(wc -l < "$file")" -ge "$times" ] || { echo "not yet"; exit 7; }; echo at last`,
		"vanish": `[ ! -e "$file" ] || { echo again; exit 0; }; echo $$ > "$file.new"; mv "$file.new" "$file"; sleep 1000`,
		"daemon": `sleep 300 & setsid sleep 300 & (setsid sh -c 'trap "" TERM HUP; sleep 300 & wait' & ) ; echo spread`,
		"secret": `echo "got $token" | tr a-z A-Z`,
		"where":  `echo "$ATTUNE_PACK_REF in $(dirname "$0")"; exit 0`,
	} {
		parameters := "parameters: {file: {type: string}, times: {type: integer}, token: {type: string, secret: true}}\n"
		files["t/actions/"+name+".yaml"] = "ref: t." + name + "\nentry_point: " + name + ".sh\nparameter_format: dotenv\n" + parameters + more[name]
		files["t/actions/"+name+".sh"] = "eval \"$(cat)\"\n" + script + "\n"
	}
	return files
}

func file(t *testing.T) string { return filepath.Join(t.TempDir(), "file") }

func with(action, file string) executor.Request {
	return executor.Request{Action: action, Parameters: map[string]any{"file": file}}
}

// gone tells whether a process is there no more.
func gone(pid string) bool {
	n, err := strconv.Atoi(pid)
	return err == nil && syscall.Kill(n, 0) != nil
}

func TestFromSubmitToResult(t *testing.T) {
	p := newTestPool(t, acts(nil))
	p.serve(nil)
	r, result := p.run(executor.Request{Action: "core.echo", Parameters: map[string]any{"message": "hi"}})
	assert.Equal(t, executor.Succeeded, result.Status, result.Error)
	assert.Equal(t, "hi\n", result.Stdout)
	assert.Equal(t, "one", result.Worker)
	assert.Equal(t, 1, result.Attempt)
	assert.EqualValues(t, 1, r.Epoch)
	p.idle()
	assert.Equal(t, []string{"submit", "claim", "result"}, p.audit(r.ID))

	var chunks []queue.LogChunk
	for chunk, err := range p.client.Logs(t.Context(), r.ID, false) {
		require.NoError(t, err)
		chunks = append(chunks, chunk)
	}
	require.Len(t, chunks, 1)
	assert.Equal(t, "hi\n", string(chunks[0].Data))

	r, result = p.run(executor.Request{Action: "t.big"})
	assert.Len(t, result.Stdout, 400000)
	assert.NotEmpty(t, r.ResultObject)

	r, result = p.run(executor.Request{Action: "t.keep"})
	require.Len(t, result.Artifacts, 2, result.Error)
	assert.Equal(t, "one\n", p.object(queue.ArtifactObject(r.ID, result.Artifacts[0].Digest)))
	assert.Len(t, p.object(queue.ArtifactObject(r.ID, result.Artifacts[1].Digest)), 300000)
}

func TestAFailedExecutionIsRunAgain(t *testing.T) {
	p := newTestPool(t, acts(nil))
	p.serve(nil)
	retries := &executor.Retries{Max: 2, Backoff: executor.Duration(20 * time.Millisecond)}
	r, result := p.run(executor.Request{Action: "t.flaky", Parameters: map[string]any{"file": file(t), "times": 3}, Retries: retries})
	assert.Equal(t, executor.Succeeded, result.Status, result.Error)
	assert.Equal(t, 3, result.Attempt)
	assert.EqualValues(t, 3, r.Epoch)
	p.idle()
	assert.Equal(t, []string{"submit", "claim", "retry", "claim", "retry", "claim", "result"}, p.audit(r.ID))
	_, err := p.broker.Table(queue.Dead).Get(t.Context(), r.ID)
	require.ErrorIs(t, err, queue.ErrNotFound)

	r, result = p.run(executor.Request{Action: "t.flaky", Parameters: map[string]any{"file": file(t), "times": 9}, Retries: retries})
	assert.Equal(t, executor.Failed, result.Status)
	assert.Equal(t, 3, result.Attempt)
	p.idle()
	letter, err := p.client.DeadLetter(t.Context(), r.ID)
	require.NoError(t, err)
	assert.Contains(t, letter.Reason, "failed after 3 attempts")

	r, result = p.run(executor.Request{Action: "t.secret", Secrets: map[string]string{"token": "env:X"}, Retries: retries})
	assert.Equal(t, "secret", result.Error.Kind, result.Error)
	assert.Equal(t, 3, r.Attempt, "a provider may come back")
}

func TestARequestThatIsWrongIsNotRunAgain(t *testing.T) {
	p := newTestPool(t, acts(nil))
	p.serve(nil)
	p.client.cfg.Service = nil
	retries := &executor.Retries{Max: 5}
	for _, req := range []executor.Request{
		{Action: "t.flaky", Env: map[string]string{"ATTUNE_X": "reserved"}, Retries: retries},
	} {
		_, err := p.client.Submit(t.Context(), Order{Request: req})
		assert.Error(t, err, "refused at submit")
	}
	id := p.force(t, executor.Request{Action: "t.flaky", Env: map[string]string{"ATTUNE_X": "reserved"}, Retries: retries}, nil)
	r, result := p.result(id)
	assert.Equal(t, "request", result.Error.Kind)
	assert.Equal(t, 1, r.Attempt)
}

// force stores and publishes a submission that the client would refuse; change sees the record before.
func (p *testPool) force(t *testing.T, req executor.Request, change func(*queue.Record)) string {
	t.Helper()
	ok, err := p.client.prepare(t.Context(), Order{Request: executor.Request{Action: req.Action}})
	require.NoError(t, err)
	r := ok.record
	var s queue.Submission
	require.NoError(t, json.Unmarshal([]byte(r.Submission), &s))
	req.ID, req.Schema = r.ID, executor.RequestSchema
	s.Request, err = encode(req)
	require.NoError(t, err)
	text, err := encode(s)
	require.NoError(t, err)
	r.Submission, r.Digest = string(text), textDigest(string(text))
	if change != nil {
		change(r)
	}
	value, err := encode(r)
	require.NoError(t, err)
	_, err = p.broker.Table(queue.Runs).Create(t.Context(), r.ID, value)
	require.NoError(t, err)
	require.NoError(t, publish(t.Context(), p.client, r, queue.Copy{}))
	return r.ID
}

func TestPoisonEndsOnceAndHoldsNobodyUp(t *testing.T) {
	p := newTestPool(t, acts(nil))
	p.serve(nil)
	route := p.record(p.submit(executor.Request{Action: "core.noop"}), func(*queue.Record) bool { return true }).Route
	orphan, garbage := uuid.NewString(), uuid.NewString()
	require.NoError(t, p.broker.Work().Publish(t.Context(), queue.Message{Route: route, ID: orphan}))
	_, err := p.broker.Table(queue.Runs).Create(t.Context(), garbage, []byte("\xff{ no"))
	require.NoError(t, err)
	require.NoError(t, p.broker.Work().Publish(t.Context(), queue.Message{Route: route, ID: garbage}))
	forged := p.force(t, executor.Request{Action: "core.noop"}, func(r *queue.Record) { r.Digest = textDigest("another") })
	scrambled := p.force(t, executor.Request{Action: "core.noop"}, func(r *queue.Record) { r.Submission = "{"; r.Digest = textDigest("{") })

	_, result := p.run(executor.Request{Action: "core.noop"})
	assert.Equal(t, executor.Succeeded, result.Status)
	p.idle()
	for _, id := range []string{orphan, garbage} {
		_, err := p.broker.Table(queue.Dead).Get(t.Context(), id)
		require.NoError(t, err)
		assert.Equal(t, []string{"drop"}, p.audit(id))
	}
	for _, id := range []string{forged, scrambled} {
		_, result := p.result(id)
		assert.Equal(t, executor.Errored, result.Status)
		assert.Equal(t, "request", result.Error.Kind)
	}
}

func TestACopyThatIsOutOfDateIsNotActedUpon(t *testing.T) {
	p := newTestPool(t, acts(nil))
	_, stop := p.serve(nil) // offers the action
	stop()
	lay := func(stored, copied func(*queue.Record)) string {
		ok, err := p.client.prepare(t.Context(), Order{Request: executor.Request{Action: "core.noop"}})
		require.NoError(t, err)
		first, err := encode(ok.record)
		require.NoError(t, err)
		revision, err := p.broker.Table(queue.Runs).Create(t.Context(), ok.record.ID, first)
		require.NoError(t, err)
		now, before := *ok.record, *ok.record
		stored(&now)
		copied(&before)
		value, err := encode(now)
		require.NoError(t, err)
		_, err = p.broker.Table(queue.Runs).Update(t.Context(), now.ID, value, revision)
		require.NoError(t, err)
		value, err = encode(before)
		require.NoError(t, err)
		require.NoError(t, publish(t.Context(), p.client, &now, queue.Copy{Value: value, Revision: revision}))
		return now.ID
	}
	same := func(*queue.Record) {}
	parked := lay(func(r *queue.Record) { r.State, r.NotBefore = queue.Parked, time.Now().Add(time.Hour) }, same)
	renewed := lay(same, same)
	refused := lay(same, func(r *queue.Record) { r.Digest = textDigest("another") })
	another := lay(same, func(r *queue.Record) { r.ID = uuid.NewString() })
	newer := lay(same, func(r *queue.Record) { r.Schema = "attune.record/v9" })

	p.serve(nil)
	for _, id := range []string{renewed, refused, another, newer} {
		r, result := p.result(id)
		assert.Equal(t, executor.Succeeded, result.Status, result.Error)
		assert.Equal(t, uint64(1), r.Epoch)
	}
	p.idle()
	assert.Equal(t, queue.Parked, p.record(parked, func(*queue.Record) bool { return true }).State)
	assert.Empty(t, p.audit(parked))
}

func TestCancelingWhatRuns(t *testing.T) {
	p := newTestPool(t, acts(nil))
	p.serve(nil)
	for _, action := range []string{"t.hang", "t.hang"} {
		f := file(t)
		id := p.submit(with(action, f))
		pid := p.waitFile(f)
		begun := time.Now()
		_, err := p.client.Cancel(t.Context(), id)
		require.NoError(t, err)
		_, result := p.result(id)
		assert.Equal(t, executor.Canceled, result.Status)
		assert.Less(t, time.Since(begun), 2*time.Second)
		assert.True(t, gone(pid))
	}
	p.idle()
}

func TestAKilledWorker(t *testing.T) {
	p := newTestPool(t, acts(map[string]string{"vanish": "", "hang": ""}))
	first := p.spawn(func(m *member) { m.Name = "first" })
	f, g := file(t), file(t)
	failing := p.submit(with("t.hang", f))
	again := with("t.vanish", g)
	again.OnLost = queue.OnLostRetry
	retried := p.submit(again)
	p.waitFile(f)
	p.waitFile(g)
	for _, id := range []string{failing, retried} { // a line of the audit waits a moment for others
		require.Eventually(t, func() bool { return slices.Contains(p.audit(id), "claim") }, 10*time.Second, 10*time.Millisecond)
	}
	first.signal(syscall.SIGKILL)
	p.serve(func(m *member) { m.Name = "second" })

	r, result := p.result(failing)
	assert.Equal(t, executor.Interrupted, result.Status)
	assert.Equal(t, "lost", result.Error.Kind)
	assert.Contains(t, result.Error.Message, "first")
	assert.EqualValues(t, 2, r.Epoch)
	assert.Equal(t, 1, r.Attempt, "it was not run again")

	r, result = p.result(retried)
	assert.Equal(t, executor.Succeeded, result.Status, result.Error)
	assert.Equal(t, "again\n", result.Stdout)
	assert.Equal(t, 2, r.Attempt)
	p.idle()
	assert.Equal(t, []string{"submit", "claim", "lost", "claim", "result"}, p.audit(retried))
	assert.Equal(t, []string{"submit", "claim", "lost", "result"}, p.audit(failing))
}

func TestAFrozenWorkerCommitsNothing(t *testing.T) {
	p := newTestPool(t, acts(nil))
	frozen := p.spawn(func(m *member) { m.Name = "frozen" })
	f := file(t)
	req := with("t.short", f)
	req.OnLost = queue.OnLostRetry
	id := p.submit(req)
	pid := p.waitFile(f)
	frozen.signal(syscall.SIGSTOP)
	require.NoError(t, os.Remove(f))
	p.serve(func(m *member) { m.Name = "other" })
	p.waitFile(f) // another has it
	require.NoError(t, os.WriteFile(f+".go", nil, 0o600))
	r, result := p.result(id)
	assert.Equal(t, "other", result.Worker)
	assert.EqualValues(t, 2, r.Epoch)
	frozen.signal(syscall.SIGCONT) // its child is over as well: it has a result in its hands
	require.Eventually(t, func() bool { return gone(pid) }, 10*time.Second, 10*time.Millisecond)
	frozen.signal(syscall.SIGTERM)
	require.NoError(t, frozen.Wait())
	after, err := p.client.Record(t.Context(), id)
	require.NoError(t, err)
	assert.Equal(t, r, after, "nothing was changed")
	p.idle()
	assert.Equal(t, []string{"submit", "claim", "lost", "claim", "result"}, p.audit(id))
}

func TestAHolderThatLivesKeepsWhatIsDeliveredAgain(t *testing.T) {
	p := newTestPool(t, acts(nil))
	slow := quick
	slow.Heartbeat, slow.Fence = 30*time.Second, time.Minute // longer than the ack wait: as if the broker had forgotten
	_, stop := p.serve(func(m *member) { m.Timing = slow; m.Slots = 1 })
	f := file(t)
	id := p.submit(with("t.short", f))
	p.waitFile(f)
	p.serve(func(m *member) { m.Name = "two" })
	time.Sleep(quickAck + quickAck/2) // it is delivered again meanwhile
	require.NoError(t, os.WriteFile(f+".go", nil, 0o600))
	r, result := p.result(id)
	assert.Equal(t, "one", result.Worker)
	assert.EqualValues(t, 1, r.Epoch)
	p.idle()
	stop()
}

func TestDrain(t *testing.T) {
	p := newTestPool(t, acts(nil))
	t.Run("what runs may finish", func(t *testing.T) {
		w := p.spawn(func(m *member) { m.Name = "finishing" })
		f := file(t)
		id := p.submit(with("t.short", f))
		p.waitFile(f)
		w.signal(syscall.SIGTERM)
		later := p.submit(executor.Request{Action: "core.noop"})
		require.Eventually(t, func() bool {
			workers, err := p.client.Workers(t.Context())
			return err == nil && len(workers) == 1 && workers[0].Draining
		}, 10*time.Second, 10*time.Millisecond)
		require.NoError(t, os.WriteFile(f+".go", nil, 0o600))
		_, result := p.result(id)
		assert.Equal(t, "finished\n", result.Stdout)
		require.NoError(t, w.Wait())
		workers, err := p.client.Workers(t.Context())
		require.NoError(t, err)
		assert.Empty(t, workers)
		r, err := p.client.Record(t.Context(), later)
		require.NoError(t, err)
		assert.Equal(t, queue.Queued, r.State, "nothing more was taken")
		_, err = p.client.Cancel(t.Context(), later)
		require.NoError(t, err)
	})
	t.Run("after the grace it is interrupted", func(t *testing.T) {
		w := p.spawn(func(m *member) { m.Name, m.Grace = "impatient", 100*time.Millisecond })
		f := file(t)
		id := p.submit(with("t.hang", f))
		pid := p.waitFile(f)
		w.signal(syscall.SIGTERM)
		require.NoError(t, w.Wait())
		_, result := p.result(id)
		assert.Equal(t, executor.Interrupted, result.Status)
		assert.Equal(t, "interrupted", result.Error.Kind)
		assert.True(t, gone(pid))
	})
	t.Run("a second signal shortens the grace", func(t *testing.T) {
		w := p.spawn(func(m *member) { m.Name, m.Grace = "told-twice", time.Hour })
		f := file(t)
		id := p.submit(with("t.hang", f))
		p.waitFile(f)
		w.signal(syscall.SIGTERM)
		require.Eventually(t, func() bool {
			workers, err := p.client.Workers(t.Context())
			return err == nil && len(workers) == 1 && workers[0].Draining
		}, 10*time.Second, 10*time.Millisecond)
		w.signal(syscall.SIGTERM)
		require.NoError(t, w.Wait())
		_, result := p.result(id)
		assert.Equal(t, executor.Interrupted, result.Status)
	})
}

func TestWhoMaySubmit(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	p := newTestPool(t, acts(nil))
	p.serve(func(m *member) { m.Keys = []Key{{Name: "ops", Public: public}}; m.Allow = []string{"core.*"} })
	_, result := p.run(executor.Request{Action: "core.noop"})
	assert.Equal(t, "request", result.Error.Kind)
	assert.Contains(t, result.Error.Message, "not signed")

	p.client = NewClient(ClientConfig{Broker: p.broker, Key: private})
	r, result := p.run(executor.Request{Action: "core.noop"})
	assert.Equal(t, executor.Succeeded, result.Status, result.Error)
	_, result = p.run(executor.Request{Action: "t.big"})
	assert.Contains(t, result.Error.Message, "does not run t.big")

	// A broken broker changes what was signed.
	text := strings.Replace(r.Submission, "core.noop", "core.echo", 1)
	altered := *r
	altered.ID, altered.State, altered.Epoch = uuid.NewString(), queue.Queued, 0
	altered.Submission = strings.ReplaceAll(text, r.ID, altered.ID)
	altered.Digest = textDigest(altered.Submission)
	value, err := encode(altered)
	require.NoError(t, err)
	_, err = p.broker.Table(queue.Runs).Create(t.Context(), altered.ID, value)
	require.NoError(t, err)
	require.NoError(t, publish(t.Context(), p.client, &altered, queue.Copy{}))
	_, result = p.result(altered.ID)
	assert.Equal(t, "request", result.Error.Kind)
	assert.Contains(t, result.Error.Message, "signature")
	assert.NotEmpty(t, base64.StdEncoding.EncodeToString(public))
	p.idle()
}

func TestScripts(t *testing.T) {
	p := newTestPool(t, nil)
	service, err := executor.New(executor.Config{CacheDir: t.TempDir()})
	require.NoError(t, err)
	p.client = NewClient(ClientConfig{Broker: p.broker, Service: service})
	p.serve(func(m *member) { m.Scripts = true })
	t.Setenv("LEAKED", "secret")
	_, result := p.run(executor.Request{Script: &executor.Script{Inline: "echo in $PWD; env; ls -A", Runtime: "shell"}})
	assert.Equal(t, executor.Succeeded, result.Status, result.Error)
	assert.Contains(t, result.Stdout, "workspace")
	assert.NotContains(t, result.Stdout, "LEAKED")
}

func TestAnExpiredDeadline(t *testing.T) {
	p := newTestPool(t, nil)
	_, stop := p.serve(nil)
	stop()
	accepted, err := p.client.Submit(t.Context(), Order{Request: executor.Request{Action: "core.noop"}, Deadline: time.Now().Add(100 * time.Millisecond)})
	require.NoError(t, err)
	time.Sleep(150 * time.Millisecond)
	p.serve(nil)
	_, result := p.result(accepted.ID)
	assert.Equal(t, "deadline", result.Error.Kind)
}

func TestEachWorkerTakesWhatItCanRun(t *testing.T) {
	p := newTestPool(t, acts(nil))
	for _, zone := range []string{"a", "b"} {
		p.serve(func(m *member) { m.Name, m.Labels = zone, map[string]string{"zone": zone} })
	}
	p.serve(func(m *member) { m.Name, m.Taints = "gpu", []executor.Taint{{Key: "gpu"}} })
	var wait []func()
	for i := range 60 {
		req := executor.Request{Action: "core.noop"}
		want := []string{"a", "b", "gpu"}[i%3]
		if want == "gpu" {
			req.Tolerations = []map[string]any{{"key": "gpu", "operator": "Exists"}}
		} else {
			req.Selector = map[string]any{"zone": want}
		}
		id := p.submit(req)
		wait = append(wait, func() {
			_, result := p.result(id)
			assert.Equal(t, executor.Succeeded, result.Status)
			if want != "gpu" {
				assert.Equal(t, want, result.Worker)
			}
		})
	}
	for _, w := range wait {
		w()
	}
	id := p.submit(executor.Request{Action: "core.noop", Selector: map[string]any{"zone": "c"}})
	time.Sleep(100 * time.Millisecond)
	r, err := p.client.Record(t.Context(), id)
	require.NoError(t, err)
	assert.Equal(t, queue.Queued, r.State)
	p.serve(func(m *member) { m.Name, m.Labels = "c", map[string]string{"zone": "c"} })
	_, result := p.result(id)
	assert.Equal(t, "c", result.Worker)
}

func TestAPreferredWorkerGetsItWhileItIsIdle(t *testing.T) {
	p := newTestPool(t, acts(nil))
	p.serve(func(m *member) { m.Name = "slow-disk" })
	p.serve(func(m *member) { m.Name, m.Labels, m.Slots = "ssd", map[string]string{"disk": "ssd"}, 2 })
	preferring := func(req executor.Request) executor.Request {
		req.Affinity = []map[string]any{{"weight": 50, "labels": map[string]any{"disk": "ssd"}}}
		return req
	}
	for range 10 {
		_, result := p.run(preferring(executor.Request{Action: "core.noop"}))
		assert.Equal(t, "ssd", result.Worker)
	}
	// When it is busy the other takes what comes.
	f, g := file(t), file(t)
	p.submit(preferring(with("t.short", f)))
	p.submit(preferring(with("t.short", g)))
	p.waitFile(f)
	p.waitFile(g)
	_, result := p.run(preferring(executor.Request{Action: "core.noop"}))
	assert.Equal(t, "slow-disk", result.Worker)
	require.NoError(t, os.WriteFile(f+".go", nil, 0o600))
	require.NoError(t, os.WriteFile(g+".go", nil, 0o600))
	p.idle()
}

func TestPacksFromThePool(t *testing.T) {
	p := newTestPool(t, nil)
	kept := t.TempDir()
	_, stop := p.serve(func(m *member) { m.PackDir = kept })
	source := t.TempDir()
	for name, text := range map[string]string{
		"q/pack.yaml": "ref: q\nversion: 1.0.0\n", "q/actions/a.yaml": "ref: q.a\nentry_point: a.sh\n", "q/actions/a.sh": "echo one; sleep 0.2\n",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(source, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(source, name), []byte(text), 0o755))
	}
	push := func() queue.PackEntry {
		service, err := executor.New(executor.Config{Packs: []string{source}, CacheDir: t.TempDir()})
		require.NoError(t, err)
		one, err := pack.Load(filepath.Join(source, "q"))
		require.NoError(t, err)
		entry, err := p.client.PushPack(t.Context(), one, service)
		require.NoError(t, err)
		return entry
	}
	first := push()
	var ids []string
	for range 8 {
		ids = append(ids, p.submit(executor.Request{Action: "q.a"}))
	}
	for _, id := range ids {
		_, result := p.result(id)
		assert.Equal(t, "one\n", result.Stdout, result.Error)
		assert.Equal(t, first.Pack.Digest, result.Pack.Digest)
	}
	// Another version beside it; who asked for the first gets the first.
	require.NoError(t, os.WriteFile(filepath.Join(source, "q/pack.yaml"), []byte("ref: q\nversion: 2.0.0\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(source, "q/actions/a.sh"), []byte("echo two\n"), 0o755))
	push()
	p.client = NewClient(ClientConfig{Broker: p.broker})
	_, result := p.run(executor.Request{Action: "q.a"})
	assert.Equal(t, "two\n", result.Stdout, result.Error)
	_, result = p.run(executor.Request{Action: "q.a@1.0.0"})
	assert.Equal(t, "one\n", result.Stdout, result.Error)

	// One that was tampered with does not run, and is fetched anew.
	dir := filepath.Join(kept, strings.TrimPrefix(first.Pack.Digest, "sha256:"))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "q@1.0.0/actions/a.sh"), []byte("echo evil\n"), 0o755))
	_, result = p.run(executor.Request{Action: "q.a@1.0.0"})
	assert.Equal(t, "pack", result.Error.Kind)
	require.Eventually(t, func() bool { return !exists(dir) }, 5*time.Second, 5*time.Millisecond)
	_, result = p.run(executor.Request{Action: "q.a@1.0.0"})
	assert.Equal(t, "one\n", result.Stdout, result.Error)

	// What the pool has no more goes; also what it lost while nobody was there.
	p.idle()
	_, err := p.client.RemovePack(t.Context(), "q@1.0.0", true)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return !exists(dir) }, 5*time.Second, 5*time.Millisecond)
	stop()
	_, err = p.client.RemovePack(t.Context(), "q", true)
	require.NoError(t, err)
	p.serve(func(m *member) { m.PackDir = kept })
	require.Eventually(t, func() bool {
		left, err := os.ReadDir(kept)
		return err == nil && len(left) == 0
	}, 5*time.Second, 5*time.Millisecond)
}

func TestTwoWorkersOfOneName(t *testing.T) {
	p := newTestPool(t, nil)
	_, stop := p.serve(nil)
	cfg, err := p.member(nil).config(p.broker)
	require.NoError(t, err)
	second, err := New(cfg)
	require.NoError(t, err)
	err = second.Run(t.Context(), t.Context())
	require.ErrorIs(t, err, ErrNameTaken)
	assert.ErrorContains(t, err, "one is alive")
	stop()
	p.serve(nil)
}

func TestAKilledWorkersNameIsFreeAtOnce(t *testing.T) {
	p := newTestPool(t, nil)
	first := p.spawn(nil)
	first.signal(syscall.SIGKILL)
	_ = first.Wait()
	p.serve(nil)
}

func TestAThousandTinyExecutionsLeaveNothing(t *testing.T) {
	p := newTestPool(t, nil)
	p.serve(func(m *member) { m.Slots = 8 })
	_, _ = p.run(executor.Request{Action: "core.noop"})
	p.idle()
	goroutines, files := ours(), openFiles(t)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 125 {
				accepted, err := p.client.Submit(t.Context(), Order{Request: executor.Request{Action: "core.noop"}})
				if !assert.NoError(t, err) {
					return
				}
				_, err = p.client.Wait(t.Context(), accepted.ID)
				assert.NoError(t, err)
			}
		})
	}
	group.Wait()
	p.idle()
	require.Eventually(t, func() bool { return ours() <= goroutines+1 && openFiles(t) <= files+3 }, 10*time.Second, 20*time.Millisecond,
		"one more is the look itself: goroutines %d → %d, files %d → %d", goroutines, ours(), files, openFiles(t))
}

// ours counts the goroutines that run attune's code; the broker's server and its client have their own.
func ours() int {
	stacks := make([]byte, 4<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	n := 0
	for stack := range strings.SplitSeq(string(stacks), "\n\n") {
		if strings.Contains(stack, "attune/worker.") || strings.Contains(stack, "attune/executor.") || strings.Contains(stack, "attune/proc.") {
			n++
		}
	}
	return n
}

func openFiles(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}

func TestParallelHostileExecutionsLeaveNothing(t *testing.T) {
	p := newTestPool(t, acts(nil))
	p.serve(func(m *member) { m.Slots = 32 })
	var ids []string
	for range 32 {
		ids = append(ids, p.submit(executor.Request{Action: "t.daemon"}))
	}
	for _, id := range ids {
		_, result := p.result(id)
		assert.Equal(t, executor.Succeeded, result.Status, result.Error)
		assert.Equal(t, "spread\n", result.Stdout)
	}
	left, err := filepath.Glob("/proc/[0-9]*/environ")
	require.NoError(t, err)
	for _, name := range left {
		environ, _ := os.ReadFile(name)
		for _, id := range ids {
			assert.NotContains(t, string(environ), "ATTUNE_EXEC_ID="+id, name)
		}
	}
}

func TestWorkerModeTakesWhatNeedsNothing(t *testing.T) {
	f := file(t)
	p := newTestPool(t, map[string]string{
		"w/pack.yaml":          "ref: w\nversion: 1.0.0\n",
		"w/actions/plain.yaml": "ref: w.plain\nentry_point: run.sh\n", "w/actions/run.sh": "echo ran\n",
		"w/actions/built.yaml": "ref: w.built\nrunner_type: slow\nentry_point: run.sh\n",
		"w/runtimes/slow.yaml": fmt.Sprintf(slowRuntime, f),
	})
	_, stop := p.serve(nil) // an agent, for the catalog
	stop()
	built := p.submit(executor.Request{Action: "w.built"})
	p.serve(func(m *member) { m.Mode = "worker"; m.Name = "preparing" })
	p.waitFile(f)
	_, result := p.run(executor.Request{Action: "w.plain"})
	assert.Equal(t, "ran\n", result.Stdout, result.Error)
	r, err := p.client.Record(t.Context(), built)
	require.NoError(t, err)
	assert.Equal(t, queue.Queued, r.State, "it waits outside of the worker")
	require.NoError(t, os.WriteFile(f+".go", nil, 0o600))
	_, result = p.result(built)
	assert.Equal(t, "ran\n", result.Stdout, result.Error)
	assert.Equal(t, "hit", result.Environment.State)
}

func TestSIGTERMWhileItPrepares(t *testing.T) {
	t.Parallel()
	f, said := file(t), filepath.Join(t.TempDir(), "log")
	p := newTestPool(t, map[string]string{
		"w/pack.yaml": "ref: w\nversion: 1.0.0\n", "w/actions/built.yaml": "ref: w.built\nrunner_type: slow\nentry_point: run.sh\n",
		"w/actions/run.sh": "echo ran\n", "w/runtimes/slow.yaml": fmt.Sprintf(slowRuntime, f),
	})
	preparing := p.spawn(func(m *member) { m.Mode, m.Log = "worker", said })
	p.waitFile(f)
	preparing.drain()
	log, err := os.ReadFile(said)
	require.NoError(t, err)
	assert.NotContains(t, string(log), "level=ERROR", "it was asked to end")
	assert.NotContains(t, string(log), "level=WARN")
	assert.Contains(t, string(log), "msg=prepared")
	all, err := p.client.Workers(t.Context())
	require.NoError(t, err)
	assert.Empty(t, all, "and is deregistered")
}

func TestAnExecutionThatBuilds(t *testing.T) {
	f := file(t)
	files := map[string]string{
		"g/pack.yaml": "ref: g\nversion: 1.0.0\n", "g/actions/a.yaml": "ref: g.a\nrunner_type: slow\nentry_point: a.sh\n", "g/actions/a.sh": "echo ran\n",
		"g/runtimes/slow.yaml": fmt.Sprintf(slowRuntime, f),
	}
	p := newTestPool(t, files)
	first := p.spawn(func(m *member) { m.Name, m.Grace = "first", 50*time.Millisecond })
	id := p.submit(executor.Request{Action: "g.a"})
	p.waitFile(f)
	r := p.record(id, func(r *queue.Record) bool { return r.State == queue.Running && !r.Started })
	assert.Equal(t, 1, r.Attempt)
	first.signal(syscall.SIGTERM)
	require.NoError(t, first.Wait())
	r = p.record(id, func(r *queue.Record) bool { return r.State == queue.Queued })
	assert.Zero(t, r.Attempt, "given back without an attempt spent")

	second := p.spawn(func(m *member) { m.Name = "second" })
	p.record(id, func(r *queue.Record) bool { return r.State == queue.Running && !r.Started })
	second.signal(syscall.SIGKILL)
	require.NoError(t, os.WriteFile(f+".go", nil, 0o600))
	p.serve(func(m *member) { m.Name = "third" })
	r, result := p.result(id)
	assert.Equal(t, "ran\n", result.Stdout, result.Error)
	assert.Equal(t, 1, r.Attempt, "what only prepared was not lost")
	assert.EqualValues(t, 3, r.Epoch)
	p.idle()
	assert.Equal(t, []string{"submit", "claim", "release", "claim", "lost", "claim", "result"}, p.audit(id))
}

// slowRuntime is a shell whose environment takes until a file is there to build; another file tells that it is being built.
const slowRuntime = `
name: slow
distributions: {verification: {commands: [{binary: bash, args: [--version], pattern: 'version (?P<version>\d+\.\d+\.\d+)'}]}}
execution_config:
  interpreter: {binary: bash}
  environment: {env_type: commands, create_command: [[sh, -c, 'echo building > %[1]s; mkdir -p {env_dir}; while [ ! -e %[1]s.go ]; do sleep 0.02; done']]}
`

func TestDuplicateSubmissionsRunOnce(t *testing.T) {
	p := newTestPool(t, acts(nil))
	p.serve(patiently)
	id := uuid.NewString()
	f := file(t)
	var group sync.WaitGroup
	for range 100 {
		group.Go(func() {
			_, err := p.client.Submit(context.WithoutCancel(t.Context()), Order{Request: executor.Request{ID: id, Action: "t.flaky", Parameters: map[string]any{"file": f, "times": 1}}})
			assert.NoError(t, err)
		})
	}
	group.Wait()
	r, result := p.result(id)
	assert.Equal(t, executor.Succeeded, result.Status)
	assert.EqualValues(t, 1, r.Epoch)
	p.idle()
	text, err := os.ReadFile(f)
	require.NoError(t, err)
	assert.Equal(t, "x\n", string(text))
}
