package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestASecretIsNowhereElse looks for a secret everywhere while its action runs, and in everything that is left afterwards.
func TestASecretIsNowhereElse(t *testing.T) {
	const secret = `correct-"horse"/battery+staple`
	a := newAttune(t)
	for name, text := range map[string]string{
		"packs/p/pack.yaml":      "ref: p\nversion: 1.0.0\n",
		"packs/p/actions/s.yaml": "ref: p.s\nentry_point: s.sh\noutput_format: json\nparameters: {token: {type: string, secret: true}, gate: {type: string}}\n",
		"packs/p/actions/f.yaml": "ref: p.f\nentry_point: f.sh\nparameter_delivery: file\nparameters: {token: {type: string, secret: true}, gate: {type: string}}\n",
		"packs/p/actions/s.sh":   "d=$(cat)\necho \"got $d\" >&2\necho $$ running\nread x < \"${GATE}\"\nprintf '%s' \"$d\" | base64 >&2\necho; echo \"$d\"\n",
		"packs/p/actions/f.sh":   "stat -c %a \"$ATTUNE_PARAMETER_FILE\"\necho $$ running\nread x < \"${GATE}\"\ncat \"$ATTUNE_PARAMETER_FILE\"\n",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(a.dir, name)), 0o755))
		a.write(name, text)
	}
	keep := t.TempDir() // the secret's own file lies outside of what is searched
	require.NoError(t, os.WriteFile(keep+"/secret", []byte(secret+"\n"), 0o600))
	for _, action := range []string{"p.s", "p.f"} {
		gate := filepath.Join(keep, action)
		require.NoError(t, syscall.Mkfifo(gate, 0o600))
		cmd := a.command("run", "--packs", a.dir+"/packs", "--secret", "token=file:"+keep+"/secret", "--env", "GATE="+gate,
			"--log-dir", a.dir+"/logs", "--result-file", a.dir+"/result.json", action)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		var seen strings.Builder
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			seen.WriteString(lines.Text() + "\n")
			if strings.HasSuffix(lines.Text(), "running") {
				break
			}
		}
		searchProcesses(t, secret)
		limits, err := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/limits")
		if os.Geteuid() == 0 {
			require.NoError(t, err)
			assert.Regexp(t, `Max core file size +0 `, string(limits))
		}
		searchFiles(t, a.dir, secret, action == "p.f")
		require.NoError(t, os.WriteFile(gate, []byte("go\n"), 0o600))
		for lines.Scan() {
			seen.WriteString(lines.Text() + "\n")
		}
		require.NoError(t, cmd.Wait(), stderr.String())
		assert.Contains(t, seen.String()+stderr.String(), "***")
		output := seen.String() + stderr.String()
		assertClean(t, "output", []byte(output), secret)
		for _, word := range regexp.MustCompile(`[A-Za-z0-9+/]{8,}`).FindAllString(output, -1) {
			if decoded, err := base64.RawStdEncoding.DecodeString(word); err == nil {
				assertClean(t, "base64 in the output", decoded, secret)
			}
		}
		searchFiles(t, a.dir, secret, false)
	}
}

// assertClean looks for the secret as it is, and for its distinct parts.
func assertClean(t *testing.T, what string, data []byte, secret string) {
	t.Helper()
	for _, part := range []string{secret, "horse", "battery", "staple"} {
		assert.False(t, bytes.Contains(data, []byte(part)), "%s shows %s", what, part)
	}
}

func searchProcesses(t *testing.T, secret string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/*")
	require.NoError(t, err)
	found := 0
	for _, file := range files {
		if base := filepath.Base(file); base != "cmdline" && base != "environ" {
			continue
		}
		if data, err := os.ReadFile(file); err == nil { // others' may not be read, or are gone
			found++
			assert.False(t, bytes.Contains(data, []byte(secret)), "%s shows it", file)
		}
	}
	assert.Positive(t, found)
}

// searchFiles looks at all files below dir; the parameter file alone may hold it, for its owner only.
func searchFiles(t *testing.T, dir, secret string, parameters bool) {
	t.Helper()
	held := 0
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		if parameters && filepath.Base(path) == "parameters" {
			held++
			info, err := entry.Info()
			require.NoError(t, err)
			assert.Equal(t, fs.FileMode(0o400), info.Mode().Perm())
			return nil
		}
		assertClean(t, path, data, secret)
		return nil
	}))
	if parameters {
		assert.Equal(t, 1, held, "the parameter file")
	}
}
