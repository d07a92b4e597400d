package recipe

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"github.com/BurntSushi/toml"
)

// ScriptMetadata reads a Python script's inline metadata block (PEP 723):
//
//	# /// script
//	# requires-python = ">=3.11"
//	# dependencies = ["rich"]
//	# ///
//
// constraint is requires-python as a version constraint, empty for any; ok is false when there is no block.
func ScriptMetadata(file string) (constraint string, dependencies []string, ok bool, err error) {
	metadata, ok, err := readScriptMetadata(file)
	return metadata.constraint, metadata.Dependencies, ok, err
}

// scriptMetadata is what a script's block says.
type scriptMetadata struct {
	RequiresPython string   `toml:"requires-python"`
	Dependencies   []string `toml:"dependencies"`
	Tool           struct {
		UV map[string]any `toml:"uv"`
	} `toml:"tool"`

	block      []byte
	constraint string // RequiresPython as a version constraint
}

// usesUV tells whether the block holds settings that only uv understands.
func (m scriptMetadata) usesUV() bool { return len(m.Tool.UV) > 0 }

func readScriptMetadata(file string) (metadata scriptMetadata, ok bool, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return metadata, false, err
	}
	block, line, ok, err := scriptBlock(data)
	if err != nil {
		return metadata, false, fmt.Errorf("%s: %w", file, err)
	}
	if !ok {
		return metadata, false, nil
	}
	metadata.block = []byte(block)
	if err := toml.Unmarshal(metadata.block, &metadata); err != nil {
		return metadata, false, fmt.Errorf("%s:%d: script metadata: %w", file, line, err)
	}
	if metadata.constraint, err = convertSpecifiers(metadata.RequiresPython); err != nil {
		return metadata, false, fmt.Errorf("%s:%d: requires-python: %w", file, line, err)
	}
	return metadata, true, nil
}

// scriptBlock is the TOML between "# /// script" and the last "# ///" of the same run of comments, and the number of
// its first line.
func scriptBlock(data []byte) (block string, line int, ok bool, err error) {
	const opening, closing = "# /// script", "# ///"
	if !bytes.Contains(data, []byte(opening)) {
		return "", 0, false, nil
	}
	lines := strings.Split(strings.ReplaceAll(string(data), "\r\n", "\n"), "\n")
	for start := 0; start < len(lines); start++ {
		if strings.TrimRight(lines[start], " \t") != opening {
			continue
		}
		if ok {
			return "", 0, false, fmt.Errorf("line %d: a second script metadata block", start+1)
		}
		end := 0
		for at := start + 1; at < len(lines) && (lines[at] == "#" || strings.HasPrefix(lines[at], "# ")); at++ {
			if strings.TrimRight(lines[at], " \t") == closing {
				end = at
			}
		}
		if end == 0 {
			return "", 0, false, fmt.Errorf("line %d: the script metadata block is never closed with %q", start+1, closing)
		}
		var b strings.Builder
		for _, text := range lines[start+1 : end] {
			b.WriteString(strings.TrimPrefix(strings.TrimPrefix(text, "#"), " ") + "\n")
		}
		block, line, ok, start = b.String(), start+2, true, end
	}
	return block, line, ok, nil
}

// convertSpecifiers turns version specifiers of PEP 440 into a version constraint.
func convertSpecifiers(specifiers string) (string, error) {
	var all []string
	for part := range strings.SplitSeq(specifiers, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		converted, err := convertSpecifier(part)
		if err != nil {
			return "", err
		}
		all = append(all, converted)
	}
	return strings.Join(all, ","), nil
}

func convertSpecifier(part string) (string, error) {
	at := strings.IndexFunc(part, func(r rune) bool { return !strings.ContainsRune("<>=!~", r) })
	if at < 0 {
		return "", fmt.Errorf("%q has no version", part)
	}
	operator, version := part[:at], strings.TrimSpace(part[at:])
	stem, wild := strings.CutSuffix(version, ".*")
	switch operator {
	case "==", "===":
		if wild || strings.Count(version, ".") < 2 {
			return stem, nil // a bare version is the whole series
		}
		return "=" + version, nil
	case ">=", "<=", ">", "<":
		return operator + stem, nil
	case "~=":
		parts := strings.Split(version, ".")
		if len(parts) < 2 {
			return "", fmt.Errorf("%q needs at least two numbers", part)
		}
		return ">=" + version + "," + strings.Join(parts[:len(parts)-1], "."), nil
	default:
		return "", fmt.Errorf("%q: the operator %q is not supported", part, operator)
	}
}
