//go:build darwin || attune_portable

package envcache

import (
	"bytes"
	"encoding/binary"
)

// words are the path of a process's program and its arguments, from what the sysctl kern.procargs2 gives: the number of arguments, the path,
// zeros up to the next word of memory, the arguments, and then the environment.
func words(image []byte) []string {
	if len(image) < 4 {
		return nil
	}
	count := int(binary.NativeEndian.Uint32(image))
	path, rest, _ := bytes.Cut(image[4:], []byte{0})
	all := []string{string(path)}
	rest = bytes.TrimLeft(rest, "\x00")
	for len(all) <= count && len(rest) > 0 {
		var word []byte
		word, rest, _ = bytes.Cut(rest, []byte{0})
		all = append(all, string(word))
	}
	return all
}
