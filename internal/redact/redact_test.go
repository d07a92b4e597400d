package redact

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"net/url"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"unicode/utf16"

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
		{[]string{"bcdefg", "abcdefgh"}, "xabcdefghi", "x***i"},
		{[]string{"abcdef"}, "abcdefabcdef", "***"},
	} {
		assert.Equal(t, test.want, New(test.secrets...).String(test.text), "%q in %q", test.secrets, test.text)
	}
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

// reference masks by looking for each needle at each place.
func reference(set *Set, text string) string {
	secret := make([]bool, len(text))
	for _, needle := range set.needles {
		for i := 0; i+len(needle) <= len(text); i++ {
			if text[i:i+len(needle)] == needle {
				for j := range len(needle) {
					secret[i+j] = true
				}
			}
		}
	}
	var b strings.Builder
	for i := range len(text) {
		switch {
		case !secret[i]:
			b.WriteByte(text[i])
		case i == 0 || !secret[i-1]:
			b.WriteString(Mask)
		}
	}
	return b.String()
}

// inPieces writes text in pieces and closes.
func inPieces(t *testing.T, set *Set, text string, piece func(n int) int) string {
	var out bytes.Buffer
	w := set.Writer(&out)
	for rest, n := text, 0; rest != ""; n++ {
		k := min(len(rest), max(piece(n), 1))
		_, err := io.WriteString(w, rest[:k])
		require.NoError(t, err)
		rest = rest[k:]
		held := len(w.held) - w.front
		require.LessOrEqual(t, held, max(w.auto.depth(w.state), 0), "no more is held back than may begin a secret")
	}
	require.NoError(t, w.Close())
	return out.String()
}

// FuzzSplits: whatever the splits, what comes out is what masking every occurrence gives.
func FuzzSplits(f *testing.F) {
	f.Add("secret-a", "ecret-ab", "xsecret-abysecret-a", uint(3))
	f.Add("aaaaaaab", "aaaaaa", strings.Repeat("a", 30)+"b", uint(1))
	f.Add("bcdefg", "abcdefgh", "xabcdefghabcdefgbcdefghi", uint(2))
	f.Add("p@ss w/rd\"", "line one\nline two\r\n", "p%40ss+w%2Frd%22 line two p@ss w/rd\\\" line one", uint(5))
	f.Fuzz(func(t *testing.T, a, b, text string, step uint) {
		set := New(a, b)
		if set.Empty() {
			return
		}
		want := reference(set, text)
		require.Equal(t, want, set.String(text))
		// The end of the text is the end of a stream: a mark behind it keeps a beginning of a secret there from being masked.
		got := inPieces(t, set, text+"\x00\x01\x02", func(n int) int { return 1 + int((step+uint(n)*7)%5) })
		require.Equal(t, reference(set, text+"\x00\x01\x02"), got)
	})
}

// TestNoSecretSurvives is FuzzSplits with secrets made to overlap, few letters and fixed seeds, all forms included. A tiny
// table puts most states into chains.
func TestNoSecretSurvives(t *testing.T) {
	for seed := range int64(60) {
		random := rand.New(rand.NewSource(seed))
		word := func(n int, letters string) string {
			b := make([]byte, n)
			for i := range b {
				b[i] = letters[random.Intn(len(letters))]
			}
			return string(b)
		}
		letters := []string{"ab", "abc\n", "ab\"\\/ +é<", "0123456789abcdefABCDEF%"}[random.Intn(4)]
		set := New()
		var pieces []string
		for range 1 + random.Intn(4) {
			secret := word(6+random.Intn(30), letters)
			set.Add(secret)
			if random.Intn(2) == 0 {
				set.needles = append(set.needles, secret[:6], secret[len(secret)-6:], secret+word(9, letters))
			}
		}
		pieces = append(pieces, set.needles...)
		var text strings.Builder
		for range 60 {
			piece := pieces[random.Intn(len(pieces))]
			switch random.Intn(3) {
			case 0:
				piece = piece[:random.Intn(len(piece)+1)]
			case 1:
				piece = word(random.Intn(8), letters)
			}
			text.WriteString(piece)
		}
		limit := []int{denseMax, 40, 400}[random.Intn(3)]
		set.auto = buildAutomaton(set.needles, limit)
		want := reference(set, text.String()+"\x00")
		require.Equal(t, want, set.String(text.String()+"\x00"), "seed %d", seed)
		require.Equal(t, want, inPieces(t, set, text.String()+"\x00", func(int) int { return random.Intn(12) }), "seed %d", seed)
	}
}

