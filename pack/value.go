package pack

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/attune-run/attune/internal/yamldoc"
)

// maxDepth is how deep a JSON value may nest: encoding and validating it recurse.
const maxDepth = 1000

// DecodeJSON reads one JSON value; numbers are json.Number with their own digits. Errors name line and column.
func DecodeJSON(data []byte) (any, error) {
	if err := checkDepth(data); err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, jsonError(data, decoder, err)
	}
	end := decoder.InputOffset()
	if rest := bytes.TrimLeft(data[end:], " \t\r\n"); len(rest) > 0 {
		return nil, fmt.Errorf("%s: there is more behind the value", position(data, int64(len(data)-len(rest))))
	}
	return value, nil
}

func jsonError(data []byte, decoder *json.Decoder, err error) error {
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("%s: %w", position(data, max(syntax.Offset-1, 0)), err)
	case errors.Is(err, io.EOF):
		return errors.New("there is nothing")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%s: it ends in the middle of a value", position(data, int64(len(data))))
	}
	return fmt.Errorf("%s: %w", position(data, decoder.InputOffset()), err)
}

// position is "line 1, column 1", in bytes.
func position(data []byte, offset int64) string {
	before := data[:min(offset, int64(len(data)))]
	line := bytes.Count(before, []byte{'\n'}) + 1
	column := len(before) - bytes.LastIndexByte(before, '\n')
	return fmt.Sprintf("line %d, column %d", line, column)
}

func checkDepth(data []byte) error {
	depth, inString, escaped := 0, false, false
	for _, c := range data {
		switch {
		case escaped:
			escaped = false
		case inString:
			escaped, inString = c == '\\', c != '"'
		case c == '"':
			inString = true
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return fmt.Errorf("nests deeper than %d levels", maxDepth)
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return nil
}

// DecodeYAML reads one YAML document as a JSON value; numbers are json.Number with their own digits.
func DecodeYAML(data []byte) (any, error) {
	value, err := yamldoc.Value("", data)
	var problem Problem
	if errors.As(err, &problem) {
		return nil, fmt.Errorf("line %d: %s", problem.Line, problem.Message)
	}
	return value, err
}
