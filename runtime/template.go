package runtime

import (
	"fmt"
	"os"
	"strings"
)

// Expand replaces the template variables. An unknown one is an error; a brace that starts no variable
// (a regular expression, JSON) stays as it is.
func Expand(template string, v Vars) (string, error) {
	if !strings.Contains(template, "{") {
		return template, nil
	}
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(template, "{")
		b.WriteString(before)
		if !found {
			return b.String(), nil
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed || !isVariable(name) {
			b.WriteByte('{')
			template = rest
			continue
		}
		value, ok := v.value(name)
		if !ok {
			return "", fmt.Errorf("there is no template variable {%s}; there are {pack_dir} {env_dir} {interpreter} {action_file} {manifest_path}", name)
		}
		b.WriteString(value)
		template = after
	}
}

func isVariable(name string) bool {
	return name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_") == ""
}

func (v Vars) value(name string) (string, bool) {
	switch name {
	case "pack_dir":
		return v.PackDir, true
	case "env_dir":
		return v.EnvDir, true
	case "interpreter":
		return v.Interpreter, true
	case "action_file":
		return v.ActionFile, true
	case "manifest_path":
		return v.ManifestPath, true
	}
	return "", false
}

// ApplyEnv lays vars over env (NAME=value entries), one after the other, so that Prepend and Append meet
// the effective value. env is not changed.
func ApplyEnv(env []string, vars []EnvVar, v Vars) ([]string, error) {
	if len(vars) == 0 {
		return env, nil
	}
	at := make(map[string]int, len(env))
	result := make([]string, len(env), len(env)+len(vars))
	copy(result, env)
	for i, entry := range env {
		name, _, _ := strings.Cut(entry, "=")
		at[name] = i
	}
	for _, variable := range vars {
		value, err := Expand(variable.Value, v)
		if err != nil {
			return nil, fmt.Errorf("variable %s: %w", variable.Name, err)
		}
		i, ok := at[variable.Name]
		if !ok {
			i = len(result)
			at[variable.Name] = i
			result = append(result, "")
		}
		_, before, _ := strings.Cut(result[i], "=")
		result[i] = variable.Name + "=" + variable.join(before, value)
	}
	return result, nil
}

func (e EnvVar) join(before, value string) string {
	separator := e.Separator
	if separator == "" {
		separator = string(os.PathListSeparator)
	}
	switch {
	case e.Operation != Prepend && e.Operation != Append || before == "":
		return value
	case value == "":
		return before
	case e.Operation == Prepend:
		return value + separator + before
	default:
		return before + separator + value
	}
}
