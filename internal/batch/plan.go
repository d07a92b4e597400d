// Package batch reads plans of many executions and runs them: each when those it needs have succeeded, so many at once.
package batch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/nearest"
	"github.com/attune-run/attune/internal/yamldoc"
)

// entriesMax bounds a plan once its matrices are multiplied out.
const entriesMax = 10_000

// Plan is what a file asks for, checked, its matrices multiplied out.
type Plan struct {
	Concurrency int     // zero means what the caller decides
	KeepGoing   bool    // entries that need nothing that failed are run all the same
	Entries     []Entry // in the order of the file
}

// Entry is one execution of a plan.
type Entry struct {
	Name    string   // unique: the group with the values that the matrix gave
	Group   string   // the name in the file
	Needs   []string // groups
	Request executor.Request

	where yamldoc.Problem // where the entry begins; its message is empty
}

// Parse reads a plan. YAML holds a mapping with the list "entries"; lines of JSON (a file's name ends with .jsonl or .ndjson) hold an
// entry each. dir is where relative paths of scripts start. The error joins all problems, each with its place.
func Parse(file string, data []byte, dir string) (*Plan, error) {
	reader := &reader{file: file, dir: dir}
	if isLines(file, data) {
		reader.lines(data)
	} else {
		reader.document(data)
	}
	if len(reader.problems) > 0 {
		return nil, errors.Join(reader.problems...)
	}
	return reader.finish()
}

func isLines(file string, data []byte) bool {
	switch filepath.Ext(file) {
	case ".jsonl", ".ndjson":
		return true
	case ".yaml", ".yml", ".json":
		return false
	}
	return bytes.HasPrefix(bytes.TrimSpace(data), []byte("{"))
}

type reader struct {
	file, dir string
	plan      Plan
	drafts    []draft
	problems  []error
}

// draft is an entry of the file, before its matrix is multiplied out.
type draft struct {
	entry Entry
	axes  []axis
}

func (r *reader) document(data []byte) {
	doc, err := yamldoc.Parse(r.file, data)
	if err != nil {
		r.problems = append(r.problems, err)
		return
	}
	root := doc.Root()
	r.plan.Concurrency = root.Int("concurrency")
	if r.plan.Concurrency < 0 {
		root.Fail("concurrency", "concurrency must be positive")
	}
	r.plan.KeepGoing = root.Bool("keep_going", false)
	for _, m := range root.Maps("entries") {
		r.entry(m)
	}
	root.Close()
	r.collect(doc)
}

func (r *reader) lines(data []byte) {
	number := 0
	for line := range bytes.Lines(data) {
		number++
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		doc, err := r.line(number, line)
		if err != nil {
			r.problems = append(r.problems, err)
			continue
		}
		root := doc.Root()
		r.entry(root)
		r.collect(doc)
	}
}

// line reads one line of JSON, which YAML reads as well once escapes that only JSON has are gone.
func (r *reader) line(number int, line []byte) (*yamldoc.Doc, error) {
	if err := json.Unmarshal(line, new(json.RawMessage)); err != nil {
		problem := yamldoc.Problem{File: r.file, Line: number, Message: "is no JSON: " + err.Error()}
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			problem.Column = int(syntax.Offset)
		}
		return nil, problem
	}
	if bytes.Contains(line, []byte(`\`)) {
		line = unescaped(line)
	}
	return yamldoc.ParseAt(r.file, number, line)
}

// unescaped writes JSON again with as few escapes as can be.
func unescaped(line []byte) []byte {
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.UseNumber()
	var value any
	if decoder.Decode(&value) != nil {
		return line
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if enc.Encode(value) != nil {
		return line
	}
	return b.Bytes()
}

func (r *reader) collect(doc *yamldoc.Doc) {
	for _, problem := range slices.Concat(doc.Errors, doc.Unknown) {
		r.problems = append(r.problems, problem)
	}
}

var namePattern = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`) })

func (r *reader) entry(m *yamldoc.Map) {
	req := ReadRequest(m)
	req.Action = m.Text("action")
	if script := m.Text("script"); script != "" {
		if !filepath.IsAbs(script) {
			script = filepath.Join(r.dir, script)
		}
		req.Script = &executor.Script{Path: script, Runtime: m.Text("runtime")}
	}
	if (req.Action == "") == (req.Script == nil) {
		m.Fail("action", "an entry needs an action or a script, and not both")
	}
	name := m.Text("name")
	switch {
	case name == "" && req.Action != "":
		name, _, _ = strings.Cut(req.Action, "@")
	case name == "" && req.Script != nil:
		name = filepath.Base(req.Script.Path)
	}
	if !namePattern().MatchString(name) {
		m.Fail("name", "%q is no name for an entry: letters, digits, _, . and -", name)
	}
	entry := Entry{Name: name, Group: name, Needs: m.List("needs"), Request: req, where: r.problem(m)}
	r.drafts = append(r.drafts, draft{entry, axes(m.Map("matrix"))})
	m.Close()
}

