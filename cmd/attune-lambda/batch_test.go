package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// sqsRecord is one message; group makes it one of a FIFO queue.
func sqsRecord(id, group string, parameters any) map[string]any {
	body, err := json.Marshal(parameters)
	if err != nil {
		panic(err)
	}
	attributes := map[string]any{"ApproximateReceiveCount": "1"}
	if group != "" {
		attributes["MessageGroupId"] = group
	}
	return map[string]any{"messageId": id, "body": string(body), "eventSource": "aws:sqs", "attributes": attributes}
}

func sqsEvent(queue string, records ...map[string]any) map[string]any {
	for _, r := range records {
		r["eventSourceARN"] = "arn:aws:sqs:eu-west-1:123456789012:" + queue
	}
	return map[string]any{"Records": records}
}

// failures are the ids of a partial batch response.
func failures(t *testing.T, a answer) []string {
	t.Helper()
	require.Equal(t, "response", a.kind, "%s", a.body)
	var r struct {
		BatchItemFailures *[]struct{ ItemIdentifier string }
	}
	require.NoError(t, json.Unmarshal(a.body, &r))
	require.NotNil(t, r.BatchItemFailures, "%s", a.body)
	var ids []string
	for _, f := range *r.BatchItemFailures {
		ids = append(ids, f.ItemIdentifier)
	}
	return ids
}

func TestABatchNamesTheRecordsThatFailed(t *testing.T) {
	p := start(t, "ATTUNE_LAMBDA_ACTION=t.run")
	script := func(text string) map[string]any { return map[string]any{"script": text} }
	broken := sqsRecord("d", "", nil)
	broken["body"] = `{"script": `
	batch := sqsEvent("queue", sqsRecord("a", "", script("exit 0")), sqsRecord("b", "", script("exit 1")), sqsRecord("c", "", "no object"), broken, sqsRecord("e", "", script("echo printed")))
	assert.Equal(t, []string{"b", "c", "d"}, failures(t, p.invoke(batch)))
	eventually(t, "what a record printed is in the log", func() bool { return strings.Contains(p.logs.String(), `"message":"printed"`) })

	kind, message := p.functionError(p.invoke(sqsEvent("queue", sqsRecord("a", "", script("exit 1")), sqsRecord("b", "", script("exit 2")))))
	assert.Equal(t, "Attune.BatchFailed", kind)
	assert.Equal(t, "all 2 records failed; the first: t.run exited with 1", message)
}

func TestTenRecordsRunInParallelUpToTheLimit(t *testing.T) {
	const limit = 5
	p := start(t, "ATTUNE_LAMBDA_ACTION=t.run", "ATTUNE_LAMBDA_CONCURRENCY="+strconv.Itoa(limit))
	dir := t.TempDir()
	// Each waits until as many as may run at once are there, and notes how many it sees.
	script := `me=$(mktemp "$DIR/run.XXXXXX"); n=0; while [ "$(ls "$DIR" | grep -c '^seen\|^run')" -lt 5 ]; do sleep 0.02; n=$((n+1)); [ $n -lt 1000 ] || exit 1; done
		ls "$DIR" | grep -c '^run' > "$(mktemp "$DIR/seen.XXXXXX")"; rm "$me"`
	var records []map[string]any
	for i := range 10 {
		records = append(records, sqsRecord("m"+strconv.Itoa(i), "", map[string]any{"script": "DIR=" + dir + "; " + script}))
	}
	assert.Empty(t, failures(t, p.invoke(sqsEvent("queue", records...))))
	seen, err := filepath.Glob(filepath.Join(dir, "seen.*"))
	require.NoError(t, err)
	assert.Len(t, seen, 10)
	for _, file := range seen {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		assert.NotContains(t, []string{"6\n", "7\n", "8\n", "9\n", "10\n"}, string(text), "more than the limit at once")
	}
}

func TestAFIFOGroupIsRunInOrderAndStopsAtItsFirstFailure(t *testing.T) {
	p := start(t, "ATTUNE_LAMBDA_ACTION=t.run")
	dir := t.TempDir()
	step := func(group, id, code string) map[string]any {
		return sqsRecord(id, group, map[string]any{"script": "sleep 0.05; echo " + id + " >> " + filepath.Join(dir, group) + "; exit " + code})
	}
	batch := sqsEvent("queue.fifo", step("g", "g1", "0"), step("h", "h1", "0"), step("g", "g2", "1"), step("h", "h2", "0"), step("g", "g3", "0"), step("h", "h3", "0"))
	assert.Equal(t, []string{"g2", "g3"}, failures(t, p.invoke(batch)))
	for group, want := range map[string]string{"g": "g1\ng2\n", "h": "h1\nh2\nh3\n"} {
		text, err := os.ReadFile(filepath.Join(dir, group))
		require.NoError(t, err)
		assert.Equal(t, want, string(text))
	}
}

func TestRecordsWithoutTimeAreLeftForTheNextDelivery(t *testing.T) {
	p := start(t, "ATTUNE_LAMBDA_ACTION=t.run", "ATTUNE_LAMBDA_CONCURRENCY=1")
	sleep := map[string]any{"script": "sleep 1"}
	var records []map[string]any
	for i := range 4 {
		records = append(records, sqsRecord("m"+strconv.Itoa(i), "", sleep))
	}
	begun := time.Now()
	a := p.invoke(sqsEvent("queue", records...), deadline(4300*time.Millisecond))
	assert.Less(t, a.at.Sub(begun), 4300*time.Millisecond)
	left := failures(t, a)
	assert.NotEmpty(t, left)
	assert.Less(t, len(left), 4)
}

func TestAsynchronousSourcesGetAnError(t *testing.T) {
	p := start(t, "ATTUNE_LAMBDA_ACTION=t.run")
	sns := func(script string) map[string]any {
		message, _ := json.Marshal(map[string]string{"script": script})
		return map[string]any{"Records": []any{map[string]any{"EventSource": "aws:sns", "Sns": map[string]any{"MessageId": "95df01b4-ee98-5cb9-9903-4c221d41eb5e", "TopicArn": "arn:aws:sns:x", "Message": string(message)}}}}
	}
	a := p.invoke(sns("exit 0"))
	assert.Equal(t, "response", a.kind)
	assert.Equal(t, "null", string(a.body))
	kind, _ := p.functionError(p.invoke(sns("exit 1")))
	assert.Equal(t, "Attune.ActionFailed", kind)
	kind, _ = p.functionError(p.invoke(map[string]any{"detail-type": "x", "source": "y", "id": "z", "detail": map[string]any{}}))
	assert.Equal(t, "Attune.Error", kind, "it has no script")
}
