package redact

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// encodedFactor is how many bytes of encoded forms a byte of a secret has, about.
const encodedFactor = 16

// escapedMax is the length of a secret in bytes up to which the rare forms are looked for as well: every character as \u, and
// lower case digits in URLs.
const escapedMax = 1 << 10

// lines are the secret and, when it has several, each of its lines without the blanks around it.
func lines(secret string) []string {
	all := []string{secret}
	if !strings.Contains(secret, "\n") {
		return all
	}
	for line := range strings.Lines(secret) {
		if line = strings.TrimSpace(line); len(line) >= MinLength {
			all = append(all, line)
		}
	}
	return all
}

// encodings are the forms of a value that programs print without meaning to give it away; some may be the same.
func encodings(value string) []string {
	plain := hex.EncodeToString([]byte(value))
	all := []string{plain, strings.ToUpper(plain)}
	all = append(all, base64Forms(value)...)
	if escaped := (jsonStyle{}).escape(value); escaped != value && len(value) <= escapedMax {
		all = append(all, base64Forms(escaped)...) // of a whole document
	}
	all = append(all, jsonForms(value)...)
	return append(all, urlForms(value)...)
}

// base64Forms are what is left of the value whatever stands before and behind it: it may begin at any of three offsets
// (RFC 4648). Where it begins the text, it is looked for in lines of 64 characters (RFC 7468) and 76 (RFC 2045) as well.
func base64Forms(value string) []string {
	var all []string
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
		for offset := range 3 {
			text := encoding.EncodeToString([]byte("\x00\x00"[:offset] + value))
			skip := []int{0, 2, 3}[offset] // characters that depend on what stands before
			bare := strings.TrimRight(text, "=")
			all = append(all, text[skip:], bare[skip:])
			if (offset+len(value))%3 != 0 { // its last character depends on what stands behind
				all = append(all, bare[skip:len(bare)-1])
			}
		}
	}
	text := base64.StdEncoding.EncodeToString([]byte(value))
	for _, width := range []int{64, 76} {
		for rest := text; len(text) > width && rest != ""; {
			line := rest[:min(width, len(rest))]
			all, rest = append(all, line), rest[len(line):]
		}
	}
	kept := all[:0]
	for _, form := range all {
		if len(form) >= MinLength {
			kept = append(kept, form)
		}
	}
	return kept
}

// jsonForms are how encoders write the value in a JSON string (RFC 8259), and in a JSON string within one.
func jsonForms(value string) []string {
	const html = "<>&'+`\"" // escaped where JSON may lie in HTML
	all := []string{}
	for _, style := range []jsonStyle{
		{},                                     // JavaScript
		{slash: true},                          //
		{ascii: true},                          // Python
		{ascii: true, slash: true},             // PHP
		{ascii: true, upper: true},             // Java
		{html: html[:3], separators: true},     // Go
		{ascii: true, upper: true, html: html}, // .NET
	} {
		once := style.escape(value)
		if once != value {
			all = append(all, once, jsonStyle{}.escape(once))
		}
	}
	if len(value) <= escapedMax {
		all = append(all, jsonStyle{every: true}.escape(value), jsonStyle{every: true, upper: true}.escape(value))
	}
	return all
}

// jsonStyle is what an encoder escapes beyond what it must.
type jsonStyle struct {
	slash, ascii, separators, every bool
	html                            string // these characters as \u
	upper                           bool   // the digits of \u
}

func (s jsonStyle) escape(value string) string {
	var b strings.Builder
	for i, r := range value {
		short := strings.IndexRune("\"\\\b\f\n\r\t", r)
		switch {
		case s.every || strings.ContainsRune(s.html, r) || s.ascii && r >= utf8.RuneSelf || s.separators && (r == 0x2028 || r == 0x2029):
			s.unit(&b, r)
		case short >= 0:
			b.WriteByte('\\')
			b.WriteByte(`"\bfnrt`[short])
		case r < ' ':
			s.unit(&b, r)
		case r == '/' && s.slash:
			b.WriteString(`\/`)
		case r == utf8.RuneError: // a byte that is no UTF-8 stays what it is
			_, size := utf8.DecodeRuneInString(value[i:])
			b.WriteString(value[i : i+size])
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func (s jsonStyle) unit(b *strings.Builder, r rune) {
	format := `\u%04x`
	if s.upper {
		format = `\u%04X`
	}
	if high, low := utf16.EncodeRune(r); high != utf8.RuneError {
		fmt.Fprintf(b, format, high)
		r = low
	}
	fmt.Fprintf(b, format, r)
}

var hexDigits = []string{"0123456789ABCDEF", "0123456789abcdef"}

// urlForms are how libraries write the value in a URL (RFC 3986 2.1) or a form. They agree on letters and digits and on little else.
func urlForms(value string) []string {
	var all []string
	variants := 1
	if len(value) <= escapedMax {
		variants = 2
	}
	for _, kept := range []string{
		"-_.~",                 // RFC 3986; Go's and Python's quote_plus
		"-_.~/",                // Python's quote
		"-_.~$&+=:@",           // Go's path segments
		"-_.~!'()*",            // JavaScript's encodeURIComponent
		"-_.~!'()*;,/?:@&=+$#", // JavaScript's encodeURI
		"-_.*",                 // forms of browsers and Java (WHATWG URL 5.1)
	} {
		for _, digits := range hexDigits[:variants] {
			if form := percent(value, kept, digits, "%20"); form != value {
				all = append(all, form, percent(value, kept, digits, "+"))
			}
		}
	}
	return all
}

func percent(value, kept, digits, blank string) string {
	var b strings.Builder
	for i := range len(value) {
		switch c := value[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte(kept, c) >= 0:
			b.WriteByte(c)
		case c == ' ':
			b.WriteString(blank)
		default:
			b.Write([]byte{'%', digits[c>>4], digits[c&15]})
		}
	}
	return b.String()
}
