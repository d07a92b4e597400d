package main

import (
	"github.com/attune-run/attune/internal/config"
	"github.com/attune-run/attune/pack"
)

// trustFlags say whose signatures count; they can only ask for more than the configuration does.
type trustFlags struct {
	signedFlag `embed:""`
	TrustedKey []string `placeholder:"KEY" sep:"none" help:"ed25519:<base64>, or a PEM file (repeatable). [$ATTUNE_TRUSTED_KEYS]"`
}

type signedFlag struct {
	RequireSignature bool `help:"Refuse packs without a signature by a trusted key. [$ATTUNE_REQUIRE_SIGNATURE]"`
}

// keys are those of the flags, else the configuration's.
func (f trustFlags) keys(cfg config.Config) ([]pack.PublicKey, error) {
	if len(f.TrustedKey) == 0 {
		return cfg.TrustedKeys, nil
	}
	return config.ParseKeys(f.TrustedKey)
}
