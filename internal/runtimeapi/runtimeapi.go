// Package runtimeapi is Lambda's side of the Runtime API (version 2018-06-01,
// https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html) on the loopback: it hands invocations to a function's process
// on this machine and takes its answers.
package runtimeapi

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
)

// MaxPayload bytes is what an event or a buffered response may have
// (https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html; the exact number is the one Lambda's own errors give).
const MaxPayload = 6291556

const (
	version    = "/2018-06-01/runtime"
	extensions = "/2020-01-01/extension" // https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html
)

// Invocation is one event for the function.
type Invocation struct {
	ID          string    // the request id; empty: a new one
	Event       []byte    // JSON
	Deadline    time.Time // required
	FunctionARN string
	Trace       string // X-Ray's header; may be empty
}

// Answer is what the function made of an invocation.
type Answer struct {
	Payload   []byte // the response, or the error's document
	Failed    bool   // the function reported an error
	ErrorType string // of an error: "Runtime.UnknownReason"
	Streamed  bool   // the response was sent as a stream
}

// InitError is what a function reports that cannot start.
type InitError struct {
	Type    string
	Message string
}

// Error is the function's own words.
func (e *InitError) Error() string {
	return "the function cannot start: " + cmp.Or(e.Message, e.Type, "it did not say why")
}

// Server serves one function. Any number of its processes' threads may ask for invocations at once.
type Server struct {
	listener net.Listener
	http     *http.Server
	queue    chan *pending
	ended    chan struct{} // closed by Close
	ready    chan struct{} // closed when the function has asked for its first event
	once     sync.Once
	close    sync.Once

	mu      sync.Mutex
	running map[string]*pending // handed out and not answered
	failed  *InitError
	noStart chan struct{} // closed when failed is set
}

// pending is an invocation until it is answered.
type pending struct {
	Invocation
	answer chan Answer // takes one
}

// Start listens on the loopback, on a port of its own.
func Start() (*Server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("runtime API: %w", err)
	}
	s := &Server{listener: listener, queue: make(chan *pending), ended: make(chan struct{}), ready: make(chan struct{}), running: map[string]*pending{}, noStart: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+version+"/invocation/next", s.next)
	mux.HandleFunc("POST "+version+"/invocation/{id}/response", s.response)
	mux.HandleFunc("POST "+version+"/invocation/{id}/error", s.failure)
	mux.HandleFunc("POST "+version+"/init/error", s.initError)
	mux.HandleFunc("POST "+extensions+"/register", register)
	mux.HandleFunc("GET "+extensions+"/event/next", s.idle)
	s.http = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = s.http.Serve(listener) }()
	return s, nil
}

// Addr is what AWS_LAMBDA_RUNTIME_API holds: host and port.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Ready is closed when the function has asked for its first event: its init is over.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Close ends the server and what waits for it. It may be called again.
func (s *Server) Close() error {
	s.close.Do(func() { close(s.ended) })
	return s.http.Close()
}

// Invoke hands an event to the function and waits for the answer. Errors are an *InitError, the context's cause, and net.ErrClosed.
func (s *Server) Invoke(ctx context.Context, in Invocation) (Answer, error) {
	in.ID = cmp.Or(in.ID, uuid.NewString())
	p := &pending{Invocation: in, answer: make(chan Answer, 1)}
	queue := s.queue
	for {
		select {
		case queue <- p:
			queue = nil
		case answer := <-p.answer:
			return answer, nil
		case <-s.noStart:
			return Answer{}, s.failed
		case <-ctx.Done():
			return s.giveUp(ctx, p)
		case <-s.ended:
			return Answer{}, net.ErrClosed
		}
	}
}

// giveUp ends a wait for want of time or of the function. What it said before counts.
func (s *Server) giveUp(ctx context.Context, p *pending) (Answer, error) {
	s.take(p.ID)
	select {
	case answer := <-p.answer:
		return answer, nil
	case <-s.noStart:
		return Answer{}, s.failed
	default:
		return Answer{}, context.Cause(ctx)
	}
}

// take ends the wait for an answer.
func (s *Server) take(id string) (*pending, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.running[id]
	delete(s.running, id)
	return p, ok
}

