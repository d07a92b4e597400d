package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// api is Lambda's side of the Runtime API 2018-06-01 and of as much of the Extensions API 2020-01-01 as enables SIGTERM
// (https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html).
type api struct {
	server *httptest.Server
	queue  chan *delivery
	ready  chan struct{} // closed when the first event was asked for
	first  sync.Once
	inits  chan answer // init errors

	mu         sync.Mutex
	pending    map[string]*delivery
	extensions int
}

// delivery is one invocation.
type delivery struct {
	id     string
	event  []byte
	header http.Header                              // over Lambda's own
	hijack func(w http.ResponseWriter) (taken bool) // answers in its place
	answer chan answer
}

// answer is what the function said: a response, or an error.
type answer struct {
	kind   string
	body   []byte
	header http.Header
	at     time.Time
}

func newAPI(t *testing.T) *api {
	a := &api{queue: make(chan *delivery, 100), ready: make(chan struct{}), inits: make(chan answer, 1), pending: map[string]*delivery{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", a.next)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/{kind}", a.answered)
	mux.HandleFunc("POST /2018-06-01/runtime/init/error", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.WriteHeader(http.StatusAccepted)
		a.inits <- answer{kind: "init", body: body, header: r.Header}
	})
	mux.HandleFunc("POST /2020-01-01/extension/register", func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		a.extensions++
		a.mu.Unlock()
		w.Header().Set("Lambda-Extension-Identifier", uuid.NewString())
		_, _ = io.WriteString(w, "{}")
	})
	mux.HandleFunc("GET /2020-01-01/extension/event/next", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	a.server = httptest.NewServer(mux)
	t.Cleanup(func() {
		a.server.CloseClientConnections()
		a.server.Close()
	})
	return a
}

func (a *api) addr() string { return strings.TrimPrefix(a.server.URL, "http://") }

// deliver queues an event: JSON text, or what becomes it.
func (a *api) deliver(t *testing.T, event any, with ...func(*delivery)) *delivery {
	t.Helper()
	d := &delivery{id: uuid.NewString(), header: http.Header{}, answer: make(chan answer, 1)}
	if text, ok := event.(string); ok {
		d.event = []byte(text)
	} else {
		var err error
		d.event, err = json.Marshal(event)
		require.NoError(t, err)
	}
	d.header.Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(time.Now().Add(time.Minute).UnixMilli(), 10))
	d.header.Set("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:eu-west-1:123456789012:function:fn")
	for _, change := range with {
		change(d)
	}
	a.mu.Lock()
	a.pending[d.id] = d
	a.mu.Unlock()
	a.queue <- d
	return d
}

func header(name, value string) func(*delivery) {
	return func(d *delivery) { d.header.Set(name, value) }
}

func deadline(in time.Duration) func(*delivery) {
	return func(d *delivery) {
		d.header.Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(time.Now().Add(in).UnixMilli(), 10))
	}
}

func withID(id string) func(*delivery) { return func(d *delivery) { d.id = id } }

func (a *api) next(w http.ResponseWriter, r *http.Request) {
	a.first.Do(func() { close(a.ready) })
	var d *delivery
	select {
	case d = <-a.queue:
	case <-r.Context().Done():
		return
	}
	if d.hijack != nil && d.hijack(w) {
		return
	}
	for name, values := range d.header {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Lambda-Runtime-Aws-Request-Id", d.id)
	_, _ = w.Write(d.event)
}

func (a *api) answered(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	kind := r.PathValue("kind")
	a.mu.Lock()
	d := a.pending[r.PathValue("id")]
	delete(a.pending, r.PathValue("id"))
	a.mu.Unlock()
	switch {
	case err != nil || d == nil || kind != "response" && kind != "error":
		w.WriteHeader(http.StatusBadRequest)
		return
	case kind == "response" && len(body) > responseMax:
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		kind = "too large"
	default:
		w.WriteHeader(http.StatusAccepted)
	}
	d.answer <- answer{kind: kind, body: body, header: r.Header, at: time.Now()}
}
