package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/pack"
)

// source is a kind of event.
type source string

const (
	sourceRequest     source = "request"
	sourceHTTP        source = "http"
	sourceSQS         source = "sqs"
	sourceSNS         source = "sns"
	sourceS3          source = "s3"
	sourceEventBridge source = "eventbridge"
	sourceRaw         source = "raw"
)

var sources = []source{sourceRequest, sourceHTTP, sourceSQS, sourceSNS, sourceS3, sourceEventBridge, sourceRaw}

// answered tells whether somebody reads the result. Of the others only success or an error is known.
func (s source) answered() bool { return s == sourceRequest || s == sourceHTTP || s == sourceRaw }

// event is what Lambda, or an HTTP client, hands over.
type event struct {
	source source
	http   *httpEvent // of sourceHTTP
	calls  []call     // one, or one for each record
}

// call is one execution that an event asks for.
type call struct {
	id      string // of the request or record, the idempotency key; empty: the invocation's
	request executor.Request
	fresh   bool   // the id is nobody's but ours: it is not delivered again
	direct  bool   // the caller named the action
	trace   string // X-Ray's header of the record; empty: the invocation's
	group   string // records of one group run in order; empty: alone
	err     error  // why it cannot run
}

// refusal is why a call was not run.
type refusal struct {
	kind    string // as an error of a Result
	status  int    // of HTTP
	message string
	hint    string
}

func (r *refusal) Error() string {
	if r.hint != "" {
		return r.message + " (" + r.hint + ")"
	}
	return r.message
}

func malformed(format string, args ...any) *refusal {
	return &refusal{kind: "request", status: http.StatusBadRequest, message: fmt.Sprintf(format, args...)}
}

// keys are the top level of an event, unread.
type keys map[string]json.RawMessage

// text is a key's value where that is a string.
func (k keys) text(name string) (value string) {
	_ = json.Unmarshal(k[name], &value)
	return value
}

// readEvent takes an event apart. only is the one kind that is expected; empty: the first that fits. An error is a *refusal.
func readEvent(payload []byte, only source) (event, error) {
	var top keys
	if err := json.Unmarshal(payload, &top); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) || len(bytes.TrimSpace(payload)) == 0 {
			return event{}, malformed("the event is not JSON: %v", err)
		}
		return event{}, malformed("the event is no JSON object: its keys would be the parameters")
	}
	kind := kindOf(top)
	switch {
	case only == sourceRaw:
		kind = sourceRaw
	case only != "" && kind != only:
		return event{}, malformed("the event is not of the kind %s, which ATTUNE_LAMBDA_EVENT requires; it looks like %s", only, kind)
	}
	e := event{source: kind}
	var err error
	switch kind {
	case sourceRequest:
		e.calls = []call{directCall(payload)}
	case sourceHTTP:
		if e.http, err = readHTTPEvent(payload); err != nil {
			return event{}, malformed("the HTTP event cannot be read: %v", err)
		}
		e.calls = []call{e.http.call()}
	case sourceSQS, sourceSNS, sourceS3:
		e.calls, err = recordCalls(kind, top["Records"])
	case sourceEventBridge:
		e.calls = []call{eventBridgeCall(top, payload)}
	default:
		e.calls = []call{parameterCall(payload)}
	}
	return e, err
}

// kindOf is the first kind that fits.
func kindOf(top keys) source {
	var context struct {
		HTTP *struct{} `json:"http"`
	}
	_ = json.Unmarshal(top["requestContext"], &context)
	switch {
	case top.text("schema") == executor.RequestSchema:
		return sourceRequest
	case context.HTTP != nil, top.text("httpMethod") != "":
		return sourceHTTP
	case top["Records"] != nil:
		return recordKind(top["Records"])
	case top.text("detail-type") != "":
		return sourceEventBridge
	}
	return sourceRaw
}

// recordKind goes by the first record; SNS spells the key in its own way.
func recordKind(records json.RawMessage) source {
	var first []struct {
		EventSource string `json:"eventSource"`
	}
	if json.Unmarshal(records, &first) != nil || len(first) == 0 {
		return sourceRaw
	}
	switch first[0].EventSource {
	case "aws:sqs":
		return sourceSQS
	case "aws:sns":
		return sourceSNS
	case "aws:s3":
		return sourceS3
	}
	return sourceRaw
}

