package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/show"
	"github.com/attune-run/attune/queue"
	"github.com/attune-run/attune/worker"
)

// manyWidth is how many requests of stdin are submitted at the same time, waitWidth how many are waited for.
const (
	manyWidth = 32
	waitWidth = 512
	lineMax   = 16 << 20
)

// lineResult is what became of one line.
type lineResult struct {
	Line     int         `json:"line"`
	ID       string      `json:"id,omitempty"`
	Action   string      `json:"action,omitempty"`
	State    queue.State `json:"state,omitempty"`
	Existing bool        `json:"existing,omitempty"`
	Outcome  string      `json:"outcome,omitempty"` // with --wait
	ExitCode *int        `json:"exit_code,omitempty"`
	Error    string      `json:"error,omitempty"`
	Hint     string      `json:"hint,omitempty"`
}

// many submits the requests of stdin. There is a line on stdout for each, in their order; the exit code is 1 when one was refused, or
// with --wait did not succeed.
func (c *submitCmd) many(a *app, client *worker.Client) error {
	if len(c.Param)+len(c.Secret)+len(c.Env)+len(c.SecretEnv)+len(c.Limit) > 0 || c.ParamsFile != "" || c.IdempotencyKey != "" || c.At != "" {
		return hinted(errors.New("requests from stdin say themselves what they are: parameters, secrets, ids and times are given in each"),
			"name the action to submit one by flags")
	}
	width := manyWidth
	if c.Wait {
		width = waitWidth
	}
	results := make(chan chan lineResult, width) // written in the order of the lines, read by the printer
	failed := make(chan error, 1)
	go func() { failed <- c.read(a, client, results) }()
	refused, printing := 0, error(nil)
	for one := range results {
		line := <-one
		if line.Error != "" || c.Wait && line.Outcome != string(executor.Succeeded) {
			refused++
		}
		if printing == nil {
			printing = show.Line(a.std.out, line)
		}
	}
	if err := errors.Join(<-failed, printing); err != nil {
		return err
	}
	if refused > 0 {
		return exitCode(1)
	}
	return nil
}

// read starts the submission of each line.
func (c *submitCmd) read(a *app, client *worker.Client, results chan<- chan lineResult) error {
	defer close(results)
	lines := bufio.NewScanner(a.std.in)
	lines.Buffer(make([]byte, 64<<10), lineMax)
	number := 0
	for lines.Scan() {
		number++
		text := bytes.TrimSpace(lines.Bytes())
		if len(text) == 0 {
			continue
		}
		one, document, at := make(chan lineResult, 1), bytes.Clone(text), number
		results <- one
		go func() { one <- c.line(a, client, at, document) }()
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return hinted(fmt.Errorf("line %d has more than %d bytes; nothing behind it was read", number+1, lineMax), "hand large inputs over by reference")
	} else if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("stdin: %w", err)
	}
	return nil
}

func (c *submitCmd) line(a *app, client *worker.Client, number int, document []byte) lineResult {
	result := lineResult{Line: number}
	fail := func(err error) lineResult {
		result.Error = err.Error()
		var hinted interface{ Hint() string }
		if errors.As(err, &hinted) {
			result.Hint = hinted.Hint()
		}
		return result
	}
	req, err := worker.DecodeRequest(document)
	if err != nil {
		return fail(err)
	}
	accepted, err := client.Submit(a.ctx, worker.Order{Request: req, In: c.In, Deadline: c.deadline()})
	if err != nil {
		return fail(err)
	}
	result.ID, result.Action, result.State, result.Existing = accepted.ID, accepted.Action, accepted.State, accepted.Existing
	if !c.Wait {
		return result
	}
	r, err := client.Wait(a.ctx, accepted.ID)
	if err != nil {
		return fail(err)
	}
	result.State, result.Outcome = r.State, r.Outcome
	text, err := client.Result(a.ctx, r)
	if err != nil {
		return fail(err)
	}
	var ended struct {
		ExitCode int `json:"exit_code"`
	}
	if err := json.Unmarshal(text, &ended); err != nil {
		return fail(err)
	}
	result.ExitCode = &ended.ExitCode
	return result
}
