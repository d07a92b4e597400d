// Package redact masks secret values in byte streams and JSON values. It keeps secrets from leaking by accident; it is no
// boundary against code that wants to leak them.
package redact

import (
	"io"
	"slices"
	"strings"
	"sync"
)

// Mask stands where a secret stood.
const Mask = "***"

// MinLength is the length in bytes below which a value is not masked: it would tear holes into ordinary text.
const MinLength = 6

// encodedMax bounds the bytes of encoded forms of all secrets of a Set: 5 bytes of memory for each.
const encodedMax = 8 << 20

// Set is a set of secret values. Nil and empty sets mask nothing. It is safe for concurrent use; what is added later is
// unknown to the Writers there are.
type Set struct {
	mu      sync.Mutex
	needles []string
	encoded int        // bytes of encoded forms among needles
	auto    *automaton // nil until it is used
}

// New makes a set of secrets.
func New(secrets ...string) *Set {
	s := &Set{}
	for _, secret := range secrets {
		s.Add(secret)
	}
	return s
}

// Coverage says how much of a secret is masked.
type Coverage int

// What Add can do for a secret.
const (
	Masked   Coverage = iota // in every form
	Plain                    // as it is and line by line: with its encoded forms the set would grow too large
	TooShort                 // not at all: it has under 6 bytes
)

// Add makes a value secret, in all forms that give it away: as it is, each of its lines when it has several, and both as JSON
// and URLs escape them, in hex and in base64. Line ends behind it do not count.
func (s *Set) Add(secret string) Coverage {
	secret = strings.TrimRight(secret, "\r\n")
	if len(secret) < MinLength {
		return TooShort
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.auto = nil
	values := lines(secret)
	s.needles = append(s.needles, values...)
	if s.encoded+encodedFactor*len(secret) > encodedMax {
		return Plain
	}
	for _, value := range values {
		forms := encodings(value)
		slices.Sort(forms)
		forms = slices.Compact(forms)
		for i, form := range forms {
			s.encoded += len(form) - shared(forms, i)
		}
		s.needles = append(s.needles, forms...)
	}
	return Masked
}

// Empty tells whether nothing is masked.
func (s *Set) Empty() bool {
	if s == nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.needles) == 0
}

// automaton is nil when nothing is masked.
func (s *Set) automaton() *automaton {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.auto == nil && len(s.needles) > 0 {
		s.auto = newAutomaton(s.needles)
	}
	return s.auto
}

// String masks a whole text.
func (s *Set) String(text string) string {
	auto := s.automaton()
	if auto == nil || len(text) < MinLength {
		return text
	}
	var b strings.Builder
	w := &Writer{w: &b, auto: auto}
	_, _ = io.WriteString(w, text)
	_ = w.flush()
	return b.String()
}

// Writer masks what passes through it to w. It holds back only what may be the beginning of a secret. Secrets that overlap or
// touch are masked as one. Close writes what is held back; it does not close w.
func (s *Set) Writer(w io.Writer) *Writer { return &Writer{w: w, auto: s.automaton()} }

// Writer is a stream that is masked on its way. It is not safe for concurrent use.
type Writer struct {
	w     io.Writer
	auto  *automaton // nil: nothing is masked
	state int32
	held  []byte // the longest suffix of the input that may begin a secret, its masked beginning cut off
	front int    // held[:front] has been written or masked
	spans []span // secrets in held, apart from each other, in order
	open  bool   // the last that was written is a mask
	out   []byte
}

// span is a part of the data at hand, [from, to).
type span struct{ from, to int }

// Write masks p. Its error is w's.
func (w *Writer) Write(p []byte) (int, error) {
	if w.auto == nil {
		return w.w.Write(p)
	}
	data, scanned := p, 0
	if pending := len(w.held) - w.front; pending > 0 {
		w.held = append(w.held, p...)
		data, scanned = w.held[w.front:], pending
	}
	w.scan(data, scanned)
	keep, err := w.emit(data, len(data)-w.auto.depth(w.state))
	w.hold(data, keep)
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close writes what was held back. Where the stream ends inside a secret, at least 6 bytes into it, that part is masked too: a
// stream may be cut anywhere.
func (w *Writer) Close() error {
	if w.auto == nil {
		return nil
	}
	pending := len(w.held) - w.front
	if depth := w.auto.depth(w.state); depth >= MinLength {
		w.cover(pending-depth, pending)
	}
	return w.flush()
}

// flush writes what was held back and starts over.
func (w *Writer) flush() error {
	data := w.held[w.front:]
	_, err := w.emit(data, len(data))
	w.held, w.front, w.spans, w.state, w.open = w.held[:0], 0, w.spans[:0], 0, false
	return err
}

// scan drives the automaton over data[i:] and notes the secrets it finds.
func (w *Writer) scan(data []byte, i int) {
	auto, state := w.auto, w.state
	for ; i < len(data); i++ {
		if state == 0 {
			if i = auto.skip(data, i); i == len(data) {
				break
			}
		}
		if state < auto.dense {
			state = auto.table[int(state)*auto.width+int(auto.classes[data[i]])]
		} else {
			state = auto.next(state, data[i])
		}
		if state < 0 {
			state = ^state
			w.cover(i+1-int(auto.end(state)), i+1)
		} else if state >= auto.dense {
			if n := auto.end(state); n > 0 {
				w.cover(i+1-int(n), i+1)
			}
		}
	}
	w.state = state
}

// cover notes a secret; those it overlaps or touches become one with it.
func (w *Writer) cover(from, to int) {
	from = max(from, 0) // what lies before is masked already
	for n := len(w.spans); n > 0 && w.spans[n-1].to >= from; n-- {
		from = min(from, w.spans[n-1].from)
		w.spans = w.spans[:n-1]
	}
	w.spans = append(w.spans, span{from, to})
}

// emit writes data[:keep], no secret that ends before data[keep] begins can still grow; a secret that reaches
// beyond is masked whole. It returns where what must be held begins.
func (w *Writer) emit(data []byte, keep int) (int, error) {
	if keep > 0 && (len(w.spans) == 0 || w.spans[0].from >= keep) {
		w.open = false
		w.shift(0, keep)
		_, err := w.w.Write(data[:keep])
		return keep, err
	}
	done, n := 0, 0
	w.out = w.out[:0]
	for ; n < len(w.spans) && (w.spans[n].from < keep || w.spans[n].from == 0 && w.open); n++ {
		s := w.spans[n]
		if s.from > done || !w.open {
			w.out = append(append(w.out, data[done:s.from]...), Mask...)
		}
		done, w.open = s.to, true
	}
	if keep = max(keep, done); keep > done {
		w.out = append(w.out, data[done:keep]...)
		w.open = false
	}
	w.shift(n, keep)
	if len(w.out) == 0 {
		return keep, nil
	}
	_, err := w.w.Write(w.out)
	return keep, err
}

// shift forgets the first n spans and keep bytes.
func (w *Writer) shift(n, keep int) {
	w.spans = append(w.spans[:0], w.spans[n:]...)
	for i := range w.spans {
		w.spans[i].from -= keep
		w.spans[i].to -= keep
	}
}

// hold keeps data[keep:] for the next Write. Bytes are moved only when at least as many have been passed on.
func (w *Writer) hold(data []byte, keep int) {
	if len(w.held) == w.front { // data is the caller's
		w.held, w.front = append(w.held[:0], data[keep:]...), 0
		return
	}
	w.front += keep
	if w.front >= len(w.held)-w.front {
		w.held, w.front = append(w.held[:0], w.held[w.front:]...), 0
	}
}
