package packtest

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/attune-run/attune/internal/yamldoc"
)

func TestNumbersAreComparedByValue(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"1", "1.0", true}, {"1e2", "100", true}, {"0.1", "0.10", true}, {"12345678901234567890123", "12345678901234567890124", false},
		{"1e999999999", "1e999999999", true}, {"1e999999999", "1", false}, {"1e-999999999", "0", false}, {"-0", "0", true},
	} {
		assert.Equal(t, c.same, sameNumber(json.Number(c.a), json.Number(c.b)), c)
	}
}

func TestDifferencesNameEachPlace(t *testing.T) {
	value := func(text string) any {
		v, err := yamldoc.Value("", []byte(text))
		assert.NoError(t, err)
		return v
	}
	assert.Empty(t, differences("r", value("{a: [1, null, {b: x}]}"), value("{a: [1.0, null, {b: x}]}")))
	assert.Equal(t, []string{`r.a[1].b: got "x", want "y"`, `r.c: got 1, want nothing`},
		differences("r", value("{a: [1, {b: x}], c: 1}"), value("{a: [1, {b: y}]}")))
	assert.Equal(t, []string{`r: got null, want {}`}, differences("r", nil, value("{}")))
	assert.Equal(t, []string{`r: got [1], want [1,2]`}, differences("r", value("[1]"), value("[1, 2]")))
	assert.Equal(t, []string{`r: got 1, want "1"`}, differences("r", value("1"), value("'1'")))
	assert.Less(t, len(differences("r", strings.Repeat("x", 10_000), "y")[0]), 300)
}
