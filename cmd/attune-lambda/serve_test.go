package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/executor"
)

// serveOn starts the binary as a container function and gives its address.
func serveOn(t *testing.T, env ...string) (*process, string) {
	t.Helper()
	p := launch(t, nil, append([]string{"ATTUNE_LAMBDA_HTTP=127.0.0.1:0"}, env...)...)
	address := regexp.MustCompile(`"message":"serving","address":"([^"]+)"`)
	eventually(t, "it serves", func() bool { return address.MatchString(p.logs.String()) })
	return p, "http://" + address.FindStringSubmatch(p.logs.String())[1]
}

// exchange sends a request and reads the whole answer.
func exchange(t *testing.T, method, url, body string, headers ...string) (status int, header http.Header, text string) {
	t.Helper()
	r, err := http.NewRequestWithContext(background(t), method, url, strings.NewReader(body))
	require.NoError(t, err)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	answer, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer func() { _ = answer.Body.Close() }()
	data, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return answer.StatusCode, answer.Header, string(data)
}

func TestRequestsOverHTTP(t *testing.T) {
	_, url := serveOn(t, "ATTUNE_LAMBDA_ACTION=t.show", "ATTUNE_LAMBDA_ALLOW=t.run,t.show,t.large")
	status, header, body := exchange(t, "POST", url+"/any/path", `{"n": 0.10}`, "Content-Type", "application/json")
	assert.Equal(t, 200, status, body)
	assert.Equal(t, "application/json", header.Get("Content-Type"))
	assert.Contains(t, body, `"n":0.10`)
	assert.Contains(t, body, `POST /any/path`)

	for _, c := range []struct {
		method, body string
		status       int
	}{
		{"GET", "", 200},
		{"POST", `{"schema":"attune.request/v1","action":"t.run","parameters":{"script":"exit 0"}}`, 200},
		{"POST", `{"schema":"attune.request/v1","action":"t.run","parameters":{"script":"exit 1"}}`, 422},
		{"POST", `{"schema":"attune.request/v1","action":"t.run","timeout":"200ms","parameters":{"script":"sleep 1000"}}`, 504},
		{"POST", `{"schema":"attune.request/v1","action":"t.run","parameters":{}}`, 400},
		{"POST", `{"schema":"attune.request/v1","action":"t.env"}`, 403},
		{"POST", `{"schema":"attune.request/v1","script":{"inline":"exit 0","runtime":"shell"}}`, 403},
		{"POST", `{"schema":"attune.request/v1","id":"x","action":"t.run"}`, 400},
		{"POST", `{"schema":"attune.request/v1","action":"t.large","parameters":{"bytes":7000000}}`, 422},
		{"POST", `{"broken":`, 400},
		{"POST", strings.Repeat("x", bodyMax+1), 413},
	} {
		status, _, body := exchange(t, c.method, url, c.body)
		assert.Equal(t, c.status, status, "%.100s: %s", c.body, body)
		assert.True(t, json.Valid([]byte(body)), body)
	}
}

func TestCloudEvents(t *testing.T) {
	_, url := serveOn(t, "ATTUNE_LAMBDA_ACTION=t.show")
	binary := []string{"Ce-Specversion", "1.0", "Ce-Id", "1", "Ce-Source", "/a%20b", "Ce-Type", "made", "Content-Type", "application/json",
		"Ce-Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
	status, header, body := exchange(t, "POST", url, `{"n":1}`, binary...)
	assert.Equal(t, 200, status, body)
	assert.Contains(t, body, `"n":1`)
	assert.Contains(t, body, "made /a b")
	assert.Contains(t, body, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	assert.Equal(t, "1.0", header.Get("Ce-Specversion"))
	assert.Equal(t, replyType, header.Get("Ce-Type"))
	assert.Equal(t, "attune/t.show", header.Get("Ce-Source"))
	require.NotEmpty(t, header.Get("Ce-Id"))
	first := header.Get("Ce-Id")
	_, header, _ = exchange(t, "POST", url, `{"n":1}`, binary...)
	assert.Equal(t, first, header.Get("Ce-Id"), "source and id identify an event")

	for event, c := range map[string]struct {
		status int
		has    string
	}{
		`{"specversion":"1.0","id":"2","source":"/s","type":"made","datacontenttype":"application/json","data":{"n":2}}`: {200, `"n":2`},
		`{"specversion":"1.0","id":"2","source":"/s","type":"made","data_base64":"eyJuIjozfQ=="}`:                        {200, `"n":3`},
		`{"specversion":"1.0","id":"2","source":"/s","type":"made","data":"words"}`:                                      {200, `"message":"words"`},
		`{"specversion":"1.0","id":"2","source":"/s","type":"made"}`:                                                     {200, `"parameters":{}`},
		`{"specversion":"0.3","id":"2","source":"/s","type":"made"}`:                                                     {400, "0.3"},
		`{"specversion":"1.0","id":"2","type":"made"}`:                                                                   {400, "source"},
		`{"specversion":`: {400, "cannot be read"},
	} {
		status, _, body := exchange(t, "POST", url, event, "Content-Type", "application/cloudevents+json; charset=utf-8")
		assert.Equal(t, c.status, status, event)
		assert.Contains(t, body, c.has, event)
	}
	status, _, _ = exchange(t, "POST", url, `[]`, "Content-Type", "application/cloudevents-batch+json")
	assert.Equal(t, 400, status)
	binary[7] = replyType
	status, _, body = exchange(t, "POST", url, `{}`, binary...)
	assert.Equal(t, 204, status, "what was replied comes back from a broker: it is not run")
	assert.Empty(t, body)
}

func TestTooManyRequestsAreTurnedAway(t *testing.T) {
	_, url := serveOn(t, "ATTUNE_LAMBDA_ACTION=t.meet", "ATTUNE_LAMBDA_CONCURRENCY=2")
	dir := t.TempDir()
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() {
			status, _, body := exchange(t, "POST", url, `{"dir":"`+dir+`","of":3}`)
			assert.Equal(t, 200, status, body)
		})
	}
	eventually(t, "two are running", func() bool { entries, _ := os.ReadDir(dir); return len(entries) == 2 })
	status, header, _ := exchange(t, "POST", url, `{"dir":"`+dir+`","of":3}`)
	assert.Equal(t, 429, status)
	assert.Equal(t, "1", header.Get("Retry-After"))
	status, _, _ = exchange(t, "GET", url+"/health", "")
	assert.Equal(t, 200, status, "health does not wait for its turn")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "third"), nil, 0o600))
	group.Wait()
}

