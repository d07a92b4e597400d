package nearest

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestName(t *testing.T) {
	names := []string{"python", "node", "ruby"}
	assert.Equal(t, "python", Name("pyhton", names))
	assert.Equal(t, "node", Name("Nod", names))
	assert.Empty(t, Name("haskell", names))
	assert.Empty(t, Name("x", nil))
}
