package config

import (
	"fmt"
	"strings"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/pack"
)

// trust is the part of attune.yaml that says whom an operator trusts with what.
type trust struct {
	RequireSignature *bool       `yaml:"require_signature"` // run and install signed packs only; false unless said
	TrustedKeys      []string    `yaml:"trusted_keys"`      // whose signatures count: ed25519:<base64>, or PEM files relative to the configuration
	PackInstall      packLimits  `yaml:"pack_install"`      // bounds of pack install
	Secrets          secretsFile `yaml:"secrets"`           // what requests from elsewhere may name
}

type packLimits struct {
	MaxFiles int   `yaml:"max_files"` // files and directories; 10000 unless said
	MaxBytes Size  `yaml:"max_bytes"` // unpacked bytes; 512M unless said
	MaxRatio int64 `yaml:"max_ratio"` // unpacked to packed size, beyond 8 MiB; 100 unless said
	MaxDepth int   `yaml:"max_depth"` // parts of a path; 32 unless said
}

type secretsFile struct {
	Providers executor.Providers `yaml:"providers"` // kind of reference → its bounds: prefixes, dir or command
}

// resolveTrust takes variables, then the file. A key that cannot be read is an error: it may be the one that counts.
func (c *Config) resolveTrust(file trust) (err error) {
	if c.RequireSignature, err = c.boolean("require_signature", "ATTUNE_REQUIRE_SIGNATURE", file.RequireSignature); err != nil {
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
	if c.TrustedKeys, err = ParseKeys(keys); err != nil {
		return err
	}
	limits := file.PackInstall
	c.InstallLimits = pack.Limits{Files: limits.MaxFiles, Bytes: int64(limits.MaxBytes), Ratio: limits.MaxRatio, Depth: limits.MaxDepth}
	c.providers = file.Secrets.Providers
	for kind := range c.providers {
		c.note("secrets.providers."+kind, "…", c.File)
	}
	return nil
}

// ParseKeys reads trusted keys: ed25519:<base64>, or PEM files.
func ParseKeys(texts []string) ([]pack.PublicKey, error) {
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
