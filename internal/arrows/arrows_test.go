package arrows

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const module = "github.com/attune-run/attune/"

// allowed are the arrows between packages of the module; internal packages are free for all.
var allowed = map[string][]string{
	"cmd/attune-run":    {"executor", "pack", "runtime", "detect", "recipe", "envcache", "proc"},
	"cmd/attune-lambda": {"executor", "pack", "runtime", "detect", "recipe", "envcache", "proc"},
	"cmd/attune-worker": {"executor", "pack", "runtime", "detect", "recipe", "envcache", "proc", "queue", "queue/natsq", "worker"},
	"executor":          {"pack", "runtime", "detect", "recipe", "envcache", "proc"},
	"recipe":            {"runtime", "envcache", "proc"},
	"pack":              {"runtime"},
	"detect":            {"runtime", "proc"},
	"runtime":           {},
	"envcache":          {},
	"proc":              {},
	"queue":             {},
	"queue/natsq":       {"queue"},
	"queue/queuetest":   {"queue"},
	"queue/schemas":     {"queue"},
	"worker":            {"executor", "queue", "pack", "runtime"},
}

func TestImportsFollowTheArrows(t *testing.T) {
	for _, line := range list(t, "-f", `{{.ImportPath}} {{join .Imports " "}}`, module+"...") {
		words := strings.Fields(line)
		from := strings.TrimPrefix(words[0], module)
		if strings.HasPrefix(from, "internal/") || strings.HasPrefix(from, "scripts/") || from == "deploy" {
			continue
		}
		targets, known := allowed[from]
		assert.True(t, known, "package %s has no arrows; add it here", from)
		for _, imported := range words[1:] {
			to, own := strings.CutPrefix(imported, module)
			if own && !strings.HasPrefix(to, "internal/") {
				assert.True(t, slices.Contains(targets, to), "%s must not import %s", from, to)
			}
		}
	}
}

// Start-up is part of every execution: what is linked in is paid for.
func TestOneShotBinariesStaySmall(t *testing.T) {
	for _, target := range [][2]string{{"linux", "cmd/attune-run"}, {"darwin", "cmd/attune-run"}, {"linux", "cmd/attune-lambda"}} {
		command := target[1]
		t.Setenv("GOOS", target[0])
		for _, path := range list(t, "-deps", module+command) {
			for _, heavy := range []string{"nats-io", "protobuf", "opentelemetry", "prometheus", "grpc"} {
				assert.NotContains(t, path, heavy)
			}
			if command == "cmd/attune-run" {
				assert.NotContains(t, path, "github.com/aws/")
			}
		}
	}
}

func list(t *testing.T, args ...string) []string {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list"}, args...)...).Output()
	require.NoError(t, err)
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}
