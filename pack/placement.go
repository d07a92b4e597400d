package pack

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/attune-run/attune/internal/yamldoc"
	"github.com/attune-run/attune/runtime"
)

// Placement says which workers of a pool may run an action, and which of them should.
type Placement struct {
	Selector    map[string]string // labels the worker must have
	Tolerations []Toleration
	Affinity    []Preference
	Runtimes    []RuntimeNeed // beside the action's own
}

// Toleration lets an action run on a worker in spite of a taint: of one key, or of any where the key is empty.
type Toleration struct {
	Key      string `json:"key,omitempty"`
	Operator string `json:"operator,omitempty"` // "Equal" (default): the taint's value is Value; "Exists": whatever it is
	Value    string `json:"value,omitempty"`
}

// The operators of a Toleration.
const (
	Equal  = "Equal"
	Exists = "Exists"
)

// Tolerates tells whether a taint of that key and value is tolerated.
func (t Toleration) Tolerates(key, value string) bool {
	if t.Operator == Exists {
		return t.Key == "" || t.Key == key
	}
	return t.Key == key && t.Value == value
}

// Preference adds Weight to the score of a worker that has all of the labels.
type Preference struct {
	Weight int               `json:"weight"` // -100 to 100, not 0
	Labels map[string]string `json:"labels"`
}

// RuntimeNeed is a runtime that a worker must have. It is written like "python" or "node>=18".
type RuntimeNeed struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"` // constraint; empty means any
}

// Retries is how often the pool runs a failed execution again.
type Retries struct {
	Max     int           // beside the first run
	Backoff time.Duration // before the first of them; zero means the pool's own
}

// ReadSelector reads labels from a JSON value: a mapping of names to texts, numbers or booleans. Nil has none.
func ReadSelector(value any) (map[string]string, error) {
	if value == nil {
		return nil, nil
	}
	fields, ok := value.(map[string]any)
	if !ok {
		return nil, errors.New("must be a mapping of labels to values")
	}
	labels := map[string]string{}
	for name, value := range fields {
		switch v := value.(type) {
		case string:
			labels[name] = v
		case bool, json.Number, float64, int:
			labels[name] = fmt.Sprint(v)
		default:
			return nil, fmt.Errorf("label %s must have a text for its value", name)
		}
		if name == "" {
			return nil, errors.New("a label has no name")
		}
	}
	return labels, nil
}

// ReadTolerations reads a list of mappings with key, operator, value, and the effect NoSchedule, which is the only one.
func ReadTolerations(value any) ([]Toleration, error) {
	var list []struct {
		Toleration
		Effect string `json:"effect"`
	}
	if err := strictly(value, &list); err != nil {
		return nil, err
	}
	var all []Toleration
	for _, t := range list {
		switch {
		case t.Operator != "" && t.Operator != Equal && t.Operator != Exists:
			return nil, fmt.Errorf("operator %q must be %s or %s", t.Operator, Equal, Exists)
		case t.Operator == Exists && t.Value != "":
			return nil, fmt.Errorf("operator %s takes no value", Exists)
		case t.Operator != Exists && t.Key == "":
			return nil, errors.New("a toleration without key must have the operator " + Exists)
		case t.Effect != "" && t.Effect != "NoSchedule":
			return nil, fmt.Errorf("effect %q is not known; there is NoSchedule", t.Effect)
		}
		if t.Operator == Equal {
			t.Operator = ""
		}
		all = append(all, t.Toleration)
	}
	return all, nil
}

// ReadAffinity reads a list of mappings with weight and labels.
func ReadAffinity(value any) ([]Preference, error) {
	var list []struct {
		Weight int            `json:"weight"`
		Labels map[string]any `json:"labels"`
	}
	if err := strictly(value, &list); err != nil {
		return nil, err
	}
	var all []Preference
	for _, p := range list {
		if p.Weight == 0 || p.Weight < -100 || p.Weight > 100 {
			return nil, fmt.Errorf("weight %d must lie between -100 and 100 and not be 0", p.Weight)
		}
		labels, err := ReadSelector(p.Labels)
		if err != nil {
			return nil, err
		}
		if len(labels) == 0 {
			return nil, errors.New("a preference needs labels")
		}
		all = append(all, Preference{p.Weight, labels})
	}
	return all, nil
}

// readNeeds reads a list of runtimes.
func readNeeds(value any) ([]RuntimeNeed, error) {
	var list []string
	if err := strictly(value, &list); err != nil {
		return nil, err
	}
	var all []RuntimeNeed
	for _, text := range list {
		name, constraint := text, ""
		if i := strings.IndexAny(text, " <>=!~^"); i >= 0 {
			name, constraint = text[:i], strings.TrimSpace(text[i:])
		}
		if name == "" {
			return nil, fmt.Errorf("%q names no runtime", text)
		}
		if _, err := runtime.ParseConstraint(constraint); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, RuntimeNeed{name, constraint})
	}
	slices.SortFunc(all, func(a, b RuntimeNeed) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Version, b.Version))
	})
	return all, nil
}

// strictly decodes a JSON value; nil changes nothing.
func strictly(value, into any) error {
	if value == nil {
		return nil
	}
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return fmt.Errorf("%s", strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

func readPlacement(root *yamldoc.Map) (p Placement) {
	var selector, tolerations, affinity, runtimes error
	p.Selector, selector = ReadSelector(root.Value("worker_selector"))
	p.Tolerations, tolerations = ReadTolerations(root.Value("worker_tolerations"))
	p.Affinity, affinity = ReadAffinity(root.Value("worker_affinity"))
	p.Runtimes, runtimes = readNeeds(root.Value("required_worker_runtimes"))
	for _, problem := range []struct {
		key string
		err error
	}{
		{"worker_selector", selector}, {"worker_tolerations", tolerations}, {"worker_affinity", affinity}, {"required_worker_runtimes", runtimes},
	} {
		if problem.err != nil {
			root.Fail(problem.key, "%s: %v", problem.key, problem.err)
		}
	}
	return p
}

func readRetries(root *yamldoc.Map) Retries {
	fields := root.Map("retries")
	retries := Retries{Max: fields.Int("max"), Backoff: duration(fields, "backoff")}
	if retries.Max < 0 {
		fields.Fail("max", "retries.max %d is negative", retries.Max)
	}
	fields.Close()
	return retries
}

func readConcurrency(root *yamldoc.Map) int {
	limit := root.Int("concurrency")
	if limit < 0 {
		root.Fail("concurrency", "concurrency %d is negative", limit)
	}
	return limit
}
