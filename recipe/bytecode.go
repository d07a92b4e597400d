package recipe

import (
	"bytes"
	"encoding/binary"
)

// pycHeader is the length of what stands before the code in a compiled Python module: magic number, flags, and 8 bytes that
// depend on the flags (PEP 552; the same since Python 3.7).
const pycHeader = 16

// unchecked is the flag of bytecode that Python takes without looking at its source: hash-based, and not checked.
const unchecked = 0b01

// SealBytecode makes the compiled Python module in data one that needs no source of the time it was compiled from, for a copy that
// does not keep times: Python would compile it again in every process. Whoever makes the copy sees to it that the two stay together.
// The length stays what it was. Anything else is returned as it is.
func SealBytecode(data []byte) []byte {
	if len(data) < pycHeader || data[2] != '\r' || data[3] != '\n' || binary.LittleEndian.Uint32(data[4:]) != 0 {
		return data
	}
	sealed := bytes.Clone(data)
	binary.LittleEndian.PutUint32(sealed[4:], unchecked)
	clear(sealed[8:pycHeader]) // the hash, which nobody looks at
	return sealed
}
