package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
)

func number(text string) json.Number { return json.Number(text) }

// history is what was seen of every record while it changed. Versions that followed each other quickly may be missed, so a rule here
// holds between any two.
type history struct {
	mu   sync.Mutex
	last map[string]queue.Record
	seen int
	bad  []string
}

// watch follows the records until the context ends.
func (p *pool) watch(ctx context.Context) (h *history, done <-chan struct{}) {
	h = &history{last: map[string]queue.Record{}}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			for entry, err := range p.direct.Table(queue.Runs).Watch(ctx, "") {
				if err != nil {
					break // the broker is away: it begins anew
				}
				if entry.Op == queue.Stored {
					h.add(entry)
				}
			}
		}
	}()
	return h, ended
}

func (h *history) add(entry queue.Entry) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen++
	var next queue.Record
	if err := json.Unmarshal(entry.Value, &next); err != nil {
		return // poison that a test put there
	}
	before, known := h.last[entry.Key]
	h.last[entry.Key] = next
	if !known {
		return
	}
	switch {
	case next.Epoch < before.Epoch:
		h.bad = append(h.bad, fmt.Sprintf("%s: epoch fell from %d to %d", entry.Key, before.Epoch, next.Epoch))
	case before.Submission != next.Submission || before.Digest != next.Digest:
		h.bad = append(h.bad, entry.Key+": another submission took its place")
	case before.State == queue.Done && (next.State != queue.Done || string(next.Result) != string(before.Result) || next.Epoch != before.Epoch):
		h.bad = append(h.bad, entry.Key+": changed after it was done")
	}
}

// outcome is what the checker found.
type outcome struct {
	accepted, done, children, claims, takeovers int
	byStatus                                    map[string]int
	epochs                                      map[uint64]int // last epoch → executions
	unwrittenClaims                             int            // of workers that were killed before they could
	bad                                         []string
}

// check holds what was accepted against what the pool says now, what it wrote down, and what children did.
func (p *pool) check(accepted []string, h *history) outcome {
	o := outcome{accepted: len(accepted), byStatus: map[string]int{}, epochs: map[uint64]int{}}
	h.mu.Lock()
	o.bad = slices.Clone(h.bad)
	h.mu.Unlock()
	complain := func(format string, args ...any) { o.bad = append(o.bad, fmt.Sprintf(format, args...)) }
	audit := p.audit()
	starts := p.starts()
	for _, id := range accepted {
		r, err := p.client.Record(p.t.Context(), id)
		if err != nil {
			complain("%s: accepted and lost: %v", id, err)
			continue
		}
		if r.State != queue.Done {
			complain("%s: accepted and not done: %s, epoch %d, worker %s", id, r.State, r.Epoch, r.Worker)
			continue
		}
		o.done++
		o.byStatus[r.Outcome]++
		o.epochs[r.Epoch]++
		o.children += len(starts[id])
		if r.Epoch > 1 {
			o.takeovers++
		}
		for _, why := range p.checkResult(r, starts[id]) {
			complain("%s: %s", id, why)
		}
		claims, unwritten, whys := checkAudit(r, audit[id])
		o.claims += claims
		o.unwrittenClaims += unwritten
		for _, why := range whys {
			complain("%s: %s", id, why)
		}
	}
	return o
}

// checkResult holds one result against the children of its execution.
func (p *pool) checkResult(r *queue.Record, nonces []string) (bad []string) {
	text, err := p.client.Result(p.t.Context(), r)
	if err != nil {
		return []string{"no result: " + err.Error()}
	}
	var result executor.Result
	if err := json.Unmarshal(text, &result); err != nil {
		return []string{"result: " + err.Error()}
	}
	if string(result.Status) != r.Outcome || result.ID != r.ID {
		bad = append(bad, fmt.Sprintf("the record says %s, its result %s of %s", r.Outcome, result.Status, result.ID))
	}
	if result.Status == executor.Succeeded && !slices.Contains(nonces, strings.TrimSpace(result.Stdout)) {
		bad = append(bad, fmt.Sprintf("the result %q is of no child that started", result.Stdout))
	}
	if r.OnLost != queue.OnLostRetry && r.Retries == 0 && len(nonces) > 1 {
		bad = append(bad, fmt.Sprintf("%d children of an execution that must start once", len(nonces)))
	}
	return bad
}

// audit is what was written down, by execution; a line that was written twice is one.
func (p *pool) audit() map[string][]queue.AuditLine {
	type key struct {
		id, what, who string
		epoch         uint64
	}
	seen := map[key]bool{}
	all := map[string][]queue.AuditLine{}
	for text, err := range p.direct.Audit().Read(p.t.Context(), time.Time{}, false) {
		require.NoError(p.t, err)
		for one := range strings.Lines(string(text)) {
			var line queue.AuditLine
			require.NoError(p.t, json.Unmarshal([]byte(one), &line), one)
			k := key{line.ID, line.What, line.Who, line.Epoch}
			if !seen[k] {
				seen[k] = true
				all[line.ID] = append(all[line.ID], line)
			}
		}
	}
	return all
}

// endings are the lines that say an execution came to its end.
var endings = []string{"result", "lost", "claim", "cancel", "unroutable", "deadline"}

// checkAudit wants the submission, each epoch's one claim, and one end by the record's epoch. A worker that was killed before it wrote
// its claim down left none: the one that took over says so instead.
func checkAudit(r *queue.Record, lines []queue.AuditLine) (claims, unwritten int, bad []string) {
	claimedBy := map[uint64]string{}
	submitted, ended := false, map[uint64]string{}
	for _, line := range lines {
		switch {
		case line.What == "submit":
			submitted = true
		case line.What == "claim" && line.Outcome == "":
			if who, twice := claimedBy[line.Epoch]; twice && who != line.Who {
				bad = append(bad, fmt.Sprintf("epoch %d was claimed by %s and by %s", line.Epoch, who, line.Who))
			}
			claimedBy[line.Epoch] = line.Who
			claims++
		}
		if slices.Contains(endings, line.What) && line.Outcome == r.Outcome {
			ended[line.Epoch] = line.Who
		}
	}
	if !submitted {
		bad = append(bad, "its submission is not in the audit")
	}
	if len(ended) == 0 {
		bad = append(bad, fmt.Sprintf("its end (%s, epoch %d) is not in the audit: %+v", r.Outcome, r.Epoch, lines))
	}
	if len(ended) > 1 {
		bad = append(bad, fmt.Sprintf("it ended in %d epochs: %v", len(ended), ended))
	}
	for epoch := uint64(1); epoch <= r.Epoch; epoch++ {
		if _, ok := claimedBy[epoch]; !ok {
			unwritten++
		}
	}
	return claims, unwritten, bad
}