func TestSIGTERMDrainsTheServer(t *testing.T) {
	p, url := serveOn(t, "ATTUNE_LAMBDA_ACTION=t.meet")
	dir := t.TempDir()
	answered := make(chan int, 1)
	go func() {
		status, _, _ := exchange(t, "POST", url, `{"dir":"`+dir+`","of":2}`)
		answered <- status
	}()
	eventually(t, "it runs", func() bool { entries, _ := os.ReadDir(dir); return len(entries) == 1 })
	p.signal(syscall.SIGTERM)
	eventually(t, "nothing new is taken", func() bool {
		r, _ := http.NewRequest("GET", url+"/health", nil)
		answer, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
		if err == nil {
			_ = answer.Body.Close()
		}
		return err != nil
	})
	require.NoError(t, os.WriteFile(filepath.Join(dir, "second"), nil, 0o600))
	assert.Equal(t, 200, <-answered, "what ran has ended in order")
	assert.Equal(t, 0, p.exits())
}

func TestSIGTERMEndsWhatOutlastsTheDrain(t *testing.T) {
	p, url := serveOn(t, "ATTUNE_LAMBDA_ACTION=t.run", "ATTUNE_LAMBDA_DRAIN=200ms")
	mark := filepath.Join(t.TempDir(), "mark")
	answered := make(chan string, 1)
	go func() {
		_, _, body := exchange(t, "POST", url, `{"script":"sleep 1000 & echo $! > `+mark+`.new; mv `+mark+`.new `+mark+`; wait"}`)
		answered <- body
	}()
	var pid string
	eventually(t, "it runs", func() bool {
		text, err := os.ReadFile(mark)
		pid = strings.TrimSpace(string(text))
		return err == nil
	})
	p.signal(syscall.SIGTERM)
	var d document
	require.NoError(t, json.Unmarshal([]byte(<-answered), &d))
	assert.Equal(t, executor.Canceled, d.Status)
	assert.False(t, alive(pid))
	assert.Equal(t, 0, p.exits())
}

func TestIdempotencyOverHTTP(t *testing.T) {
	table := newDynamo(t)
	_, url := serveOn(t, append(table.env(), "ATTUNE_LAMBDA_ACTION=t.count")...)
	file := filepath.Join(t.TempDir(), "ran")
	for _, key := range []string{"order 7", "order 7", uuid.NewString(), ""} {
		status, _, body := exchange(t, "POST", url, `{"file":"`+file+`","code":0}`, "Idempotency-Key", key)
		assert.Equal(t, 200, status, body)
	}
	assert.Equal(t, 3, runs(t, file))
	for range 2 {
		exchange(t, "POST", url, `{"file":"`+file+`","code":0}`, "X-Request-Id", "of-a-whole-trace")
	}
	assert.Equal(t, 5, runs(t, file))
	status, _, body := exchange(t, "POST", url, `{"file":"`+file+`","code":1}`, "Idempotency-Key", "order 7")
	assert.Equal(t, 400, status, body)
}

func TestTheHelpListsEveryVariable(t *testing.T) {
	var help strings.Builder
	assert.Equal(t, 0, run([]string{"--help"}, nil, &help, io.Discard))
	for _, o := range options {
		assert.Contains(t, help.String(), o.name+"=")
	}
	var page strings.Builder
	assert.Equal(t, 0, run([]string{"--man", "roff"}, []string{"SOURCE_DATE_EPOCH=1700000000"}, &page, io.Discard))
	assert.Contains(t, page.String(), `.TH ATTUNE-LAMBDA 1 "2023-11-14"`)
	for _, o := range options {
		assert.Contains(t, strings.ReplaceAll(page.String(), `\`, ""), o.name+"=")
	}
	assert.Equal(t, executor.ExitAttune, run([]string{"--man", "html"}, nil, io.Discard, io.Discard))
	assert.Equal(t, executor.ExitAttune, run([]string{"--htpp"}, nil, io.Discard, io.Discard))
}
