package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/executor"
)

func TestADirectRequestIsAnsweredWithItsResult(t *testing.T) {
	p := start(t, "ATTUNE_LAMBDA_ALLOW=t.*")
	a := p.invoke(request("t.show", map[string]any{"n": json.Number("12345678901234567890.10")}))
	d := p.result(a)
	assert.Equal(t, "application/json", a.header.Get("Content-Type"))
	assert.Equal(t, executor.Succeeded, d.Status, "%+v", d.Error)
	assert.Contains(t, string(a.body), "12345678901234567890.10")

	d = p.result(p.invoke(request("t.run", map[string]any{"script": "echo out; echo err >&2; exit 7"})))
	assert.Equal(t, executor.Failed, d.Status)
	assert.Equal(t, 7, d.ExitCode)
	assert.Equal(t, "out\n", d.Stdout)

	id := "0196f0a4-6d3a-7b7e-8a55-2f6f0c8f3a11"
	assert.Equal(t, id, p.result(p.invoke(request("t.show", nil), withID(id))).ID, "the invocation's id")
	eventually(t, "the log", func() bool { return strings.Contains(p.logs.String(), `"message":"err"`) })
	for line := range strings.Lines(p.logs.String()) {
		var entry map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &entry), line)
		assert.Contains(t, entry, "timestamp")
		assert.Contains(t, entry, "requestId", line)
	}
}

func TestWhatIsNotAllowedIsRefused(t *testing.T) {
	p := start(t, "ATTUNE_LAMBDA_ALLOW=t.show,u.*", "ATTUNE_LAMBDA_ACTION=t.required")
	marker := filepath.Join(t.TempDir(), "ran")
	for name, event := range map[string]map[string]any{
		"another action":   request("t.count", map[string]any{"file": marker}),
		"another version":  request("t.count@^1", nil),
		"a script":         {"schema": "attune.request/v1", "script": map[string]any{"inline": "touch " + marker, "runtime": "shell"}},
		"a script's path":  {"schema": "attune.request/v1", "script": map[string]any{"path": "/etc/passwd"}},
		"a variable":       {"schema": "attune.request/v1", "action": "t.show", "env": map[string]any{"BASH_FUNC_read%%": "() { touch " + marker + "; }"}},
		"a secret as such": {"schema": "attune.request/v1", "action": "t.show", "secret_env": []string{"PATH"}, "secrets": map[string]any{"PATH": "env:X"}},
	} {
		kind, message := p.functionError(p.invoke(event))
		assert.Equal(t, "Attune.ActionNotAllowed", kind, name+": "+message)
	}
	assert.NoFileExists(t, marker)
	kind, _ := p.functionError(p.invoke(map[string]any{"schema": "attune.request/v1", "action": "t.show", "isolaton": "strict"}))
	assert.Equal(t, "Attune.Malformed", kind)
	// An action in another event's keys says nothing: it is a parameter.
	d := p.result(p.invoke(map[string]any{"action": "t.show", "name": "x"}))
	assert.Equal(t, "t.required", d.Action)
	assert.Equal(t, "parameters", d.Error.Kind)
	assert.Equal(t, executor.Succeeded, p.result(p.invoke(request("t.show@^1", nil))).Status)
}

func TestFailuresCanBeErrorsOfTheFunction(t *testing.T) {
	p := start(t, "ATTUNE_LAMBDA_ALLOW=*", "ATTUNE_LAMBDA_FAIL=error")
	kind, message := p.functionError(p.invoke(request("t.run", map[string]any{"script": "exit 7"})))
	assert.Equal(t, "Attune.ActionFailed", kind)
	assert.Equal(t, "t.run exited with 7", message)
	assert.Equal(t, executor.Succeeded, p.result(p.invoke(request("t.show", nil))).Status)
}