// directCall reads a request document; an unknown key is an error, for it may have been meant to restrict something.
func directCall(payload []byte) call {
	c := call{direct: true}
	decoder := json.NewDecoder(bytes.NewReader(payload))
	decoder.UseNumber()
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&c.request); err != nil {
		c.err = malformed("the request cannot be read: %v", err)
	}
	c.id = c.request.ID
	return c
}

// parameterCall takes a JSON object as parameters.
func parameterCall(payload []byte) (c call) {
	c.request.Parameters, c.err = object(payload)
	return c
}

// messageCall takes a message: a JSON object as parameters, another text as the parameter "message".
func messageCall(body string) call {
	if strings.HasPrefix(strings.TrimLeft(body, " \t\r\n"), "{") {
		return parameterCall([]byte(body))
	}
	return call{request: executor.Request{Parameters: map[string]any{"message": body}}}
}

// object reads parameters; numbers keep their digits. An error is a *refusal.
func object(data []byte) (map[string]any, error) {
	value, err := pack.DecodeJSON(data)
	if err != nil {
		return nil, malformed("the parameters are not JSON: %v", err)
	}
	parameters, ok := value.(map[string]any)
	if !ok {
		return nil, malformed("the parameters are no JSON object")
	}
	return parameters, nil
}

// record is what is needed of an SQS, SNS or S3 record.
type record struct {
	MessageID  string `json:"messageId"`
	Body       string `json:"body"`
	Queue      string `json:"eventSourceARN"`
	Attributes struct {
		Group string `json:"MessageGroupId"`
		Trace string `json:"AWSTraceHeader"`
	} `json:"attributes"`
	SNS struct {
		MessageID string `json:"MessageId"`
		TopicARN  string `json:"TopicArn"`
		Message   string `json:"Message"`
	} `json:"Sns"`
	EventName string `json:"eventName"`
	S3        struct {
		Bucket struct {
			ARN string `json:"arn"`
		} `json:"bucket"`
		Object struct {
			Key       string `json:"key"`
			VersionID string `json:"versionId"`
			Sequencer string `json:"sequencer"`
		} `json:"object"`
	} `json:"s3"`
}

func recordCalls(kind source, records json.RawMessage) ([]call, error) {
	var all []json.RawMessage
	if err := json.Unmarshal(records, &all); err != nil {
		return nil, malformed("the records cannot be read: %v", err)
	}
	calls := make([]call, len(all))
	for i, raw := range all {
		var r record
		if err := json.Unmarshal(raw, &r); err != nil {
			return nil, malformed("record %d cannot be read: %v", i, err)
		}
		calls[i] = r.call(kind, raw)
	}
	return calls, nil
}

func (r *record) call(kind source, raw json.RawMessage) (c call) {
	switch kind {
	case sourceSQS:
		c = messageCall(r.Body)
		c.id, c.trace, c.request.Context.Trigger = r.MessageID, r.Attributes.Trace, r.Queue
		if strings.HasSuffix(r.Queue, ".fifo") {
			c.group = r.Attributes.Group
		}
	case sourceSNS:
		c = messageCall(r.SNS.Message)
		c.id, c.request.Context.Trigger = r.SNS.MessageID, r.SNS.TopicARN
	default:
		c = parameterCall(raw)
		// An S3 record has no id: the sequencer tells the events of one key apart.
		c.id = strings.Join([]string{r.S3.Bucket.ARN, r.S3.Object.Key, r.S3.Object.VersionID, r.S3.Object.Sequencer, r.EventName}, " ")
		c.request.Context.Trigger = r.S3.Bucket.ARN
	}
	return c
}

func eventBridgeCall(top keys, payload []byte) call {
	c := parameterCall(payload)
	c.id = top.text("id")
	c.request.Context.Trigger = top.text("source") + " " + top.text("detail-type")
	return c
}

