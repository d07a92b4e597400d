package pack

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPlacementOfAnAction(t *testing.T) {
	a, err := one(t, "worker_selector: {zone: a, n: 2}\nworker_tolerations: [{key: k, value: v}]\nworker_affinity: [{weight: -5, labels: {a: b}}]\n"+
		"required_worker_runtimes: [\"python>=3.9\", node]\nretries: {max: 2, backoff: 5}\nconcurrency: 3\n")
	require.NoError(t, err)
	assert.Equal(t, Placement{
		Selector: map[string]string{"zone": "a", "n": "2"}, Tolerations: []Toleration{{Key: "k", Value: "v"}},
		Affinity: []Preference{{-5, map[string]string{"a": "b"}}}, Runtimes: []RuntimeNeed{{"node", ""}, {"python", ">=3.9"}},
	}, a.Placement)
	assert.Equal(t, Retries{2, 5 * time.Second}, a.Retries)
	assert.Equal(t, 3, a.Concurrency)
	assert.Empty(t, a.Warnings)
}

func TestWrongPlacementIsSaidWithItsPlace(t *testing.T) {
	for more, want := range map[string]string{
		"worker_selector: [a]\n":                           "a.yaml:3:",
		"worker_selector: {a: [b]}\n":                      "label a",
		"worker_tolerations: {a: b}\n":                     "worker_tolerations",
		"worker_tolerations: [{value: b}]\n":               "operator Exists",
		"worker_affinity: [{weight: 0, labels: {a: b}}]\n": "weight 0",
		"worker_affinity: [{weight: 1, label: {a: b}}]\n":  "unknown field",
		"required_worker_runtimes: [\">=3\"]\n":            "names no runtime",
		"required_worker_runtimes: [\"python>=x\"]\n":      "python",
		"retries: {max: -1}\n":                             "negative",
		"retries: 3\n":                                     "mapping",
		"concurrency: -2\n":                                "negative",
	} {
		_, err := one(t, more)
		assert.ErrorContains(t, err, want, more)
	}
}
