package queue

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Unknown are the fields of a document that this version does not know: a newer attune, of the same major version of the document,
// wrote them. They are kept where the document is written again.
type Unknown map[string]json.RawMessage

// read decodes a document into its plain form, and gives the fields that it has no place for. Fields within fields are not looked at.
func read(document []byte, plain any) (Unknown, error) {
	strict := json.NewDecoder(bytes.NewReader(document))
	strict.DisallowUnknownFields()
	if err := strict.Decode(plain); err == nil && !strict.More() {
		return nil, nil
	}
	if err := json.Unmarshal(document, plain); err != nil {
		return nil, err
	}
	var all Unknown
	if err := json.Unmarshal(document, &all); err != nil {
		return nil, err
	}
	for name := range namesOf(reflect.TypeOf(plain).Elem()) {
		delete(all, name)
	}
	if len(all) == 0 {
		return nil, nil
	}
	return all, nil
}

// write encodes a document with the fields that it has no place for behind its own.
func write(plain any, unknown Unknown) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false) // what is hashed stays as it is
	if err := encoder.Encode(plain); err != nil || len(unknown) == 0 {
		return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
	}
	b.Truncate(b.Len() - len("}\n"))
	for _, name := range slices.Sorted(maps.Keys(unknown)) {
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		quoted, err := json.Marshal(name)
		if err != nil {
			return nil, err
		}
		b.Write(quoted)
		b.WriteByte(':')
		b.Write(unknown[name])
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

var fieldNames sync.Map // reflect.Type → map[string]struct{}

// namesOf are the names that a struct's fields have in JSON.
func namesOf(t reflect.Type) map[string]struct{} {
	if known, ok := fieldNames.Load(t); ok {
		return known.(map[string]struct{})
	}
	names := map[string]struct{}{}
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		names[name] = struct{}{}
	}
	fieldNames.Store(t, names)
	return names
}

type (
	plainRecord     Record
	plainSchedule   Schedule
	plainLimitEntry LimitEntry
)

// UnmarshalJSON keeps what it does not know in Unknown.
func (r *Record) UnmarshalJSON(document []byte) (err error) {
	r.Unknown, err = read(document, (*plainRecord)(r))
	return err
}

// MarshalJSON writes Unknown as well.
func (r Record) MarshalJSON() ([]byte, error) { return r.Document() }

// Document is what is stored: MarshalJSON without an encoder around it that reads it once more. The result, which is a document already
// and as large as all the rest, is not read once more either.
func (r Record) Document() ([]byte, error) {
	result := bytes.TrimSpace(r.Result)
	r.Result = nil
	document, err := write((*plainRecord)(&r), r.Unknown)
	if err != nil || len(result) == 0 {
		return document, err
	}
	document = append(document[:len(document)-1], `,"result":`...)
	return append(append(document, result...), '}'), nil
}

// UnmarshalJSON keeps what it does not know in Unknown.
func (s *Schedule) UnmarshalJSON(document []byte) (err error) {
	s.Unknown, err = read(document, (*plainSchedule)(s))
	return err
}

// MarshalJSON writes Unknown as well.
func (s Schedule) MarshalJSON() ([]byte, error) { return s.Document() }

// Document is what is stored: MarshalJSON without an encoder around it that reads it once more.
func (s Schedule) Document() ([]byte, error) { return write((*plainSchedule)(&s), s.Unknown) }

// UnmarshalJSON keeps what it does not know in Unknown.
func (l *LimitEntry) UnmarshalJSON(document []byte) (err error) {
	l.Unknown, err = read(document, (*plainLimitEntry)(l))
	return err
}

// MarshalJSON writes Unknown as well.
func (l LimitEntry) MarshalJSON() ([]byte, error) { return l.Document() }

// Document is what is stored: MarshalJSON without an encoder around it that reads it once more.
func (l LimitEntry) Document() ([]byte, error) { return write((*plainLimitEntry)(&l), l.Unknown) }

// NewerError is a document that only a newer attune understands. It is left alone: another worker may be one.
type NewerError struct {
	What string // its schema, or the word that is not known
}

// Error says what is not known.
func (e *NewerError) Error() string {
	return fmt.Sprintf("it is %s, which takes a newer attune than this one", e.What)
}

// CheckSchema is a *NewerError for a later major version of the known schema ("attune.record/v2" where v1 is known), and another
// error for anything else that is not it.
func CheckSchema(schema, known string) error {
	if schema == known {
		return nil
	}
	name, version, _ := strings.Cut(schema, "/v")
	knownName, knownVersion, _ := strings.Cut(known, "/v")
	major, err := strconv.Atoi(version)
	if least, _ := strconv.Atoi(knownVersion); err == nil && name == knownName && major > least {
		return &NewerError{schema}
	}
	return fmt.Errorf("schema %q is not known here, want %q", schema, known)
}
