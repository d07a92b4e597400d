package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden files")

// mapped is what a golden file says of an event.
type mapped struct {
	Source source
	Calls  []mappedCall
}

type mappedCall struct {
	ID, Trace, Group, Trigger, Traceparent, Error string `json:",omitempty"`
	Parameters                                    map[string]any
}

// The events are those that AWS documents, as github.com/aws/aws-lambda-go keeps them (Apache-2.0), and some of their variants.
func TestEventsBecomeCalls(t *testing.T) {
	events, err := filepath.Glob("testdata/events/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, events)
	for _, path := range events {
		t.Run(filepath.Base(path), func(t *testing.T) {
			payload, err := os.ReadFile(path)
			require.NoError(t, err)
			e, err := readEvent(payload, "")
			require.NoError(t, err)
			m := mapped{Source: e.source}
			for _, c := range e.calls {
				call := mappedCall{ID: c.id, Trace: c.trace, Group: c.group, Parameters: c.request.Parameters, Trigger: c.request.Context.Trigger, Traceparent: c.request.Context.Traceparent}
				if c.err != nil {
					call.Error = c.err.Error()
				}
				m.Calls = append(m.Calls, call)
			}
			var got bytes.Buffer
			encoder := json.NewEncoder(&got)
			encoder.SetIndent("", "  ")
			require.NoError(t, encoder.Encode(m))
			golden := filepath.Join("testdata", "calls", filepath.Base(path))
			if *update {
				require.NoError(t, os.MkdirAll(filepath.Dir(golden), 0o755))
				require.NoError(t, os.WriteFile(golden, got.Bytes(), 0o644))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err)
			assert.Equal(t, string(want), got.String())
		})
	}
}

func TestEventsOfNoShape(t *testing.T) {
	for payload, says := range map[string]string{
		"":              "not JSON",
		"{":             "not JSON",
		"[]":            "no JSON object",
		`"x"`:           "no JSON object",
		`{"Records":0}`: "looks like raw",
		`{}`:            "looks like raw",
	} {
		_, err := readEvent([]byte(payload), sourceSQS)
		require.Error(t, err, payload)
		assert.Contains(t, err.Error(), says)
	}
	e, err := readEvent([]byte(`{"schema":"attune.request/v1","action":"x.y"}`), sourceRaw)
	require.NoError(t, err)
	assert.False(t, e.calls[0].direct, "what is raw names no action")
	deep := `{"a":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`
	e, err = readEvent([]byte(deep), "")
	require.NoError(t, err)
	assert.ErrorContains(t, e.calls[0].err, "nests deeper")
}

// FuzzEvents: nothing panics, and nobody names an action but by a direct request.
func FuzzEvents(f *testing.F) {
	events, _ := filepath.Glob("testdata/events/*.json")
	for _, path := range events {
		payload, _ := os.ReadFile(path)
		f.Add(payload)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		e, err := readEvent(payload, "")
		if err != nil {
			return
		}
		for _, c := range e.calls {
			if !c.direct && (c.request.Action != "" || c.request.Script != nil || c.request.Env != nil || c.request.Secrets != nil) {
				t.Fatalf("%+v", c.request)
			}
		}
	})
}

func TestTraceparent(t *testing.T) {
	for header, want := range map[string]string{
		"Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1":           "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01",
		"Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=0;Lineage=a": "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-00",
		"Self=1-2; Root=1-5759e988-bd862e3fe1be46a994272793":                                   "",
		"Root=1-5759E988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8":                     "",
		"": "",
	} {
		assert.Equal(t, want, traceparent(header), header)
	}
	assert.False(t, isTraceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\nX=1"))
}

// Each documented event goes through the real function to a real action, and its answer is in the form its source expects.
func TestEveryDocumentedEventIsServed(t *testing.T) {
	p := start(t, "ATTUNE_LAMBDA_ACTION=t.show", "ATTUNE_LAMBDA_ALLOW=core.echo", "ATTUNE_PACKS="+packsDir(t)+":../../packs")
	events, err := filepath.Glob("testdata/events/*.json")
	require.NoError(t, err)
	for _, path := range events {
		payload, err := os.ReadFile(path)
		require.NoError(t, err)
		var golden mapped
		text, err := os.ReadFile(filepath.Join("testdata", "calls", filepath.Base(path)))
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(text, &golden))
		a := p.invoke(string(payload))
		assert.Equal(t, "response", a.kind, "%s: %s", path, a.body)
		switch golden.Source {
		case sourceHTTP:
			want := `"statusCode":200`
			if golden.Calls[0].Error != "" {
				want = `"statusCode":400`
			}
			assert.Contains(t, string(a.body), want, path)
		case sourceSQS:
			assert.JSONEq(t, `{"batchItemFailures":[]}`, string(a.body), path)
		case sourceSNS, sourceS3, sourceEventBridge:
			assert.Equal(t, "null", string(a.body), path)
		case sourceRequest:
			assert.Equal(t, "core.echo", p.result(a).Action, path)
		default:
			shown, _ := p.result(a).Result.Result.(map[string]any)
			assert.Equal(t, golden.Calls[0].Parameters, shown["parameters"], path)
		}
	}
}
