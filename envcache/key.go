package envcache

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
)

// keySchema salts every key: a change of the layout's or the key's meaning makes all keys new.
const keySchema = "attune.env/v1"

// keyBits of the digest name an environment; short, because a virtualenv's scripts carry the path in
// a first line of at most 127 bytes.
const keyBits = 128

// NewKey hashes the inputs, in name order. Two inputs of one name are a programming error and panic.
func NewKey(inputs []KeyInput) Key {
	sorted := slices.Clone(inputs)
	slices.SortFunc(sorted, func(a, b KeyInput) int { return cmp.Compare(a.Name, b.Name) })
	hash := sha256.New()
	field := func(text string) {
		// The length in front makes the encoding unambiguous whatever the text holds.
		_ = binary.Write(hash, binary.BigEndian, uint64(len(text)))
		hash.Write([]byte(text))
	}
	field(keySchema)
	for i, input := range sorted {
		if i > 0 && sorted[i-1].Name == input.Name {
			panic(fmt.Sprintf("envcache: key input %q is given twice", input.Name))
		}
		field(input.Name)
		field(input.Value)
	}
	return Key{ID: encode(hash.Sum(nil)[:keyBits/8]), Inputs: sorted}
}

// String is the key's ID.
func (k Key) String() string { return k.ID }

func encode(data []byte) string {
	return base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding).EncodeToString(data)
}

// resolvedDigest identifies what was installed.
func resolvedDigest(resolved []string) string {
	hash := sha256.New()
	for _, line := range resolved {
		fmt.Fprintln(hash, line)
	}
	return "sha256:" + hex.EncodeToString(hash.Sum(nil))
}
