package proc

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/attune-run/attune/internal/redact"
)

const (
	readSize = 32 << 10 // bytes of one read, whatever the lines are like
	// After the leader has ended a pipe is read until it is silent for drainIdle, and for no longer than
	// drainMax: somebody else may hold its other end.
	drainIdle = 250 * time.Millisecond
	drainMax  = 5 * time.Second
)

// streams are the three pipes of one child, as far as it has pipes.
type streams struct {
	stdin    *os.File // the end attune writes to; nil without a pipe
	fed      chan struct{}
	outputs  []*stream
	childEnd []int // descriptors, closed in attune once the child exists
}

// open makes the child's three files.
func (s *streams) open(spec *Spec) (fds []uintptr, err error) {
	in, err := s.openStdin(spec)
	if err != nil {
		return nil, err
	}
	out, err := s.openOutput(spec, spec.Stdout, spec.Raw)
	if err != nil {
		return nil, err
	}
	errs, err := s.openOutput(spec, spec.Stderr, nil)
	if err != nil {
		return nil, err
	}
	return []uintptr{in, out, errs}, nil
}

func (s *streams) openStdin(spec *Spec) (fd uintptr, err error) {
	switch r := spec.Stdin.(type) {
	case nil:
		return s.null(unix.O_RDONLY)
	case *os.File:
		return r.Fd(), nil
	}
	if r, ok := spec.Stdin.(interface{ Len() int }); ok && r.Len() <= pipeMin {
		return s.filled(spec.Stdin)
	}
	fd, s.stdin, err = s.pipe(unix.O_RDONLY)
	return fd, err
}

// pipeMin is the size in bytes that the smallest pipe has room for: a page, which is what a user gets who has many (pipe(7)).
const pipeMin = 4096

// filled is a pipe in which all lies that the child is to read: nothing needs to wait until it does.
func (s *streams) filled(from io.Reader) (fd uintptr, err error) {
	text, err := io.ReadAll(io.LimitReader(from, pipeMin))
	if err != nil {
		return 0, err
	}
	r, w, err := newPipe()
	if err != nil {
		return 0, err
	}
	s.childEnd = append(s.childEnd, r)
	defer func() { _ = unix.Close(w) }()
	if len(text) > 0 {
		_, err = unix.Write(w, text)
	}
	return uintptr(r), os.NewSyscallError("write", err)
}

func (s *streams) openOutput(spec *Spec, w, raw io.Writer) (fd uintptr, err error) {
	if w == nil {
		return s.null(unix.O_WRONLY)
	}
	if f, ok := w.(*os.File); ok && spec.Direct {
		return f.Fd(), nil
	}
	return s.copied(w, raw)
}

// copied is a pipe that is read for the child.
func (s *streams) copied(w, raw io.Writer) (fd uintptr, err error) {
	fd, r, err := s.pipe(unix.O_WRONLY)
	if err == nil {
		s.outputs = append(s.outputs, &stream{r: r, w: w, raw: raw, done: make(chan struct{})})
	}
	return fd, err
}

// pipe is one between attune and the child, which reads or writes as flag says. The child's end is a bare descriptor: it blocks, and Go need
// not hear of it.
func (s *streams) pipe(flag int) (fd uintptr, own *os.File, err error) {
	child, mine, err := newPipe()
	if err != nil {
		return 0, nil, err
	}
	if flag == unix.O_WRONLY {
		child, mine = mine, child
	}
	s.childEnd = append(s.childEnd, child)
	if err := unix.SetNonblock(mine, true); err != nil {
		_ = unix.Close(mine)
		return 0, nil, os.NewSyscallError("fcntl", err)
	}
	return uintptr(child), os.NewFile(uintptr(mine), "pipe"), nil
}

// null is /dev/null or, in a root without devices, a pipe with nobody at its other end.
func (s *streams) null(flag int) (fd uintptr, err error) {
	if f, err := unix.Open(os.DevNull, flag|unix.O_CLOEXEC, 0); err == nil {
		s.childEnd = append(s.childEnd, f)
		return uintptr(f), nil
	}
	if flag == unix.O_WRONLY {
		return s.copied(io.Discard, nil)
	}
	fd, w, err := s.pipe(flag)
	if err == nil {
		_ = w.Close()
	}
	return fd, err
}

