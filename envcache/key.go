package envcache

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// KeyInput is one named, printable input of a key. Values hold no credentials;
// long contents come as "sha256:<hex>".
type KeyInput struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	// How marks what says how the environment is made, with which installer from which index, and not what is asked for. A
	// layer is asked for the rest alone: what it holds was decided when it was filled, often on a machine with more tools.
	How bool `json:"how,omitempty"`
}

// Key is everything that decides what gets built. Make one with NewKey.
type Key struct {
	inputs    []KeyInput // in name order
	pathBound bool
}

// keySchema salts every ID: a change of the layout's or the key's meaning makes all of them new.
const keySchema = "attune.env/v2"

// keyBits of the digest name an environment; short, because a virtualenv's scripts carry the path in
// a first line of at most 127 bytes.
const keyBits = 128

// LibCInput names the C library an environment was built for.
const LibCInput = "libc"

// RecipeInput names what makes the environment: "virtualenv/1".
const RecipeInput = "recipe"

// rootInput is the input that a path-bound key has beside its own.
const rootInput = "root"

// NewKey makes a key of its inputs, in any order. A path-bound environment's files carry their own path, so the root of
// the store that holds it is an input as well. Two inputs of one name, or one named "root", are a programming error and panic.
func NewKey(inputs []KeyInput, pathBound bool) Key {
	sorted := slices.Clone(inputs)
	slices.SortFunc(sorted, func(a, b KeyInput) int { return cmp.Compare(a.Name, b.Name) })
	for i, input := range sorted {
		if input.Name == rootInput || i > 0 && sorted[i-1].Name == input.Name {
			panic(fmt.Sprintf("envcache: key input %q is given twice", input.Name))
		}
	}
	return Key{inputs: sorted, pathBound: pathBound}
}

// PathBound tells whether the environment is of use only in the store it was built in.
func (k Key) PathBound() bool { return k.pathBound }

// Inputs are what decides the ID in the store with the given root, in name order.
func (k Key) Inputs(root string) []KeyInput {
	if !k.pathBound {
		return k.inputs
	}
	at, _ := slices.BinarySearchFunc(k.inputs, rootInput, func(i KeyInput, name string) int { return cmp.Compare(i.Name, name) })
	return slices.Insert(slices.Clone(k.inputs), at, KeyInput{Name: rootInput, Value: root})
}

// ID names the environment in the store with the given root: 128 bits of the SHA-256 over the inputs, in lower-case base32
// (26 characters).
func (k Key) ID(root string) string { return idOf(k.Inputs(root)) }

// idOf names what has these inputs, in name order.
func idOf(inputs []KeyInput) string {
	data := make([]byte, 0, 2048)
	field := func(text string) {
		// The length in front makes the encoding unambiguous whatever the text holds.
		data = append(binary.BigEndian.AppendUint64(data, uint64(len(text))), text...)
	}
	field(keySchema)
	for _, input := range inputs {
		field(input.Name)
		field(input.Value)
	}
	sum := sha256.Sum256(data)
	return encode(sum[:keyBits/8])
}

func valueOf(inputs []KeyInput, name string) string {
	for _, input := range inputs {
		if input.Name == name {
			return input.Value
		}
	}
	return ""
}

// askedOf names what is asked for, however it is made.
func askedOf(inputs []KeyInput) string {
	return idOf(slices.DeleteFunc(slices.Clone(inputs), func(i KeyInput) bool { return i.How }))
}

// idAlphabet are the characters of IDs and generations.
const idAlphabet = "abcdefghijklmnopqrstuvwxyz234567"

// isID tells an ID from what else may lie about in a directory.
func isID(name string) bool {
	return len(name) == (keyBits+4)/5 && strings.Trim(name, idAlphabet) == ""
}

var idEncoding = base32.NewEncoding(idAlphabet).WithPadding(base32.NoPadding)

func encode(data []byte) string { return idEncoding.EncodeToString(data) }

// resolvedDigest identifies what was installed.
func resolvedDigest(resolved []string) string {
	hash := sha256.New()
	for _, line := range resolved {
		fmt.Fprintln(hash, line)
	}
	return "sha256:" + hex.EncodeToString(hash.Sum(nil))
}
