package executor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// encodeParameters writes the parameter document, newline at the end. Formats
// are json (one line), yaml and dotenv.
func encodeParameters(format string, values map[string]any) (string, error) {
	if values == nil {
		values = map[string]any{}
	}
	switch format {
	case "dotenv":
		return encodeDotenv(values)
	case "yaml":
		return encodeYAML(values)
	default:
		return encodeJSON(values)
	}
}

func encodeJSON(value any) (string, error) {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(value); err != nil {
		return "", fmt.Errorf("encode as JSON: %w", err)
	}
	return b.String(), nil
}

// encodeDotenv writes one key='value' line per leaf, sorted by key. No value can start a second line.
func encodeDotenv(values map[string]any) (string, error) {
	leaves := map[string]string{}
	if err := flattenLeaves("", values, leaves); err != nil {
		return "", err
	}
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(leaves)) {
		b.WriteString(key + "=" + shellQuote(leaves[key]) + "\n")
	}
	return b.String(), nil
}

// flattenLeaves joins the keys of nested objects with dots. An empty object leaves nothing.
func flattenLeaves(prefix string, value any, leaves map[string]string) error {
	object, ok := value.(map[string]any)
	if !ok {
		leaves[prefix] = scalarText(value)
		return nil
	}
	for key, item := range object {
		if key == "" || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r == '=' || r == 0x7f || r == '\'' || r == '"' }) {
			return fmt.Errorf("parameter %q cannot be the key of a dotenv line; use parameter_format json", join(prefix, key))
		}
		if err := flattenLeaves(join(prefix, key), item, leaves); err != nil {
			return err
		}
	}
	return nil
}

func join(prefix, key string) string {
	if prefix == "" {
		return key
	}
	return prefix + "." + key
}

// scalarText is a value as one word: null is empty, arrays and objects are JSON.
func scalarText(value any) string {
	switch v := value.(type) {
	case nil:
		return ""
	case string:
		return v
	case json.Number:
		return v.String()
	default:
		text, err := encodeJSON(v)
		if err != nil {
			return fmt.Sprint(v)
		}
		return strings.TrimSuffix(text, "\n")
	}
}

// shellQuote writes a value as one shell word on one line: in single quotes, or, when it holds
// control characters, in $'…' with escapes (bash, zsh, ksh; POSIX.1-2024).
func shellQuote(text string) string {
	if !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == 0x2028 || r == 0x2029 }) && utf8.ValidString(text) {
		return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
	}
	var b strings.Builder
	b.WriteString("$'")
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\'' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\t':
			b.WriteString(`\t`)
		case c == '\r':
			b.WriteString(`\r`)
		case c < ' ' || c >= 0x7f:
			// Three octal digits: unlike \x, they cannot swallow what follows.
			fmt.Fprintf(&b, `\%03o`, c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteString("'")
	return b.String()
}

// encodeYAML writes numbers with the digits they came with.
func encodeYAML(values map[string]any) (string, error) {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	if err := enc.Encode(yamlNode(values)); err != nil {
		return "", fmt.Errorf("encode as YAML: %w", err)
	}
	if err := enc.Close(); err != nil {
		return "", fmt.Errorf("encode as YAML: %w", err)
	}
	return b.String(), nil
}

func yamlNode(value any) *yaml.Node {
	node := &yaml.Node{Kind: yaml.ScalarNode}
	switch v := value.(type) {
	case map[string]any:
		node.Kind, node.Tag = yaml.MappingNode, "!!map"
		for _, key := range sortedKeys(v) {
			node.Content = append(node.Content, yamlNode(key), yamlNode(v[key]))
		}
	case []any:
		node.Kind, node.Tag = yaml.SequenceNode, "!!seq"
		for _, item := range v {
			node.Content = append(node.Content, yamlNode(item))
		}
	case json.Number:
		node.Tag, node.Value = "!!int", v.String()
		if strings.ContainsAny(node.Value, ".eE") {
			node.Tag = "!!float"
		}
	case nil:
		node.Tag, node.Value = "!!null", "null"
	case bool:
		node.Tag, node.Value = "!!bool", fmt.Sprint(v)
	default:
		node.Tag, node.Value = "!!str", fmt.Sprint(v)
		node.Style = yaml.DoubleQuotedStyle
	}
	return node
}
