package executor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var placedPack = map[string]string{
	"p/pack.yaml":       "ref: p\nversion: 1.0.0\n",
	"p/actions/ok.yaml": "ref: p.ok\nentry_point: ok.sh\n",
	"p/actions/ok.sh":   "echo ok\n",
	"p/actions/placed.yaml": `ref: p.placed
entry_point: ok.sh
runtime_version: ">=3"
worker_selector: {zone: a, gpu: true}
worker_tolerations: [{key: dedicated, operator: Exists}]
worker_affinity: [{weight: 10, labels: {disk: ssd}}]
required_worker_runtimes: ["node >=18", bash]
retries: {max: 3, backoff: 2s}
concurrency: 4
`,
}

func TestRequirementOfAnAction(t *testing.T) {
	s := service(t, Config{Packs: []string{packs(t, placedPack)}})
	plain, defaults, err := s.Requirement(context.Background(), Request{Action: "p.ok"})
	require.NoError(t, err)
	assert.Equal(t, "shell", plain.Runtime)
	assert.Equal(t, "p", plain.Pack.Ref)
	assert.Regexp(t, "^sha256:[0-9a-f]{64}$", plain.Pack.Digest)
	assert.Equal(t, Defaults{Timeout: 300 * time.Second}, defaults)

	placed, defaults, err := s.Requirement(context.Background(), Request{Action: "p.placed"})
	require.NoError(t, err)
	assert.Equal(t, Requirement{
		Pack: plain.Pack, Runtime: "shell", Version: ">=3", Labels: map[string]string{"zone": "a", "gpu": "true"},
		Also:        []RuntimeNeed{{Name: "node", Version: ">=18"}, {Name: "shell"}},
		Tolerations: []Toleration{{Key: "dedicated", Operator: "Exists"}},
	}, placed, "aliases are resolved, lists sorted")
	assert.Equal(t, Defaults{Retries: 3, Backoff: 2 * time.Second, Limit: 4, Timeout: 300 * time.Second,
		Affinity: []Preference{{Weight: 10, Labels: map[string]string{"disk": "ssd"}}}}, defaults)
	assert.NotEqual(t, plain.Route(), placed.Route())

	text, err := json.Marshal(placed)
	require.NoError(t, err)
	var back Requirement
	require.NoError(t, json.Unmarshal(text, &back))
	assert.Equal(t, placed.Route(), back.Route())
	assert.Regexp(t, "^[a-z2-7]{26}$", placed.Route())
}

func TestRoutesAreOfMeaningNotOfSpelling(t *testing.T) {
	base := Requirement{Runtime: "python"}
	one, err := base.With(Request{Selector: map[string]any{"a": "1", "b": json.Number("2")}, Tolerations: []map[string]any{{"key": "x"}, {"key": "y", "operator": "Equal"}}})
	require.NoError(t, err)
	other, err := base.With(Request{Selector: map[string]any{"b": "2", "a": "1"}, Tolerations: []map[string]any{{"key": "y"}, {"key": "x", "effect": "NoSchedule"}, {"key": "x"}}})
	require.NoError(t, err)
	assert.Equal(t, one.Route(), other.Route())
	again, err := one.With(Request{})
	require.NoError(t, err)
	assert.Equal(t, one, again)
}

func TestRequestsThatContradict(t *testing.T) {
	base := Requirement{Runtime: "python", Labels: map[string]string{"zone": "a"}}
	for name, req := range map[string]Request{
		"contradicts the action's own": {Selector: map[string]any{"zone": "b"}},
		"must have a text":             {Selector: map[string]any{"zone": []any{"a"}}},
		"operator \"Like\"":            {Tolerations: []map[string]any{{"key": "a", "operator": "Like"}}},
		"effect \"NoExecute\"":         {Tolerations: []map[string]any{{"key": "a", "effect": "NoExecute"}}},
		"unknown field":                {Tolerations: []map[string]any{{"keys": "a"}}},
		"version constraint":           {RuntimeVersion: "latest"},
		"not a level":                  {Isolation: "total"},
		"isolation mode":               {IsolationMode: "lax"},
		"there is no limit":            {Limits: map[string]any{"memry": "1G"}},
	} {
		_, err := base.With(req)
		assert.ErrorContains(t, err, name)
	}
	for name, req := range map[string]Request{
		"weight 1000": {Affinity: []map[string]any{{"weight": 1000, "labels": map[string]any{"a": "b"}}}},
		"needs label": {Affinity: []map[string]any{{"weight": 1}}},
		"negative":    {Retries: &Retries{Max: -1}},
	} {
		_, err := Defaults{}.With(req)
		assert.ErrorContains(t, err, name)
	}
}

