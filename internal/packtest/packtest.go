// Package packtest reads the tests of packs, makes plans of them, and judges what came of it.
package packtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/batch"
	"github.com/attune-run/attune/internal/report"
	"github.com/attune-run/attune/internal/yamldoc"
	"github.com/attune-run/attune/pack"
	"github.com/attune-run/attune/runtime"
)

// Suite is the tests of packs, ready to be run: a plan, and what is expected of each of its entries.
type Suite struct {
	Plan   batch.Plan
	expect map[string]expectation // by the entry's name
	names  map[string]bool
}

// Versions are the runtime versions that cases are run with, by the runtime's name: the matrix.
type Versions map[string][]string

// expectation is what a case's execution must be like. What is empty is not looked at.
type expectation struct {
	status   executor.Status
	exitCode *int
	result   any
	compare  bool // a result is expected, be it null
	stdout   *regexp.Regexp
	stderr   *regexp.Regexp
	message  *regexp.Regexp
}

// Add reads the tests of a pack: each file tests/*.yaml holds cases of one action, which has the file's name unless the file names
// another. The runtimes are those the pack sees. The error joins all problems, each with its place.
func (s *Suite) Add(p *pack.Pack, runtimes runtime.Catalog, versions Versions) error {
	files, err := filepath.Glob(filepath.Join(escapeGlob(p.Dir), "tests", "*.yaml"))
	if err != nil {
		return err
	}
	var problems []error
	for _, file := range files {
		problems = append(problems, s.file(p, file, runtimes, versions))
	}
	return errors.Join(problems...)
}

func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(path)
}

func (s *Suite) file(p *pack.Pack, file string, runtimes runtime.Catalog, versions Versions) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	doc, err := yamldoc.Parse(file, data)
	if err != nil {
		return err
	}
	root := doc.Root()
	name := strings.TrimPrefix(root.Text("action"), p.Ref+".")
	if name == "" {
		name = strings.TrimSuffix(filepath.Base(file), ".yaml")
	}
	action, err := p.Action(name)
	if err != nil {
		root.Fail("action", "%v", err)
		return doc.Err()
	}
	runtimeName := action.Runtime
	if spec, ok := runtimes.Lookup(runtimeName); ok {
		runtimeName = spec.Name // not an alias
	}
	cases := root.Maps("cases")
	if len(cases) == 0 {
		root.Fail("cases", "there are no cases")
	}
	for i, m := range cases {
		s.testCase(m, action, i, versions[runtimeName], runtimeName)
	}
	root.Close()
	doc.Errors = append(doc.Errors, doc.Unknown...)
	return doc.Err()
}

func (s *Suite) testCase(m *yamldoc.Map, action *pack.Action, index int, versions []string, runtimeName string) {
	title := m.Text("name")
	if title == "" {
		title = fmt.Sprintf("case %d", index+1)
	}
	req := batch.ReadRequest(m)
	req.Action = action.Ref
	expect := readExpectation(m.Map("expect"))
	m.Close()
	name := action.Ref + ": " + title
	if s.names == nil {
		s.names, s.expect = map[string]bool{}, map[string]expectation{}
	}
	if s.names[name] {
		m.Fail("name", "the case %q is there twice", title)
		return
	}
	s.names[name] = true
	if len(versions) == 0 {
		s.add(name, req, expect)
		return
	}
	for _, version := range versions {
		req.RuntimeVersion = version
		s.add(fmt.Sprintf("%s [%s %s]", name, runtimeName, version), req, expect)
	}
}

func (s *Suite) add(name string, req executor.Request, expect expectation) {
	s.Plan.Entries = append(s.Plan.Entries, batch.Entry{Name: name, Group: name, Request: req})
	s.expect[name] = expect
}

func readExpectation(m *yamldoc.Map) expectation {
	x := expectation{status: executor.Status(m.Text("status")), stdout: pattern(m, "stdout"), stderr: pattern(m, "stderr"), message: pattern(m, "error")}
	statuses := []executor.Status{executor.Succeeded, executor.Failed, executor.TimedOut, executor.Errored}
	if x.status != "" && !slices.Contains(statuses, x.status) {
		m.Fail("status", "status %q: write succeeded, failed, timed_out or error", x.status)
	}
	if m.Has("exit_code") {
		code := m.Int("exit_code")
		x.exitCode = &code
	}
	if slices.Contains(m.Keys(), "result") {
		x.result, x.compare = m.Value("result"), true
	}
	if x.status == "" && x.exitCode == nil && x.message == nil {
		x.status = executor.Succeeded
	}
	return x
}

func pattern(m *yamldoc.Map, key string) *regexp.Regexp {
	text := m.Text(key)
	if text == "" {
		return nil
	}
	re, err := regexp.Compile("(?m)" + text)
	if err != nil {
		m.Fail(key, "%s: %v", key, err)
	}
	return re
}

// Judge says of an execution where it is not what its case expects. One that is as expected is OK, whatever its action did.
func (s *Suite) Judge(e *batch.Entry, execution *report.Execution) {
	want, got := s.expect[e.Name], &execution.Result
	if got.Status == executor.Canceled || got.Status == executor.Interrupted {
		return
	}
	execution.Group = e.Request.Action
	execution.Problems = want.problems(got)
	execution.Expected = len(execution.Problems) == 0
}

// problems are where a result is not as expected. Behind an end of another kind nothing else is worth telling.
func (want expectation) problems(got *executor.Result) []string {
	if want.status != "" && got.Status != want.status {
		return []string{fmt.Sprintf("status: got %s, want %s%s", got.Status, want.status, because(got))}
	}
	var problems []string
	if want.exitCode != nil && got.ExitCode != *want.exitCode {
		problems = append(problems, fmt.Sprintf("exit code: got %d, want %d%s", got.ExitCode, *want.exitCode, because(got)))
	}
	if want.compare {
		problems = append(problems, differences("result", got.Result, want.result)...)
	}
	message := ""
	if got.Error != nil {
		message = got.Error.Message
	}
	for _, text := range []struct {
		name, got string
		want      *regexp.Regexp
	}{{"stdout", got.Stdout, want.stdout}, {"stderr", got.Stderr, want.stderr}, {"error", message, want.message}} {
		if text.want != nil && !text.want.MatchString(text.got) {
			problems = append(problems, fmt.Sprintf("%s: %s does not match %s", text.name, shown(text.got), strings.TrimPrefix(text.want.String(), "(?m)")))
		}
	}
	return problems
}

func because(result *executor.Result) string {
	if result.Error == nil {
		return ""
	}
	return ": " + result.Error.Message
}
