package executor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/attune-run/attune/pack"
	"github.com/attune-run/attune/proc"
)

// decode turns the exit and the output into the result.
func (x *execution) decode(ctx context.Context) error {
	var canceled *Cancellation
	var limit *proc.LimitError
	if errors.Is(x.exit.Cause, context.DeadlineExceeded) {
		return x.pastDeadline()
	}
	if x.exit.Cause != nil && !errors.Is(x.exit.Cause, errTimedOut) && !errors.As(x.exit.Cause, &limit) || errors.As(x.exit.Cause, &canceled) {
		x.cancel(ctx)
		if x.exit.Signal != 0 {
			x.res.Signal = signalName(x.exit.Signal)
		}
		return nil
	}
	if f := x.ended(); f != nil {
		return f
	}
	value, err := x.output()
	if err != nil {
		return &failure{kind: kindOutput, status: Failed, err: err,
			hint: fmt.Sprintf("the action declares output_format %s", x.job.outputFormat)}
	}
	x.res.Result = x.redact.Value(value)
	x.res.Status = Succeeded
	return nil
}

// output is the action's parsed result: its result file when it wrote one, else its stdout.
func (x *execution) output() (any, error) {
	value, found, err := x.resultFile()
	if err == nil && !found {
		value, err = x.parsedStdout()
	}
	if err != nil {
		return nil, err
	}
	if x.job.outputSchema != nil {
		if err := x.job.outputSchema.Check(value); err != nil {
			return nil, fmt.Errorf("the result does not fit output_schema: %w", err)
		}
	}
	return value, nil
}

func (x *execution) resultFile() (value any, found bool, err error) {
	if x.private.Unused("") {
		return nil, false, nil
	}
	root, err := os.OpenRoot(x.private.Path)
	if err != nil {
		return nil, false, err
	}
	defer func() { _ = root.Close() }()
	info, err := root.Lstat("result")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil || !info.Mode().IsRegular() {
		return nil, false, errors.New("ATTUNE_RESULT_FILE is not a regular file")
	}
	f, err := root.Open("result")
	if err != nil {
		return nil, false, fmt.Errorf("ATTUNE_RESULT_FILE: %w", err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, x.svc.cfg.ResultMax+1))
	if err != nil {
		return nil, false, fmt.Errorf("ATTUNE_RESULT_FILE: %w", err)
	}
	if int64(len(data)) > x.svc.cfg.ResultMax {
		return nil, false, fmt.Errorf("ATTUNE_RESULT_FILE holds %d bytes, more than %d", info.Size(), x.svc.cfg.ResultMax)
	}
	format := x.job.outputFormat
	if format == "text" {
		format = "json"
	}
	value, err = parseOutput(format, data)
	if err != nil {
		return nil, false, fmt.Errorf("ATTUNE_RESULT_FILE: %w", err)
	}
	return value, true, nil
}

func (x *execution) parsedStdout() (any, error) {
	if x.streams.spool == nil || x.job.outputFormat == "text" {
		return nil, nil
	}
	if x.streams.spool.Overflow() {
		return nil, fmt.Errorf("stdout holds more than %d bytes of structured output", x.svc.cfg.ResultMax)
	}
	value, err := parseOutput(x.job.outputFormat, x.streams.spool.Bytes())
	if err != nil {
		return nil, fmt.Errorf("stdout: %w", err)
	}
	return value, nil
}

// parseOutput reads data as the declared format; numbers keep their digits.
func parseOutput(format string, data []byte) (any, error) {
	switch format {
	case "json":
		return parseJSONOutput(data)
	case "jsonl":
		return parseJSONLines(data)
	case "yaml":
		value, err := pack.DecodeYAML(data)
		if err != nil {
			return nil, fmt.Errorf("is not YAML: %w", err)
		}
		return value, nil
	default:
		return nil, nil
	}
}

// parseJSONOutput takes all of data, else its last line that is not empty.
func parseJSONOutput(data []byte) (any, error) {
	value, err := pack.DecodeJSON(data)
	if err == nil {
		return value, nil
	}
	lines := bytes.Split(bytes.TrimRight(data, " \t\r\n"), []byte("\n"))
	if last := lines[len(lines)-1]; len(lines) > 1 {
		if value, lastErr := pack.DecodeJSON(last); lastErr == nil {
			return value, nil
		}
		return nil, fmt.Errorf("neither all of it nor its last line is JSON: %w", err)
	}
	return nil, fmt.Errorf("is not JSON: %w", err)
}

func parseJSONLines(data []byte) (any, error) {
	values, number := []any{}, 0
	for line := range bytes.Lines(data) {
		number++
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		value, err := pack.DecodeJSON(line)
		if err != nil {
			return nil, fmt.Errorf("line %d is not JSON: %w", number, err)
		}
		values = append(values, value)
	}
	return values, nil
}
