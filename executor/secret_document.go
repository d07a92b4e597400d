package executor

import (
	"encoding/json"
	"path/filepath"
	"strings"

	"github.com/attune-run/attune/internal/nearest"
	"github.com/attune-run/attune/pack"
)

// document is what a source holds: text, which may be a document with keys, or an object.
type document struct {
	text   string
	format string // of text; empty: what it looks like
	object map[string]any
}

const (
	formatJSON   = "json"
	formatYAML   = "yaml"
	formatDotenv = "dotenv"
)

// formatOf knows a format by the file's name, without .age and .enc.
func formatOf(path string) string {
	base := filepath.Base(path)
	for _, suffix := range []string{".age", ".asc", ".enc"} {
		base = strings.TrimSuffix(base, suffix)
	}
	switch filepath.Ext(base) {
	case ".json":
		return formatJSON
	case ".yaml", ".yml":
		return formatYAML
	case ".env":
		return formatDotenv
	}
	return ""
}

// pick is one value: all of the text without a key, or an object's only one. A key is looked for as it is, then as a
// path with dots. What is neither text, number nor boolean is given as JSON.
func (d document) pick(key string) (string, error) {
	if key == "" && d.object == nil {
		return d.text, nil
	}
	object := d.object
	if object == nil {
		var err error
		if object, err = d.parse(); err != nil {
			return "", err
		}
	}
	if key == "" {
		if len(object) != 1 {
			return "", secretFailure("name one behind #", "holds %d keys", len(object))
		}
		key = sortedKeys(object)[0]
	}
	value, ok := object[key]
	if !ok {
		value, ok = dotted(object, key)
	}
	if !ok {
		if near := nearest.Name(key, sortedKeys(object)); near != "" {
			return "", secretFailure("did you mean #"+near+"?", "there is no key %s", key)
		}
		return "", secretFailure("", "there is no key %s among its %d", key, len(object))
	}
	if value == nil {
		return "", secretFailure("", "the key %s is null", key)
	}
	return scalarText(value), nil
}

func dotted(object map[string]any, key string) (any, bool) {
	head, rest, ok := strings.Cut(key, ".")
	if !ok {
		value, ok := object[key]
		return value, ok
	}
	inner, ok := object[head].(map[string]any)
	if !ok {
		return nil, false
	}
	return dotted(inner, rest)
}

// parse reads the text as a document with keys. Its errors name no place: they would show what stands there.
func (d document) parse() (map[string]any, error) {
	format := d.format
	if format == "" {
		format = guessFormat(d.text)
	}
	var value any
	var err error
	switch format {
	case formatJSON:
		value, err = pack.DecodeJSON([]byte(d.text))
	case formatDotenv:
		return parseDotenv(d.text), nil
	default:
		value, err = pack.DecodeYAML([]byte(d.text))
	}
	object, ok := value.(map[string]any)
	if err != nil || !ok {
		return nil, secretFailure("leave #key out to take all of it", "is no %s with keys", strings.ToUpper(format))
	}
	return object, nil
}

func guessFormat(text string) string {
	if json.Valid([]byte(text)) {
		return formatJSON
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		name, _, ok := strings.Cut(line, "=")
		if line != "" && line[0] != '#' && (!ok || strings.ContainsAny(strings.TrimPrefix(name, "export "), " :\"'{")) {
			return formatYAML
		}
	}
	return formatDotenv
}

// parseDotenv reads NAME=value lines: 'literal', "with \n \t \" \\ \$", or bare up to a blank and #. export and comments are passed over.
func parseDotenv(text string) map[string]any {
	object := map[string]any{}
	for line := range strings.Lines(text) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "export ")
		name, value, ok := strings.Cut(line, "=")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		value = strings.TrimSpace(value)
		switch {
		case len(value) > 1 && value[0] == '\'' && strings.LastIndexByte(value, '\'') > 0:
			value = value[1:strings.LastIndexByte(value, '\'')]
		case len(value) > 1 && value[0] == '"' && strings.LastIndexByte(value, '"') > 0:
			value = strings.NewReplacer(`\n`, "\n", `\r`, "\r", `\t`, "\t", `\"`, `"`, `\\`, `\`, `\$`, `$`).Replace(value[1:strings.LastIndexByte(value, '"')])
		default:
			if at := strings.Index(value, " #"); at >= 0 {
				value = strings.TrimSpace(value[:at])
			}
		}
		object[strings.TrimSpace(name)] = value
	}
	return object
}
