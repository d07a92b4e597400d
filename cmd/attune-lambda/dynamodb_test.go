package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// dynamo speaks as much of DynamoDB's protocol (JSON 1.0, DynamoDB_20120810) as conditional writes of one table take.
type dynamo struct {
	*httptest.Server
	t *testing.T

	mu     sync.Mutex
	items  map[string]attributes
	writes int
	down   bool
}

type attributes map[string]map[string]any

func newDynamo(t *testing.T) *dynamo {
	d := &dynamo{t: t, items: map[string]attributes{}}
	d.Server = httptest.NewServer(d)
	t.Cleanup(d.Close)
	return d
}

// env makes a function use it.
func (d *dynamo) env() []string {
	return []string{"ATTUNE_IDEMPOTENCY_TABLE=runs", "AWS_ENDPOINT_URL_DYNAMODB=" + d.URL, "AWS_REGION=eu-west-1", "AWS_ACCESS_KEY_ID=AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY=secretsecret"}
}

func (d *dynamo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	require.NoError(d.t, err)
	var in struct {
		TableName                           string
		Item, Key                           attributes
		ConditionExpression                 string
		ExpressionAttributeValues           attributes
		ReturnValuesOnConditionCheckFailure string
	}
	require.NoError(d.t, json.Unmarshal(body, &in))
	require.Equal(d.t, "runs", in.TableName)
	require.Contains(d.t, r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
	d.mu.Lock()
	defer d.mu.Unlock()
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	if d.down {
		fault(w, http.StatusBadRequest, map[string]any{"__type": "com.amazonaws.dynamodb.v20120810#ResourceNotFoundException", "message": "Requested resource not found"})
		return
	}
	key, _ := in.Key["id"]["S"].(string)
	if in.Item != nil {
		key, _ = in.Item["id"]["S"].(string)
	}
	old := d.items[key]
	condition := parser{words: strings.Fields(strings.NewReplacer("(", " ( ", ")", " ) ").Replace(in.ConditionExpression)), item: old, values: in.ExpressionAttributeValues}
	if in.ConditionExpression != "" && !condition.or() {
		answer := map[string]any{"__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException", "message": "The conditional request failed"}
		if in.ReturnValuesOnConditionCheckFailure == "ALL_OLD" {
			answer["Item"] = old
		}
		fault(w, http.StatusBadRequest, answer)
		return
	}
	d.writes++
	switch target := r.Header.Get("X-Amz-Target"); target {
	case "DynamoDB_20120810.PutItem":
		d.items[key] = in.Item
	case "DynamoDB_20120810.DeleteItem":
		delete(d.items, key)
	default:
		require.Fail(d.t, "unknown operation", target)
	}
	_, _ = io.WriteString(w, "{}")
}

func fault(w http.ResponseWriter, status int, answer any) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer)
}

// change edits the items.
func (d *dynamo) change(do func(items map[string]attributes)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	do(d.items)
}

// parser evaluates a condition expression: OR over AND over comparisons, with parentheses.
type parser struct {
	words  []string
	item   attributes
	values attributes
}

func (p *parser) take() string {
	word := p.words[0]
	p.words = p.words[1:]
	return word
}

func (p *parser) or() bool {
	result := p.and()
	for len(p.words) > 0 && p.words[0] == "OR" {
		p.take()
		right := p.and()
		result = result || right
	}
	return result
}

func (p *parser) and() bool {
	result := p.term()
	for len(p.words) > 0 && p.words[0] == "AND" {
		p.take()
		right := p.term()
		result = result && right
	}
	return result
}

func (p *parser) term() bool {
	switch word := p.take(); word {
	case "(":
		result := p.or()
		p.take()
		return result
	case "attribute_not_exists":
		p.take()
		name := p.take()
		p.take()
		return p.item[name] == nil
	default:
		operator, value := p.take(), p.values[p.take()]
		have := p.item[word]
		if have == nil {
			return false
		}
		if operator == "=" {
			return fmt.Sprint(have) == fmt.Sprint(value)
		}
		left, _ := strconv.ParseInt(fmt.Sprint(have["N"]), 10, 64)
		right, _ := strconv.ParseInt(fmt.Sprint(value["N"]), 10, 64)
		return left < right
	}
}

// objects is an S3 that takes objects.
type objects struct {
	*httptest.Server
	mu   sync.Mutex
	all  map[string][]byte
	down bool
}

func newObjects(t *testing.T) *objects {
	o := &objects{all: map[string][]byte{}}
	o.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		o.mu.Lock()
		defer o.mu.Unlock()
		switch {
		case err != nil || r.Method != http.MethodPut || !strings.Contains(r.Header.Get("Authorization"), "/s3/aws4_request"):
			w.WriteHeader(http.StatusBadRequest)
		case o.down:
			w.Header().Set("Content-Type", "application/xml")
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>`)
		default:
			o.all[r.URL.Path] = body
			w.Header().Set("ETag", `"x"`)
		}
	}))
	t.Cleanup(o.Close)
	return o
}

func (o *objects) env(bucket string) []string {
	return []string{"ATTUNE_RESULT_BUCKET=" + bucket, "AWS_ENDPOINT_URL_S3=" + o.URL, "AWS_REGION=eu-west-1", "AWS_ACCESS_KEY_ID=AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY=secretsecret"}
}

func (o *objects) get(path string) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all[path]
}
