package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/attune-run/attune/proc"
)

// programs are what this very binary can be started as.
var programs = map[string]func(){}

// TestMain lets the scripts start this very binary as attune-run.
func TestMain(m *testing.M) {
	self := func() { os.Exit(run(context.Background(), os.Args, stdio{os.Stdin, os.Stdout, os.Stderr})) }
	programs["attune"], programs["attune-run"] = self, self
	testscript.Main(m, programs)
}

func TestScripts(t *testing.T) {
	packs, err := filepath.Abs("../../packs")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", filepath.Join(env.WorkDir, "home"))
			env.Setenv("ATTUNE_CACHE", filepath.Join(env.WorkDir, "cache"))
			env.Setenv("ATTUNE_PACKS", filepath.Join(env.WorkDir, "packs")+":"+packs)
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			env.Setenv("TMPDIR", env.WorkDir)
			// What installers need to reach their indexes from where this test runs.
			for _, name := range []string{"PIP_CERT", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "GOPROXY", "GOSUMDB", "GONOSUMDB", "PIP_INDEX_URL",
				"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "npm_config_registry"} {
				if value := os.Getenv(name); value != "" {
					env.Setenv(name, value)
				}
			}
			return nil
		},
		Condition: func(name string) (bool, error) { // [isolates]: this system is Linux; [strict]: this machine has all that level promises
			return name == "isolates" && proc.Isolates || name == "strict" && len(proc.Diagnose().Missing(proc.Strict)) == 0, nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"exit": exitStatus, "interrupt": interrupt},
	})
}
