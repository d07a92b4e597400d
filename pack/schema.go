package pack

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"
	"go.yaml.in/yaml/v4"

	"github.com/attune-run/attune/internal/nearest"
	"github.com/attune-run/attune/internal/yamldoc"
)

// Schema describes an action's parameters, a pack's configuration or an action's output, in JSON Schema 2020-12. Parameter
// definitions may further say `required: true`, `secret`, `position` and `immutable`.
type Schema struct {
	root       map[string]any // JSON Schema, attune's own keywords taken out
	parameters map[string]parameter
	warnings   []Problem
}

type parameter struct {
	secret, immutable bool
	position          int // -1: none
}

// Violation is one value that does not fit. Path is "count" or "servers[2].port"; Message never repeats a value.
type Violation struct{ Path, Message string }

// ViolationsError holds all violations of one value.
type ViolationsError struct{ Violations []Violation }

// Error is one line for each violation.
func (e *ViolationsError) Error() string {
	lines := make([]string, len(e.Violations))
	for i, v := range e.Violations {
		lines[i] = strings.TrimPrefix(v.Path+": "+v.Message, ": ")
	}
	return strings.Join(lines, "\n")
}

// ownKeywords belong to attune and not to JSON Schema.
var ownKeywords = []string{"required", "secret", "position", "immutable"}

// knownKeywords are those of JSON Schema 2020-12 that a definition may use.
var knownKeywords = []string{
	"$anchor", "$comment", "$defs", "$dynamicAnchor", "$dynamicRef", "$id", "$ref", "$schema", "$vocabulary",
	"additionalProperties", "allOf", "anyOf", "const", "contains", "contentEncoding", "contentMediaType", "contentSchema",
	"default", "definitions", "dependentRequired", "dependentSchemas", "deprecated", "description", "else", "enum", "examples",
	"exclusiveMaximum", "exclusiveMinimum", "format", "if", "items", "maxContains", "maxItems", "maxLength", "maxProperties",
	"maximum", "minContains", "minItems", "minLength", "minProperties", "minimum", "multipleOf", "not", "oneOf", "pattern",
	"patternProperties", "prefixItems", "properties", "propertyNames", "readOnly", "required", "then", "title", "type",
	"unevaluatedItems", "unevaluatedProperties", "uniqueItems", "writeOnly",
}

// readSchema reads the schema below a key: a flat map of name → definition, or a JSON Schema object with properties.
// A key that is not there is a schema without properties.
func readSchema(doc *yamldoc.Doc, parent *yamldoc.Map, key string) *Schema {
	s := &Schema{root: map[string]any{"type": "object", "properties": map[string]any{}, "additionalProperties": false}, parameters: map[string]parameter{}}
	value := parent.Value(key)
	if value == nil {
		return s
	}
	m, ok := value.(map[string]any)
	if !ok {
		parent.Fail(key, "%s must be a mapping (name: definition)", key)
		return s
	}
	definitions := parent.Map(key)
	switch {
	case isJSONSchema(m):
		s.root = m
		definitions = definitions.Map("properties")
	case key == "output" || key == "output_schema":
		if _, isScalar := m["type"].(string); isScalar || m["$ref"] != nil || m["anyOf"] != nil || m["oneOf"] != nil || m["allOf"] != nil {
			s.root, definitions = m, nil
			break
		}
		s.root = map[string]any{"type": "object", "properties": m}
	default:
		s.root["properties"] = m
	}
	if definitions != nil {
		s.readDefinitions(doc, definitions)
	}
	if err := s.compile(); err != nil {
		parent.Fail(key, "%s: %v", key, err)
	}
	return s
}

func isJSONSchema(m map[string]any) bool {
	_, hasProperties := m["properties"].(map[string]any)
	kind, typed := m["type"].(string)
	return hasProperties && (typed && kind == "object" || m["$schema"] != nil || m["type"] == nil && !looksLikeDefinition(m["properties"]))
}

// looksLikeDefinition tells a parameter that is called "properties" from JSON Schema's keyword.
func looksLikeDefinition(value any) bool {
	m, _ := value.(map[string]any)
	_, ok := m["type"].(string)
	return ok
}

