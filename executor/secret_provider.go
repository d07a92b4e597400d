package executor

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/attune-run/attune/internal/nearest"
)

// Providers are the kinds of secret references that requests from elsewhere may use, each with its bounds. Nil allows none: no
// submitter reads a worker's files or variables unless its operator says so. A local command line is not bound.
type Providers map[string]Provider

// Provider bounds one kind: env, vault, aws-sm and aws-ssm by Prefixes, file by Dir, exec by Command. What is not a kind's own stays
// empty.
type Provider struct {
	// Prefixes begin the names that may be asked for: "DEPLOY_", "secret/ci/", "/prod/". "*" stands for all names of vault, aws-sm and
	// aws-ssm.
	Prefixes []string `yaml:"prefixes"`
	// Dir holds the files that may be read, also through links.
	Dir string `yaml:"dir"`
	// Command is run with the reference's name as its last argument and prints the secret. Its first word is an absolute path.
	Command []string `yaml:"command"`
}

// check refuses providers that do not bound what they give.
func (p Providers) check() error {
	for _, kind := range sortedKeys(p) {
		if err := p[kind].check(kind); err != nil {
			return fmt.Errorf("secrets.providers.%s: %w", kind, err)
		}
	}
	return nil
}

func (p Provider) check(kind string) error {
	switch kind {
	case refEnv, refVault, refSM, refSSM:
		if len(p.Prefixes) == 0 || p.Dir != "" || p.Command != nil {
			return fmt.Errorf("it takes prefixes, and nothing else")
		}
		if slices.Contains(p.Prefixes, "") || kind == refEnv && slices.Contains(p.Prefixes, "*") {
			return fmt.Errorf("a prefix must not match every name")
		}
	case refFile:
		if !filepath.IsAbs(p.Dir) || p.Prefixes != nil || p.Command != nil {
			return fmt.Errorf("it takes dir, an absolute path, and nothing else")
		}
	case refExec:
		if len(p.Command) == 0 || !filepath.IsAbs(p.Command[0]) || p.Prefixes != nil || p.Dir != "" {
			return fmt.Errorf("it takes command, a list that begins with an absolute path, and nothing else")
		}
	default:
		known := []string{refEnv, refFile, refExec, refVault, refSM, refSSM}
		if near := nearest.Name(kind, known); near != "" {
			return fmt.Errorf("there is no such provider; did you mean %s?", near)
		}
		return fmt.Errorf("there is no such provider; there are %s", strings.Join(known, ", "))
	}
	return nil
}

// permit refuses what the operator did not name.
func (r *resolver) permit(ref reference) error {
	if !r.remote {
		return nil
	}
	p, ok := r.cfg.Providers[ref.kind]
	if !ok {
		return secretFailure("whoever operates this allows kinds of references with secrets.providers in the configuration",
			"no provider for %s: references is configured here", ref.kind)
	}
	if p.Prefixes == nil {
		return nil // file and exec are bounded where they are read
	}
	name := ref.name
	if ref.kind == refVault {
		name = strings.TrimPrefix(name, "/")
	}
	if !slices.ContainsFunc(p.Prefixes, func(prefix string) bool { return prefix == "*" || strings.HasPrefix(name, prefix) }) {
		return secretFailure("whoever operates this widens it with secrets.providers."+ref.kind+".prefixes in the configuration",
			"lies outside what may be asked for here")
	}
	return nil
}
