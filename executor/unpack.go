package executor

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/attune-run/attune/pack"
)

// Unpack makes dir a directory that holds the one pinned pack of a .tar.gz bundle, valid and with that digest, or leaves nothing
// there. A dir that is there already is left as it is: two may unpack at once.
func (s *Service) Unpack(bundle io.Reader, pin PackPin, dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	stage, err := os.MkdirTemp(filepath.Dir(dir), ".unpack-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(stage) }()
	if err := s.unpack(bundle, pin, stage); err != nil {
		return fmt.Errorf("pack %s %s: %w", pin.Ref, pin.Version, err)
	}
	err = os.Rename(filepath.Join(stage, "packs"), dir)
	if _, there := os.Stat(dir); there == nil {
		return nil
	}
	return err
}

func (s *Service) unpack(bundle io.Reader, pin PackPin, stage string) error {
	file := filepath.Join(stage, "bundle.tar.gz")
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, bundle)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	catalog, err := s.catalog()
	if err != nil {
		return err
	}
	p, err := pack.Installer{
		Into: filepath.Join(stage, "packs"), Versioned: true,
		Validate:         func(p *pack.Pack) []pack.Problem { return pack.Validate(p, s.finder, catalog) },
		RequireSignature: s.cfg.RequireSignature, TrustedKeys: s.cfg.TrustedKeys,
	}.Archive(file)
	if err != nil {
		return err
	}
	digest, err := p.Digest()
	if err != nil {
		return err
	}
	if got := (PackPin{p.Ref, p.Version, digest}); got != pin {
		return &PinError{Want: pin, Got: got}
	}
	return nil
}