func TestTheFunctionSaysAtInitWhatIsMissing(t *testing.T) {
	for name, c := range map[string]struct {
		env  []string
		says []string
	}{
		"nothing to run": {nil, []string{"ATTUNE_LAMBDA_ACTION", "ATTUNE_LAMBDA_ALLOW"}},
		"a typo":         {[]string{"ATTUNE_LAMBDA_ACTON=t.show"}, []string{"did you mean ATTUNE_LAMBDA_ACTION?"}},
		"a kind":         {[]string{"ATTUNE_LAMBDA_ACTION=t.show", "ATTUNE_LAMBDA_EVENT=sms"}, []string{"ATTUNE_LAMBDA_EVENT=sms", "sqs"}},
		"a number":       {[]string{"ATTUNE_LAMBDA_ACTION=t.show", "ATTUNE_LAMBDA_CONCURRENCY=none"}, []string{"whole number"}},
		"a glob":         {[]string{"ATTUNE_LAMBDA_ALLOW=t.[a"}, []string{"no glob"}},
		"a shared one":   {[]string{"ATTUNE_LAMBDA_ACTION=t.show", "ATTUNE_MIN_ISOLATION=high"}, []string{"min_isolation"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := launch(t, newAPI(t), c.env...)
			a := <-p.api.inits
			assert.Equal(t, 1, p.exits())
			assert.Equal(t, "Attune.Configuration", a.header.Get("Lambda-Runtime-Function-Error-Type"))
			for _, word := range c.says {
				assert.Contains(t, string(a.body), word)
				assert.Equal(t, 1, strings.Count(p.logs.String(), "cannot start"), "once")
				assert.Contains(t, p.logs.String(), word)
			}
		})
	}
}

func TestDeadlines(t *testing.T) {
	p := start(t, "ATTUNE_LAMBDA_ALLOW=*")
	marker := filepath.Join(t.TempDir(), "ran")
	for _, left := range []time.Duration{-time.Hour, 0, 1700 * time.Millisecond} {
		kind, message := p.functionError(p.invoke(request("t.count", map[string]any{"file": marker}), deadline(left)))
		assert.Equal(t, "Attune.NotStarted", kind, message)
	}
	assert.NoFileExists(t, marker)

	begun := time.Now()
	a := p.invoke(request("t.sleep", nil), deadline(3*time.Second))
	d := p.result(a)
	assert.Equal(t, executor.TimedOut, d.Status, "%+v", d.Error)
	assert.Less(t, a.at.Sub(begun), 3*time.Second, "the answer gets out in time")

	a = p.invoke(map[string]any{"schema": "attune.request/v1", "action": "t.sleep", "timeout": "300ms"})
	assert.Equal(t, executor.TimedOut, p.result(a).Status)
}

func TestSIGTERMEndsEverything(t *testing.T) {
	p := start(t, "ATTUNE_LAMBDA_ALLOW=*")
	assert.Equal(t, 1, p.api.extensions, "without an extension Lambda sends no SIGTERM")
	mark := filepath.Join(t.TempDir(), "mark")
	event := request("t.run", map[string]any{"script": "trap '' TERM; (trap '' TERM; exec sleep 1000) & echo $! > $MARK.new; mv $MARK.new $MARK; wait"})
	event["env"] = map[string]any{"MARK": mark}
	d := p.api.deliver(t, event)
	var pid string
	eventually(t, "the action runs", func() bool {
		text, err := os.ReadFile(mark)
		pid = strings.TrimSpace(string(text))
		return err == nil
	})
	begun := time.Now()
	p.signal(syscall.SIGTERM)
	eventually(t, "the action's group ends", func() bool { return !alive(pid) })
	assert.Less(t, time.Since(begun), slack(300*time.Millisecond))
	assert.Equal(t, executor.Canceled, p.result(<-d.answer).Status)
	assert.Equal(t, 0, p.exits())
}

// slack is for a bound that a busy machine with the race detector need not hold.
func slack(d time.Duration) time.Duration {
	if raceEnabled {
		return 10 * d
	}
	return 3 * d
}

