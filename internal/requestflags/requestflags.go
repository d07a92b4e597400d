// Package requestflags reads a request from a command line: the flags that mean the same wherever it is executed.
package requestflags

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/config"
	"github.com/attune-run/attune/pack"
)

// Secrets are the flags that name secrets.
type Secrets struct {
	Secret []string `placeholder:"K=REF" sep:"none" help:"Secret by reference: env:NAME, file:PATH, exec:COMMAND, age:FILE#key, sops:FILE#key, vault:PATH#key, aws-sm:NAME#key, aws-ssm:NAME."`
}

// References are the secrets' references by name.
func (s Secrets) References() (map[string]string, error) { return pairs("--secret", s.Secret) }

// Flags say what is to be executed, beside its name.
type Flags struct {
	Param      []string `short:"p" placeholder:"K=V" sep:"none" help:"Parameter, read by its declared type; K:=JSON for a JSON value. Repeat for more, or for the items of an array."`
	ParamsFile string   `placeholder:"FILE" help:"JSON or YAML file of parameters; - is stdin."`
	SecretEnv  []string `placeholder:"NAME" help:"Hand the secret NAME over as a variable."`
	Env        []string `placeholder:"K=V" sep:"none" help:"Variable for the action."`

	Secrets `embed:""`

	Timeout        executor.Duration `placeholder:"D" help:"Longest run: 90, 30s, 5m."`
	Runtime        string            `placeholder:"NAME" help:"Runtime of a script, in place of its first line and extension."`
	RuntimeVersion string            `placeholder:"C" help:"Version constraint: 3.12, >=20, ^18."`

	Isolation        string   `placeholder:"LEVEL" help:"none, basic or strict."`
	IsolationMode    string   `enum:",best-effort" default:"" placeholder:"MODE" help:"best-effort runs with what can be had."`
	IsolationNetwork string   `enum:",host,none" default:"" placeholder:"N" help:"host (default) or none: the action's own network."`
	Limit            []string `placeholder:"L=V" sep:"none" help:"Bound the action: memory=512M, pids=100, cpu=1.5, cpu_time=60, file_size, open_files, disk."`
}

// Request is what the flags ask for: of a script where target is one, else of an action. Parameters are in its Local, as they were
// typed; those of a file are in it as values.
func (f *Flags) Request(target string, args []string, stdin io.Reader) (executor.Request, error) {
	req := executor.Request{
		Args: args, SecretEnv: f.SecretEnv, Timeout: f.Timeout, RuntimeVersion: f.RuntimeVersion,
		Isolation: f.Isolation, IsolationMode: f.IsolationMode, IsolationNetwork: f.IsolationNetwork,
		Local: &executor.Local{},
	}
	if IsScript(target) || f.Runtime != "" {
		req.Script = &executor.Script{Path: target, Runtime: f.Runtime}
	} else {
		req.Action = target
	}
	var err error
	if req.Secrets, err = f.References(); err != nil {
		return req, err
	}
	if req.Env, err = pairs("--env", f.Env); err != nil {
		return req, err
	}
	if req.Limits, err = config.ParseLimits(f.Limit); err != nil {
		return req, err
	}
	for _, text := range f.Param {
		argument, err := parseArgument(text)
		if err != nil {
			return req, err
		}
		req.Local.Arguments = append(req.Local.Arguments, argument)
	}
	req.Parameters, err = f.paramsFile(stdin)
	return req, err
}

// IsScript tells a script from an action: a path, or a file that is there.
func IsScript(word string) bool { return strings.Contains(word, "/") || IsFile(word) }

// IsFile tells whether there is a file of that name.
func IsFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir()
}

func parseArgument(text string) (executor.Argument, error) {
	name, value, ok := strings.Cut(text, "=")
	if !ok || name == "" || name == ":" {
		return executor.Argument{}, fmt.Errorf("-p %s: write it as name=value, or name:=JSON", strings.TrimSuffix(name, ":"))
	}
	if trimmed, isJSON := strings.CutSuffix(name, ":"); isJSON {
		return executor.Argument{Name: trimmed, Text: value, JSON: true}, nil
	}
	return executor.Argument{Name: name, Text: value}, nil
}

// pairs reads K=V flags. A value may be secret, so errors show the name alone.
func pairs(flag string, texts []string) (map[string]string, error) {
	if len(texts) == 0 {
		return nil, nil
	}
	all := make(map[string]string, len(texts))
	for i, text := range texts {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("%s number %d: write it as name=value", flag, i+1)
		}
		all[name] = value
	}
	return all, nil
}

// paramsFile reads --params-file: JSON when it starts like it, else YAML.
func (f *Flags) paramsFile(stdin io.Reader) (map[string]any, error) {
	if f.ParamsFile == "" {
		return nil, nil
	}
	data, err := ReadInput(f.ParamsFile, stdin)
	if err != nil {
		return nil, fmt.Errorf("--params-file: %w", err)
	}
	decode := pack.DecodeYAML
	if strings.HasPrefix(strings.TrimSpace(string(data[:min(len(data), 64)])), "{") {
		decode = pack.DecodeJSON
	}
	value, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("--params-file %s: %w", f.ParamsFile, err)
	}
	object, ok := value.(map[string]any)
	if !ok && value != nil {
		return nil, fmt.Errorf("--params-file %s: holds no object of parameters", f.ParamsFile)
	}
	return object, nil
}

const paramsMax = 64 << 20

// ReadInput reads a file, or stdin for the name "-", up to 64 MiB.
func ReadInput(name string, stdin io.Reader) ([]byte, error) {
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		stdin = f
	}
	data, err := io.ReadAll(io.LimitReader(stdin, paramsMax+1))
	if err == nil && len(data) > paramsMax {
		err = fmt.Errorf("%s holds more than %d bytes", name, paramsMax)
	}
	return data, err
}
