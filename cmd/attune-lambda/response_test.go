package main

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/executor"
)

func plain(d document) ([]byte, error) { return encode(d) }

// inBody is the form of an HTTP response, in which all is escaped once more.
func inBody(d document) ([]byte, error) {
	body, err := encode(d)
	if err != nil {
		return nil, err
	}
	return encodeHTTP(&httpEvent{}, http.StatusOK, body)
}

func TestAResponseOfExactlyTheLimit(t *testing.T) {
	f := &function{}
	for name, form := range map[string]encoder{"plain": plain, "in a body": inBody} {
		for _, unit := range []string{"x", "\n", "\x00", "ä", "\u2028", "\"\\"} {
			d := document{Result: executor.Result{Status: executor.Succeeded, Stdout: strings.Repeat(unit, 5000), Stderr: strings.Repeat(unit, 100)}}
			whole, err := form(d)
			require.NoError(t, err)

			same, err := f.fit(context.Background(), d, len(whole), form)
			require.NoError(t, err)
			assert.Equal(t, string(whole), string(same), "%s %q: nothing is cut at the limit", name, unit)

			cut, err := f.fit(context.Background(), d, len(whole)-1, form)
			require.NoError(t, err)
			assert.Less(t, len(cut), len(whole), "%s %q", name, unit)
			assert.Greater(t, len(cut), len(whole)*8/10, "%s %q: no more is cut than has to be", name, unit)
			if name == "plain" {
				var got document
				require.NoError(t, json.Unmarshal(cut, &got))
				assert.Equal(t, executor.Succeeded, got.Status)
				assert.True(t, got.StdoutTruncated)
				assert.Positive(t, got.StdoutBytesTruncated)
				assert.False(t, got.StderrTruncated, "the shorter stream stays whole")
				assert.Contains(t, got.Stdout, "bytes dropped")
			}
		}
	}
}

func TestAResultThatIsTooLarge(t *testing.T) {
	f := &function{}
	d := document{Result: executor.Result{Status: executor.Succeeded, Stdout: "kept", Result: strings.Repeat("x", 10000)}}
	data, err := f.fit(context.Background(), d, 5000, plain)
	require.NoError(t, err)
	assert.LessOrEqual(t, len(data), 5000)
	var got document
	require.NoError(t, json.Unmarshal(data, &got))
	assert.Equal(t, executor.Failed, got.Status)
	assert.Equal(t, "output", got.Error.Kind)
	assert.Contains(t, got.Error.Hint, "ATTUNE_RESULT_BUCKET")
	assert.Equal(t, int64(10002), got.ResultBytes)
	assert.Equal(t, "kept", got.Stdout)
	assert.False(t, got.StdoutTruncated)
	assert.Zero(t, got.StdoutBytesTruncated)
}

func TestLargeResponsesOfTheFunction(t *testing.T) {
	p := start(t, "ATTUNE_LAMBDA_ALLOW=*", "ATTUNE_LAMBDA_ACTION=t.large")
	large := func(bytes int) answer { return p.invoke(request("t.large", map[string]any{"bytes": bytes})) }
	overhead := len(large(1000).body) - 1000
	assert.Equal(t, executor.Succeeded, p.result(large(responseMax-overhead-200)).Status)
	d := p.result(large(responseMax))
	assert.Equal(t, executor.Failed, d.Status)
	assert.Equal(t, "output", d.Error.Kind)

	// Printed besides, it would be too large by what was printed.
	both := request("t.run", map[string]any{"script": "head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2"})
	d = p.result(p.invoke(both))
	assert.Equal(t, executor.Succeeded, d.Status)
	assert.True(t, d.StdoutTruncated && d.StderrTruncated)

	alb := map[string]any{"httpMethod": "POST", "requestContext": map[string]any{"elb": map[string]any{}}, "headers": map[string]string{}, "body": `{"bytes": 1048576}`}
	a := p.invoke(alb)
	assert.Less(t, len(a.body), loadBalancerMax)
	assert.Contains(t, string(a.body), `"statusCode":422`)

	store := newObjects(t)
	p = start(t, append(store.env("results"), "ATTUNE_LAMBDA_ALLOW=*")...)
	d = p.result(large(responseMax))
	assert.Equal(t, executor.Succeeded, d.Status)
	var whole document
	require.NoError(t, json.Unmarshal(store.get(strings.TrimPrefix(d.ResultLocation, "s3:/")), &whole))
	assert.Len(t, whole.Result.Result, responseMax)

	store.down = true
	d = p.result(large(responseMax))
	assert.Equal(t, executor.Failed, d.Status)
	assert.Contains(t, d.Error.Message, "Access Denied")
}

