package batch

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/report"
)

func parse(t *testing.T, text string) *Plan {
	t.Helper()
	plan, err := Parse("plan.yaml", []byte(text), "/plans")
	require.NoError(t, err)
	return plan
}

func gave(e *Entry, status executor.Status, result any) report.Execution {
	return report.Execution{Name: e.Name, Group: e.Group, Result: executor.Result{Status: status, Result: result}}
}

func TestNoMoreAtOnceThanAllowedAndNothingBeforeWhatItNeeds(t *testing.T) {
	var b strings.Builder
	b.WriteString("entries:\n")
	for i := range 300 {
		fmt.Fprintf(&b, "- {name: e%d, action: a.b, needs: [", i)
		for _, need := range []int{i / 2, i / 3} {
			if need < i {
				fmt.Fprintf(&b, "e%d,", need)
			}
		}
		b.WriteString("]}\n")
	}
	plan := parse(t, b.String())
	var mu sync.Mutex
	now, most, done := 0, 0, map[string]bool{}
	all := Run(t.Context(), plan, Options{Concurrency: 3, Unrun: func(e *report.Execution) { t.Error(e.Name) },
		Execute: func(_ context.Context, e *Entry, _ executor.Request) report.Execution {
			mu.Lock()
			now++
			most = max(most, now)
			for _, need := range e.Needs {
				assert.True(t, done[need], "%s before %s", e.Name, need)
			}
			mu.Unlock()
			defer func() {
				mu.Lock()
				now--
				done[e.Name] = true
				mu.Unlock()
			}()
			return gave(e, executor.Succeeded, nil)
		}})
	assert.LessOrEqual(t, most, 3)
	assert.Len(t, done, 300)
	for i := range all {
		assert.Equal(t, fmt.Sprintf("e%d", i), all[i].Name)
	}
}

func TestAContextThatEndsSkipsTheRest(t *testing.T) {
	plan := parse(t, "entries: [{name: a, action: a.b}, {name: b, action: a.b}, {name: c, action: a.b, needs: [a]}]")
	ctx, cancel := context.WithCancelCause(t.Context())
	var skipped []string
	all := Run(ctx, plan, Options{Concurrency: 1, KeepGoing: true, Unrun: func(e *report.Execution) { skipped = append(skipped, e.Name) },
		Execute: func(ctx context.Context, e *Entry, _ executor.Request) report.Execution {
			cancel(fmt.Errorf("enough"))
			<-ctx.Done()
			return gave(e, executor.Canceled, nil)
		}})
	assert.Equal(t, []string{"c", "b"}, skipped)
	assert.Equal(t, "not started: enough", all[1].Skipped)
}

// What an entry gave is a value, never a reference.
func TestValuesAreNotReadAsReferences(t *testing.T) {
	plan := parse(t, `entries:
- {name: a, action: a.b}
- {name: a.b, action: a.b}
- {name: use, action: a.b, needs: [a, a.b], args: ["${{ a.b.result }}", "x${{a.result.k}}y", "${{ open"], parameters: {p: ["${{ a.result }}"]}}`)
	var got executor.Request
	Run(t.Context(), plan, Options{Execute: func(_ context.Context, e *Entry, req executor.Request) report.Execution {
		switch e.Name {
		case "a":
			return gave(e, executor.Succeeded, map[string]any{"k": "${{ a.b.result }}", "n": json.Number("1.50")})
		case "use":
			got = req
		}
		return gave(e, executor.Succeeded, "second")
	}})
	assert.Equal(t, []string{"second", "x${{ a.b.result }}y", "${{ open"}, got.Args)
	assert.Equal(t, map[string]any{"p": []any{map[string]any{"k": "${{ a.b.result }}", "n": json.Number("1.50")}}}, got.Parameters)
}

func TestScriptsLieBesideThePlan(t *testing.T) {
	plan := parse(t, "entries: [{script: sub/x.sh, runtime: shell}, {script: /abs/y.sh}]")
	assert.Equal(t, "/plans/sub/x.sh", plan.Entries[0].Request.Script.Path)
	assert.Equal(t, "x.sh", plan.Entries[0].Name)
	assert.Equal(t, "/abs/y.sh", plan.Entries[1].Request.Script.Path)
}

func FuzzParse(f *testing.F) {
	f.Add("entries: [{name: a, action: a.b, needs: [a], matrix: {runtime_version: [1, 2]}}]", false)
	f.Add(`{"action": "a.b", "args": ["${{ x.y }}"]}`, true)
	f.Add("entries: [1, null, {}]", false)
	f.Fuzz(func(t *testing.T, text string, lines bool) {
		name := "plan.yaml"
		if lines {
			name = "plan.jsonl"
		}
		plan, err := Parse(name, []byte(text), "/")
		if err != nil || len(plan.Entries) > 50 {
			return
		}
		all := Run(t.Context(), plan, Options{KeepGoing: true, Unrun: func(*report.Execution) {}, Artifacts: func(string) string { return "" },
			Execute: func(_ context.Context, e *Entry, _ executor.Request) report.Execution {
				return gave(e, executor.Succeeded, nil)
			}})
		assert.Len(t, all, len(plan.Entries))
	})
}
