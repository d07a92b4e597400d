package main

import (
	"fmt"
	"strings"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/pack"
)

// trustFile is the part of attune.yaml that says whom an operator trusts with what.
type trustFile struct {
	RequireSignature *bool       `yaml:"require_signature"` // run and install signed packs only
	TrustedKeys      []string    `yaml:"trusted_keys"`      // ed25519:<base64>, or PEM files relative to the configuration
	PackInstall      packLimits  `yaml:"pack_install"`      // zero: pack.DefaultLimits
	Secrets          secretsFile `yaml:"secrets"`
}

type packLimits struct {
	MaxFiles int   `yaml:"max_files"`
	MaxBytes size  `yaml:"max_bytes"`
	MaxRatio int64 `yaml:"max_ratio"`
	MaxDepth int   `yaml:"max_depth"`
}

type secretsFile struct {
	Providers executor.Providers `yaml:"providers"` // what requests from elsewhere may name
}

// trust is what comes of it.
type trust struct {
	requireSignature bool
	trustedKeys      []pack.PublicKey
	installLimits    pack.Limits
	providers        executor.Providers
}

// resolveTrust takes variables, then the file. A key that cannot be read is an error: it may be the one that counts.
func (c *config) resolveTrust(file trustFile) (err error) {
	if c.requireSignature, err = c.boolean("require_signature", "ATTUNE_REQUIRE_SIGNATURE", file.RequireSignature); err != nil {
		return err
	}
	keys := file.TrustedKeys
	for i, key := range keys {
		if !strings.HasPrefix(key, "ed25519:") {
			keys[i] = c.besideFile(key)
		}
	}
	c.text("trusted_keys", "ATTUNE_TRUSTED_KEYS", strings.Join(keys, " "), "")
	if list := c.env["ATTUNE_TRUSTED_KEYS"]; list != "" {
		keys = fields(list)
	}
	if c.trustedKeys, err = parseKeys(keys); err != nil {
		return err
	}
	limits := file.PackInstall
	c.installLimits = pack.Limits{Files: limits.MaxFiles, Bytes: int64(limits.MaxBytes), Ratio: limits.MaxRatio, Depth: limits.MaxDepth}
	c.providers = file.Secrets.Providers
	for kind := range c.providers {
		c.note("secrets.providers."+kind, "…", c.file)
	}
	return nil
}

// trustFlags say whose signatures count; they can only ask for more than the configuration does.
type trustFlags struct {
	signedFlag `embed:""`
	TrustedKey []string `placeholder:"KEY" sep:"none" help:"ed25519:<base64>, or a PEM file (repeatable). [$ATTUNE_TRUSTED_KEYS]"`
}

type signedFlag struct {
	RequireSignature bool `help:"Refuse packs without a signature by a trusted key. [$ATTUNE_REQUIRE_SIGNATURE]"`
}

// keys are those of the flags, else the configuration's.
func (f trustFlags) keys(cfg config) ([]pack.PublicKey, error) {
	if len(f.TrustedKey) == 0 {
		return cfg.trustedKeys, nil
	}
	return parseKeys(f.TrustedKey)
}

func parseKeys(texts []string) ([]pack.PublicKey, error) {
	var keys []pack.PublicKey
	for _, text := range texts {
		key, err := pack.ParsePublicKey(text)
		if err != nil {
			return nil, fmt.Errorf("trusted key: %w", err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}
