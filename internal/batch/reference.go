package batch

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/report"
)

// A reference is written ${{ build.result.version }}: it stands for what another entry gave. Alone in a text it has the value's own
// type, within a text it is text. Values are put in once: what they hold is never read as a reference.
const (
	opening = "${{"
	closing = "}}"
)

// reference is the name of a needed entry, one of its properties, and keys and indexes below that.
type reference struct {
	group, property string
	path            []string
}

var properties = []string{"result", "status", "exit_code", "stdout", "artifacts"}

// parseReference reads the text between the braces.
func parseReference(text string, needs []string) (reference, error) {
	text = strings.TrimSpace(text)
	var ref reference
	for _, need := range needs { // names may hold dots: the longest wins
		if strings.HasPrefix(text, need+".") && len(need) > len(ref.group) {
			ref.group = need
		}
	}
	if ref.group == "" {
		if len(needs) == 0 {
			return ref, fmt.Errorf("%s %s %s: an entry may refer to what it needs, and this one needs nothing", opening, text, closing)
		}
		return ref, fmt.Errorf("%s %s %s refers to none of its needs: %s", opening, text, closing, strings.Join(needs, ", "))
	}
	parts := strings.Split(text[len(ref.group)+1:], ".")
	ref.property, ref.path = parts[0], parts[1:]
	if !slices.Contains(properties, ref.property) || len(ref.path) > 0 && ref.property != "result" {
		return ref, fmt.Errorf("%s %s %s: write the entry's name and .result, .result.KEY, .status, .exit_code, .stdout or .artifacts", opening, text, closing)
	}
	return ref, nil
}

// expressions are the texts between braces in all that may hold references.
func expressions(req *executor.Request) []string {
	var all []string
	_, _ = eachReference(req, func(expression string) (any, error) {
		all = append(all, expression)
		return nil, nil
	})
	return all
}

// eachReference gives the request with every reference replaced.
func eachReference(req *executor.Request, resolve func(expression string) (any, error)) (executor.Request, error) {
	filled := *req
	var err error
	if req.Parameters != nil {
		var value any
		if value, err = replace(req.Parameters, resolve); err != nil {
			return filled, fmt.Errorf("parameters: %w", err)
		}
		filled.Parameters, _ = value.(map[string]any)
	}
	filled.Args = slices.Clone(req.Args)
	for i, arg := range filled.Args {
		if filled.Args[i], err = replaceText(arg, resolve); err != nil {
			return filled, fmt.Errorf("args: %w", err)
		}
	}
	filled.Env = maps.Clone(req.Env)
	for _, name := range slices.Sorted(maps.Keys(filled.Env)) {
		if filled.Env[name], err = replaceText(filled.Env[name], resolve); err != nil {
			return filled, fmt.Errorf("env.%s: %w", name, err)
		}
	}
	return filled, nil
}

// replace is value with references replaced; value itself stays as it is.
func replace(value any, resolve func(string) (any, error)) (any, error) {
	switch v := value.(type) {
	case string:
		if expression, ok := alone(v); ok {
			return resolve(expression)
		}
		return replaceText(v, resolve)
	case []any:
		list := make([]any, len(v))
		for i, item := range v {
			var err error
			if list[i], err = replace(item, resolve); err != nil {
				return nil, err
			}
		}
		return list, nil
	case map[string]any:
		object := make(map[string]any, len(v))
		for _, key := range slices.Sorted(maps.Keys(v)) {
			var err error
			if object[key], err = replace(v[key], resolve); err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
		}
		return object, nil
	}
	return value, nil
}

// alone tells whether a text is one reference and nothing else.
func alone(text string) (expression string, ok bool) {
	rest, found := strings.CutPrefix(strings.TrimSpace(text), opening)
	if !found {
		return "", false
	}
	expression, after, found := strings.Cut(rest, closing)
	return expression, found && after == ""
}

func replaceText(text string, resolve func(string) (any, error)) (string, error) {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(text, opening)
		expression, after, closed := strings.Cut(rest, closing)
		if !found || !closed {
			b.WriteString(text)
			return b.String(), nil
		}
		value, err := resolve(expression)
		if err != nil {
			return "", err
		}
		b.WriteString(before)
		b.WriteString(asText(value))
		text = after
	}
}

// asText is a value inside a text: texts as they are, everything else as JSON.
func asText(value any) string {
	if text, ok := value.(string); ok {
		return text
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(value) // results are JSON values
	return strings.TrimSpace(b.String())
}

// fill replaces an entry's references by what ended entries gave. A group of several gives the list of their values.
func fill(e *Entry, ended func(group string) []*report.Execution, artifacts func(name string) string) (executor.Request, error) {
	return eachReference(&e.Request, func(expression string) (any, error) {
		ref, err := parseReference(expression, e.Needs)
		if err != nil {
			return nil, err
		}
		var values []any
		for _, execution := range ended(ref.group) {
			value, err := ref.value(execution, artifacts)
			if err != nil {
				return nil, fmt.Errorf("%s%s%s: %w", opening, expression, closing, err)
			}
			values = append(values, value)
		}
		if len(values) == 1 {
			return values[0], nil
		}
		return values, nil
	})
}

func (r reference) value(e *report.Execution, artifacts func(string) string) (any, error) {
	switch r.property {
	case "status":
		return string(e.Result.Status), nil
	case "exit_code":
		return json.Number(strconv.Itoa(e.Result.ExitCode)), nil
	case "stdout":
		return strings.TrimRight(e.Result.Stdout, "\n"), nil
	case "artifacts":
		return artifacts(e.Name), nil
	}
	value := e.Result.Result
	for _, key := range r.path {
		switch v := value.(type) {
		case map[string]any:
			item, ok := v[key]
			if !ok {
				return nil, fmt.Errorf("the result of %s has no %q%s", e.Name, key, suggestion(key, slices.Sorted(maps.Keys(v))))
			}
			value = item
		case []any:
			i, err := strconv.Atoi(key)
			if err != nil || i < 0 || i >= len(v) {
				return nil, fmt.Errorf("the result of %s has no element %s", e.Name, key)
			}
			value = v[i]
		default:
			return nil, fmt.Errorf("the result of %s has nothing below which %q could be", e.Name, key)
		}
	}
	return value, nil
}
