package packtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
)

// shownMax bounds the bytes of a value in a message.
const shownMax = 200

// differences are the places where two JSON values are not the same. Numbers are the same when they have the same value: 1 and 1.0.
func differences(path string, got, want any) []string {
	switch want := want.(type) {
	case map[string]any:
		if got, ok := got.(map[string]any); ok {
			return objectDifferences(path, got, want)
		}
	case []any:
		if got, ok := got.([]any); ok && len(got) == len(want) {
			var all []string
			for i := range want {
				all = append(all, differences(fmt.Sprintf("%s[%d]", path, i), got[i], want[i])...)
			}
			return all
		}
	case json.Number:
		if got, ok := got.(json.Number); ok && sameNumber(got, want) {
			return nil
		}
	default:
		if got == want {
			return nil
		}
	}
	return []string{fmt.Sprintf("%s: got %s, want %s", path, shown(got), shown(want))}
}

func objectDifferences(path string, got, want map[string]any) []string {
	var all []string
	for _, key := range slices.Sorted(maps.Keys(want)) {
		value, ok := got[key]
		if !ok {
			all = append(all, fmt.Sprintf("%s.%s: is missing, want %s", path, key, shown(want[key])))
			continue
		}
		all = append(all, differences(path+"."+key, value, want[key])...)
	}
	for _, key := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[key]; !ok {
			all = append(all, fmt.Sprintf("%s.%s: got %s, want nothing", path, key, shown(got[key])))
		}
	}
	return all
}

func sameNumber(a, b json.Number) bool {
	if a == b {
		return true
	}
	if len(a) > 1000 || len(b) > 1000 || longExponent(a) || longExponent(b) {
		return false
	}
	x, okX := new(big.Rat).SetString(a.String())
	y, okY := new(big.Rat).SetString(b.String())
	return okX && okY && x.Cmp(y) == 0
}

// longExponent keeps 1e999999999 from being written out.
func longExponent(n json.Number) bool {
	_, exponent, found := strings.Cut(strings.ToLower(n.String()), "e")
	return found && len(strings.TrimLeft(exponent, "+-0")) > 2
}

// shown is a value as JSON, cut where it is long.
func shown(value any) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(value); err != nil {
		return err.Error()
	}
	text := strings.TrimSpace(b.String())
	if len(text) > shownMax {
		text = strings.ToValidUTF8(text[:shownMax], "") + "…"
	}
	return text
}