func TestIsolationIsARequirement(t *testing.T) {
	files := maps.Clone(placedPack)
	files["p/actions/shut.yaml"] = "ref: p.shut\nentry_point: ok.sh\nisolation: strict\nisolation_network: none\nlimits: {pids: 10, memory: 1G}\n"
	s := service(t, Config{Packs: []string{packs(t, files)}})
	of := func(req Request) Requirement {
		r, _, err := s.Requirement(context.Background(), req)
		require.NoError(t, err)
		return r
	}
	shut := of(Request{Action: "p.shut"})
	assert.Equal(t, []any{"strict", "none", []string{"memory", "pids"}}, []any{shut.Isolation, shut.Network, shut.Limits})
	assert.NotEqual(t, shut.Route(), of(Request{Action: "p.ok"}).Route())
	less := of(Request{Action: "p.shut", Isolation: "none", IsolationNetwork: "host", Limits: map[string]any{"pids": nil, "memory": "2G"}})
	assert.Equal(t, []any{"", "", []string{"memory"}}, []any{less.Isolation, less.Network, less.Limits}, "the request's own words win")
	assert.Equal(t, of(Request{Action: "p.ok"}), of(Request{Action: "p.ok", Isolation: "none", IsolationNetwork: "host"}), "two spellings of one meaning")
	assert.Equal(t, of(Request{Action: "p.shut", IsolationMode: "best-effort"}).Isolation, "", "what can be had will do")
	again, err := shut.With(Request{Isolation: "basic"})
	require.NoError(t, err)
	assert.Equal(t, "basic", again.Isolation)
}

func TestRequirementOfAScript(t *testing.T) {
	s := service(t, Config{})
	r, _, err := s.Requirement(context.Background(), Request{Script: &Script{Inline: "print(1)", Runtime: "python3"}, RuntimeVersion: ">=3.8"})
	require.NoError(t, err)
	assert.Equal(t, Requirement{Runtime: "python", Version: ">=3.8"}, r)
	_, _, err = s.Requirement(context.Background(), Request{Script: &Script{Path: "/a.sh"}})
	assert.ErrorContains(t, err, "other machines")
	_, _, err = s.Requirement(context.Background(), Request{Action: "core.nothing"})
	assert.ErrorContains(t, err, "there is no")
}

