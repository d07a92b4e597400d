package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda/messages"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/proc"
)

const (
	// responseMax bytes is the most that Lambda takes as a buffered response: 6 MB, and 100 bytes more
	// (https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html; the exact number is that of Lambda's own error).
	responseMax = 6291556
	// loadBalancerMax bytes is the most that a load balancer takes
	// (https://docs.aws.amazon.com/elasticloadbalancing/latest/application/lambda-functions.html).
	loadBalancerMax = 1 << 20
	// messageMax bytes of an error's message are told.
	messageMax = 32 << 10
)

// document is a result as a function gives it.
type document struct {
	executor.Result
	// ResultBytes is the size of a result that was too large to be here; Result is null then.
	ResultBytes int64 `json:"result_bytes,omitempty"`
	// ResultLocation is where the whole document is: "s3://bucket/key".
	ResultLocation string `json:"result_location,omitempty"`
}

// encode gives one line without HTML escapes.
func encode(value any) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// encoder turns a document into what is sent.
type encoder func(d document) ([]byte, error)

// fit encodes a document in at most limit bytes. What the action printed shrinks first; a result that is too large by itself goes to the
// bucket, and without one the document says that it is missing.
func (f *function) fit(ctx context.Context, d document, limit int, encode encoder) ([]byte, error) {
	whole := d
	data, err := shrink(&d, limit, encode)
	if err != nil || len(data) <= limit {
		return data, err
	}
	if d.ResultBytes == 0 {
		text, err := json.Marshal(d.Result.Result)
		if err != nil {
			return nil, err
		}
		d.ResultBytes, d.Result.Result = int64(len(text)), nil
	}
	switch {
	case d.ResultLocation != "":
	case f.bucket == nil:
		tooLarge(&d, limit)
	default:
		if d.ResultLocation, err = f.bucket.put(ctx, whole); err != nil {
			tooLarge(&d, limit)
			d.Error.Message += fmt.Sprintf("; it could not be written to the bucket: %v", err)
		}
	}
	cutOutput(&d, whole, len(whole.Stdout)+len(whole.Stderr)) // there is room again
	data, err = shrink(&d, limit, encode)
	if err == nil && len(data) > limit {
		d.Artifacts, d.Error = nil, &executor.Error{Kind: "output", Stage: "decode", Message: "the result document is too large"}
		data, err = encode(d)
	}
	return data, err
}

// tooLarge makes a document say that its result is missing.
func tooLarge(d *document, limit int) {
	d.Status, d.ExitCode = executor.Failed, executor.ExitAttune
	d.Error = &executor.Error{Kind: "output", Stage: "decode",
		Message: fmt.Sprintf("the result has %d bytes, too many for a response of %d", d.ResultBytes, limit),
		Hint:    "ATTUNE_RESULT_BUCKET names a bucket for such results"}
}

// shrink encodes a document, and cuts what was printed until it fits or nothing of that is left.
func shrink(d *document, limit int, encode encoder) ([]byte, error) {
	data, err := encode(*d)
	if err != nil || len(data) <= limit {
		return data, err
	}
	whole := *d
	cutOutput(d, whole, 0)
	rest, err := encode(*d)
	if err != nil {
		return nil, err
	}
	room := len(whole.Stdout) + len(whole.Stderr)
	for spare := limit - len(rest); spare > 0 && len(data) > limit; {
		// How many bytes one byte becomes is not known before: it depends on what has to be escaped.
		room = min(int(int64(room)*int64(spare)/int64(len(data)-len(rest))), room) - noticeSize
		if room <= 0 {
			break
		}
		cutOutput(d, whole, room)
		if data, err = encode(*d); err != nil {
			return nil, err
		}
	}
	if len(data) <= limit {
		return data, nil
	}
	cutOutput(d, whole, 0)
	return rest, nil
}

// noticeSize bytes are enough for the line that says what was dropped of both streams.
const noticeSize = 128

// cutOutput leaves room bytes of what a document's action printed.
func cutOutput(d *document, whole document, room int) {
	stdout := share(room, len(whole.Stdout), len(whole.Stderr))
	d.Stdout, d.StdoutBytesTruncated = cut(whole.Stdout, stdout, whole.StdoutBytesTruncated)
	d.Stderr, d.StderrBytesTruncated = cut(whole.Stderr, room-stdout, whole.StderrBytesTruncated)
	d.StdoutTruncated, d.StderrTruncated = d.StdoutBytesTruncated > 0, d.StderrBytesTruncated > 0
}

// share is the first's part of room; neither gets more than it has while the other lacks.
func share(room, first, second int) int {
	half := room / 2
	switch {
	case first <= half:
		return first
	case second <= half:
		return room - second
	}
	return half
}

