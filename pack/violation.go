package pack

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/attune-run/attune/internal/nearest"
)

// validation collects every violation of a value. The library stops at the first, repeats values in its messages and
// compares numbers as float64; so objects, lists, types and bounds are walked here, and every other keyword is left to it, one by one.
type validation struct {
	root       map[string]any // for $defs that references lead to
	violations []Violation
}

func (v *validation) add(path, format string, args ...any) {
	v.violations = append(v.violations, Violation{Path: path, Message: fmt.Sprintf(format, args...)})
}

func (v *validation) err() error {
	if len(v.violations) == 0 {
		return nil
	}
	slices.SortStableFunc(v.violations, func(a, b Violation) int { return strings.Compare(a.Path, b.Path) })
	return &ViolationsError{Violations: v.violations}
}

// maxExponent keeps arithmetic on numbers like 1e999999999 from filling memory.
const maxExponent = 1000

func (v *validation) validate(path string, value any, schema any) {
	switch s := schema.(type) {
	case bool:
		if !s {
			v.add(path, "is not allowed")
		}
	case map[string]any:
		if number, ok := value.(json.Number); ok && exponent(number) > maxExponent {
			v.add(path, "is a number beyond 1e%d", maxExponent)
			return
		}
		if !v.checkType(path, value, s) {
			return // nothing else would make sense
		}
		v.checkBounds(path, value, s)
		v.checkRest(path, value, s)
		switch value := value.(type) {
		case map[string]any:
			v.walkObject(path, value, s)
		case []any:
			v.walkList(path, value, s)
		}
	}
}

func exponent(n json.Number) int {
	_, exp, ok := strings.Cut(strings.ToLower(n.String()), "e")
	if !ok {
		return len(n) - 10_000 // digits alone cost what they are long
	}
	e, err := strconv.Atoi(exp)
	if err != nil {
		return maxExponent + 1
	}
	return max(e, -e)
}

func (v *validation) checkType(path string, value any, schema map[string]any) bool {
	if schema["type"] == nil {
		return true
	}
	types := strings.Split(typeName(schema), "|")
	actual := typeOf(value)
	if slices.Contains(types, actual) || actual == "integer" && slices.Contains(types, "number") {
		return true
	}
	v.add(path, "must be %s, not %s", withArticle(types), withArticle([]string{actual}))
	return false
}

func typeOf(value any) string {
	switch n := value.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case string:
		return "string"
	case []any:
		return "array"
	case map[string]any:
		return "object"
	case json.Number:
		if r, ok := rational(n); ok && r.IsInt() {
			return "integer"
		}
		return "number"
	case int, int64, uint64:
		return "integer"
	}
	return "number"
}

func withArticle(types []string) string {
	named := make([]string, len(types))
	for i, t := range types {
		switch t {
		case "null":
			named[i] = t
		case "integer", "array", "object":
			named[i] = "an " + t
		default:
			named[i] = "a " + t
		}
	}
	return strings.Join(named, " or ")
}

func rational(value any) (*big.Rat, bool) {
	text := fmt.Sprint(value)
	if exponent(json.Number(text)) > maxExponent {
		return nil, false
	}
	return new(big.Rat).SetString(text)
}

// bounds compare exactly: 9007199254740993 is more than 9007199254740992.
var bounds = map[string]struct {
	ok   func(cmp int) bool
	text string
}{
	"minimum":          {func(c int) bool { return c >= 0 }, "must be at least"},
	"maximum":          {func(c int) bool { return c <= 0 }, "must be at most"},
	"exclusiveMinimum": {func(c int) bool { return c > 0 }, "must be more than"},
	"exclusiveMaximum": {func(c int) bool { return c < 0 }, "must be less than"},
}

func (v *validation) checkBounds(path string, value any, schema map[string]any) {
	if t := typeOf(value); t != "integer" && t != "number" {
		return
	}
	number, ok := rational(value)
	if !ok {
		return
	}
	for _, keyword := range []string{"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"} {
		if bound, ok := rational(schema[keyword]); schema[keyword] != nil && ok && !bounds[keyword].ok(number.Cmp(bound)) {
			v.add(path, "%s %v", bounds[keyword].text, schema[keyword])
		}
	}
	if step, ok := rational(schema["multipleOf"]); schema["multipleOf"] != nil && ok && step.Sign() != 0 && !new(big.Rat).Quo(number, step).IsInt() {
		v.add(path, "must be a multiple of %v", schema["multipleOf"])
	}
}

// walked are the keywords this file checks itself, and those that check nothing.
var walked = []string{
	"type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "required", "properties",
	"items", "prefixItems", "$defs", "definitions", "$schema", "$id", "$anchor", "$comment", "default", "description", "title",
	"examples", "deprecated", "readOnly", "writeOnly", "format", "contentEncoding", "contentMediaType", "contentSchema",
}

