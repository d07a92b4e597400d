package ci

import (
	"bytes"
	"encoding/xml"
	"fmt"

	"github.com/attune-run/attune/internal/report"
)

// The elements of JUnit XML that Jenkins, GitLab, Azure Pipelines and Buildkite all read (the format of Ant's junitreport).
type (
	junitSuites struct {
		XMLName  xml.Name   `xml:"testsuites"`
		Name     string     `xml:"name,attr"`
		Tests    int        `xml:"tests,attr"`
		Failures int        `xml:"failures,attr"`
		Errors   int        `xml:"errors,attr"`
		Skipped  int        `xml:"skipped,attr"`
		Time     string     `xml:"time,attr"` // seconds
		Suite    junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name      string      `xml:"name,attr"`
		Tests     int         `xml:"tests,attr"`
		Failures  int         `xml:"failures,attr"`
		Errors    int         `xml:"errors,attr"`
		Skipped   int         `xml:"skipped,attr"`
		Time      string      `xml:"time,attr"`
		Timestamp string      `xml:"timestamp,attr"` // ISO 8601, UTC
		Cases     []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Class   string        `xml:"classname,attr"`
		Name    string        `xml:"name,attr"`
		Time    string        `xml:"time,attr"`
		Failure *junitProblem `xml:"failure"`
		Error   *junitProblem `xml:"error"`
		Skipped *junitProblem `xml:"skipped"`
		Out     string        `xml:"system-out,omitempty"`
		Err     string        `xml:"system-err,omitempty"`
	}
	junitProblem struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr,omitempty"`
		Text    string `xml:",chardata"`
	}
)

// WriteJUnit writes a run as JUnit XML: a failure is the action's, an error is attune's own.
func WriteJUnit(path string, run *report.Run) error {
	data, err := junit(run)
	if err != nil {
		return err
	}
	return writeFile(path, data)
}

func junit(run *report.Run) ([]byte, error) {
	suite := junitSuite{
		Name: plain(run.Title), Tests: len(run.Executions), Failures: run.Count(report.OutcomeFailed), Errors: run.Count(report.OutcomeError),
		Skipped: run.Count(report.OutcomeSkipped), Time: seconds(run.Finished.Sub(run.Started).Seconds()),
		Timestamp: run.Started.UTC().Format("2006-01-02T15:04:05"),
	}
	for i := range run.Executions {
		suite.Cases = append(suite.Cases, junitTest(&run.Executions[i]))
	}
	all := junitSuites{
		Name: "attune", Tests: suite.Tests, Failures: suite.Failures, Errors: suite.Errors, Skipped: suite.Skipped, Time: suite.Time, Suite: suite,
	}
	var b bytes.Buffer
	b.WriteString(xml.Header)
	enc := xml.NewEncoder(&b)
	enc.Indent("", "  ")
	if err := enc.Encode(all); err != nil {
		return nil, fmt.Errorf("junit: %w", err)
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

func junitTest(e *report.Execution) junitCase {
	test := junitCase{
		Class: plain(e.Group), Name: plain(e.Name), Time: seconds(e.Duration().Seconds()), Out: plain(e.Result.Stdout), Err: plain(e.Result.Stderr),
	}
	problem := &junitProblem{Message: plain(e.Message()), Type: e.Status()}
	if e.Result.Error != nil && e.Result.Error.Hint != "" {
		problem.Text = plain(e.Result.Error.Hint)
	}
	switch e.Outcome() {
	case report.OutcomeFailed:
		test.Failure = problem
	case report.OutcomeError:
		test.Error = problem
	case report.OutcomeSkipped:
		test.Skipped = &junitProblem{Message: plain(e.Message())}
	}
	return test
}

func seconds(s float64) string { return fmt.Sprintf("%.3f", s) }
