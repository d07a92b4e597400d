package redact

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestString(t *testing.T) {
	for _, test := range []struct {
		secrets    []string
		text, want string
	}{
		{nil, "plain", "plain"},
		{[]string{"hunter22"}, "pw=hunter22!", "pw=***!"},
		{[]string{"hunter22"}, "hunter2", "hunter2"},
		{[]string{"abcdef", "defghi"}, "xabcdefghiy", "x***y"},
		{[]string{"abcdef", "abcdefgh"}, "abcdefgh abcdef", "*** ***"},
		{[]string{"aaaaaa"}, "aaaaaaaaaaaaab", "***b"},
		{[]string{"bcdefg", "abcdefgh"}, "abcdefgx", "a***x"},
		{[]string{"line one\nline two\n"}, "see line two.", "see ***."},
		{[]string{"short"}, "short", "short"},
		{[]string{"trailing\n"}, "[trailing]", "[***]"},
		{[]string{"ababac"}, "abababac", "ab***"},
	} {
		assert.Equal(t, test.want, New(test.secrets...).String(test.text), "%q in %q", test.secrets, test.text)
	}
	var none *Set
	assert.True(t, none.Empty())
	assert.Equal(t, "x", none.String("x"))
	assert.Equal(t, 1, New("short").Unmasked())
}

func TestInteractiveOutputIsNotHeldBack(t *testing.T) {
	var out bytes.Buffer
	w := New("s3cretvalue").Writer(&out)
	_, err := io.WriteString(w, "Password: ")
	require.NoError(t, err)
	assert.Equal(t, "Password: ", out.String())
	_, _ = io.WriteString(w, "s3c")
	assert.Equal(t, "Password: ", out.String())
	_, _ = io.WriteString(w, "ond")
	assert.Equal(t, "Password: s3cond", out.String())
}

// FuzzSplits holds every split of the writes against masking the whole text at once, and looks for survivors.
func FuzzSplits(f *testing.F) {
	f.Add("secret-a", "ecret-ab", "xsecret-abysecret-a", uint(3))
	f.Add("aaaaaaab", "aaaaaa", strings.Repeat("a", 30)+"b", uint(1))
	f.Fuzz(func(t *testing.T, a, b, text string, step uint) {
		set := New(a, b)
		whole := set.String(text)
		var out bytes.Buffer
		w := set.Writer(&out)
		for rest, n := text, 0; rest != ""; n++ {
			k := min(len(rest), 1+int((step+uint(n)*7)%5))
			_, _ = io.WriteString(w, rest[:k])
			rest = rest[k:]
		}
		require.NoError(t, w.Close())
		require.Equal(t, whole, out.String())
		if strings.ContainsAny(a+b, "*") {
			return // a needle may be made of masks
		}
		for _, needle := range set.needles {
			require.NotContains(t, out.String(), needle)
		}
	})
}

func secrets(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("%c%cs3cret-%d-value", 'A'+i%26, 'a'+i%23, i*7919)
	}
	return all
}

func benchmarkWriter(b *testing.B, set *Set, block []byte) {
	w := set.Writer(io.Discard)
	b.SetBytes(int64(len(block)))
	for b.Loop() {
		_, _ = w.Write(block)
	}
}

func BenchmarkNoSecrets(b *testing.B) {
	benchmarkWriter(b, New(), bytes.Repeat([]byte("an ordinary line of a log\n"), 1260))
}

func Benchmark100Secrets(b *testing.B) {
	benchmarkWriter(b, New(secrets(100)...), bytes.Repeat([]byte("An Ordinary line of a log\n"), 1260))
}

func BenchmarkNeverQuadratic(b *testing.B) {
	benchmarkWriter(b, New(strings.Repeat("a", 4096)+"b"), bytes.Repeat([]byte("a"), 1<<20))
}
