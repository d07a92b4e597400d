// Package nearest finds what somebody probably meant.
package nearest

import (
	"strings"

	"github.com/agnivade/levenshtein"
)

// Name is the candidate closest to word without regard to case, or "" when none is near: at most a
// third of the word's letters, and at least one, may differ.
func Name(word string, candidates []string) string {
	best, bestDistance := "", max(1, len([]rune(word))/3)+1
	for _, candidate := range candidates {
		if d := levenshtein.ComputeDistance(strings.ToLower(word), strings.ToLower(candidate)); d < bestDistance {
			best, bestDistance = candidate, d
		}
	}
	return best
}