// cut keeps the beginning and the end of a text, size bytes together.
func cut(text string, size int, dropped int64) (string, int64) {
	if len(text) <= size {
		return text, dropped
	}
	if size <= 0 {
		return "", dropped + int64(len(text))
	}
	capture := proc.NewCapture(size)
	_, _ = capture.Write([]byte(text))
	return capture.Text(), dropped + capture.Dropped()
}

// httpStatus is the HTTP status of a document.
func (d *document) httpStatus() int {
	switch d.Status {
	case executor.Succeeded:
		return http.StatusOK
	case executor.Failed:
		return http.StatusUnprocessableEntity
	case executor.TimedOut:
		return http.StatusGatewayTimeout
	case executor.Errored:
		if d.Error != nil && (d.Error.Kind == "request" || d.Error.Kind == "parameters") {
			return http.StatusBadRequest
		}
	}
	return http.StatusInternalServerError
}

// refusalBody is what HTTP clients get when nothing was run.
func refusalBody(r *refusal) []byte {
	body, _ := encode(map[string]executor.Error{"error": {Kind: r.kind, Message: r.message, Hint: r.hint}}) // of texts alone
	return body
}

// respond is the whole response to an event's single call. An error is a messages.InvokeResponse_Error.
func (f *function) respond(ctx context.Context, e *event, o outcome) ([]byte, error) {
	if e.source.answered() {
		o.complete()
	}
	switch {
	case e.source == sourceHTTP && o.refused != nil:
		return encodeHTTP(e.http, o.refused.status, refusalBody(o.refused))
	case e.source == sourceHTTP:
		limit := responseMax
		if e.http.RequestContext.ELB != nil {
			limit = loadBalancerMax
		}
		return f.fit(ctx, o.document, limit, func(d document) ([]byte, error) {
			body, err := encode(d)
			if err != nil {
				return nil, err
			}
			return encodeHTTP(e.http, d.httpStatus(), body)
		})
	case o.refused != nil, f.failAsError && !o.succeeded(), !e.source.answered() && !o.succeeded():
		return nil, functionError(o)
	case !e.source.answered():
		return []byte("null"), nil
	}
	return f.fit(ctx, o.document, responseMax, func(d document) ([]byte, error) { return encode(d) })
}

// complete makes a stored document without its result say so.
func (o *outcome) complete() {
	if d := &o.document; o.replayed && d.ResultBytes > 0 && d.ResultLocation == "" {
		tooLarge(d, storedMax)
	}
}

// encodeHTTP is a response in the form that the event's source understands.
func encodeHTTP(e *httpEvent, status int, body []byte) ([]byte, error) {
	const name, value = "content-type", "application/json"
	switch {
	case e.RequestContext.HTTP != nil:
		return encode(events.APIGatewayV2HTTPResponse{StatusCode: status, Headers: map[string]string{name: value}, Body: string(body), Cookies: []string{}})
	case e.RequestContext.ELB != nil:
		r := events.ALBTargetGroupResponse{StatusCode: status, StatusDescription: strconv.Itoa(status) + " " + http.StatusText(status), Body: string(body)}
		if e.multiValued() {
			r.MultiValueHeaders = map[string][]string{name: {value}}
		} else {
			r.Headers = map[string]string{name: value}
		}
		return encode(r)
	}
	return encode(events.APIGatewayProxyResponse{StatusCode: status, Headers: map[string]string{name: value}, Body: string(body)})
}

// functionError is what Lambda is told when a call did not succeed.
func functionError(o outcome) error {
	if o.refused != nil {
		return lambdaError("Attune."+refusalType(o.refused), o.reason())
	}
	return lambdaError("Attune."+statusType(o.document.Status), o.reason())
}

// reason is why a call did not succeed.
func (o *outcome) reason() string {
	switch d := &o.document; {
	case o.refused != nil:
		return o.refused.Error()
	case d.Error != nil:
		return d.Error.Message
	default:
		return string(d.Status)
	}
}

func refusalType(r *refusal) string {
	switch r.status {
	case http.StatusBadRequest:
		return "Malformed"
	case http.StatusForbidden:
		return "ActionNotAllowed"
	case http.StatusConflict:
		return "AlreadyRunning"
	case http.StatusGatewayTimeout:
		return "NotStarted"
	}
	return "Error"
}

func statusType(status executor.Status) string {
	switch status {
	case executor.Failed:
		return "ActionFailed"
	case executor.TimedOut:
		return "ActionTimedOut"
	case executor.Canceled:
		return "ActionCanceled"
	}
	return "Error"
}

func lambdaError(kind, message string) error {
	message, _ = cut(message, messageMax, 0)
	return messages.InvokeResponse_Error{Type: kind, Message: message}
}
