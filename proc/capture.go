package proc

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// DefaultCapture is how many bytes of a stream a Capture keeps unless told otherwise.
const DefaultCapture = 1 << 20

// Capture keeps the first and the last half of what is written to it. It costs nothing until something is.
// It may be read once Run has returned.
type Capture struct {
	half    int
	head    []byte
	tail    []byte // a ring once it is full
	at      int    // where the ring begins
	written int64
}

// NewCapture keeps at most limit bytes.
func NewCapture(limit int) *Capture { return &Capture{half: max(limit/2, 1)} }

// Write never fails.
func (c *Capture) Write(p []byte) (int, error) {
	n := len(p)
	c.written += int64(n)
	if room := c.half - len(c.head); room > 0 {
		k := min(room, len(p))
		c.head = append(c.head, p[:k]...)
		p = p[k:]
	}
	if len(p) >= c.half {
		c.tail, c.at = append(c.tail[:0], p[len(p)-c.half:]...), 0
		return n, nil
	}
	if room := c.half - len(c.tail); room > 0 {
		k := min(room, len(p))
		c.tail = append(c.tail, p[:k]...)
		p = p[k:]
	}
	for len(p) > 0 {
		k := copy(c.tail[c.at:], p)
		p = p[k:]
		c.at = (c.at + k) % c.half
	}
	return n, nil
}

// Truncated tells whether something between head and tail was dropped.
func (c *Capture) Truncated() bool { return c.Dropped() > 0 }

// Dropped is the number of bytes that were.
func (c *Capture) Dropped() int64 { return c.written - int64(len(c.head)+len(c.tail)) }

// Replaced tells whether Text had to replace bytes that are not UTF-8.
func (c *Capture) Replaced() bool {
	head, tail := c.parts()
	return !utf8.Valid(head) || !utf8.Valid(tail)
}

// Text is what was kept, with one line that says what was dropped. Bytes that are not UTF-8 are replaced.
func (c *Capture) Text() string {
	head, tail := c.parts()
	if !c.Truncated() {
		return strings.ToValidUTF8(string(head)+string(tail), "\uFFFD")
	}
	notice := fmt.Sprintf("\n[… %d bytes dropped …]\n", c.Dropped())
	return strings.ToValidUTF8(string(head), "\uFFFD") + notice + strings.ToValidUTF8(string(tail), "\uFFFD")
}

// parts are head and tail in order; where bytes were dropped between them, without halves of characters.
func (c *Capture) parts() (head, tail []byte) {
	head = c.head
	tail = append(append(make([]byte, 0, len(c.tail)), c.tail[c.at:]...), c.tail[:c.at]...)
	if !c.Truncated() {
		if len(tail) > 0 {
			return append(append(make([]byte, 0, len(head)+len(tail)), head...), tail...), nil
		}
		return head, nil
	}
	for i := len(head) - 1; i >= 0 && i > len(head)-utf8.UTFMax; i-- {
		if utf8.RuneStart(head[i]) {
			if !utf8.FullRune(head[i:]) {
				head = head[:i]
			}
			break
		}
	}
	for i := 0; i < utf8.UTFMax && len(tail) > 0 && !utf8.RuneStart(tail[0]); i++ {
		tail = tail[1:]
	}
	return head, tail
}

// Spool keeps all that is written to it up to a maximum.
type Spool struct {
	max      int64
	data     []byte
	overflow bool
}

// NewSpool keeps at most max bytes.
func NewSpool(max int64) *Spool { return &Spool{max: max} }

// Write never fails; what is too much sets Overflow and frees what was kept.
func (s *Spool) Write(p []byte) (int, error) {
	if s.overflow || int64(len(s.data)+len(p)) > s.max {
		s.overflow, s.data = true, nil
		return len(p), nil
	}
	s.data = append(s.data, p...)
	return len(p), nil
}

// Overflow tells whether more than the maximum was written.
func (s *Spool) Overflow() bool { return s.overflow }

// Bytes is what was kept.
func (s *Spool) Bytes() []byte { return s.data }