// ReadRequest reads what a mapping says of an execution, but for what is to be run.
func ReadRequest(m *yamldoc.Map) executor.Request {
	req := executor.Request{
		Args: m.List("args"), SecretEnv: m.List("secret_env"), RuntimeVersion: m.Text("runtime_version"),
		Isolation: m.Text("isolation"), IsolationMode: m.Text("isolation_mode"), IsolationNetwork: m.Text("isolation_network"),
		Secrets: texts(m, "secrets"), Env: texts(m, "env"), Parameters: object(m, "parameters"), Limits: object(m, "limits"),
	}
	if text := m.Text("timeout"); text != "" {
		if err := req.Timeout.UnmarshalText([]byte(text)); err != nil {
			m.Fail("timeout", "%v", err)
		}
	}
	return req
}

// problem is a Problem without a message, at the entry's beginning.
func (r *reader) problem(m *yamldoc.Map) yamldoc.Problem {
	p := yamldoc.Problem{File: r.file}
	if m.Node != nil {
		p.Line, p.Column = m.Node.Line, m.Node.Column
	}
	return p
}

func object(m *yamldoc.Map, key string) map[string]any {
	value := m.Value(key)
	object, ok := value.(map[string]any)
	if value != nil && !ok {
		m.Fail(key, "%s must be a mapping", key)
	}
	return object
}

func texts(m *yamldoc.Map, key string) map[string]string {
	if !m.Has(key) {
		return nil
	}
	section := m.Map(key)
	all := map[string]string{}
	for _, name := range section.Keys() {
		all[name] = section.Text(name)
	}
	return all
}

// finish multiplies the matrices out and checks what entries say of each other.
func (r *reader) finish() (*Plan, error) {
	var problems []error
	names, groups := map[string]bool{}, []string{}
	for _, d := range r.drafts {
		if names[d.entry.Name] {
			problems = append(problems, d.entry.problem("the name %q is there twice; give each entry its own", d.entry.Name))
			continue
		}
		names[d.entry.Name] = true
		groups = append(groups, d.entry.Name)
		if size := product(d.axes); size > entriesMax-len(r.plan.Entries) {
			return nil, d.entry.problem("the plan has more than %d entries", entriesMax)
		}
		r.plan.Entries = append(r.plan.Entries, d.expand()...)
	}
	for _, d := range r.drafts {
		problems = append(problems, d.entry.check(groups)...)
	}
	if len(problems) == 0 {
		problems = cycles(r.drafts)
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return &r.plan, nil
}

// Problem is an error that begins with the entry's place in the plan.
func (e *Entry) Problem(err error) error { return e.problem("%s: %v", e.Name, err) }

func (e *Entry) problem(format string, args ...any) error {
	p := e.where
	p.Message = fmt.Sprintf(format, args...)
	return p
}

// check finds needs that no entry has, and references to entries that are not needed.
func (e *Entry) check(groups []string) []error {
	var problems []error
	for _, need := range e.Needs {
		if !slices.Contains(groups, need) {
			problems = append(problems, e.problem("%s needs %q, which is no entry%s", e.Name, need, suggestion(need, groups)))
		}
	}
	for _, expression := range expressions(&e.Request) {
		if _, err := parseReference(expression, e.Needs); err != nil {
			problems = append(problems, e.problem("%s: %v", e.Name, err))
		}
	}
	return problems
}

func suggestion(name string, names []string) string {
	if near := nearest.Name(name, names); near != "" {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	return ""
}

// cycles finds one way around: a → b → a. All names are known.
func cycles(drafts []draft) []error {
	entries := map[string]*Entry{}
	for i := range drafts {
		entries[drafts[i].entry.Name] = &drafts[i].entry
	}
	const visiting, done = 1, 2
	state := map[string]int{}
	var path []string
	var visit func(name string) error
	visit = func(name string) error {
		path = append(path, name)
		state[name] = visiting
		for _, need := range entries[name].Needs {
			switch state[need] {
			case visiting:
				around := append(slices.Clone(path[slices.Index(path, need):]), need)
				return entries[need].problem("needs form a cycle: %s", strings.Join(around, " → "))
			case 0:
				if err := visit(need); err != nil {
					return err
				}
			}
		}
		state[name] = done
		path = path[:len(path)-1]
		return nil
	}
	for _, d := range drafts {
		if state[d.entry.Name] == 0 {
			if err := visit(d.entry.Name); err != nil {
				return []error{err}
			}
		}
	}
	return nil
}
