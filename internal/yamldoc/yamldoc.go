// Package yamldoc reads strict YAML documents: every error has a file, a line and a column, unknown keys
// are found by name, numbers keep their digits, and no document can blow up in memory.
package yamldoc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/attune-run/attune/internal/nearest"
)

const (
	maxBytes = 4 << 20 // of one document
	maxNodes = 200_000 // visited, aliases counted each time they are used
	maxDepth = 200     // of nesting
)

// Problem is something wrong at a place of a file. Line and Column count from 1; a zero Line means the file
// as a whole.
type Problem struct {
	File         string
	Line, Column int
	Message      string
}

// Error is "file:line:column: message".
func (p Problem) Error() string {
	switch {
	case p.Line == 0:
		return p.File + ": " + p.Message
	case p.Column == 0:
		return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Message)
	}
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Message)
}

// String is what Error says.
func (p Problem) String() string { return p.Error() }

// Doc is one parsed document. Reading it through Maps collects Errors (wrong types) and Unknown
// (keys nobody asked for).
type Doc struct {
	File    string
	Errors  []Problem
	Unknown []Problem
	root    *yaml.Node
}

// Parse reads a document whose top level is a mapping. file is what problems name.
func Parse(file string, data []byte) (*Doc, error) {
	node, err := parse(file, data)
	if err != nil {
		return nil, err
	}
	if node == nil {
		return nil, Problem{File: file, Message: "is empty"}
	}
	return newDoc(file, node)
}

// ParseAt is Parse for a part of a file that begins at a line, counted from 1.
func ParseAt(file string, line int, data []byte) (*Doc, error) {
	node, err := parse(file, data)
	var problem Problem
	switch {
	case errors.As(err, &problem) && problem.Line > 0:
		problem.Line += line - 1
		return nil, problem
	case err != nil:
		return nil, err
	case node == nil:
		return nil, Problem{File: file, Line: line, Message: "is empty"}
	}
	shift(node, line-1)
	return newDoc(file, node)
}

// shift moves a document down by some lines.
func shift(node *yaml.Node, lines int) {
	node.Line += lines
	for _, child := range node.Content {
		shift(child, lines)
	}
}

// ParseAll reads a file of any number of documents, separated by "---" lines. Each is a mapping; empty ones are left out.
func ParseAll(file string, data []byte) ([]*Doc, error) {
	nodes, err := parseAll(file, data)
	if err != nil {
		return nil, err
	}
	var docs []*Doc
	for _, node := range nodes {
		if isNull(node) {
			continue
		}
		doc, err := newDoc(file, node)
		if err != nil {
			return nil, err
		}
		docs = append(docs, doc)
	}
	return docs, nil
}

func newDoc(file string, node *yaml.Node) (*Doc, error) {
	doc := &Doc{File: file, root: node}
	if node.Kind != yaml.MappingNode {
		return nil, doc.at(node, "must be a mapping (key: value)")
	}
	return doc, nil
}

// parse reads one document; nil when the file is empty.
func parse(file string, data []byte) (*yaml.Node, error) {
	nodes, err := parseAll(file, data)
	switch {
	case err != nil || len(nodes) == 0:
		return nil, err
	case len(nodes) > 1:
		second := nodes[1]
		return nil, Problem{File: file, Line: second.Line, Column: second.Column, Message: "a second document; a file holds one"}
	}
	return nodes[0], nil
}

func parseAll(file string, data []byte) ([]*yaml.Node, error) {
	if len(data) > maxBytes {
		return nil, Problem{File: file, Message: fmt.Sprintf("holds more than %d bytes", maxBytes)}
	}
	var nodes []*yaml.Node
	budget := maxNodes
	for decoder := yaml.NewDecoder(bytes.NewReader(data)); ; {
		var node yaml.Node
		if err := decoder.Decode(&node); errors.Is(err, io.EOF) {
			return nodes, nil
		} else if err != nil {
			return nil, syntaxProblem(file, err)
		}
		if len(node.Content) == 0 {
			continue
		}
		if err := measure(file, node.Content[0], &budget, 0); err != nil {
			return nil, err
		}
		nodes = append(nodes, node.Content[0])
	}
}