// together are keywords that mean nothing without the others of their group.
var together = map[string][]string{
	"if": {"if", "then", "else"}, "contains": {"contains", "minContains", "maxContains"},
	"patternProperties":     {"properties", "patternProperties", "additionalProperties"},
	"unevaluatedProperties": nil, "unevaluatedItems": nil, // need the whole schema
}

// checkRest leaves what is not walked to the library.
func (v *validation) checkRest(path string, value any, schema map[string]any) {
	done := slices.Clone(walked)
	if schema["patternProperties"] == nil {
		done = append(done, "additionalProperties")
	}
	for _, keyword := range slices.Sorted(maps.Keys(schema)) {
		if slices.Contains(done, keyword) || !applies(keyword, value) {
			continue
		}
		group, grouped := together[keyword]
		unit := map[string]any{}
		switch {
		case grouped && group == nil:
			unit = maps.Clone(schema)
		case grouped:
			done = append(done, group...)
			for _, k := range group {
				if schema[k] != nil {
					unit[k] = schema[k]
				}
			}
		case slices.Contains([]string{"then", "else", "minContains", "maxContains"}, keyword):
			continue
		default:
			unit[keyword] = schema[keyword]
		}
		v.ask(path, value, keyword, unit)
	}
}

// applies keeps keywords of strings from the numbers that the library takes for strings.
func applies(keyword string, value any) bool {
	switch keyword {
	case "pattern", "minLength", "maxLength":
		return typeOf(value) == "string"
	case "additionalProperties", "patternProperties", "propertyNames", "minProperties", "maxProperties", "dependentRequired", "dependentSchemas":
		return typeOf(value) == "object"
	}
	return true
}

func (v *validation) ask(path string, value any, keyword string, unit map[string]any) {
	for _, shared := range []string{"$defs", "definitions"} {
		if v.root[shared] != nil {
			unit[shared] = v.root[shared]
		}
	}
	resolved, err := resolve(unit)
	if err == nil {
		err = resolved.Validate(plainNumbers(value))
	}
	if err == nil {
		return
	}
	switch keyword {
	case "enum":
		v.add(path, "must be one of %s", oneOf(unit["enum"]))
	case "const":
		v.add(path, "must be %v", unit["const"])
	case "pattern":
		v.add(path, "must match %v", unit["pattern"])
	case "minLength", "minItems", "minProperties":
		v.add(path, "must have at least %v %s", unit[keyword], counted(keyword))
	case "maxLength", "maxItems", "maxProperties":
		v.add(path, "must have at most %v %s", unit[keyword], counted(keyword))
	case "uniqueItems":
		v.add(path, "must not hold one item twice")
	default:
		v.add(path, "does not satisfy %s", keyword)
	}
}

func counted(keyword string) string {
	return map[string]string{"Length": "characters", "Items": "items", "Properties": "keys"}[keyword[3:]]
}

func oneOf(list any) string {
	items, _ := list.([]any)
	texts := make([]string, len(items))
	for i, item := range items {
		texts[i] = fmt.Sprint(item)
	}
	return strings.Join(texts, ", ")
}

// plainNumbers gives the library the kinds of numbers it knows.
func plainNumbers(value any) any {
	switch v := value.(type) {
	case json.Number:
		if i, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
			return i
		}
		if u, err := strconv.ParseUint(v.String(), 10, 64); err == nil {
			return u
		}
		f, _ := v.Float64()
		return f
	case []any:
		list := make([]any, len(v))
		for i, item := range v {
			list[i] = plainNumbers(item)
		}
		return list
	case map[string]any:
		object := make(map[string]any, len(v))
		for key, item := range v {
			object[key] = plainNumbers(item)
		}
		return object
	}
	return value
}

func (v *validation) walkObject(path string, object map[string]any, schema map[string]any) {
	properties, _ := schema["properties"].(map[string]any)
	required, _ := schema["required"].([]any)
	for _, name := range required {
		if _, ok := object[fmt.Sprint(name)]; !ok {
			v.add(child(path, fmt.Sprint(name)), "is required")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		if definition, ok := properties[name]; ok {
			v.validate(child(path, name), object[name], definition)
			continue
		}
		if schema["patternProperties"] != nil {
			continue // left to the library
		}
		switch rest := schema["additionalProperties"].(type) {
		case bool:
			if !rest {
				v.unknown(child(path, name), name, properties)
			}
		case map[string]any:
			v.validate(child(path, name), object[name], rest)
		}
	}
}

func (v *validation) unknown(path, name string, properties map[string]any) {
	if near := nearest.Name(name, slices.Sorted(maps.Keys(properties))); near != "" {
		v.add(path, "is not known; did you mean %s?", near)
		return
	}
	v.add(path, "is not known")
}

func (v *validation) walkList(path string, list []any, schema map[string]any) {
	prefix, _ := schema["prefixItems"].([]any)
	for i, item := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		switch {
		case i < len(prefix):
			v.validate(at, item, prefix[i])
		case schema["items"] != nil:
			v.validate(at, item, schema["items"])
		}
	}
}

func child(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