func (s *streams) closeChildEnds() {
	for _, fd := range s.childEnd {
		_ = unix.Close(fd)
	}
}

func (s *streams) closeOwnEnds() {
	if s.stdin != nil {
		_ = s.stdin.Close()
	}
	for _, out := range s.outputs {
		_ = out.r.Close()
	}
}

// start reads before it writes: a child that answers before it has read all must not block on a full pipe.
func (s *streams) start(spec *Spec) {
	for _, out := range s.outputs {
		go out.pump(spec.Secrets)
	}
	if s.stdin == nil {
		return
	}
	s.fed = make(chan struct{})
	go func() {
		defer close(s.fed)
		_, _ = io.Copy(s.stdin, spec.Stdin) // a child that does not read its stdin is no error
		_ = s.stdin.Close()
	}()
}

// drain waits for what the leader left in the pipes. When it returns every goroutine has ended but for one that is blocked
// in the caller's own writer after the context has ended.
func (s *streams) drain(ctx context.Context) {
	if s.stdin != nil {
		_ = s.stdin.Close() // ends a copy that waits for a reader
		<-s.fed
	}
	for _, out := range s.outputs {
		out.lastCall()
	}
	for _, out := range s.outputs {
		select {
		case <-out.done:
			continue
		case <-ctx.Done():
		}
		timer := time.NewTimer(drainMax)
		select {
		case <-out.done:
		case <-timer.C:
			out.abandon()
		}
		timer.Stop()
	}
	for _, out := range s.outputs {
		_ = out.r.Close()
	}
}

// stream copies one of the child's output pipes to its writer.
type stream struct {
	r    *os.File
	w    io.Writer
	raw  io.Writer // before redaction; may be nil
	done chan struct{}

	mu        sync.Mutex
	draining  bool
	abandoned bool
}

// pump copies until the pipe ends. A writer that fails is not written to again, and the child goes on.
func (s *stream) pump(secrets *redact.Set) {
	defer close(s.done)
	w := s.w
	var masked *redact.Writer
	if !secrets.Empty() {
		masked = secrets.Writer(s.w)
		w = masked
	}
	buffer := bufferPool.Get().(*[]byte)
	defer bufferPool.Put(buffer)
	left := drainMax
	for {
		waiting := time.Now()
		n, err := s.r.Read(*buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			n, err = s.lying(*buffer)
		}
		waited := time.Since(waiting)
		if n > 0 && s.raw != nil && !s.isAbandoned() {
			_, _ = s.raw.Write((*buffer)[:n])
		}
		if n > 0 && w != nil && !s.isAbandoned() {
			if _, failed := w.Write((*buffer)[:n]); failed != nil {
				w = nil
			}
		}
		if err != nil {
			break
		}
		if s.isDraining() {
			// Only the time spent reading counts: a slow writer loses nothing.
			if left -= waited + time.Microsecond; left <= 0 {
				break
			}
			_ = s.r.SetReadDeadline(time.Now().Add(min(drainIdle, left)))
		}
	}
	if masked != nil && w != nil && !s.isAbandoned() {
		_ = masked.Close()
	}
}

// lying reads what lies in the pipe: on a busy machine a deadline can pass before the pump had its turn, and a read past its deadline does
// not look.
func (s *stream) lying(buffer []byte) (n int, err error) {
	conn, err := s.r.SyscallConn()
	if err != nil {
		return 0, err
	}
	failed := conn.Control(func(fd uintptr) {
		for {
			if n, err = unix.Read(int(fd), buffer); !errors.Is(err, unix.EINTR) {
				return
			}
		}
	})
	switch {
	case failed != nil:
		return 0, failed
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

var bufferPool = sync.Pool{New: func() any { b := make([]byte, readSize); return &b }}

// lastCall gives a pump that waits for more drainIdle to get it.
func (s *stream) lastCall() {
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
	_ = s.r.SetReadDeadline(time.Now().Add(drainIdle))
}

func (s *stream) abandon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.abandoned = true
}

func (s *stream) isDraining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

func (s *stream) isAbandoned() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.abandoned
}