func TestForms(t *testing.T) {
	secret := "pä\"ss/w+ rd\n<k>\\ey"
	set := New(secret)
	quoted := func(v any) string { b, _ := json.Marshal(v); return string(b) }
	every := ""
	for _, unit := range utf16.Encode([]rune(secret)) {
		every += fmt.Sprintf(`\u%04x`, unit)
	}
	wrapped := regexp.MustCompile(".{76}").ReplaceAllString(base64.StdEncoding.EncodeToString([]byte(strings.Repeat(secret, 9))), "$0\n")
	long := New(strings.Repeat(secret, 9))
	for name, text := range map[string]string{
		"raw":            secret,
		"go json":        quoted(secret),
		"json in json":   quoted(map[string]string{"a": quoted(secret)}),
		"python json":    `"p\u00e4\"ss/w+ rd\n<k>\\ey"`,
		"php json":       `"p\u00e4\"ss\/w+ rd\n<k>\\ey"`,
		"java json":      `"p\u00E4\"ss/w+ rd\n<k>\\ey"`,
		"dotnet json":    `"p\u00E4\u0022ss/w\u002B rd\n\u003Ck\u003E\\ey"`,
		"every":          every,
		"query":          url.QueryEscape(secret),
		"path":           url.PathEscape(secret),
		"lower case url": strings.ToLower(url.QueryEscape(secret)),
		"encodeURI":      "p%C3%A4%22ss/w+%20rd%0A%3Ck%3E%5Cey",
		"hex":            hex.EncodeToString([]byte(secret)),
		"HEX":            strings.ToUpper(hex.EncodeToString([]byte(secret))),
		"line":           "  <k>\\ey",
	} {
		assert.Contains(t, set.String("x "+text+" y"), Mask, name)
		assert.NotContains(t, set.String("x "+text+" y"), "rd", name)
		assert.Less(t, len(set.String("x "+text+" y")), 24, "%s: %s", name, set.String("x "+text+" y"))
	}
	assert.Regexp(t, `^(\*{3}\n)+(\*{3})?$`, long.String(wrapped))
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		for before := range 6 {
			for after := range 4 {
				text := encoding.EncodeToString([]byte(strings.Repeat("q", before) + secret + strings.Repeat("\xff", after)))
				left := set.String(text)
				assert.Contains(t, left, Mask, text)
				assert.LessOrEqual(t, len(left), len(Mask)+(before+2)/3*4+(after+2)/3*4+4, "%s: %s", text, left)
			}
		}
	}
}

func TestAStreamThatIsCutInsideASecret(t *testing.T) {
	var out bytes.Buffer
	w := New("correct-horse-battery").Writer(&out)
	_, _ = io.WriteString(w, "token correct-horse-batt")
	require.NoError(t, w.Close())
	assert.Equal(t, "token ***", out.String())
	out.Reset()
	w = New("correct-horse-battery").Writer(&out)
	_, _ = io.WriteString(w, "it is corr")
	require.NoError(t, w.Close())
	assert.Equal(t, "it is corr", out.String())
}

func TestValue(t *testing.T) {
	set := New(`top"secret`, "1234567")
	decode := func(text string) (value any) {
		dec := json.NewDecoder(strings.NewReader(text))
		dec.UseNumber()
		require.NoError(t, dec.Decode(&value))
		return value
	}
	for text, want := range map[string]string{
		`{"a":["x top\"secret y",1,null,true]}`:                    `{"a":["x *** y",1,null,true]}`,
		`{"top\"secret":1,"xtop\"secret":2,"***":3}`:               `{"***":3,"*** (2)":1,"x***":2}`,
		`{"pin":1234567,"other":12345678901234567890123}`:          `{"other":"***890***890123","pin":"***"}`,
		`"{\"in\": \"\\u0074op\\u0022\\u0073ecret\", \"n\": 1.0}"`: `"{\"in\":\"***\",\"n\":1.0}"`,
		`"{ \"in\" : 1 }"`: `"{ \"in\" : 1 }"`,
		`"[not json"`:      `"[not json"`,
	} {
		got, err := json.Marshal(set.Value(decode(text)))
		require.NoError(t, err)
		assert.Equal(t, want, string(got), text)
	}
}