func TestInvocationsRunInParallelEachWithItsTrace(t *testing.T) {
	const n = 4
	p := start(t, "ATTUNE_LAMBDA_ALLOW=*", "AWS_LAMBDA_MAX_CONCURRENCY="+strconv.Itoa(n))
	dir := t.TempDir()
	var all []*delivery
	for i := range n {
		all = append(all, p.api.deliver(t, request("t.meet", map[string]any{"dir": dir, "of": n}),
			header("Lambda-Runtime-Trace-Id", fmt.Sprintf("Root=1-5759e988-bd862e3fe1be46a99427279%d;Parent=53995c3f42cd8ad8;Sampled=1", i))))
	}
	for i, d := range all {
		result := p.result(<-d.answer)
		assert.Equal(t, executor.Succeeded, result.Status, "%+v", result.Error)
		assert.Contains(t, result.Stdout, fmt.Sprintf("46a99427279%d;", i))
	}
}

func TestTraces(t *testing.T) {
	p := start(t, "ATTUNE_LAMBDA_ALLOW=*", "ATTUNE_LAMBDA_ACTION=t.show")
	trace := header("Lambda-Runtime-Trace-Id", "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1")
	shown, _ := p.result(p.invoke(request("t.show", nil), trace)).Result.Result.(map[string]any)
	assert.Equal(t, "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01", shown["traceparent"])
	assert.Contains(t, shown["trace"], "Root=1-5759e988")
	shown, _ = p.result(p.invoke(request("t.show", nil))).Result.Result.(map[string]any)
	assert.Empty(t, shown["trace"], "nothing is left of the invocation before")

	callers := "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	event := map[string]any{"requestContext": map[string]any{"http": map[string]any{"method": "POST"}}, "headers": map[string]string{"traceparent": callers}, "body": "{}"}
	assert.Contains(t, string(p.invoke(event, trace).body), callers)
}

func TestCredentialsReachWhoIsGrantedThemAndAreMasked(t *testing.T) {
	const key, secret = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
	credentials := []string{"ATTUNE_LAMBDA_ALLOW=*", "AWS_ACCESS_KEY_ID=" + key, "AWS_SECRET_ACCESS_KEY=" + secret, "AWS_SESSION_TOKEN=IQoJb3JpZ2luX2VjEXAMPLE", "AWS_REGION=eu-west-1"}
	p := start(t, credentials...)
	assert.NotContains(t, p.result(p.invoke(request("t.env", nil))).Stdout, "AWS_")

	p = start(t, append(credentials, "ATTUNE_ALLOW_ENV=AWS_ACCESS_KEY_ID,AWS_SECRET_ACCESS_KEY,AWS_SESSION_TOKEN,AWS_REGION")...)
	a := p.invoke(request("t.env", nil))
	d := p.result(a)
	assert.Contains(t, d.Stdout, "AWS_SECRET_ACCESS_KEY=")
	assert.Contains(t, d.Stdout, "AWS_REGION=eu-west-1")
	eventually(t, "the log has what the action printed", func() bool { return strings.Contains(p.logs.String(), "AWS_SECRET_ACCESS_KEY=") })
	for _, value := range []string{key, secret, "IQoJb3JpZ2luX2VjEXAMPLE"} {
		assert.NotContains(t, string(a.body), value)
		assert.NotContains(t, p.logs.String(), value)
	}
	length := p.result(p.invoke(request("t.run", map[string]any{"script": "printf %s \"$AWS_SECRET_ACCESS_KEY\" | wc -c"})))
	assert.Equal(t, "0\n", strings.ReplaceAll(length.Stdout, " ", ""), "an action that does not ask for them")
}