func TestHTTPEventsAreAnsweredInTheirForm(t *testing.T) {
	p := start(t, "ATTUNE_LAMBDA_ACTION=t.run")
	v2 := map[string]any{"requestContext": map[string]any{"http": map[string]any{"method": "POST", "path": "/"}}}
	post := func(body string) map[string]any {
		v2["body"] = body
		return v2
	}
	for body, status := range map[string]int{
		`{"script":"exit 0"}`:       200,
		`{"script":`:                400,
		`[1]`:                       400,
		`{"scrapt":"exit 0"}`:       400,
		`{"script":"exit 1"}`:       422,
		`{"script":"sleep 1000"}`:   504,
		`{"script":"kill -9 $$"}`:   422,
		`{"script":"echo out >&1"}`: 200,
	} {
		a := p.invoke(post(body), deadline(2500e6))
		require.Equal(t, "response", a.kind, "%s", a.body)
		var r struct {
			StatusCode int
			Headers    map[string]string
			Body       string
		}
		require.NoError(t, json.Unmarshal(a.body, &r))
		assert.Equal(t, status, r.StatusCode, "%s: %s", body, r.Body)
		assert.Equal(t, "application/json", r.Headers["content-type"])
		assert.True(t, json.Valid([]byte(r.Body)), r.Body)
	}
	v2["isBase64Encoded"] = true
	assert.Contains(t, string(p.invoke(post("eyJzY3JpcHQiOiAiZXhpdCAwIn0=")).body), `"statusCode":200`)
	assert.Contains(t, string(p.invoke(post("%%%")).body), `"statusCode":400`)

	multi := map[string]any{"httpMethod": "POST", "requestContext": map[string]any{"elb": map[string]any{}}, "multiValueHeaders": map[string][]string{"host": {"x"}}, "body": `{"script":"exit 0"}`}
	a := string(p.invoke(multi).body)
	assert.Contains(t, a, `"statusDescription":"200 OK"`)
	assert.Contains(t, a, `"multiValueHeaders":{"content-type":["application/json"]}`)

	p = start(t, "ATTUNE_LAMBDA_ALLOW=t.run")
	delete(v2, "isBase64Encoded")
	a = string(p.invoke(post(`{"schema":"attune.request/v1","action":"t.run","parameters":{"script":"exit 0"}}`)).body)
	assert.Contains(t, a, `"statusCode":403`, "an HTTP event names no action")
}

func TestTheKindOfEventCanBeRequired(t *testing.T) {
	p := start(t, "ATTUNE_LAMBDA_ACTION=t.show", "ATTUNE_LAMBDA_EVENT=sqs")
	kind, message := p.functionError(p.invoke(map[string]any{"some": "thing"}))
	assert.Equal(t, "Attune.Malformed", kind)
	assert.Contains(t, message, "ATTUNE_LAMBDA_EVENT")
	p = start(t, "ATTUNE_LAMBDA_ACTION=t.show", "ATTUNE_LAMBDA_EVENT=raw")
	d := p.result(p.invoke(request("t.run", nil)))
	assert.Equal(t, "t.show", d.Action)
	assert.Equal(t, "response", p.invoke(sqsEvent("q", sqsRecord("m", "", map[string]any{}))).kind)
}
