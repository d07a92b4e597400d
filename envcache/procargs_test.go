//go:build darwin || attune_portable

package envcache

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestWordsOfAProcess(t *testing.T) {
	count := func(n uint32) string { return string(binary.NativeEndian.AppendUint32(nil, n)) }
	for image, want := range map[string][]string{
		count(2) + "/envs/a/bin/python\x00\x00\x00\x00\x00python\x00\x00HOME=/envs/b\x00": {"/envs/a/bin/python", "python", ""},
		count(1) + "/bin/sh\x00sh":         {"/bin/sh", "sh"},
		count(9) + "/bin/sh\x00\x00sh\x00": {"/bin/sh", "sh"},
		count(0) + "/bin/sh\x00A=1\x00":    {"/bin/sh"},
		count(1 << 31):                     {""},
		"\x01":                             nil,
		"":                                 nil,
	} {
		assert.Equal(t, want, words([]byte(image)), "%q", image)
	}
}
