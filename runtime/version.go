package runtime

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// Interpreters' versions are not semantic versions (3.13.0rc1, 1.8.0_392, 5.2.15(1)-release, 17), and a library for those
// compiles its expressions at every start. These are the rules of constraints and nothing more.

// version is up to three numbers and what marks a pre-release.
type version struct {
	numbers [3]int
	count   int    // numbers that were given
	pre     string // "rc1"; empty for a release
}

// parseVersion reads versions as interpreters print them.
func parseVersion(text string) (version, bool) {
	text = strings.TrimPrefix(text, "v")
	end := strings.IndexFunc(text, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	core, rest := text, ""
	if end >= 0 {
		core, rest = text[:end], text[end:]
	}
	var v version
	for part := range strings.SplitSeq(strings.Trim(core, "."), ".") {
		if v.count == len(v.numbers) {
			break
		}
		number, err := strconv.Atoi(part)
		if err != nil {
			return version{}, false
		}
		v.numbers[v.count] = number
		v.count++
	}
	if rest = strings.TrimLeft(rest, "-._+"); isPrerelease(rest) {
		v.pre = strings.TrimFunc(rest, func(r rune) bool { return !isWord(r) })
	}
	return v, true
}

// isPrerelease tells 3.13.0rc1, 3.14.0a5 and 1.27-beta.1 from builds like 1.8.0_392 and 5.2.15(1)-release.
func isPrerelease(rest string) bool {
	return slices.ContainsFunc([]string{"a", "b", "rc", "pre", "dev", "nightly"}, func(tag string) bool {
		return strings.HasPrefix(strings.ToLower(rest), tag)
	})
}

func isWord(r rune) bool {
	return r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
}

// compare orders by numbers, a pre-release before its release, pre-releases by their words and numbers.
func (v version) compare(w version) int {
	if c := slices.Compare(v.numbers[:], w.numbers[:]); c != 0 || v.pre == w.pre {
		return c
	}
	if v.pre == "" || w.pre == "" {
		return b2i(v.pre == "") - b2i(w.pre == "")
	}
	tag, number := splitTag(v.pre)
	otherTag, otherNumber := splitTag(w.pre)
	return cmp.Or(cmp.Compare(tag, otherTag), cmp.Compare(number, otherNumber))
}

// splitTag separates "rc10" and "beta.2" into word and number.
func splitTag(pre string) (tag string, number int) {
	tag = strings.TrimRight(pre, "0123456789")
	number, _ = strconv.Atoi(pre[len(tag):]) // none is 0
	return strings.TrimRight(tag, "-."), number
}

// term is one part of a constraint.
type term struct {
	operator string
	version  version
}

var operators = []string{"", "=", ">", ">=", "<", "<=", "~", "^"}

// parseTerm reads an operator and a version of one to three numbers; x and * stand for any further number.
func parseTerm(text string) (term, bool) {
	number := strings.TrimLeft(text, "=><~^ ")
	operator := strings.TrimSpace(text[:len(text)-len(number)])
	number = strings.TrimPrefix(number, "v")
	for _, wild := range []string{".x", ".X", ".*"} {
		number = strings.ReplaceAll(number+".", wild+".", "")
		number = strings.TrimSuffix(number, ".")
	}
	v, ok := parseVersion(number)
	plain := number != "" && number[0] >= '0' && number[0] <= '9' &&
		strings.Count(number, ".") < 4 && !strings.ContainsFunc(number, func(r rune) bool { return !isWord(r) && r != '.' && r != '-' && r != '+' })
	complete := v.pre != "" || !strings.ContainsFunc(number, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	return term{operator, v}, ok && plain && complete && slices.Contains(operators, operator)
}

// match tells whether a version satisfies the term. A number that the term does not give is any number, for "=" and "~" as
// for ">" (above all of 3.12) and "<=" (up to the last of 3.12); for ">=" and "<" it is zero.
func (t term) match(v version) bool {
	if v.pre != "" && t.version.pre == "" {
		return false
	}
	given := slices.Compare(v.numbers[:t.version.count], t.version.numbers[:t.version.count])
	exact := v.compare(t.version)
	switch t.operator {
	case ">=":
		return exact >= 0
	case "<":
		return exact < 0
	case ">":
		return given > 0 || t.version.count == 3 && exact > 0
	case "<=":
		return given < 0 || given == 0 && (t.version.count < 3 || exact <= 0)
	case "~":
		return exact >= 0 && v.sameUpTo(t.version, min(t.version.count, 2))
	case "^":
		return exact >= 0 && v.sameUpTo(t.version, t.version.firstSignificant())
	default:
		return given == 0 && (t.version.count < 3 || exact == 0)
	}
}

func (v version) sameUpTo(w version, count int) bool {
	return slices.Equal(v.numbers[:count], w.numbers[:count])
}

// firstSignificant counts the numbers that "^" keeps: up to the first that is not zero.
func (v version) firstSignificant() int {
	for i, number := range v.numbers[:v.count] {
		if number != 0 {
			return i + 1
		}
	}
	return v.count
}