func TestWhatSatisfies(t *testing.T) {
	pin := PackPin{"p", "1.0.0", "sha256:1"}
	have := Capabilities{
		Packs:    []PackPin{pin},
		Runtimes: []RuntimeCapability{{"python", []string{"python3"}, []string{"3.9.1", "3.12.2"}}, {"native", nil, nil}},
		Labels:   map[string]string{"zone": "a"},
		// Such a host gives no strict isolation, and counts no processors.
		Isolation: map[string][]string{"basic": nil, "strict": {"kill_all", "net"}}, Limits: []string{"memory"},
	}
	need := func(change func(*Requirement)) Requirement {
		r := Requirement{Pack: pin, Runtime: "python"}
		change(&r)
		return r
	}
	for _, c := range []struct {
		name   string
		r      Requirement
		change func(*Capabilities)
		why    string
	}{
		{name: "plain", r: need(func(*Requirement) {})},
		{name: "version", r: need(func(r *Requirement) { r.Version = ">=3.10" })},
		{name: "label", r: need(func(r *Requirement) { r.Labels = map[string]string{"zone": "a"} })},
		{name: "alias", r: need(func(r *Requirement) { r.Also = []RuntimeNeed{{Name: "Python3", Version: "3.9"}} })},
		{name: "native", r: need(func(r *Requirement) { r.Runtime = "native" })},
		{name: "the pack's own runtime", r: need(func(r *Requirement) { r.Runtime = "p.own" })},
		{name: "another's runtime", r: need(func(r *Requirement) { r.Runtime = "q.own" }), why: "it has no q.own"},
		{name: "older", r: need(func(r *Requirement) { r.Version = "<3" }), why: "its python is 3.9.1, 3.12.2, not <3"},
		{name: "no such runtime", r: need(func(r *Requirement) { r.Also = []RuntimeNeed{{Name: "ruby", Version: ">=3"}} }), why: "it has no ruby >=3"},
		{name: "other digest", r: need(func(r *Requirement) { r.Pack.Digest = "sha256:2" }), why: "does not have pack p 1.0.0"},
		{name: "other zone", r: need(func(r *Requirement) { r.Labels = map[string]string{"zone": "b"} }), why: "label zone=b"},
		{name: "no label", r: need(func(r *Requirement) { r.Labels = map[string]string{"gpu": ""} }), why: "label gpu="},
		{name: "script", r: Requirement{Runtime: "python"}, why: "no code that requests bring"},
		{name: "script allowed", r: Requirement{Runtime: "python"}, change: func(c *Capabilities) { c.Scripts = true }},
		{name: "taint", r: need(func(*Requirement) {}), change: func(c *Capabilities) { c.Taints = []Taint{{"db", "x"}} }, why: "taint db=x"},
		{name: "taint tolerated", r: need(func(r *Requirement) { r.Tolerations = []Toleration{{Key: "db", Value: "x"}} }), change: func(c *Capabilities) { c.Taints = []Taint{{"db", "x"}} }},
		{name: "taint of another value", r: need(func(r *Requirement) { r.Tolerations = []Toleration{{Key: "db", Value: "y"}} }), change: func(c *Capabilities) { c.Taints = []Taint{{"db", "x"}} }, why: "taint db=x"},
		{name: "isolation", r: need(func(r *Requirement) { r.Isolation, r.Network = "basic", "none" })},
		{name: "isolation that cannot be had", r: need(func(r *Requirement) { r.Isolation = "strict" }), why: "isolation strict; missing: kill_all"},
		{name: "network that cannot be shut", r: need(func(r *Requirement) { r.Network = "none" }), change: func(c *Capabilities) { c.Isolation = map[string][]string{"basic": {"net", "syscalls"}} }, why: "isolation basic; missing: net"},
		{name: "isolation of an older worker", r: need(func(r *Requirement) { r.Isolation = "strict" }), change: func(c *Capabilities) { c.Isolation = nil }, why: "does not say"},
		{name: "limit", r: need(func(r *Requirement) { r.Limits = []string{"memory"} })},
		{name: "limit that nothing enforces", r: need(func(r *Requirement) { r.Limits = []string{"cpu", "memory"} }), why: "enforces the limit cpu"},
		{name: "any taint tolerated", r: need(func(r *Requirement) { r.Tolerations = []Toleration{{Operator: "Exists"}} }), change: func(c *Capabilities) { c.Taints = []Taint{{"db", "x"}, {"gpu", ""}} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			mine := have
			if c.change != nil {
				c.change(&mine)
			}
			ok, why := mine.Satisfies(c.r)
			assert.Equal(t, c.why == "", ok, why)
			assert.Contains(t, why, c.why)
		})
	}
	assert.Equal(t, 3, have.Affinity([]Preference{{Weight: 5, Labels: map[string]string{"zone": "a"}}, {Weight: -2, Labels: map[string]string{"zone": "a"}}, {Weight: 50, Labels: map[string]string{"zone": "b"}}}))
}

func TestCapabilitiesOfThisMachine(t *testing.T) {
	s := service(t, Config{Packs: []string{packs(t, placedPack)}, Runtimes: "shell,native"})
	c, err := s.Capabilities(context.Background())
	require.NoError(t, err)
	r, _, err := s.Requirement(context.Background(), Request{Action: "p.ok"})
	require.NoError(t, err)
	ok, why := c.Satisfies(r)
	assert.True(t, ok, why)
	ok, _ = c.Satisfies(Requirement{Pack: r.Pack, Runtime: "python"})
	assert.False(t, ok, "switched off")
	ok, why = c.Satisfies(Requirement{Pack: r.Pack, Runtime: "native"})
	assert.True(t, ok, why)
}

func TestTaintsAreReadAsTheyAreWritten(t *testing.T) {
	for text, want := range map[string]Taint{"gpu": {"gpu", ""}, "a=b": {"a", "b"}, "a=b:NoSchedule": {"a", "b"}, "a:NoSchedule": {"a", ""}} {
		got, err := ParseTaint(text)
		require.NoError(t, err)
		assert.Equal(t, want, got)
		again, err := ParseTaint(got.String())
		require.NoError(t, err)
		assert.Equal(t, got, again)
	}
	for _, text := range []string{"", "=b", "a=b:Never"} {
		_, err := ParseTaint(text)
		assert.Error(t, err, text)
	}
}