// syntaxProblem gives the library's error its place.
func syntaxProblem(file string, err error) Problem {
	var load *yaml.LoadError
	if errors.As(err, &load) {
		return Problem{File: file, Line: load.Mark.Line, Column: load.Mark.Column, Message: load.Message}
	}
	return Problem{File: file, Message: strings.TrimPrefix(err.Error(), "yaml: ")}
}

// measure refuses documents that grow through aliases or nest too deep, and keys that are there twice.
func measure(file string, node *yaml.Node, budget *int, depth int) error {
	*budget--
	switch {
	case *budget < 0:
		return Problem{file, node.Line, node.Column, fmt.Sprintf("has more than %d nodes once its aliases are resolved", maxNodes)}
	case depth > maxDepth:
		return Problem{file, node.Line, node.Column, fmt.Sprintf("nests deeper than %d levels", maxDepth)}
	case node.Kind == yaml.AliasNode:
		return measure(file, node.Alias, budget, depth+1)
	}
	seen := map[string]bool{}
	for i, child := range node.Content {
		if node.Kind == yaml.MappingNode && i%2 == 0 {
			if child.Kind != yaml.ScalarNode {
				return Problem{file, child.Line, child.Column, "a key must be plain text"}
			}
			if seen[child.Value] {
				return Problem{file, child.Line, child.Column, fmt.Sprintf("the key %q is there twice", child.Value)}
			}
			seen[child.Value] = true
		}
		if err := measure(file, child, budget, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (d *Doc) at(node *yaml.Node, format string, args ...any) Problem {
	return Problem{d.File, node.Line, node.Column, fmt.Sprintf(format, args...)}
}

// Fail records a problem at a node; a nil node means the file.
func (d *Doc) Fail(node *yaml.Node, format string, args ...any) {
	if node == nil {
		node = &yaml.Node{}
	}
	d.Errors = append(d.Errors, d.at(node, format, args...))
}

// Err joins what went wrong; nil when nothing did.
func (d *Doc) Err() error {
	var all []error
	for _, p := range d.Errors {
		all = append(all, p)
	}
	return errors.Join(all...)
}

// Root is the top-level mapping.
func (d *Doc) Root() *Map { return d.mapping(d.root) }

// Map reads one mapping; each key that was asked for is known.
type Map struct {
	doc   *Doc
	Node  *yaml.Node // nil for a mapping that is not there
	keys  []*yaml.Node
	items map[string]*yaml.Node
	asked []string
}

func (d *Doc) mapping(node *yaml.Node) *Map {
	m := &Map{doc: d, items: map[string]*yaml.Node{}}
	if node = follow(node); isNull(node) {
		return m
	}
	if node.Kind != yaml.MappingNode {
		d.Fail(node, "must be a mapping (key: value)")
		return m
	}
	m.Node = node
	for i := 0; i+1 < len(node.Content); i += 2 {
		m.keys = append(m.keys, node.Content[i])
		m.items[node.Content[i].Value] = follow(node.Content[i+1])
	}
	return m
}

func follow(node *yaml.Node) *yaml.Node {
	for node != nil && node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	return node
}

func isNull(node *yaml.Node) bool {
	return node == nil || node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null"
}

// Get is the value of a key as it stands; nil when it is missing or null.
func (m *Map) Get(key string) *yaml.Node {
	m.asked = append(m.asked, key)
	node := m.items[key]
	if isNull(node) {
		return nil
	}
	return node
}

// Has tells whether the key is there and not null.
func (m *Map) Has(key string) bool { return m.Get(key) != nil }

// Keys are the keys in the document's order; they count as asked for.
func (m *Map) Keys() []string {
	keys := make([]string, 0, len(m.keys))
	for _, key := range m.keys {
		keys = append(keys, key.Value)
	}
	m.asked = append(m.asked, keys...)
	return keys
}

// Map is the mapping below a key, empty when it is not there.
func (m *Map) Map(key string) *Map { return m.doc.mapping(m.Get(key)) }

// Maps are the mappings of a list.
func (m *Map) Maps(key string) []*Map {
	node := m.Get(key)
	if node == nil {
		return nil
	}
	if node.Kind != yaml.SequenceNode {
		m.doc.Fail(node, "%s must be a list", key)
		return nil
	}
	var all []*Map
	for _, item := range node.Content {
		all = append(all, m.doc.mapping(item))
	}
	return all
}

// Text is a scalar as it was written; "" when it is not there.
func (m *Map) Text(key string) string {
	node := m.Get(key)
	if node == nil {
		return ""
	}
	if node.Kind != yaml.ScalarNode {
		m.doc.Fail(node, "%s must be text", key)
		return ""
	}
	return node.Value
}

// Bool is true or false; byDefault when it is not there.
func (m *Map) Bool(key string, byDefault bool) bool {
	node := m.Get(key)
	if node == nil {
		return byDefault
	}
	value, err := strconv.ParseBool(node.Value)
	if err != nil || node.Kind != yaml.ScalarNode {
		m.doc.Fail(node, "%s must be true or false", key)
		return byDefault
	}
	return value
}

// Int is a whole number; 0 when it is not there.
func (m *Map) Int(key string) int {
	node := m.Get(key)
	if node == nil {
		return 0
	}
	value, err := strconv.Atoi(node.Value)
	if err != nil {
		m.doc.Fail(node, "%s must be a whole number", key)
	}
	return value
}

// List is a list of texts; a single text is a list of one.
func (m *Map) List(key string) []string {
	return m.doc.texts(key, m.Get(key))
}

// Lists is a list of lists of texts; a single list is a list of one.
func (m *Map) Lists(key string) [][]string {
	node := m.Get(key)
	if node == nil {
		return nil
	}
	if node.Kind != yaml.SequenceNode || len(node.Content) == 0 || follow(node.Content[0]).Kind != yaml.SequenceNode {
		return [][]string{m.doc.texts(key, node)}
	}
	var all [][]string
	for _, item := range node.Content {
		all = append(all, m.doc.texts(key, follow(item)))
	}
	return all
}

func (d *Doc) texts(key string, node *yaml.Node) []string {
	switch {
	case node == nil:
		return nil
	case node.Kind == yaml.ScalarNode:
		return []string{node.Value}
	case node.Kind != yaml.SequenceNode:
		d.Fail(node, "%s must be a list of texts", key)
		return nil
	}
	all := make([]string, 0, len(node.Content))
	for _, item := range node.Content {
		if item = follow(item); item.Kind != yaml.ScalarNode {
			d.Fail(item, "%s must be a list of texts", key)
			return nil
		}
		all = append(all, item.Value)
	}
	return all
}

// Place is "line:column" of a key's value, or of the mapping when it has none.
func (m *Map) Place(key string) string {
	node := m.items[key]
	if node == nil {
		node = m.Node
	}
	if node == nil {
		return ""
	}
	return fmt.Sprintf("%d:%d", node.Line, node.Column)
}

// Fail records a problem at the value of a key, or at the mapping when it has none.
func (m *Map) Fail(key, format string, args ...any) {
	node := m.items[key]
	if node == nil {
		node = m.Node
	}
	m.doc.Fail(node, format, args...)
}

// Value is the JSON value below a key; nil when it is not there.
func (m *Map) Value(key string) any {
	node := m.Get(key)
	if node == nil {
		return nil
	}
	value, err := jsonValue(node)
	if err != nil {
		m.doc.Fail(node, "%s: %v", key, err)
	}
	return value
}

// Close reports the keys that nobody asked for.
func (m *Map) Close() {
	for _, key := range m.keys {
		if slices.Contains(m.asked, key.Value) {
			continue
		}
		message := fmt.Sprintf("unknown key %q", key.Value)
		if near := nearest.Name(key.Value, m.asked); near != "" {
			message += fmt.Sprintf("; did you mean %q?", near)
		}
		m.doc.Unknown = append(m.doc.Unknown, m.doc.at(key, "%s", message))
	}
}

// Value reads any YAML document as a JSON value: map[string]any, []any, string, bool, nil, and numbers as
// json.Number with the digits they were written with.
func Value(file string, data []byte) (any, error) {
	node, err := parse(file, data)
	if err != nil || node == nil {
		return nil, err
	}
	value, err := jsonValue(node)
	if err != nil {
		return nil, Problem{file, node.Line, node.Column, err.Error()}
	}
	return value, nil
}

func jsonValue(node *yaml.Node) (any, error) {
	switch node = follow(node); node.Kind {
	case yaml.MappingNode:
		object := make(map[string]any, len(node.Content)/2)
		for i := 0; i+1 < len(node.Content); i += 2 {
			value, err := jsonValue(node.Content[i+1])
			if err != nil {
				return nil, err
			}
			object[node.Content[i].Value] = value
		}
		return object, nil
	case yaml.SequenceNode:
		list := make([]any, 0, len(node.Content))
		for _, item := range node.Content {
			value, err := jsonValue(item)
			if err != nil {
				return nil, err
			}
			list = append(list, value)
		}
		return list, nil
	default:
		return scalar(node)
	}
}

func scalar(node *yaml.Node) (any, error) {
	switch node.ShortTag() {
	case "!!null":
		return nil, nil
	case "!!bool":
		return strconv.ParseBool(strings.ToLower(node.Value))
	case "!!int", "!!float":
		return exactNumber(node.Value)
	default:
		return node.Value, nil
	}
}

// exactNumber keeps a number's own digits where JSON can write them, and converts what only YAML can
// write (0x1F, 1_000, +3, .5).
func exactNumber(text string) (any, error) {
	if IsNumber(text) {
		return json.Number(text), nil
	}
	plain := strings.ReplaceAll(strings.TrimPrefix(text, "+"), "_", "")
	if n, ok := new(big.Int).SetString(plain, 0); ok {
		return json.Number(n.String()), nil
	}
	if strings.HasPrefix(plain, ".") {
		plain = "0" + plain
	}
	plain = strings.TrimSuffix(strings.Replace(plain, "-.", "-0.", 1), ".")
	if IsNumber(plain) {
		return json.Number(plain), nil
	}
	return nil, fmt.Errorf("%s cannot be written as a JSON number", text)
}

// IsNumber tells whether text is a JSON number (RFC 8259, section 6).
func IsNumber(text string) bool {
	digits := func(s string) (rest string, n int) {
		rest = strings.TrimLeft(s, "0123456789")
		return rest, len(s) - len(rest)
	}
	rest, whole := digits(strings.TrimPrefix(text, "-"))
	if lead := strings.TrimPrefix(text, "-"); whole == 0 || whole > 1 && lead[0] == '0' {
		return false
	}
	n := 1
	if strings.HasPrefix(rest, ".") {
		rest, n = digits(rest[1:])
	}
	if n > 0 && rest != "" && (rest[0] == 'e' || rest[0] == 'E') {
		rest = rest[1:]
		if rest != "" && (rest[0] == '+' || rest[0] == '-') {
			rest = rest[1:]
		}
		rest, n = digits(rest)
	}
	return n > 0 && rest == ""
}

// Read reads a document of bounded size.
func Read(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxBytes+1))
	if err == nil && len(data) > maxBytes {
		err = fmt.Errorf("holds more than %d bytes", maxBytes)
	}
	return data, err
}
