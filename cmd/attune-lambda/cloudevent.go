package main

import (
	"encoding/json"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"github.com/attune-run/attune/executor"
)

// CloudEvents 1.0 over HTTP (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md). Its SDK
// links logging and JSON libraries of a megabyte for what are five headers or one JSON object.
const (
	structuredType = "application/cloudevents+json"
	batchedType    = "application/cloudevents-batch+json"
	// replyType is what a result is as an event.
	replyType = "run.attune.result.v1"
)

// cloudEvent is what is needed of one.
type cloudEvent struct {
	SpecVersion     string          `json:"specversion"`
	ID              string          `json:"id"`
	Source          string          `json:"source"`
	Type            string          `json:"type"`
	DataContentType string          `json:"datacontenttype"`
	Traceparent     string          `json:"traceparent"` // the distributed tracing extension
	Data            json.RawMessage `json:"data"`
	DataBase64      []byte          `json:"data_base64"`
}

// eventCall is a call, and the type of the event that asks for it.
type eventCall struct {
	call
	eventType string
}

// readCloudEvent reads one in binary or structured mode; ok is false where the request is none. An error is a *refusal.
func readCloudEvent(header http.Header, body []byte) (e cloudEvent, ok bool, err error) {
	mediaType, _, _ := mime.ParseMediaType(header.Get("Content-Type"))
	switch {
	case mediaType == structuredType:
		if err := json.Unmarshal(body, &e); err != nil {
			return e, true, malformed("the CloudEvent cannot be read: %v", err)
		}
	case mediaType == batchedType:
		return e, true, malformed("batches of CloudEvents are not taken: send them one by one")
	case header.Get("Ce-Id") != "" || header.Get("Ce-Specversion") != "":
		e = binaryEvent(header, body)
	default:
		return e, false, nil
	}
	switch {
	case e.ID == "" || e.Source == "" || e.Type == "":
		return e, true, malformed("the CloudEvent lacks its id, source or type")
	case !strings.HasPrefix(e.SpecVersion, "1."):
		return e, true, malformed("the CloudEvent is of version %q; 1.0 is known", e.SpecVersion)
	}
	return e, true, nil
}

// binaryEvent has its attributes in headers, percent-encoded.
func binaryEvent(header http.Header, body []byte) cloudEvent {
	attribute := func(name string) string {
		value := header.Get("Ce-" + name)
		if decoded, err := url.PathUnescape(value); err == nil {
			return decoded
		}
		return value
	}
	return cloudEvent{
		SpecVersion: attribute("Specversion"), ID: attribute("Id"), Source: attribute("Source"), Type: attribute("Type"),
		Traceparent: attribute("Traceparent"), DataContentType: header.Get("Content-Type"), DataBase64: body,
	}
}

// call takes the event's data as parameters, like a message.
func (e *cloudEvent) call() eventCall {
	c := eventCall{eventType: e.Type}
	data := e.DataBase64
	if e.Data != nil {
		data = e.Data
		var text string
		if json.Unmarshal(data, &text) == nil { // a string is not JSON data, or is JSON once more
			data = []byte(text)
		}
	}
	switch {
	case len(data) == 0:
		c.request.Parameters = map[string]any{}
	default:
		c.call = messageCall(string(data))
	}
	c.id = e.Source + " " + e.ID // together they are unique
	c.request.Context.Trigger = e.Type + " " + e.Source
	if isTraceparent(e.Traceparent) {
		c.request.Context.Traceparent = e.Traceparent
	}
	return c
}

// replyHeaders make a response an event in binary mode, as brokers expect of one with a body.
func replyHeaders(header http.Header, d *document) {
	header.Set("Ce-Specversion", "1.0")
	header.Set("Ce-Id", d.ID)
	header.Set("Ce-Type", replyType)
	header.Set("Ce-Source", "attune/"+url.PathEscape(d.Action))
	header.Set("Ce-Time", d.FinishedAt.Format("2006-01-02T15:04:05.000Z07:00"))
}

// isRequest tells a direct request by its schema.
func isRequest(body []byte) bool {
	var top struct {
		Schema string `json:"schema"`
	}
	return json.Unmarshal(body, &top) == nil && top.Schema == executor.RequestSchema
}
