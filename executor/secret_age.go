package executor

import (
	"bufio"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"
)

// age decrypts a file in process (age-encryption.org/v1), armored or not.
func (r *resolver) age(name string) (document, error) {
	path, err := r.path(name)
	if err != nil {
		return document{}, err
	}
	f, err := os.Open(path)
	if err != nil {
		return document{}, err
	}
	defer func() { _ = f.Close() }()
	identities, from, err := r.ageIdentities()
	if err != nil {
		return document{}, err
	}
	buffered := bufio.NewReader(f)
	in := io.Reader(buffered)
	if start, _ := buffered.Peek(len(armor.Header)); string(start) == armor.Header {
		in = armor.NewReader(buffered)
	}
	plain, err := age.Decrypt(in, identities...)
	var mismatch *age.NoIdentityMatchError
	if errors.As(err, &mismatch) {
		return document{}, secretFailure("encrypt it for one of them as well, or name another file with --age-identity", "none of the age identities of %s opens it", from)
	}
	if err != nil { // its text may show the file's first line
		return document{}, secretFailure("`age --decrypt` reads it when it is whole", "is no file that age encrypted")
	}
	data, err := io.ReadAll(io.LimitReader(plain, secretMax+1))
	if err != nil {
		return document{}, secretFailure("`age --decrypt` reads it when it is whole", "was cut short or altered: %w", err)
	}
	return document{text: trimNewline(data), format: formatOf(path)}, nil
}

// ageIdentities come from --age-identity, ATTUNE_AGE_KEY_FILE, or where sops looks for them (SOPS_AGE_KEY, SOPS_AGE_KEY_FILE,
// sops/age/keys.txt in the user's configuration). from names the place.
func (r *resolver) ageIdentities() (identities []age.Identity, from string, err error) {
	const hint = "name a file of `age-keygen` with --age-identity, ATTUNE_AGE_KEY_FILE or SOPS_AGE_KEY_FILE"
	file := first(r.local.AgeIdentity, r.env["ATTUNE_AGE_KEY_FILE"], r.env["SOPS_AGE_KEY_FILE"])
	if text := r.env["SOPS_AGE_KEY"]; file == "" && text != "" {
		identities, err = age.ParseIdentities(strings.NewReader(text))
		from = "SOPS_AGE_KEY"
	} else {
		if file == "" {
			file = filepath.Join(first(r.env["XDG_CONFIG_HOME"], filepath.Join(r.env["HOME"], ".config")), "sops/age/keys.txt")
		}
		if from, err = r.path(file); err != nil {
			return nil, "", err
		}
		data, readErr := os.ReadFile(from)
		if readErr != nil {
			return nil, "", secretFailure(hint, "no age identity: %w", readErr)
		}
		identities, err = age.ParseIdentities(strings.NewReader(string(data)))
	}
	if err != nil { // its text may hold a line of the file
		return nil, "", secretFailure(hint, "%s holds no age identity (AGE-SECRET-KEY-…), or one that cannot be read", from)
	}
	return identities, from, nil
}
