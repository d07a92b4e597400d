package runtimeapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/internal/runtimeapi"
)

// function is a client of the API, as a function's process is.
type function struct {
	t    *testing.T
	base string
}

func start(t *testing.T) (*runtimeapi.Server, function) {
	s, err := runtimeapi.Start()
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s, function{t, "http://" + s.Addr() + "/2018-06-01/runtime"}
}

func (f function) next() (id string, event []byte, header http.Header) {
	f.t.Helper()
	answer, err := http.Get(f.base + "/invocation/next")
	require.NoError(f.t, err)
	defer func() { _ = answer.Body.Close() }()
	event, err = io.ReadAll(answer.Body)
	require.NoError(f.t, err)
	return answer.Header.Get("Lambda-Runtime-Aws-Request-Id"), event, answer.Header
}

func (f function) post(path string, body []byte, header ...string) int {
	f.t.Helper()
	request, err := http.NewRequest(http.MethodPost, f.base+path, bytes.NewReader(body))
	require.NoError(f.t, err)
	for i := 0; i+1 < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	answer, err := http.DefaultClient.Do(request)
	require.NoError(f.t, err)
	_ = answer.Body.Close()
	return answer.StatusCode
}

type outcome struct {
	answer runtimeapi.Answer
	err    error
}

func invoke(ctx context.Context, s *runtimeapi.Server, in runtimeapi.Invocation) <-chan outcome {
	done := make(chan outcome, 1)
	go func() {
		answer, err := s.Invoke(ctx, in)
		done <- outcome{answer, err}
	}()
	return done
}

func TestAnEventIsAnswered(t *testing.T) {
	s, f := start(t)
	deadline := time.Now().Add(time.Minute)
	done := invoke(t.Context(), s, runtimeapi.Invocation{ID: "one", Event: []byte(`{"a":1}`), Deadline: deadline, FunctionARN: "arn:x", Trace: "Root=1-2-3"})
	id, event, header := f.next()
	assert.Equal(t, "one", id)
	assert.JSONEq(t, `{"a":1}`, string(event))
	assert.Equal(t, "arn:x", header.Get("Lambda-Runtime-Invoked-Function-Arn"))
	assert.Equal(t, "Root=1-2-3", header.Get("Lambda-Runtime-Trace-Id"))
	assert.NotEmpty(t, header.Get("Lambda-Runtime-Deadline-Ms"))
	assert.Equal(t, http.StatusAccepted, f.post("/invocation/one/response", []byte(`"done"`)))
	got := <-done
	require.NoError(t, got.err)
	assert.Equal(t, runtimeapi.Answer{Payload: []byte(`"done"`)}, got.answer)
	assert.Equal(t, http.StatusBadRequest, f.post("/invocation/one/response", nil), "it was answered before")
}

func TestAnErrorIsReported(t *testing.T) {
	s, f := start(t)
	done := invoke(t.Context(), s, runtimeapi.Invocation{Event: []byte("{}"), Deadline: time.Now()})
	id, _, _ := f.next()
	f.post("/invocation/"+id+"/error", []byte(`{"errorMessage":"no","errorType":"Bad"}`))
	got := <-done
	require.NoError(t, got.err)
	assert.True(t, got.answer.Failed)
	assert.Equal(t, "Bad", got.answer.ErrorType)
}

func TestAFunctionThatCannotStart(t *testing.T) {
	s, f := start(t)
	done := invoke(t.Context(), s, runtimeapi.Invocation{Event: []byte("{}"), Deadline: time.Now()})
	document, err := json.Marshal(map[string]string{"errorMessage": "set a variable", "errorType": "Config"})
	require.NoError(t, err)
	assert.Equal(t, http.StatusAccepted, f.post("/init/error", document))
	got := <-done
	var failed *runtimeapi.InitError
	require.ErrorAs(t, got.err, &failed)
	assert.Equal(t, runtimeapi.InitError{Type: "Config", Message: "set a variable"}, *failed)
}

func TestTheLimitOfAResponse(t *testing.T) {
	s, f := start(t)
	for size, status := range map[int]int{runtimeapi.MaxPayload: http.StatusAccepted, runtimeapi.MaxPayload + 1: http.StatusRequestEntityTooLarge} {
		done := invoke(t.Context(), s, runtimeapi.Invocation{Event: []byte("{}"), Deadline: time.Now()})
		id, _, _ := f.next()
		assert.Equal(t, status, f.post("/invocation/"+id+"/response", bytes.Repeat([]byte("x"), size)))
		assert.Equal(t, status != http.StatusAccepted, (<-done).answer.Failed)
	}
	done := invoke(t.Context(), s, runtimeapi.Invocation{Event: []byte("{}"), Deadline: time.Now()})
	id, _, _ := f.next()
	f.post("/invocation/"+id+"/response", bytes.Repeat([]byte("x"), runtimeapi.MaxPayload+1), "Lambda-Runtime-Function-Response-Mode", "streaming")
	got := <-done
	assert.True(t, got.answer.Streamed)
	assert.Len(t, got.answer.Payload, runtimeapi.MaxPayload+1)
}

func TestAnInvocationThatIsGivenUp(t *testing.T) {
	s, f := start(t)
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	done := invoke(ctx, s, runtimeapi.Invocation{ID: "late", Event: []byte("{}"), Deadline: time.Now()})
	f.next()
	cancel(enough)
	require.ErrorIs(t, (<-done).err, enough)
	require.Equal(t, http.StatusBadRequest, f.post("/invocation/late/response", []byte("{}")))
}

func TestAnExtensionIsTakenAndIdle(t *testing.T) {
	s, _ := start(t)
	base := "http://" + s.Addr() + "/2020-01-01/extension"
	answer, err := http.Post(base+"/register", "application/json", bytes.NewReader([]byte(`{"events": []}`)))
	require.NoError(t, err)
	_ = answer.Body.Close()
	assert.Equal(t, http.StatusOK, answer.StatusCode)
	assert.NotEmpty(t, answer.Header.Get("Lambda-Extension-Identifier"))
	ended := make(chan error, 1)
	go func() {
		answer, err := http.Get(base + "/event/next")
		if err == nil {
			_ = answer.Body.Close()
		}
		ended <- err
	}()
	require.NoError(t, s.Close())
	<-ended
}