// readDefinitions takes attune's own keywords out of each definition.
func (s *Schema) readDefinitions(doc *yamldoc.Doc, definitions *yamldoc.Map) {
	properties, _ := s.root["properties"].(map[string]any)
	required, _ := s.root["required"].([]any)
	for _, name := range definitions.Keys() {
		definition, ok := properties[name].(map[string]any)
		if !ok {
			if properties[name] == nil {
				properties[name] = map[string]any{}
			} else if _, isBool := properties[name].(bool); !isBool {
				definitions.Fail(name, "the definition of %s must be a mapping", name)
			}
			s.parameters[name] = parameter{position: -1}
			continue
		}
		m := definitions.Map(name)
		p := parameter{secret: m.Bool("secret", false), immutable: m.Bool("immutable", false), position: -1}
		if m.Has("position") {
			p.position = m.Int("position")
		}
		if p.secret && p.position >= 0 {
			m.Fail("position", "%s is a secret and cannot be a command-line argument", name)
		}
		if _, isList := definition["required"].([]any); !isList && m.Bool("required", false) {
			required = append(required, name)
		}
		for _, own := range ownKeywords {
			if _, isList := definition[own].([]any); !isList {
				delete(definition, own)
			}
		}
		s.parameters[name] = p
		checkType(m, definition)
		s.warnUnknown(doc, m)
	}
	if len(required) > 0 {
		s.root["required"] = required
	}
}

var jsonTypes = []string{"string", "integer", "number", "boolean", "array", "object", "null"}

// checkType refuses a type that JSON Schema does not have: it would be no type at all.
func checkType(m *yamldoc.Map, definition map[string]any) {
	types, isList := definition["type"].([]any)
	if !isList && definition["type"] != nil {
		types = []any{definition["type"]}
	}
	for _, t := range types {
		name, _ := t.(string)
		if slices.Contains(jsonTypes, name) {
			continue
		}
		if near := nearest.Name(name, jsonTypes); near != "" {
			m.Fail("type", "there is no type %q; did you mean %q?", name, near)
		} else {
			m.Fail("type", "there is no type %v; there are %s", t, strings.Join(jsonTypes, ", "))
		}
	}
}

func (s *Schema) warnUnknown(doc *yamldoc.Doc, m *yamldoc.Map) {
	if m.Node == nil {
		return
	}
	known := slices.Concat(knownKeywords, ownKeywords)
	for i := 0; i+1 < len(m.Node.Content); i += 2 {
		key := m.Node.Content[i]
		if slices.Contains(known, key.Value) || strings.HasPrefix(key.Value, "x-") {
			continue
		}
		message := fmt.Sprintf("unknown key %q", key.Value)
		if near := nearest.Name(key.Value, known); near != "" {
			message += fmt.Sprintf("; did you mean %q?", near)
		}
		s.warnings = append(s.warnings, placed(doc.File, key, message))
	}
}

func placed(file string, node *yaml.Node, message string) Problem {
	return Problem{File: file, Line: node.Line, Column: node.Column, Message: message}
}

// compile makes sure that the library understands the whole schema.
func (s *Schema) compile() error {
	_, err := resolve(s.root)
	return err
}

func resolve(schema any) (*jsonschema.Resolved, error) {
	data, err := json.Marshal(schema)
	if err != nil {
		return nil, err
	}
	var parsed jsonschema.Schema
	if err := json.Unmarshal(data, &parsed); err != nil {
		return nil, err
	}
	return parsed.Resolve(nil)
}

// Names are the parameters' names, sorted.
func (s *Schema) Names() []string {
	properties, _ := s.root["properties"].(map[string]any)
	return slices.Sorted(maps.Keys(properties))
}

func (s *Schema) definition(name string) map[string]any {
	properties, _ := s.root["properties"].(map[string]any)
	definition, _ := properties[name].(map[string]any)
	return definition
}

// Secrets are the names declared secret, sorted.
func (s *Schema) Secrets() []string {
	var names []string
	for _, name := range s.Names() {
		if s.parameters[name].secret {
			names = append(names, name)
		}
	}
	return names
}

// IsSecret tells whether a parameter is declared secret.
func (s *Schema) IsSecret(name string) bool { return s.parameters[name].secret }

