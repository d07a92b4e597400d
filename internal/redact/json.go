package redact

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// nestedMax is how deep JSON may lie in strings of JSON to be looked through.
const nestedMax = 8

// Value masks a JSON value: its strings, keys and numbers, and JSON that lies in its strings, however that is escaped. A number that
// is a secret becomes the text Mask. No key is lost: where several become the same they are numbered.
func (s *Set) Value(value any) any {
	if s.Empty() {
		return value
	}
	masked, _ := s.value(value, 0)
	return masked
}

func (s *Set) value(value any, nested int) (masked any, changed bool) {
	switch v := value.(type) {
	case string:
		return s.text(v, nested)
	case json.Number:
		if text := s.String(v.String()); text != v.String() {
			return text, true
		}
	case []any:
		for i := range v {
			item, hit := s.value(v[i], nested)
			v[i], changed = item, changed || hit
		}
	case map[string]any:
		return s.object(v, nested)
	}
	return value, changed
}

func (s *Set) object(object map[string]any, nested int) (masked any, changed bool) {
	result := make(map[string]any, len(object))
	for _, key := range slices.Sorted(maps.Keys(object)) {
		item, hit := s.value(object[key], nested)
		name := s.String(key)
		changed = changed || hit || name != key
		for n := 2; name != key && has(result, object, name); n++ {
			name = fmt.Sprintf("%s (%d)", s.String(key), n)
		}
		result[name] = item
	}
	return result, changed
}

func has(done, object map[string]any, name string) bool {
	_, taken := done[name]
	_, original := object[name]
	return taken || original
}

// text masks a string; when it is JSON itself, what it says, and then how it is written.
func (s *Set) text(text string, nested int) (masked any, changed bool) {
	if inner, ok := parseNested(text); ok && nested < nestedMax {
		if value, hit := s.value(inner, nested+1); hit {
			var b bytes.Buffer
			enc := json.NewEncoder(&b)
			enc.SetEscapeHTML(false)
			if enc.Encode(value) == nil {
				return s.String(strings.TrimSuffix(b.String(), "\n")), true
			}
		}
	}
	result := s.String(text)
	return result, result != text
}

func parseNested(text string) (value any, ok bool) {
	trimmed := strings.TrimSpace(text)
	if len(trimmed) < MinLength || !strings.ContainsRune(`{["`, rune(trimmed[0])) {
		return nil, false
	}
	dec := json.NewDecoder(strings.NewReader(trimmed))
	dec.UseNumber()
	if dec.Decode(&value) != nil {
		return nil, false
	}
	_, err := dec.Token()
	return value, err == io.EOF
}
