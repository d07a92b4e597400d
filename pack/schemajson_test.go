package pack

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestASchemaTravels(t *testing.T) {
	written := &Schema{
		root: map[string]any{"type": "object", "additionalProperties": false, "required": []any{"count"}, "properties": map[string]any{
			"count": map[string]any{"type": "integer", "minimum": json.Number("1")}, "token": map[string]any{"type": "string"},
			"day": map[string]any{"type": "string", "default": "today"},
		}},
		parameters: map[string]parameter{"count": {position: 0}, "token": {secret: true, position: -1}, "day": {immutable: true, position: -1}},
	}
	data, err := json.Marshal(written)
	require.NoError(t, err)
	read, err := ParseSchema(data)
	require.NoError(t, err)
	assert.Equal(t, written.parameters, read.parameters)
	assert.Equal(t, []string{"token"}, read.Secrets())
	assert.Equal(t, []string{"count"}, read.Positional())
	_, err = read.Bind(map[string]any{"count": json.Number("0"), "day": "tomorrow"})
	assert.ErrorContains(t, err, "count: must be at least 1")
	assert.ErrorContains(t, err, "day: is immutable")
	_, err = ParseSchema([]byte(`[]`))
	assert.ErrorContains(t, err, "an array")
	again, err := json.Marshal(written)
	require.NoError(t, err)
	assert.Equal(t, string(data), string(again), "marshaling does not change the schema")
}
