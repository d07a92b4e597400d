package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v4"

	"github.com/attune-run/attune/internal/doctest"
)

func TestFlagsWinOverVariablesOverTheFileOverDefaults(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "attune.yaml")
	require.NoError(t, os.WriteFile(file, []byte("cache: of-file\nlayers: [layer-of-file]\nallow_env: [A, B_*]\n"), 0o600))
	defaults := Defaults{Packs: []string{"/default/packs"}, Cache: "/default/cache", Layers: []string{"/default/layer"}}

	none := []string{"HOME=" + dir, "XDG_CONFIG_HOME=" + dir}
	cfg, err := Load(Flags{}, defaults, none)
	require.NoError(t, err)
	assert.Equal(t, "/default/cache", cfg.Cache)
	assert.Equal(t, "/default/packs", cfg.Packs[0])
	assert.Equal(t, []string{"/default/layer"}, cfg.Executor().Layers)

	cfg, err = Load(Flags{}, Defaults{}, none)
	require.NoError(t, err)
	assert.Equal(t, filepath.Join(dir, ".cache", "attune"), cfg.Cache)
	assert.Empty(t, cfg.Executor().Layers)

	named := append(none, "ATTUNE_CONFIG="+file)
	cfg, err = Load(Flags{}, defaults, named)
	require.NoError(t, err)
	assert.Equal(t, filepath.Join(dir, "of-file"), cfg.Cache)
	assert.Equal(t, []string{filepath.Join(dir, "layer-of-file")}, cfg.Executor().Layers)
	assert.Equal(t, []string{"A", "B_*"}, cfg.Executor().AllowEnv)

	variables := append(named, "ATTUNE_CACHE=/of/variable", "ATTUNE_PACKS=/packs/of/variable", "ATTUNE_ALLOW_ENV=C")
	cfg, err = Load(Flags{}, defaults, variables)
	require.NoError(t, err)
	assert.Equal(t, "/of/variable", cfg.Cache)
	assert.Equal(t, "/packs/of/variable", cfg.Packs[0])
	assert.Equal(t, []string{"C"}, cfg.Executor().AllowEnv)

	cfg, err = Load(Flags{Cache: "/of/flag", Layers: []string{"/layer/of/flag"}, Shared: true}, defaults, variables)
	require.NoError(t, err)
	assert.Equal(t, "/of/flag", cfg.Cache)
	assert.Equal(t, []string{"/layer/of/flag"}, cfg.Executor().Layers)
	assert.True(t, cfg.Executor().Shared)
	assert.Contains(t, cfg.Settings, Setting{"shared", "true", "--shared"})
}

// The configuration that pages show has keys that there are.
func TestTheConfigurationOfPagesIsKnown(t *testing.T) {
	shown := 0
	for _, name := range []string{"worker.md", "secrets.md"} {
		for _, block := range doctest.Read(t, name).Blocks {
			if block.Language != "yaml" || block.Note != "" {
				continue
			}
			decoder := yaml.NewDecoder(strings.NewReader(block.Text))
			decoder.KnownFields(true)
			assert.NoError(t, decoder.Decode(&document{}), "%s:%d", name, block.Line)
			shown++
		}
	}
	assert.Equal(t, 2, shown)
}
