package pack

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/attune-run/attune/internal/yamldoc"
	"github.com/attune-run/attune/runtime"
)

// Action is one action's metadata with its defaults filled in.
type Action struct {
	Pack                          *Pack
	Ref, Name, Label, Description string
	Tags                          []string
	Enabled                       bool
	File                          string // the metadata's file
	Warnings                      []Problem

	Runtime        string // name or alias; "shell" unless said
	RuntimeVersion string // constraint; empty means any
	EntryPoint     string // absolute, inside the pack also after symbolic links

	Parameters      *Schema // never nil
	Delivery        string  // "stdin" or "file"
	ParameterFormat string  // "json", "dotenv" or "yaml"
	OutputFormat    string  // "text", "json", "yaml" or "jsonl"
	OutputSchema    *Schema // nil: anything

	Timeout   time.Duration // zero: the default
	Env       map[string]string
	PassEnv   []string
	Cwd       string // "pack", "caller" or "workspace"
	Isolation string // empty: the default
	// IsolationNetwork is "host" or "none"; empty: the default.
	IsolationNetwork string
	Limits           map[string]any
	Retries          Retries
	Concurrency      int // how many of it the pool runs at once; zero: any number
	Placement        Placement
}

func (p *Pack) readAction(doc *yamldoc.Doc, name string) (*Action, error) {
	root := doc.Root()
	a := &Action{
		Pack: p, Name: name, File: doc.File, Ref: root.Text("ref"), Label: root.Text("label"), Description: root.Text("description"),
		Tags: root.List("tags"), Enabled: root.Bool("enabled", true),
		Runtime: root.Text("runner_type"), RuntimeVersion: root.Text("runtime_version"),
		Delivery:        choice(root, "parameter_delivery", "stdin", "file"),
		ParameterFormat: choice(root, "parameter_format", "json", "dotenv", "yaml"),
		OutputFormat:    choice(root, "output_format", "text", "json", "yaml", "jsonl"),
		PassEnv:         root.List("pass_env"), Cwd: choice(root, "cwd", "pack", "caller", "workspace"),
		Isolation: root.Text("isolation"), IsolationNetwork: root.Text("isolation_network"), Env: variables(root),
	}
	if a.Label == "" {
		a.Label = name
	}
	a.readRuntime(root)
	a.EntryPoint = p.entryPoint(root)
	a.Parameters = readSchema(doc, root, "parameters")
	a.readOutput(doc, root)
	a.Timeout = duration(root, "timeout")
	a.Limits, _ = root.Value("limits").(map[string]any)
	a.Retries, a.Concurrency, a.Placement = readRetries(root), readConcurrency(root), readPlacement(root)
	switch want := p.Ref + "." + name; {
	case a.Ref == "":
		root.Fail("ref", "ref is missing; it is %s", want)
	case a.Ref != want:
		root.Fail("ref", "ref %q is not %q, the pack's ref and the file's name", a.Ref, want)
	}
	root.Close()
	a.Warnings = append(doc.Unknown, a.Parameters.warnings...)
	if err := doc.Err(); err != nil {
		return nil, err
	}
	return a, nil
}

func (a *Action) readRuntime(root *yamldoc.Map) {
	if other := root.Text("runtime"); other != "" {
		if a.Runtime != "" && a.Runtime != other {
			root.Fail("runtime", "runtime %q contradicts runner_type %q", other, a.Runtime)
		}
		a.Runtime = other
	}
	if a.Runtime == "" {
		a.Runtime = "shell"
	}
	if _, err := runtime.ParseConstraint(a.RuntimeVersion); err != nil {
		root.Fail("runtime_version", "runtime_version: %v", err)
	}
	if root.Text("parameter_delivery") == "env" {
		root.Fail("parameter_delivery", "parameter_delivery: env is refused: values would be visible to other processes; use stdin or file")
	}
}

func (a *Action) readOutput(doc *yamldoc.Doc, root *yamldoc.Map) {
	key := "output_schema"
	if !root.Has(key) && root.Has("output") {
		key = "output"
	}
	if root.Has(key) {
		a.OutputSchema = readSchema(doc, root, key)
	}
}

// choice is one of several words; the first is the default.
func choice(root *yamldoc.Map, key string, words ...string) string {
	text := root.Text(key)
	if text == "" {
		return words[0]
	}
	if !slices.Contains(words, text) && text != "env" {
		root.Fail(key, "%s %q must be %s", key, text, strings.Join(words, ", "))
	}
	return text
}

func variables(root *yamldoc.Map) map[string]string {
	env := root.Map("env")
	all := map[string]string{}
	for _, name := range env.Keys() {
		if strings.HasPrefix(name, "ATTUNE_") || strings.Contains(name, "=") {
			env.Fail(name, "env: %s: the prefix ATTUNE_ is reserved, and a name holds no =", name)
		}
		all[name] = env.Text(name)
	}
	return all
}

// duration reads seconds or Go's text.
func duration(root *yamldoc.Map, key string) time.Duration {
	text := root.Text(key)
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if seconds, numeric := strconv.ParseFloat(text, 64); numeric == nil {
		d, err = time.Duration(seconds*float64(time.Second)), nil
	}
	if err != nil || d <= 0 {
		root.Fail(key, "%s %q must be a number of seconds above 0, or like 30s or 5m", key, text)
	}
	return d
}

// entryPoint finds the script beside the metadata, then in the pack, and keeps it inside the pack.
func (p *Pack) entryPoint(root *yamldoc.Map) string {
	name := root.Text("entry_point")
	if name == "" {
		root.Fail("entry_point", "entry_point is missing")
		return ""
	}
	path, err := p.confine(name)
	if err != nil {
		root.Fail("entry_point", "entry_point %s: %v", name, err)
	}
	return path
}

func (p *Pack) confine(name string) (string, error) {
	if !filepath.IsLocal(name) {
		return "", errors.New("must be a path inside the pack")
	}
	top, err := filepath.EvalSymlinks(p.Dir)
	if err != nil {
		return "", err
	}
	for _, path := range []string{filepath.Join(p.Dir, "actions", name), filepath.Join(p.Dir, name)} {
		target, err := filepath.EvalSymlinks(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		if target != top && !strings.HasPrefix(target, top+string(filepath.Separator)) {
			return "", fmt.Errorf("leads out of the pack, to %s", target)
		}
		info, err := os.Stat(target)
		if err != nil {
			return "", err
		}
		if !info.Mode().IsRegular() {
			return "", errors.New("is no regular file")
		}
		return path, nil
	}
	return "", fmt.Errorf("is neither in %s nor in %s", filepath.Join(p.Dir, "actions"), p.Dir)
}
