package batch

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/yamldoc"
)

// axis is one dimension of a matrix: a parameter with its values, or the versions of the runtime.
type axis struct {
	parameter string // empty: runtime_version
	values    []any
}

func axes(m *yamldoc.Map) []axis {
	var all []axis
	parameters := m.Map("parameters")
	for _, name := range parameters.Keys() {
		values, ok := parameters.Value(name).([]any)
		if !ok || len(values) == 0 {
			parameters.Fail(name, "matrix.parameters.%s must be a list of values", name)
		}
		all = append(all, axis{name, values})
	}
	if versions := m.List("runtime_version"); len(versions) > 0 {
		values := make([]any, len(versions))
		for i, version := range versions {
			values[i] = version
		}
		all = append(all, axis{"", values})
	}
	m.Close()
	return all
}

func product(axes []axis) int {
	n := 1
	for _, a := range axes {
		if n *= len(a.values); n > entriesMax {
			return n
		}
	}
	return n
}

// expand gives an entry for each combination, the last axis turning fastest.
func (d *draft) expand() []Entry {
	entries := []Entry{d.entry}
	labels := []string{""}
	for _, a := range d.axes {
		var next []Entry
		var nextLabels []string
		for i := range entries {
			for _, value := range a.values {
				e := entries[i]
				e.Request = with(e.Request, a, value)
				next = append(next, e)
				nextLabels = append(nextLabels, strings.TrimPrefix(labels[i]+","+a.label(value), ","))
			}
		}
		entries, labels = next, nextLabels
	}
	if len(d.axes) > 0 {
		for i := range entries {
			entries[i].Name += "[" + labels[i] + "]"
		}
	}
	return entries
}

func (a axis) label(value any) string {
	text, ok := value.(string)
	if !ok {
		data, _ := json.Marshal(value) // it came from JSON values
		text = string(data)
	}
	if a.parameter == "" {
		return text
	}
	return fmt.Sprintf("%s=%s", a.parameter, text)
}

func with(req executor.Request, a axis, value any) executor.Request {
	if a.parameter == "" {
		req.RuntimeVersion, _ = value.(string)
		return req
	}
	parameters := maps.Clone(req.Parameters)
	if parameters == nil {
		parameters = map[string]any{}
	}
	parameters[a.parameter] = value
	req.Parameters = parameters
	return req
}
