package yamldoc

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestProblemsNameTheirPlace(t *testing.T) {
	for text, want := range map[string]string{
		"a: [}\n":          "f.yaml:1:",
		"a: 1\na: 2\n":     "f.yaml:2:1",
		"- not a mapping":  "f.yaml:1:1",
		"a: 1\n---\nb: 2":  "f.yaml:",
		"a: &x 1\nb: *y\n": "f.yaml:",
	} {
		doc, err := Parse("f.yaml", []byte(text))
		if err == nil {
			doc.Root()
			err = doc.Err()
		}
		assert.ErrorContains(t, err, want, text)
	}
}
