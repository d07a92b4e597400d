// Package schemas finds the JSON Schemas of the documents that people and programs exchange with attune.
package schemas

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/jsonschema-go/jsonschema"
)

// Document is one kind of document.
type Document struct {
	Title string // "Action"
	File  string // of its schema, below the module's directory
}

// Documents are all there are, in the order in which they are explained: files that people write, what travels, what lies in a pool.
var Documents = []Document{
	{"Pack", "pack/schemas/pack.v1.json"},
	{"Action", "pack/schemas/action.v1.json"},
	{"Runtime", "runtime/schemas/runtime.v1.json"},
	{"Plan", "internal/batch/schemas/plan.v1.json"},
	{"Tests", "internal/packtest/schemas/tests.v1.json"},
	{"Request", "executor/schemas/request.v1.json"},
	{"Result", "executor/schemas/result.v1.json"},
	{"Submission", "queue/schemas/submission.v1.json"},
	{"Record", "queue/schemas/record.v1.json"},
	{"ScheduleText", "queue/schemas/schedule.v1.json"},
	{"WorkerEntry", "queue/schemas/worker.v1.json"},
	{"CatalogEntry", "queue/schemas/catalog.v1.json"},
	{"LogChunk", "queue/schemas/log.v1.json"},
	{"AuditLine", "queue/schemas/audit.v1.json"},
	{"DeadLetter", "queue/schemas/dead.v1.json"},
	{"SubmitQuestion", "queue/schemas/submit-question.v1.json"},
	{"SubmitAnswer", "queue/schemas/submit-answer.v1.json"},
}

// Read reads a document's schema; root is the module's directory.
func (d Document) Read(root string) (*jsonschema.Schema, error) {
	text, err := os.ReadFile(filepath.Join(root, d.File))
	if err != nil {
		return nil, err
	}
	var schema jsonschema.Schema
	if err := json.Unmarshal(text, &schema); err != nil {
		return nil, fmt.Errorf("%s: %w", d.File, err)
	}
	return &schema, nil
}