func TestOnlyThePinnedPackRuns(t *testing.T) {
	dir, newer := packs(t, placedPack), packs(t, map[string]string{
		"p/pack.yaml": "ref: p\nversion: 1.1.0\n", "p/actions/ok.yaml": "ref: p.ok\nentry_point: ok.sh\n", "p/actions/ok.sh": "echo newer\n",
	})
	s := service(t, Config{Packs: []string{newer}})
	older := service(t, Config{Packs: []string{dir}})
	r, _, err := older.Requirement(context.Background(), Request{Action: "p.ok"})
	require.NoError(t, err)

	run := func(pin PackPin) Result {
		return s.Execute(context.Background(), Request{Action: "p.ok", Pack: pin, Local: &Local{Packs: []string{dir}, Remote: true}}, Observer{})
	}
	result := run(r.Pack)
	assert.Equal(t, "ok\n", result.Stdout, result.Error)
	assert.Equal(t, r.Pack.Digest, result.Pack.Digest)

	result = run(PackPin{"p", "1.1.0", r.Pack.Digest})
	require.NotNil(t, result.Error)
	assert.Equal(t, "pack", result.Error.Kind)
	assert.Equal(t, "environment", result.Error.Stage, "before anything of it was built or run")
	result = run(PackPin{"p", "2.0.0", r.Pack.Digest})
	assert.Equal(t, "pack", result.Error.Kind)
	result = run(PackPin{"q", "2.0.0", r.Pack.Digest})
	assert.Equal(t, "request", result.Error.Kind)

	require.NoError(t, os.WriteFile(filepath.Join(dir, "p/actions/ok.sh"), []byte("echo altered\n"), 0o755))
	result = run(r.Pack)
	require.NotNil(t, result.Error)
	assert.Contains(t, result.Error.Message, "was asked for")
	assert.Empty(t, result.Stdout)
}

func TestRemoteRequestsAreBoundToTheProviders(t *testing.T) {
	s := service(t, Config{Packs: []string{packs(t, placedPack)}, Environ: []string{"PATH=" + os.Getenv("PATH"), "API=secret-value"}})
	_, err := s.Secrets(context.Background(), map[string]string{"k": "env:API"}, &Local{Remote: true})
	assert.ErrorContains(t, err, "no provider")
}

func TestOffersAreWhatRequestsRequire(t *testing.T) {
	s := service(t, Config{Packs: []string{packs(t, placedPack)}})
	offers, err := s.Offers(context.Background())
	require.NoError(t, err)
	require.Len(t, offers, 2)
	for _, o := range offers {
		r, d, err := s.Requirement(context.Background(), Request{Action: o.Action})
		require.NoError(t, err)
		assert.Equal(t, r.Route(), o.Requirement.Route())
		assert.Equal(t, d, o.Defaults)
	}
}

func TestABundleIsUnpackedByDigest(t *testing.T) {
	source := packs(t, placedPack)
	s := service(t, Config{Packs: []string{source}})
	r, _, err := s.Requirement(context.Background(), Request{Action: "p.ok"})
	require.NoError(t, err)
	bundle, err := exec.Command("tar", "-C", source, "-czf", "-", "p").Output()
	require.NoError(t, err)

	empty, dir := service(t, Config{}), filepath.Join(t.TempDir(), "kept", "one")
	require.NoError(t, empty.Unpack(bytes.NewReader(bundle), r.Pack, dir))
	require.NoError(t, empty.Unpack(bytes.NewReader(bundle), r.Pack, dir), "a second time")
	result := empty.Execute(context.Background(), Request{Action: "p.ok", Pack: r.Pack, Local: &Local{Packs: []string{dir}}}, Observer{})
	assert.Equal(t, "ok\n", result.Stdout, result.Error)

	other := r.Pack
	other.Digest = "sha256:00"
	gone := filepath.Join(t.TempDir(), "kept", "two")
	assert.ErrorContains(t, empty.Unpack(bytes.NewReader(bundle), other, gone), "was asked for")
	assert.Error(t, empty.Unpack(bytes.NewReader(bundle[:40]), r.Pack, gone))
	assert.NoDirExists(t, gone)
	entries, err := os.ReadDir(filepath.Dir(gone))
	require.NoError(t, err)
	assert.Empty(t, entries)
}

func TestArtifactsAreHandedOver(t *testing.T) {
	files := map[string]string{
		"p/pack.yaml": "ref: p\nversion: 1.0.0\n", "p/actions/a.yaml": "ref: p.a\nentry_point: a.sh\n",
		"p/actions/a.sh": "mkdir $ATTUNE_ARTIFACTS_DIR/d; echo one > $ATTUNE_ARTIFACTS_DIR/d/one\n",
	}
	s := service(t, Config{Packs: []string{packs(t, files)}})
	kept := map[string]string{}
	local := &Local{Keep: func(a Artifact, content io.Reader) error {
		text, err := io.ReadAll(content)
		kept[a.Path] = string(text)
		return err
	}}
	result := s.Execute(context.Background(), Request{Action: "p.a", Local: local}, Observer{})
	require.Equal(t, Succeeded, result.Status, result.Error)
	assert.Equal(t, map[string]string{"d/one": "one\n"}, kept)

	local.Keep = func(Artifact, io.Reader) error { return errors.New("no room") }
	result = s.Execute(context.Background(), Request{Action: "p.a", Local: local}, Observer{})
	assert.Contains(t, result.Error.Message, "no room")
}
