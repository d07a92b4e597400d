package executor

import (
	"cmp"
	"encoding/json"
	"maps"
	"os"
	"slices"
)

// first is the first that is not empty.
func first(values ...string) string { return cmp.Or(values...) }

// isThere tells whether a path leads to a file.
func isThere(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir()
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// merged lays over on top of base without changing either.
func merged[V any](base, over map[string]V) map[string]V {
	all := maps.Clone(base)
	if all == nil {
		all = map[string]V{}
	}
	maps.Copy(all, over)
	return all
}

// eachString calls do with every scalar below a JSON value as text, booleans and null excepted.
func eachString(value any, do func(string)) {
	switch v := value.(type) {
	case string:
		do(v)
	case json.Number:
		do(v.String())
	case []any:
		for _, item := range v {
			eachString(item, do)
		}
	case map[string]any:
		for _, item := range v {
			eachString(item, do)
		}
	}
}