// httpEvent is what is needed of the events of Function URLs, API Gateway and load balancers.
type httpEvent struct {
	Method         string              `json:"httpMethod"` // API Gateway v1, load balancers
	Path           string              `json:"path"`
	RawPath        string              `json:"rawPath"` // version 2
	RawQuery       string              `json:"rawQueryString"`
	Query          map[string]string   `json:"queryStringParameters"`
	MultiQuery     map[string][]string `json:"multiValueQueryStringParameters"`
	Headers        map[string]string   `json:"headers"`
	MultiHeaders   map[string][]string `json:"multiValueHeaders"`
	Body           string              `json:"body"`
	IsBase64       bool                `json:"isBase64Encoded"`
	RequestContext struct {
		ELB  *struct{} `json:"elb"`
		HTTP *struct {
			Method string `json:"method"`
		} `json:"http"`
	} `json:"requestContext"`
}

func readHTTPEvent(payload []byte) (*httpEvent, error) {
	e := &httpEvent{}
	if err := json.Unmarshal(payload, e); err != nil {
		return nil, err
	}
	if e.RequestContext.HTTP != nil {
		e.Method, e.Path = e.RequestContext.HTTP.Method, e.RawPath
	}
	return e, nil
}

// multiValued tells that a load balancer was told to send, and wants to get, lists of values.
func (e *httpEvent) multiValued() bool { return e.Headers == nil && e.MultiHeaders != nil }

func (e *httpEvent) header() http.Header {
	header := http.Header{}
	for name, value := range e.Headers {
		header.Set(name, value)
	}
	for name, values := range e.MultiHeaders {
		for _, value := range values {
			header.Add(name, value)
		}
	}
	return header
}

func (e *httpEvent) query() (url.Values, error) {
	if e.RequestContext.HTTP != nil {
		return url.ParseQuery(e.RawQuery)
	}
	query := url.Values(e.MultiQuery)
	if query == nil {
		query = url.Values{}
		for name, value := range e.Query {
			query.Set(name, value)
		}
	}
	if e.RequestContext.ELB == nil {
		return query, nil
	}
	return unescaped(query)
}

// unescaped decodes what a load balancer passes on as it came.
func unescaped(query url.Values) (url.Values, error) {
	decoded := url.Values{}
	for name, values := range query {
		name, err := url.QueryUnescape(name)
		if err != nil {
			return nil, err
		}
		for _, value := range values {
			if value, err = url.QueryUnescape(value); err != nil {
				return nil, err
			}
			decoded.Add(name, value)
		}
	}
	return decoded, nil
}

func (e *httpEvent) call() call {
	body := []byte(e.Body)
	if e.IsBase64 {
		var err error
		if body, err = base64.StdEncoding.DecodeString(e.Body); err != nil {
			return call{err: malformed("the body is not base64: %v", err)}
		}
	}
	query, err := e.query()
	if err != nil {
		return call{err: malformed("the query cannot be read: %v", err)}
	}
	return httpCall(e.header(), query, body, e.Method+" "+e.Path)
}

// httpCall is the call of an HTTP request that names no action.
func httpCall(header http.Header, query url.Values, body []byte, trigger string) (c call) {
	c.request.Parameters, c.err = httpParameters(header.Get("Content-Type"), query, body)
	c.id, c.request.Context.Trigger = header.Get("Idempotency-Key"), trigger
	if parent := header.Get("Traceparent"); isTraceparent(parent) {
		c.request.Context.Traceparent = parent
	}
	return c
}

// httpParameters are a form's or JSON body's, or without a body the query's. A field that is repeated is a list.
func httpParameters(contentType string, query url.Values, body []byte) (map[string]any, error) {
	mediaType, _, _ := mime.ParseMediaType(contentType)
	switch {
	case len(bytes.TrimSpace(body)) == 0:
		return fields(query), nil
	case mediaType == "application/x-www-form-urlencoded":
		form, err := url.ParseQuery(string(body))
		if err != nil {
			return nil, malformed("the form cannot be read: %v", err)
		}
		return fields(form), nil
	default:
		return object(body)
	}
}

func fields(values url.Values) map[string]any {
	parameters := map[string]any{}
	for name, all := range values {
		if len(all) == 1 {
			parameters[name] = all[0]
			continue
		}
		list := make([]any, len(all))
		for i, value := range all {
			list[i] = value
		}
		parameters[name] = list
	}
	return parameters
}
