package pack

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
)

// SignatureFile lies beside pack.yaml. The digest leaves it out.
const SignatureFile = "pack.sig"

// signatureSchema versions SignatureFile, and what is signed: this text, a space and the digest.
const signatureSchema = "attune.pack-signature/v1"

// PublicKey checks signatures (Ed25519, RFC 8032).
type PublicKey ed25519.PublicKey

const keyPrefix = "ed25519:"

// String is "ed25519:<base64>", which ParsePublicKey reads.
func (k PublicKey) String() string { return keyPrefix + base64.StdEncoding.EncodeToString(k) }

// ParsePublicKey reads "ed25519:<base64>", or the PEM file of that name (SubjectPublicKeyInfo, RFC 8410, as openssl writes it).
func ParsePublicKey(text string) (PublicKey, error) {
	if encoded, ok := strings.CutPrefix(text, keyPrefix); ok {
		key, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil || len(key) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("public key %s is not %s and the base64 of %d bytes", text, keyPrefix, ed25519.PublicKeySize)
		}
		return key, nil
	}
	der, err := readPEM(text, "PUBLIC KEY")
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	key, ok := parsed.(ed25519.PublicKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("%s is no Ed25519 key", text)
	}
	return PublicKey(key), nil
}

// ReadPrivateKey reads a PEM file (PKCS #8, RFC 8410): GenerateKey's, or one of `openssl genpkey -algorithm ed25519`.
func ReadPrivateKey(file string) (ed25519.PrivateKey, error) {
	der, err := readPEM(file, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	key, ok := parsed.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("%s is no Ed25519 key", file)
	}
	return key, nil
}

func readPEM(file, kind string) ([]byte, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("%s holds no PEM block %s", file, kind)
	}
	return block.Bytes, nil
}

// GenerateKey makes a key and writes it to file, for its owner only, and the public one to file.pub. A file that is there is
// not touched.
func GenerateKey(file string) (PublicKey, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	open, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	if err := writePEM(file, "PRIVATE KEY", secret, 0o600); err != nil {
		return nil, err
	}
	return PublicKey(public), writePEM(file+".pub", "PUBLIC KEY", open, 0o644)
}

func writePEM(file, kind string, der []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	return errors.Join(pem.Encode(f, &pem.Block{Type: kind, Bytes: der}), f.Close())
}

// signatures is what SignatureFile holds.
type signatures struct {
	Schema     string      `json:"schema"`
	Digest     string      `json:"digest"` // informative: what was signed is computed anew
	Signatures []signature `json:"signatures"`
}

type signature struct {
	Key       string `json:"key"`       // PublicKey
	Signature string `json:"signature"` // base64
}

func signed(digest string) []byte { return []byte(signatureSchema + " " + digest) }

// Sign writes the signature file of the pack as it is. Signatures by other keys stay as long as they are of the same digest.
func (p *Pack) Sign(key ed25519.PrivateKey) (digest string, err error) {
	if digest, err = p.digest(true); err != nil {
		return "", err
	}
	public, _ := key.Public().(ed25519.PublicKey)
	name := PublicKey(public).String()
	all, err := p.signatures()
	if err != nil || all.Digest != digest {
		all = signatures{}
	}
	all.Schema, all.Digest = signatureSchema, digest
	all.Signatures = slices.DeleteFunc(all.Signatures, func(s signature) bool { return s.Key == name })
	all.Signatures = append(all.Signatures, signature{name, base64.StdEncoding.EncodeToString(ed25519.Sign(key, signed(digest)))})
	data, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return "", err
	}
	return digest, renameio.WriteFile(filepath.Join(p.Dir, SignatureFile), append(data, '\n'), 0o644)
}

func (p *Pack) signatures() (signatures, error) {
	var all signatures
	data, err := os.ReadFile(filepath.Join(p.Dir, SignatureFile))
	if err != nil {
		return all, err
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	if err := decoder.Decode(&all); err != nil || all.Schema != signatureSchema {
		return all, fmt.Errorf("%s is no %s", SignatureFile, signatureSchema)
	}
	return all, nil
}

// SignatureError says why a pack's signature does not hold.
type SignatureError struct{ Ref, Dir, Reason string }

// Error names the pack and its directory.
func (e *SignatureError) Error() string {
	if e.Dir == "" { // not installed yet
		return fmt.Sprintf("signature of pack %s: %s", e.Ref, e.Reason)
	}
	return fmt.Sprintf("signature of pack %s (%s): %s", e.Ref, e.Dir, e.Reason)
}

// Verified is a pack's digest and the key that vouches for it.
type Verified struct {
	Digest string
	Key    PublicKey
}

// Verify wants a signature of what the pack holds now, by one of the trusted keys, and nothing in the pack that its digest leaves out.
// Anything else is a *SignatureError.
func (p *Pack) Verify(trusted []PublicKey) (Verified, error) {
	refuse := func(format string, args ...any) (Verified, error) {
		return Verified{}, &SignatureError{p.Ref, p.Dir, fmt.Sprintf(format, args...)}
	}
	all, err := p.signatures()
	switch {
	case len(trusted) == 0:
		return refuse("no key is trusted")
	case errors.Is(err, fs.ErrNotExist):
		return refuse("there is none")
	case err != nil:
		return refuse("%v", err)
	}
	digest, err := p.digest(true)
	if err != nil {
		return refuse("%v", err)
	}
	known := false
	for _, s := range all.Signatures {
		for _, key := range trusted {
			if s.Key != key.String() {
				continue
			}
			known = true
			if raw, err := base64.StdEncoding.DecodeString(s.Signature); err == nil && ed25519.Verify(ed25519.PublicKey(key), signed(digest), raw) {
				return Verified{digest, key}, nil
			}
		}
	}
	switch {
	case !known:
		return refuse("it is not by a trusted key")
	case all.Digest != digest:
		return refuse("the pack was altered after it was signed: %s then, %s now", all.Digest, digest)
	}
	return refuse("it is false")
}
