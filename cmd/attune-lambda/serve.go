package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os/signal"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/attune-run/attune/executor"
)

// bodyMax bytes is the longest body, as in Lambda.
const bodyMax = 6 << 20

// healthPaths answer 200 while requests are taken: those of Kubernetes' habit, of OpenFaaS, and one that Cloud Run does not keep to itself.
var healthPaths = []string{"/healthz", "/_/health", "/health"}

// serveHTTP serves until SIGTERM or SIGINT: then no connection is taken any more, requests go on for as long as the drain lasts, and what
// still runs is ended.
func serveHTTP(f *function, address, port string) error {
	address = listenAddress(address, port)
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	s := &server{function: f}
	web := &http.Server{
		Handler: s, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		BaseContext: func(net.Listener) context.Context { return f.base },
	}
	asked, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	failed := make(chan error, 1)
	go func() { failed <- web.Serve(listener) }()
	f.log.Info("serving", "address", listener.Addr().String())
	select {
	case err := <-failed:
		return err
	case <-asked.Done():
	}
	return s.drain(web)
}

// drain ends the server in order, then by force.
func (s *server) drain(web *http.Server) error {
	f := s.function
	s.draining.Store(true)
	f.log.Info("draining", "for", f.drain.String())
	ctx, cancel := context.WithTimeout(context.Background(), f.drain)
	defer cancel()
	err := web.Shutdown(ctx)
	f.stop(&executor.Cancellation{Signal: syscall.SIGTERM})
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	ctx, cancel = context.WithTimeout(context.Background(), httpGrace+time.Second)
	defer cancel()
	return web.Shutdown(ctx)
}

// listenAddress takes the port of ":" from PORT, which Knative and Cloud Run set.
func listenAddress(address, port string) string {
	if address != ":" {
		return address
	}
	if port == "" {
		port = "8080"
	}
	return ":" + port
}

// server answers requests like the events of a Function URL.
type server struct {
	function *function
	draining atomic.Bool
}

// ServeHTTP takes POST, PUT and GET on any path: an attune.request/v1 document, a CloudEvent, or parameters.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if slices.Contains(healthPaths, r.URL.Path) && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		s.health(w)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyMax))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		reply(w, http.StatusRequestEntityTooLarge, refusalBody(malformed("the body has more than %d bytes", bodyMax)))
		return
	case err != nil:
		reply(w, http.StatusBadRequest, refusalBody(malformed("the body cannot be read: %v", err)))
		return
	}
	select {
	case s.function.slots <- struct{}{}:
		defer func() { <-s.function.slots }()
	default:
		w.Header().Set("Retry-After", "1")
		busy := &refusal{kind: "request", message: "too many requests at the same time", hint: "ATTUNE_LAMBDA_CONCURRENCY allows more"}
		reply(w, http.StatusTooManyRequests, refusalBody(busy))
		return
	}
	s.execute(w, r, body)
}

func (s *server) health(w http.ResponseWriter) {
	if s.draining.Load() {
		reply(w, http.StatusServiceUnavailable, []byte(`{"status":"draining"}`))
		return
	}
	reply(w, http.StatusOK, []byte(`{"status":"ok"}`))
}

func (s *server) execute(w http.ResponseWriter, r *http.Request, body []byte) {
	f := s.function
	in := invocation{id: requestID(r.Header), source: sourceHTTP, trace: r.Header.Get("X-Amzn-Trace-Id")}
	c, isEvent := requestCall(r, body)
	if isEvent && c.err == nil && c.eventType == replyType {
		w.WriteHeader(http.StatusNoContent) // a broker brought back what was replied: to run it again would never end
		return
	}
	if c.id == "" { // X-Request-Id is often that of a whole trace, so that it says nothing about this request
		c.id, c.fresh = uuid.Must(uuid.NewV7()).String(), true
	}
	o := f.run(r.Context(), in, c.call)
	if o.refused != nil {
		reply(w, o.refused.status, refusalBody(o.refused))
		return
	}
	o.complete()
	var status int
	data, err := f.fit(r.Context(), o.document, responseMax, func(d document) ([]byte, error) {
		status = d.httpStatus() // a result that cannot be sent is a failure
		return encode(d)
	})
	if err != nil {
		reply(w, http.StatusInternalServerError, refusalBody(&refusal{kind: "internal", message: err.Error()}))
		return
	}
	if isEvent {
		replyHeaders(w.Header(), &o.document)
	}
	reply(w, status, data)
}

func reply(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that went away
}

// requestID is the caller's, where that is fit for a log.
func requestID(header http.Header) string {
	if id := header.Get("X-Request-Id"); printable(id) {
		return id
	}
	return uuid.Must(uuid.NewV7()).String()
}

// requestCall is a direct request, a CloudEvent, or parameters.
func requestCall(r *http.Request, body []byte) (c eventCall, isEvent bool) {
	if e, ok, err := readCloudEvent(r.Header, body); ok {
		if err != nil {
			return eventCall{call: call{err: err}}, true
		}
		return e.call(), true
	}
	trigger := r.Method + " " + r.URL.EscapedPath()
	if isRequest(body) {
		c.call = directCall(body)
		return c, false
	}
	c.call = httpCall(r.Header, r.URL.Query(), body, trigger)
	return c, false
}