func TestNothingLeaksBetweenInvocations(t *testing.T) {
	p := start(t, "ATTUNE_LAMBDA_ALLOW=*", "ATTUNE_LAMBDA_ACTION=t.show")
	leave := request("t.leftovers", nil)
	leave["env"] = map[string]any{"TMP_OF_HOST": p.tmp}
	leave["isolation"] = "none" // nothing but attune's cleaning up stands between invocations
	round := func() {
		assert.Equal(t, 3, p.result(p.invoke(leave)).ExitCode)
		p.functionError(p.invoke("[1, 2"))
		p.functionError(p.invoke(request("t.nothere", nil), deadline(0)))
		assert.Equal(t, "error", string(p.result(p.invoke(request("t.nothere", nil))).Status))
		d := p.result(p.invoke(request("t.run", map[string]any{"script": "echo \"[$LEFT]\"; ls \"$TMPDIR\" \"$HOME\" | wc -l"})))
		assert.True(t, strings.HasPrefix(d.Stdout, "[]\n"), d.Stdout)
	}
	round()
	eventually(t, "the answer's connection", func() bool { return len(p.children()) == 0 })
	descriptors, files := p.descriptors(), listing(t, p.tmp)
	assert.NotContains(t, files, "left")
	for range 8 {
		round()
	}
	eventually(t, "children and descriptors are as before", func() bool { return len(p.children()) == 0 && p.descriptors() <= descriptors })
	assert.Equal(t, files, listing(t, p.tmp))
}

// listing are all files below a directory.
func listing(t *testing.T, dir string) []string {
	var all []string
	require.NoError(t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, path)
		all = append(all, rel)
		return err
	}))
	return all
}

func TestTheFunctionOutlivesBadAnswersOfTheRuntimeAPI(t *testing.T) {
	p := start(t, "ATTUNE_LAMBDA_ALLOW=*")
	for name, change := range map[string]func(*delivery){
		"no deadline":        func(d *delivery) { d.header.Del("Lambda-Runtime-Deadline-Ms") },
		"no number":          header("Lambda-Runtime-Deadline-Ms", "soon"),
		"a bad identity":     header("Lambda-Runtime-Cognito-Identity", "{"),
		"malformed JSON":     func(d *delivery) { d.event = []byte(`{"schema":`) },
		"nothing":            func(d *delivery) { d.event = nil },
		"no object":          func(d *delivery) { d.event = []byte(`"text"`) },
		"an impossible time": header("Lambda-Runtime-Deadline-Ms", "99999999999999999999"),
	} {
		assert.Equal(t, "error", p.invoke(request("t.show", nil), change).kind, name)
	}
	assert.Equal(t, executor.Succeeded, p.result(p.invoke(request("t.show", nil), header("Lambda-Runtime-Trace-Id", "nonsense;;=;Root"))).Status)
}

func TestTheFunctionEndsWhenTheRuntimeAPIIsLost(t *testing.T) {
	for name, hijack := range map[string]func(http.ResponseWriter) bool{
		"an error": func(w http.ResponseWriter) bool { w.WriteHeader(http.StatusInternalServerError); return true },
		"a closed connection": func(w http.ResponseWriter) bool {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_ = conn.Close()
			}
			return true
		},
		"half an answer": func(w http.ResponseWriter) bool {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_, _ = conn.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"))
				_ = conn.Close()
			}
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, "ATTUNE_LAMBDA_ALLOW=*")
			p.api.deliver(t, "{}", func(d *delivery) { d.hijack = hijack })
			if name == "a closed connection" { // the library's client tries once more
				p.api.deliver(t, "{}", func(d *delivery) { d.hijack = hijack })
			}
			assert.Equal(t, 1, p.exits())
			assert.Contains(t, p.logs.String(), "failed to ")
		})
	}
}

func TestAnUndecidedStartSaysHowToStart(t *testing.T) {
	p := launch(t, nil)
	assert.Equal(t, executor.ExitAttune, p.exits())
	assert.Contains(t, p.logs.String(), "--http")
}