func (s *Server) next(w http.ResponseWriter, r *http.Request) {
	s.once.Do(func() { close(s.ready) })
	var p *pending
	select {
	case p = <-s.queue:
	case <-r.Context().Done():
		return
	case <-s.ended:
		return
	}
	s.mu.Lock()
	s.running[p.ID] = p
	s.mu.Unlock()
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Lambda-Runtime-Aws-Request-Id", p.ID)
	header.Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(p.Deadline.UnixMilli(), 10))
	header.Set("Lambda-Runtime-Invoked-Function-Arn", p.FunctionARN)
	if p.Trace != "" {
		header.Set("Lambda-Runtime-Trace-Id", p.Trace)
	}
	_, _ = w.Write(p.Event)
}

func (s *Server) response(w http.ResponseWriter, r *http.Request) {
	streamed := r.Header.Get("Lambda-Runtime-Function-Response-Mode") == "streaming"
	var body io.Reader = r.Body
	if !streamed {
		body = http.MaxBytesReader(w, r.Body, MaxPayload)
	}
	payload, err := io.ReadAll(body)
	var large *http.MaxBytesError
	if err != nil && !errors.As(err, &large) {
		return // the connection is lost, and may be tried again
	}
	p, ok := s.take(r.PathValue("id"))
	switch {
	case !ok:
		refuse(w, http.StatusBadRequest, "InvalidRequestID", "Invalid request ID")
	case large != nil:
		message := fmt.Sprintf("Exceeded maximum allowed payload size (%d bytes).", MaxPayload)
		p.answer <- failed("Function.ResponseSizeTooLarge", message)
		refuse(w, http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", message)
	case r.Trailer.Get("Lambda-Runtime-Function-Error-Type") != "":
		p.answer <- Answer{Payload: payload, Failed: true, ErrorType: r.Trailer.Get("Lambda-Runtime-Function-Error-Type"), Streamed: streamed}
		accept(w)
	default:
		p.answer <- Answer{Payload: payload, Streamed: streamed}
		accept(w)
	}
}

func (s *Server) failure(w http.ResponseWriter, r *http.Request) {
	payload, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxPayload))
	if err != nil {
		return
	}
	p, ok := s.take(r.PathValue("id"))
	if !ok {
		refuse(w, http.StatusBadRequest, "InvalidRequestID", "Invalid request ID")
		return
	}
	p.answer <- Answer{Payload: payload, Failed: true, ErrorType: errorType(r, payload)}
	accept(w)
}

func (s *Server) initError(w http.ResponseWriter, r *http.Request) {
	payload, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxPayload))
	if err != nil {
		return
	}
	s.mu.Lock()
	if s.failed == nil {
		s.failed = &InitError{Type: errorType(r, payload), Message: document(payload).Message}
		close(s.noStart)
	}
	s.mu.Unlock()
	accept(w)
}

// register takes an extension, as a function is one to itself that wants SIGTERM before it ends.
func register(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Lambda-Extension-Identifier", uuid.NewString())
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, `{"functionName":"local","functionVersion":"$LATEST","handler":"local"}`+"\n")
}

// idle has no events for extensions.
func (s *Server) idle(_ http.ResponseWriter, r *http.Request) {
	select {
	case <-r.Context().Done():
	case <-s.ended:
	}
}

// errorDocument is the body of an error, both ways.
type errorDocument struct {
	Message string `json:"errorMessage"`
	Type    string `json:"errorType"`
}

func document(payload []byte) (d errorDocument) {
	_ = json.Unmarshal(payload, &d)
	return d
}

func errorType(r *http.Request, payload []byte) string {
	return cmp.Or(r.Header.Get("Lambda-Runtime-Function-Error-Type"), document(payload).Type)
}

func failed(kind, message string) Answer {
	payload, _ := json.Marshal(errorDocument{Message: message, Type: kind})
	return Answer{Payload: payload, Failed: true, ErrorType: kind}
}

func accept(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	_, _ = io.WriteString(w, `{"status":"OK"}`+"\n")
}

func refuse(w http.ResponseWriter, status int, kind, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(errorDocument{Message: message, Type: kind})
}
