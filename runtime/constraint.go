package runtime

import (
	"fmt"
	"slices"
	"strings"
)

// Constraint restricts versions: "= > >= < <= ~ ^ *", joined by commas that mean AND. A leading v is dropped,
// empty means any, a bare 3.12 means 3.12.x and a bare 18 means 18.x.
type Constraint struct {
	terms []term // all must hold; none: any
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
	trimmed := strings.TrimSpace(text)
	var c Constraint
	if trimmed == "" || trimmed == "*" {
		return c, nil
	}
	for part := range strings.SplitSeq(trimmed, ",") {
		t, ok := parseTerm(strings.TrimSpace(part))
		if !ok {
			return Constraint{}, &ConstraintError{Text: text, Err: fmt.Errorf("term %q", part)}
		}
		c.terms = append(c.terms, t)
	}
	return c, nil
}

// Any tells whether every version satisfies.
func (c Constraint) Any() bool { return len(c.terms) == 0 }

// Match tells whether version satisfies. A version that cannot be read satisfies only "any"; a
// pre-release only a constraint that names one.
func (c Constraint) Match(version string) bool {
	if c.Any() {
		return true
	}
	v, ok := parseVersion(version)
	return ok && !slices.ContainsFunc(c.terms, func(t term) bool { return !t.match(v) })
}

// CompareVersions is negative when a is lower than b. A version that cannot be read is lower than any other,
// and a pre-release lower than every release.
func CompareVersions(a, b string) int {
	va, okA := parseVersion(a)
	vb, okB := parseVersion(b)
	switch {
	case !okA || !okB:
		return b2i(okA) - b2i(okB)
	case (va.pre == "") != (vb.pre == ""):
		return b2i(va.pre == "") - b2i(vb.pre == "")
	}
	return va.compare(vb)
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
