// Package filestate tells by what the file system says of a file whether it is still the one it was, without reading it.
package filestate

import (
	"time"
)

// State is a file as it was looked at. Two that are equal are of the same file with the same content, mode and attributes, if
// Settled was true of the first. The zero value is that of no file.
type State struct {
	Device, Inode uint64
	Size          int64  // bytes
	Mode          uint32 // as in st_mode
	Modified      int64  // nanoseconds since 1970
	Changed       int64  // the same; the file system's own, nobody can set it
}

// Settled tells whether a State that was taken at a time will differ from that of the file when it is changed later: changes within one
// tick of the file system's clock cannot be told apart. That is 10 ms at most on Linux; where times have no fractions, 2 s (FAT).
func (s State) Settled(taken time.Time) bool {
	grain := 100 * time.Millisecond
	if s.Changed%int64(time.Second) == 0 {
		grain = 3 * time.Second
	}
	return s == State{} || taken.Sub(time.Unix(0, max(s.Changed, s.Modified))) > grain
}

// Of is the state of a file behind links. One that is not there has the zero State and no error.
func Of(path string) (State, error) { return stat(path, true) }

// OfLink is the state of a file, or of a link itself.
func OfLink(path string) (State, error) { return stat(path, false) }

// Witness is the state of many files, taken at one time.
type Witness struct {
	taken time.Time
	files []witnessed
}

type witnessed struct {
	path  string
	link  bool
	state State
}

// NewWitness begins with nothing.
func NewWitness() *Witness { return &Witness{taken: time.Now()} }

// File adds a file, or that there is none; links are followed.
func (w *Witness) File(path string) error { return w.add(path, false) }

// Link adds a file, or a link itself.
func (w *Witness) Link(path string) error { return w.add(path, true) }

func (w *Witness) add(path string, link bool) error {
	state, err := stat(path, !link)
	if err == nil {
		w.files = append(w.files, witnessed{path, link, state})
	}
	return err
}

// Settled tells whether Holds can be relied on: no file was changed just before it was looked at.
func (w *Witness) Settled() bool {
	for _, f := range w.files {
		if !f.state.Settled(w.taken) {
			return false
		}
	}
	return true
}

// Holds tells whether all files are as they were, and none has come.
func (w *Witness) Holds() bool {
	for _, f := range w.files {
		if now, err := stat(f.path, !f.link); err != nil || now != f.state {
			return false
		}
	}
	return true
}
