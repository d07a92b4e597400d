package queue_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/queue"
)

const exampleID = "0197a6f0-0000-7000-8000-000000000001"

// examples are one document of each schema with every field set.
func examples() map[string]any {
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	raw := json.RawMessage(`{}`)
	hex := strings.Repeat("0a", 32)
	pin := queue.Pin{Ref: "core", Version: "1.2.3", Digest: "sha256:" + hex}
	signature := &queue.Signature{Key: "a2V5", Value: "dmFsdWU="}
	return map[string]any{
		"submission.v1": queue.Submission{Schema: queue.SubmissionSchema, ID: exampleID, Request: raw, Pack: pin, Deadline: at},
		"record.v1": queue.Record{Schema: queue.RecordSchema, ID: exampleID, State: queue.Running, Epoch: 1, Attempt: 1, Worker: "w", Started: true,
			Submission: "{}", SubmissionObject: "o", Digest: hex, Signature: signature, Schedule: &queue.Tick{Name: "n", At: at, Text: "{}"},
			SubmittedBy: "ada", SubmittedAt: at, Action: "core.echo", Route: "abc", Priority: queue.High, Requirement: raw, Affinity: raw, NotBefore: at,
			Waits: queue.WaitsForTime, Limit: 1, Retries: 1, BackoffMS: 1, OnLost: queue.OnLostRetry, Unroutable: at, Traceparent: "t",
			ClaimedAt: at, FinishedAt: at, Outcome: "succeeded", Result: raw, ResultObject: "o", LastError: "e"},
		"schedule.v1": queue.ScheduleText{Schema: queue.ScheduleSchema, Name: "n", Cron: "@hourly", Zone: "UTC", Missed: "all", Request: raw, Pack: pin},
		"worker.v1": queue.WorkerEntry{Schema: queue.WorkerSchema, Name: "w", Instance: "i", Version: "1", Host: "h", PID: 1, Mode: "worker", StartedAt: at, SeenAt: at,
			Draining: true, Slots: 2, Busy: 1, Running: []string{exampleID}, Labels: map[string]string{"a": "b"}, Taints: raw, Capabilities: raw},
		"catalog.v1": queue.CatalogEntry{Schema: queue.CatalogSchema, Action: "core.echo", Pack: pin, Requirement: raw, Parameters: raw, Retries: 1, BackoffMS: 1, Limit: 1,
			Affinity: raw, UpdatedAt: at},
		"log.v1":             queue.LogChunk{Schema: queue.LogSchema, Epoch: 1, Number: 1, Stream: "stdout", At: at, Data: make([]byte, queue.ChunkMax)},
		"audit.v1":           queue.AuditLine{Schema: queue.AuditSchema, At: at, Who: "ada", What: "submit", ID: exampleID, Action: "core.echo", Digest: hex, Epoch: 1, Attempt: 1, Outcome: "failed", Detail: "d"},
		"dead.v1":            queue.DeadLetter{Schema: queue.DeadSchema, ID: exampleID, Reason: "r", At: at, Record: raw},
		"submit-question.v1": queue.SubmitQuestion{Submission: "{}", Signature: signature},
		"submit-answer.v1":   queue.SubmitAnswer{ID: exampleID, State: queue.Queued, Error: "e", Hint: "h"},
	}
}

func readSchema(t *testing.T, name string) (*jsonschema.Schema, *jsonschema.Resolved) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("schemas", name+".json"))
	require.NoError(t, err)
	var schema jsonschema.Schema
	require.NoError(t, json.Unmarshal(text, &schema))
	resolved, err := schema.Resolve(nil)
	require.NoError(t, err)
	return &schema, resolved
}

func validate(t *testing.T, schema *jsonschema.Resolved, document any) error {
	t.Helper()
	text, err := json.Marshal(document)
	require.NoError(t, err)
	var value any
	require.NoError(t, json.Unmarshal(text, &value))
	return schema.Validate(value)
}

func TestSchemas(t *testing.T) {
	files, err := filepath.Glob("schemas/*.json")
	require.NoError(t, err)
	require.Len(t, files, len(examples()))
	for name, example := range examples() {
		t.Run(name, func(t *testing.T) {
			schema, resolved := readSchema(t, name)
			require.NoError(t, validate(t, resolved, example))
			require.Equal(t, fields(example), properties(schema), "the schema describes each field of the document")
			for field := range properties(schema) {
				require.NotZero(t, fieldOf(example, field), "the example sets %s", field)
			}
		})
	}
}

func TestSchemasRefuse(t *testing.T) {
	_, record := readSchema(t, "record.v1")
	ok := examples()["record.v1"].(queue.Record)
	for what, change := range map[string]func(*queue.Record){
		"schema": func(r *queue.Record) { r.Schema = "attune.record/v2" },
		"state":  func(r *queue.Record) { r.State = "lost" },
		"digest": func(r *queue.Record) { r.Digest = "?" },
		"waits":  func(r *queue.Record) { r.Waits = "nothing" },
	} {
		wrong := ok
		change(&wrong)
		require.Error(t, validate(t, record, wrong), what)
	}
	_, submission := readSchema(t, "submission.v1")
	require.Error(t, validate(t, submission, map[string]any{"schema": queue.SubmissionSchema, "id": exampleID}), "no request")
	require.Error(t, validate(t, submission, map[string]any{"schema": queue.SubmissionSchema, "id": exampleID, "request": map[string]any{}, "extra": 1}))
	require.NoError(t, validate(t, submission, map[string]any{"schema": queue.SubmissionSchema, "id": exampleID, "request": map[string]any{}}))
}

func fields(document any) map[string]bool {
	names := map[string]bool{}
	for _, f := range reflect.VisibleFields(reflect.TypeOf(document)) {
		if name := jsonName(f); name != "-" {
			names[name] = true
		}
	}
	return names
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

func fieldOf(document any, name string) any {
	value := reflect.ValueOf(document)
	for i, f := range reflect.VisibleFields(value.Type()) {
		if jsonName(f) == name {
			return value.Field(i).Interface()
		}
	}
	return nil
}

func properties(schema *jsonschema.Schema) map[string]bool {
	names := map[string]bool{}
	for name := range schema.Properties {
		names[name] = true
	}
	return names
}
