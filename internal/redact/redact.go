// Package redact masks secret values in byte streams. It keeps secrets from leaking by accident; it is no
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

// minNeedle is the length in bytes below which a value is not masked: it would tear holes into ordinary text.
const minNeedle = 6

// Set is a set of secret values. Nil and empty sets mask nothing. Add before the first use; afterwards it is
// safe for concurrent use.
type Set struct {
	needles  []string
	unmasked int

	once sync.Once
	auto *automaton
}

// New makes a set of secrets.
func New(secrets ...string) *Set {
	s := &Set{}
	for _, secret := range secrets {
		s.Add(secret)
	}
	return s
}

// Add makes a value secret, and each of its lines when it has several. Values under 6 bytes are counted
// in Unmasked instead.
func (s *Set) Add(secret string) {
	if secret == "" {
		return
	}
	if len(secret) < minNeedle {
		s.unmasked++
		return
	}
	for _, needle := range forms(secret) {
		if len(needle) >= minNeedle && !slices.Contains(s.needles, needle) {
			s.needles = append(s.needles, needle)
		}
	}
}

// forms are the byte sequences that give a secret away.
func forms(secret string) []string {
	all := []string{secret}
	if trimmed := strings.TrimRight(secret, "\r\n"); strings.Contains(trimmed, "\n") {
		for line := range strings.Lines(secret) {
			all = append(all, strings.TrimRight(line, "\r\n"))
		}
	} else {
		all = append(all, trimmed)
	}
	return all
}

// Empty tells whether nothing is masked.
func (s *Set) Empty() bool { return s == nil || len(s.needles) == 0 }

// Unmasked is the number of values that were too short to mask.
func (s *Set) Unmasked() int {
	if s == nil {
		return 0
	}
	return s.unmasked
}

// String masks a whole text.
func (s *Set) String(text string) string {
	if s.Empty() || len(text) < minNeedle {
		return text
	}
	var b strings.Builder
	w := s.Writer(&b)
	_, _ = io.WriteString(w, text)
	_ = w.Close()
	return b.String()
}

func (s *Set) automaton() *automaton {
	s.once.Do(func() { s.auto = newAutomaton(s.needles) })
	return s.auto
}

// Writer masks what passes through it to w. It holds back only what may be the beginning of a secret. Overlapping
// secrets are masked as one. Close writes what is held back; it does not close w.
func (s *Set) Writer(w io.Writer) *Writer {
	rw := &Writer{w: w}
	if !s.Empty() {
		rw.auto = s.automaton()
	}
	return rw
}

// Writer is a stream that is masked on its way. It is not safe for concurrent use.
type Writer struct {
	w     io.Writer
	auto  *automaton // nil: nothing is masked
	state int32
	held  []byte // the longest suffix of the input that may begin a secret, its masked part cut off
	open  bool   // held continues a mask that was written already
	out   []byte
}

// Write masks p. Its error is w's.
func (w *Writer) Write(p []byte) (int, error) {
	if w.auto == nil {
		return w.w.Write(p)
	}
	w.out = w.out[:0]
	w.scan(p)
	if len(w.out) > 0 {
		if _, err := w.w.Write(w.out); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// Close writes what was held back.
func (w *Writer) Close() error {
	if len(w.held) == 0 {
		return nil
	}
	_, err := w.w.Write(w.held)
	w.held, w.state = w.held[:0], 0
	return err
}

// scan drives the automaton over p. At each byte the automaton's depth is the length of the longest suffix that may
// begin a secret: what lies before it is decided.
func (w *Writer) scan(p []byte) {
	data := p
	if len(w.held) > 0 {
		data = append(w.held, p...)
	}
	done := 0        // data[:done] has been written or masked
	i := len(w.held) // data[:i] has been scanned
	state := w.state
	for ; i < len(data); i++ {
		if state == 0 {
			if i = w.auto.skip(data, i); i == len(data) {
				break
			}
		}
		state = w.auto.next(state, data[i])
		if n := int(w.auto.match[state]); n > 0 {
			begin := i + 1 - n
			if begin > done || !w.open {
				w.out = append(append(w.out, data[done:max(begin, done)]...), Mask...)
			}
			done, w.open = i+1, true
		}
	}
	keep := max(len(data)-int(w.auto.depth[state]), done)
	if keep > done {
		w.out = append(w.out, data[done:keep]...)
		w.open = false
	}
	w.held = append(w.held[:0], data[keep:]...)
	w.state = state
}