// Positional are the parameters that are command-line arguments as well, in order.
func (s *Schema) Positional() []string {
	var names []string
	for _, name := range s.Names() {
		if p := s.parameters[name]; p.position >= 0 && !p.secret {
			names = append(names, name)
		}
	}
	slices.SortStableFunc(names, func(a, b string) int { return s.parameters[a].position - s.parameters[b].position })
	return names
}

// Required tells whether a parameter must be given.
func (s *Schema) Required(name string) bool {
	required, _ := s.root["required"].([]any)
	return slices.Contains(required, any(name))
}

// Description is the parameter's.
func (s *Schema) Description(name string) string {
	text, _ := s.definition(name)["description"].(string)
	return text
}

// Default is the parameter's default; ok is false when it has none.
func (s *Schema) Default(name string) (value any, ok bool) {
	value, ok = s.definition(name)["default"]
	return value, ok
}

// Type is the parameter's declared type, several joined by "|", "any" when it declares none.
func (s *Schema) Type(name string) string { return typeName(s.definition(name)) }

func typeName(definition map[string]any) string {
	switch t := definition["type"].(type) {
	case string:
		return t
	case []any:
		names := make([]string, len(t))
		for i, one := range t {
			names[i] = fmt.Sprint(one)
		}
		return strings.Join(names, "|")
	}
	return "any"
}

// Parse reads a value as it was typed, by the declared type: a string stays literal, an array is JSON or
// one item, an object is JSON. The error never repeats the text.
func (s *Schema) Parse(name, text string) (any, error) {
	return parseText(s.definition(name), text)
}

func parseText(definition map[string]any, text string) (any, error) {
	types := strings.Split(typeName(definition), "|")
	if slices.Contains(types, "string") || slices.Contains(types, "any") {
		return text, nil
	}
	for _, kind := range types {
		switch kind {
		case "integer", "number":
			if yamldoc.IsNumber(text) {
				return json.Number(text), nil
			}
		case "boolean":
			if value, err := strconv.ParseBool(text); err == nil {
				return value, nil
			}
		case "null":
			if text == "null" || text == "" {
				return nil, nil
			}
		case "array":
			if strings.HasPrefix(strings.TrimSpace(text), "[") {
				return decodeTyped(kind, text)
			}
			items, _ := definition["items"].(map[string]any)
			item, err := parseText(items, text)
			return []any{item}, err
		case "object":
			return decodeTyped(kind, text)
		}
	}
	return nil, fmt.Errorf("must be %s", withArticle(types))
}

func decodeTyped(kind, text string) (any, error) {
	value, err := DecodeJSON([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("must be a JSON %s: %w", kind, err)
	}
	return value, nil
}

// Bind fills in defaults and validates. A null for a parameter with a default takes the default. given is not changed; the error
// is a *ViolationsError with every violation.
func (s *Schema) Bind(given map[string]any) (map[string]any, error) {
	bound, _ := withDefaults(s.root, given).(map[string]any)
	v := validation{root: s.root}
	for _, name := range s.Names() {
		if value, ok := given[name]; ok && s.parameters[name].immutable && !same(value, s.definition(name)["default"]) {
			v.add(name, "is immutable and cannot be given")
		}
	}
	v.validate("", bound, s.root)
	return bound, v.err()
}

// Check validates a value without filling anything in.
func (s *Schema) Check(value any) error {
	v := validation{root: s.root}
	v.validate("", value, s.root)
	return v.err()
}

func same(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errors.Join(errX, errY) == nil && string(x) == string(y)
}

// withDefaults copies a value and fills in what its schema has defaults for, at any depth.
func withDefaults(schema map[string]any, value any) any {
	switch v := value.(type) {
	case map[string]any:
		filled := make(map[string]any, len(v))
		maps.Copy(filled, v)
		properties, _ := schema["properties"].(map[string]any)
		for name, definition := range properties {
			definition, _ := definition.(map[string]any)
			if byDefault, ok := definition["default"]; ok && filled[name] == nil {
				filled[name] = byDefault
			}
			if current, ok := filled[name]; ok {
				filled[name] = withDefaults(definition, current)
			}
		}
		return filled
	case []any:
		items, _ := schema["items"].(map[string]any)
		filled := make([]any, len(v))
		for i, item := range v {
			filled[i] = withDefaults(items, item)
		}
		return filled
	}
	return value
}