func TestWhatIsTooShortOrTooLarge(t *testing.T) {
	var none *Set
	assert.True(t, none.Empty())
	assert.Equal(t, "x", none.String("x"))
	set := New()
	assert.Equal(t, TooShort, set.Add("short"))
	assert.Equal(t, TooShort, set.Add("short\r\n"))
	assert.True(t, set.Empty())
	assert.Equal(t, Masked, set.Add("longer"))
	big := strings.Repeat("0123456789", 53_000)
	assert.Equal(t, Plain, set.Add(big))
	assert.Equal(t, "x *** ***", set.String("x "+big+" bG9uZ2Vy"))
}

// longSecrets are of 4 KiB, in base64: the letters that URLs and JSON escape are among them.
func longSecrets(n int) []string {
	random := rand.New(rand.NewSource(1))
	all := make([]string, n)
	for i := range all {
		raw := make([]byte, 3<<10)
		random.Read(raw)
		all[i] = base64.RawStdEncoding.EncodeToString(raw)
	}
	return all
}

// Long secrets take, in all their forms, a little over a hundred times their size: a hundred of 4 KiB (Benchmark100LongSecrets) 42 MiB.
func TestMemoryIsBounded(t *testing.T) {
	set := New()
	for _, secret := range longSecrets(10) {
		assert.Equal(t, Masked, set.Add(secret))
	}
	assert.Less(t, set.automaton().size(), 110*10*4096+4*denseMax)
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
	var before, after syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &before))
	rounds := 0
	for b.Loop() {
		_, _ = w.Write(block)
		rounds++
	}
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &after))
	// A machine with other work to do shows less in wall time.
	b.ReportMetric(float64(rounds*len(block))/float64((after.Utime.Nano()-before.Utime.Nano())/1000+1), "MB/s-cpu")
}

func BenchmarkNoSecrets(b *testing.B) {
	benchmarkWriter(b, New(), bytes.Repeat([]byte("an ordinary line of a log\n"), 1260))
}

func Benchmark100Secrets(b *testing.B) {
	benchmarkWriter(b, New(secrets(100)...), bytes.Repeat([]byte("An Ordinary line of a log\n"), 1260))
}

func BenchmarkOneSecret(b *testing.B) {
	benchmarkWriter(b, New(secrets(1)...), bytes.Repeat([]byte("An Ordinary line of a log\n"), 1260))
}

func Benchmark100LongSecrets(b *testing.B) {
	set := New(longSecrets(100)...)
	benchmarkWriter(b, set, bytes.Repeat([]byte("An Ordinary line of a log\n"), 1260))
	b.ReportMetric(float64(set.automaton().size())/(1<<20), "MiB")
}

func Benchmark100SecretsLog(b *testing.B) {
	random, all := rand.New(rand.NewSource(1)), make([]string, 100)
	for i := range all {
		raw := make([]byte, 30)
		random.Read(raw)
		all[i] = base64.RawURLEncoding.EncodeToString(raw)
	}
	benchmarkWriter(b, New(all...), bytes.Repeat([]byte("2026-01-01T12:00:00Z INFO request served path=/api/v1/items/4711 status=200 id=9f86d081884c7d65\n"), 340))
}

// Hex digits are the beginning of many forms.
func Benchmark100SecretsHex(b *testing.B) {
	raw := make([]byte, 16<<10)
	rand.New(rand.NewSource(1)).Read(raw)
	benchmarkWriter(b, New(secrets(100)...), []byte(hex.EncodeToString(raw)))
}

func BenchmarkBuild(b *testing.B) {
	for b.Loop() {
		New(secrets(1)...).automaton()
	}
}

func BenchmarkBuildKey(b *testing.B) {
	raw := make([]byte, 1200)
	rand.New(rand.NewSource(1)).Read(raw)
	key := regexp.MustCompile(".{64}").ReplaceAllString(base64.StdEncoding.EncodeToString(raw), "$0\n")
	for b.Loop() {
		New(key).automaton()
	}
}

func BenchmarkNeverQuadratic(b *testing.B) {
	benchmarkWriter(b, New(strings.Repeat("a", 4096)+"b"), bytes.Repeat([]byte("a"), 1<<20))
}

// size is how many bytes the automaton takes, about.
func (a *automaton) size() int {
	return 4*(len(a.table)+2*len(a.depths)+len(a.fail)) + len(a.labels) + 16*(len(a.begins)+len(a.chains)) + 48*(len(a.branches)+len(a.outputs))
}
