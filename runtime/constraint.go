package runtime

import (
	"fmt"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// Constraint restricts versions: "= > >= < <= ~ ^ *", joined by commas that mean AND. A leading v is dropped,
// empty means any, a bare 3.12 means 3.12.x and a bare 18 means 18.x.
type Constraint struct {
	text   string
	parsed *semver.Constraints // nil: any
}

// ConstraintError is a constraint that cannot be read.
type ConstraintError struct {
	Text string
	Err  error
}

// Error shows the constraint and what can be written.
func (e *ConstraintError) Error() string {
	return fmt.Sprintf("version constraint %q cannot be read; write 3.12, >=3.11, ^18, ~1.2.3, or several with commas", e.Text)
}

// Unwrap is the reader's own error.
func (e *ConstraintError) Unwrap() error { return e.Err }

// NoMatchError says that no version satisfies a constraint.
type NoMatchError struct {
	Constraint string
	Available  []string
}

// Error lists what there is.
func (e *NoMatchError) Error() string {
	if len(e.Available) == 0 {
		return "no version is available"
	}
	return fmt.Sprintf("no version satisfies %q; there are %s", e.Constraint, strings.Join(e.Available, ", "))
}

// ParseConstraint reads a constraint; its error is a *ConstraintError.
func ParseConstraint(text string) (Constraint, error) {
	c := Constraint{text: strings.TrimSpace(text)}
	if c.text == "" || c.text == "*" {
		return c, nil
	}
	terms := strings.Split(c.text, ",")
	for i, term := range terms {
		terms[i] = strings.TrimSpace(term)
		operator := terms[i][:len(terms[i])-len(strings.TrimLeft(terms[i], "=><~^ "))]
		version := strings.TrimPrefix(terms[i][len(operator):], "v")
		if version == "" || strings.ContainsAny(version, " |!<>=~^") || !slices.Contains([]string{"", "=", ">", ">=", "<", "<=", "~", "^"}, strings.TrimSpace(operator)) {
			return Constraint{}, &ConstraintError{Text: text, Err: fmt.Errorf("term %q", term)}
		}
		terms[i] = strings.TrimSpace(operator) + version
	}
	parsed, err := semver.NewConstraint(strings.Join(terms, ","))
	if err != nil {
		return Constraint{}, &ConstraintError{Text: text, Err: err}
	}
	c.parsed = parsed
	return c, nil
}

// String is the constraint as it was written.
func (c Constraint) String() string { return c.text }

// Any tells whether every version satisfies.
func (c Constraint) Any() bool { return c.parsed == nil }

// Match tells whether version satisfies. A version that cannot be read satisfies only "any"; a
// pre-release only a constraint that names one.
func (c Constraint) Match(version string) bool {
	if c.parsed == nil {
		return true
	}
	v, ok := parseVersion(version)
	return ok && c.parsed.Check(v)
}

// parseVersion reads versions as interpreters print them: 3.13.0rc1, 1.26, 17, go's 1.27rc1.
func parseVersion(text string) (*semver.Version, bool) {
	text = strings.TrimPrefix(text, "v")
	end := strings.IndexFunc(text, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	core, rest := text, ""
	if end >= 0 {
		core, rest = text[:end], text[end:]
	}
	core = strings.Trim(core, ".")
	if parts := strings.Split(core, "."); len(parts) > 3 {
		core = strings.Join(parts[:3], ".")
	}
	if rest = strings.TrimLeft(rest, "-._+"); rest != "" && isPrerelease(rest) {
		core = withThreeParts(core) + "-" + strings.TrimFunc(rest, func(r rune) bool { return !isWord(r) })
	}
	v, err := semver.NewVersion(core)
	return v, err == nil
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

func withThreeParts(core string) string {
	return core + strings.Repeat(".0", 2-strings.Count(core, "."))
}

// CompareVersions is negative when a is lower than b. A version that cannot be read is lower than any other,
// and a pre-release lower than every release.
func CompareVersions(a, b string) int {
	va, okA := parseVersion(a)
	vb, okB := parseVersion(b)
	switch {
	case !okA || !okB:
		return b2i(okA) - b2i(okB)
	case (va.Prerelease() == "") != (vb.Prerelease() == ""):
		return b2i(va.Prerelease() == "") - b2i(vb.Prerelease() == "")
	}
	return va.Compare(vb)
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Rank picks the highest available version that satisfies the constraint; without one the spec's default,
// else the highest. Errors are a *ConstraintError or a *NoMatchError.
func (s *Spec) Rank(available []string, constraint string) (best string, err error) {
	c, err := ParseConstraint(constraint)
	if err != nil {
		return "", err
	}
	if c.Any() {
		if preferred, err := ParseConstraint(s.defaultVersion()); err == nil && !preferred.Any() {
			if best, ok := highest(available, preferred); ok {
				return best, nil
			}
		}
	}
	best, ok := highest(available, c)
	if !ok {
		return "", &NoMatchError{Constraint: constraint, Available: available}
	}
	return best, nil
}

func (s *Spec) defaultVersion() string {
	for _, v := range s.Versions {
		if v.Default {
			return v.Version
		}
	}
	return ""
}

func highest(available []string, c Constraint) (best string, found bool) {
	for _, version := range available {
		if c.Match(version) && (!found || CompareVersions(version, best) > 0) {
			best, found = version, true
		}
	}
	return best, found
}
