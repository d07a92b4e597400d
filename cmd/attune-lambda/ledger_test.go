package main

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/executor"
)

// runs counts how often t.count ran with a file.
func runs(t *testing.T, file string) int {
	text, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return 0
	}
	require.NoError(t, err)
	return strings.Count(string(text), "\n")
}

func TestAnIDRunsOnce(t *testing.T) {
	table := newDynamo(t)
	env := append(table.env(), "ATTUNE_LAMBDA_ALLOW=*", "ATTUNE_LAMBDA_ACTION=t.count")
	p, other := start(t, env...), start(t, env...)
	file, id := filepath.Join(t.TempDir(), "ran"), uuid.NewString()
	event := request("t.count", map[string]any{"file": file, "code": 3})
	event["id"] = id

	first := p.result(p.invoke(event))
	assert.Equal(t, 3, first.ExitCode)
	second := other.result(other.invoke(event))
	assert.Equal(t, first.StartedAt, second.StartedAt, "the stored result")
	assert.Equal(t, 3, second.ExitCode)
	assert.Equal(t, 1, runs(t, file))
	for _, item := range table.items {
		assert.Contains(t, item, "expires_at")
	}

	event["parameters"] = map[string]any{"file": file, "code": 0}
	_, message := p.functionError(p.invoke(event))
	assert.Contains(t, message, "another request")

	delete(event, "id") // Lambda's own retry of an asynchronous invocation has the same request id
	p.invoke(event, withID("8476a536-e9f4-11e8-9739-2dfe598c3fcd"))
	p.invoke(event, withID("8476a536-e9f4-11e8-9739-2dfe598c3fcd"))
	assert.Equal(t, 2, runs(t, file))
}

func TestARecordThatIsDeliveredTwiceRunsOnce(t *testing.T) {
	table := newDynamo(t)
	p := start(t, append(table.env(), "ATTUNE_LAMBDA_ACTION=t.count")...)
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good"), filepath.Join(dir, "bad")
	batch := sqsEvent("queue", sqsRecord("a", "", map[string]any{"file": good, "code": 0}), sqsRecord("b", "", map[string]any{"file": bad, "code": 1}))
	for round := 1; round <= 3; round++ {
		assert.Equal(t, []string{"b"}, failures(t, p.invoke(batch)))
		assert.Equal(t, 1, runs(t, good), "what succeeded is not run again")
		assert.Equal(t, round, runs(t, bad), "what failed is tried again, as the queue means it")
	}
}

func TestARunThatGoesOnIsNotRunBesideItself(t *testing.T) {
	table := newDynamo(t)
	env := append(table.env(), "ATTUNE_LAMBDA_ALLOW=*")
	p, other := start(t, env...), start(t, env...)
	dir, id := t.TempDir(), uuid.NewString()
	event := request("t.meet", map[string]any{"dir": dir, "of": 2})
	event["id"] = id
	d := p.api.deliver(t, event)
	eventually(t, "it runs", func() bool { entries, _ := os.ReadDir(dir); return len(entries) == 1 })
	kind, _ := other.functionError(other.invoke(event))
	assert.Equal(t, "Attune.AlreadyRunning", kind)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "second"), nil, 0o600))
	assert.Equal(t, executor.Succeeded, p.result(<-d.answer).Status)
	assert.Equal(t, executor.Succeeded, other.result(other.invoke(event)).Status)
}

func TestARunThatWasLostIsRunAgainOnceItsLeaseIsOver(t *testing.T) {
	table := newDynamo(t)
	env := append(table.env(), "ATTUNE_LAMBDA_ALLOW=*")
	p := start(t, env...)
	dir, id := t.TempDir(), uuid.NewString()
	event := request("t.meet", map[string]any{"dir": dir, "of": 2})
	event["id"] = id
	p.api.deliver(t, event)
	eventually(t, "it runs", func() bool { entries, _ := os.ReadDir(dir); return len(entries) == 1 })
	p.signal(syscall.SIGKILL)
	p.exits()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "second"), nil, 0o600))

	other := start(t, env...)
	kind, _ := other.functionError(other.invoke(event))
	assert.Equal(t, "Attune.AlreadyRunning", kind)
	table.change(func(items map[string]attributes) {
		for _, item := range items {
			item["lease_until"] = map[string]any{"N": "1"}
		}
	})
	assert.Equal(t, executor.Succeeded, other.result(other.invoke(event)).Status)
}

func TestNothingRunsWhenTheTableCannotBeAsked(t *testing.T) {
	table := newDynamo(t)
	table.down = true
	p := start(t, append(table.env(), "ATTUNE_LAMBDA_ALLOW=*")...)
	file := filepath.Join(t.TempDir(), "ran")
	_, message := p.functionError(p.invoke(request("t.count", map[string]any{"file": file})))
	assert.Contains(t, message, "cannot be found out")
	assert.Equal(t, 0, runs(t, file))
}

func TestWhatAttuneCouldNotDoIsForgotten(t *testing.T) {
	table := newDynamo(t)
	p := start(t, append(table.env(), "ATTUNE_LAMBDA_ALLOW=*")...)
	event := request("t.required", nil)
	event["id"] = uuid.NewString()
	assert.Equal(t, executor.Errored, p.result(p.invoke(event)).Status)
	assert.Empty(t, table.items)
}

func TestLargeResultsAreStoredElsewhere(t *testing.T) {
	table, store := newDynamo(t), newObjects(t)
	event := request("t.large", map[string]any{"bytes": 500 << 10})
	event["id"] = uuid.NewString()

	p := start(t, append(append(table.env(), store.env("results/fn")...), "ATTUNE_LAMBDA_ALLOW=*")...)
	assert.Len(t, p.result(p.invoke(event)).Result.Result, 500<<10)
	d := p.result(p.invoke(event))
	assert.Equal(t, executor.Succeeded, d.Status)
	assert.Nil(t, d.Result.Result)
	require.Equal(t, "s3://results/fn/"+d.ID+".json", d.ResultLocation)
	var whole document
	require.NoError(t, json.Unmarshal(store.get("/results/fn/"+d.ID+".json"), &whole))
	assert.Len(t, whole.Result.Result, 500<<10)

	table.change(func(items map[string]attributes) { clear(items) })
	p = start(t, append(table.env(), "ATTUNE_LAMBDA_ALLOW=*", "ATTUNE_LAMBDA_ACTION=t.large")...)
	assert.Equal(t, executor.Succeeded, p.result(p.invoke(event)).Status)
	d = p.result(p.invoke(event))
	assert.Equal(t, executor.Failed, d.Status, "a result that is missing is said to be")
	assert.Equal(t, "output", d.Error.Kind)
	queued := sqsEvent("queue", sqsRecord("m", "", maps.Clone(event["parameters"].(map[string]any))))
	for range 2 {
		assert.Empty(t, failures(t, p.invoke(queued)), "a queue wants to know only that it succeeded")
	}
}
