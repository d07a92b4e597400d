package pack

import (
	"encoding/json"
	"fmt"
	"maps"
)

// MarshalJSON writes the schema as one that ParseSchema reads: JSON Schema, with attune's own keywords back in the definitions.
func (s *Schema) MarshalJSON() ([]byte, error) {
	root := maps.Clone(s.root)
	if properties, ok := root["properties"].(map[string]any); ok {
		properties = maps.Clone(properties)
		for name, p := range s.parameters {
			properties[name] = p.into(properties[name])
		}
		root["properties"] = properties
	}
	return json.Marshal(root)
}

// into adds a parameter's own keywords to its definition.
func (p parameter) into(definition any) any {
	d, ok := definition.(map[string]any)
	if !ok {
		return definition
	}
	d = maps.Clone(d)
	if p.secret {
		d["secret"] = true
	}
	if p.immutable {
		d["immutable"] = true
	}
	if p.position >= 0 {
		d["position"] = p.position
	}
	return d
}

// ParseSchema reads what MarshalJSON wrote.
func ParseSchema(data []byte) (*Schema, error) {
	value, err := DecodeJSON(data)
	if err != nil {
		return nil, err
	}
	root, ok := value.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("a schema is an object, not %s", withArticle([]string{typeOf(value)}))
	}
	s := &Schema{root: root, parameters: map[string]parameter{}}
	properties, _ := root["properties"].(map[string]any)
	for name, definition := range properties {
		d, _ := definition.(map[string]any)
		s.parameters[name] = takeParameter(d)
	}
	return s, s.compile()
}

// takeParameter takes attune's own keywords out of a definition.
func takeParameter(d map[string]any) parameter {
	p := parameter{position: -1}
	p.secret, _ = d["secret"].(bool)
	p.immutable, _ = d["immutable"].(bool)
	if number, ok := d["position"].(json.Number); ok {
		if at, err := number.Int64(); err == nil {
			p.position = int(at)
		}
	}
	for _, own := range []string{"secret", "immutable", "position"} {
		delete(d, own)
	}
	return p
}
