package ci

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/google/renameio/v2"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/report"
)

// output is one value that later steps of a job can read. It is a single line.
type output struct{ name, value string }

// outputs are status and exit_code, and result: of one execution its result, of several an object of name → status, exit_code and
// result. A result over max bytes is left out, with a warning.
func outputs(run *report.Run, max int, warn func(string)) []output {
	var result any
	status, code := executor.Succeeded, 0
	if !run.Succeeded() {
		status, code = executor.Failed, 1
	}
	if len(run.Executions) == 1 && run.Executions[0].Skipped == "" {
		only := run.Executions[0].Result
		status, code, result = only.Status, only.ExitCode, only.Result
	} else {
		all := map[string]any{}
		for i := range run.Executions {
			e := &run.Executions[i]
			all[e.Name] = map[string]any{"status": e.Status(), "exit_code": e.Result.ExitCode, "result": e.Result.Result}
		}
		result = all
	}
	list := []output{{"status", string(status)}, {"exit_code", strconv.Itoa(code)}}
	text, err := compactJSON(result)
	switch {
	case err != nil:
		warn(fmt.Sprintf("result: %v", err))
	case len(text) > max:
		warn(fmt.Sprintf("the output \"result\" is left out: it has %d bytes, and %d are the most", len(text), max))
	default:
		list = append(list, output{"result", text})
	}
	return list
}

func compactJSON(value any) (string, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(value)
	return string(bytes.TrimSpace(b.Bytes())), err
}

// writeFile replaces a file at once.
func writeFile(path string, data []byte) error { return renameio.WriteFile(path, data, 0o644) }
