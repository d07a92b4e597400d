package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/internal/doctest"
)

// TestDocsAreTrue runs the commands of each page and compares what they print.
func TestDocsAreTrue(t *testing.T) {
	for _, page := range doctest.AttuneRun {
		t.Run(page, func(t *testing.T) {
			t.Parallel()
			a := newAttune(t)
			packs, err := filepath.Abs("../../packs")
			require.NoError(t, err)
			a.write("show.sh", "read -r document\ntoken=${document#*:\\\"}\necho \"the token is ${token%\\\"*}\"\n")
			a.env = append(a.env, "ATTUNE_PACKS="+a.dir+"/packs:"+packs)
			setting := doctest.Setting{Dir: a.dir, Env: a.env}
			switch page {
			case "lambda.md":
				bootstrap(t, own)
			case "deploying.md":
				setting.Replace = release(t, a)
			}
			doctest.Run(t, doctest.Read(t, page), setting)
		})
	}
}

// release serves a release of attune-run, with the bootstrap script beside the page's commands.
func release(t *testing.T, a *attune) (replace []string) {
	t.Helper()
	script, err := os.ReadFile("../../scripts/attune-bootstrap.sh")
	require.NoError(t, err)
	a.write("attune-bootstrap.sh", string(script))
	name := "attune-run-linux-" + runtime.GOARCH
	program, err := os.ReadFile(programPath(t))
	require.NoError(t, err)
	sums := fmt.Sprintf("%x  %s\n", sha256.Sum256(program), name)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), program, 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "SHA256SUMS"), []byte(sums), 0o644))
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(server.Close)
	sum := sha256.Sum256([]byte(sums))
	return []string{"https://files.example.com/attune/v1.2.3", server.URL, strings.Repeat("0123456789abcdef", 4), hex.EncodeToString(sum[:])}
}

// What pages show and cannot run names commands and flags that there are.
func TestDocsNameWhatThereIs(t *testing.T) {
	parser, err := kong.New(&cli{}, append(grammar(nil), kong.Name("attune-run"))...)
	require.NoError(t, err)
	assert.Greater(t, doctest.CheckPages(t, parser.Model, "attune", "attune-run"), 50)
}

// Every variable that attune-lambda --help names is explained, and every flag that pages name is there.
func TestTheVariablesOfAFunctionAreDocumented(t *testing.T) {
	help, err := exec.Command(bootstrap(t, own), "--help").Output()
	require.NoError(t, err)
	page := doctest.Read(t, "lambda.md")
	names := regexp.MustCompile(`\b(ATTUNE|AWS)_[A-Z_]*[A-Z]\b`).FindAllString(string(help), -1)
	require.NotEmpty(t, names)
	for _, name := range names {
		assert.Contains(t, page.Text, "`"+name+"`")
	}
	for _, page := range doctest.All(t) {
		for _, flag := range regexp.MustCompile(`attune-lambda (--[a-z-]+)`).FindAllStringSubmatch(page.Text, -1) {
			assert.Contains(t, string(help), "\n  "+flag[1], "docs/%s", page.Name)
		}
	}
}
