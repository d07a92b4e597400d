package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheReferenceIsThatOfTheCode(t *testing.T) {
	pages, err := generate("../..")
	require.NoError(t, err)
	entries, err := os.ReadDir("../../docs/reference")
	require.NoError(t, err)
	assert.Len(t, entries, len(pages))
	for name, want := range pages {
		have, err := os.ReadFile(filepath.Join("../../docs/reference", name))
		require.NoError(t, err)
		if string(have) != want {
			t.Errorf("docs/reference/%s is stale: run go generate ./...", name)
		}
	}
}

func TestEveryKeyIsExplained(t *testing.T) {
	source, err := parseDir("../../internal/config")
	require.NoError(t, err)
	settings := source.settings("document", "")
	source.findVariables(settings)
	without := []string{}
	for _, s := range settings {
		assert.NotEmpty(t, s.meaning, s.key)
		if s.variable == "" {
			without = append(without, s.key)
		}
	}
	assert.Equal(t, []string{"pack_config", "pack_install.max_files", "pack_install.max_bytes", "pack_install.max_ratio", "pack_install.max_depth",
		"secrets.providers", "broker.replicas"}, without, "the keys that no variable has")
}
