package executor

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/attune-run/attune/internal/nearest"
	"github.com/attune-run/attune/recipe"
	"github.com/attune-run/attune/runtime"
)

// loadScript finds out how a bare script is run. Its first line is asked first, as
// the kernel would; a first line that leads back to attune is no answer, then the
// extension is asked, then the second line.
func (x *execution) loadScript() error {
	if x.req.Script.Inline != "" {
		return x.loadInline()
	}
	path, err := x.scriptPath(x.req.Script.Path)
	if err != nil {
		return err
	}
	x.job = job{ref: x.req.name(), script: path, dir: filepath.Dir(path), preferPath: true}
	if err := x.scriptRuntime(path); err != nil {
		return err
	}
	if x.job.spec.Bare() == "python" {
		if err := x.scriptConstraint(path); err != nil {
			return err
		}
	}
	x.finishScript()
	return nil
}

func (x *execution) loadInline() error {
	spec, err := x.svc.lookup(x.finder(), nil, first(x.req.Script.Runtime, "shell"))
	if err != nil {
		return noRuntime(err)
	}
	dir, err := x.callerDir()
	if err != nil {
		return err
	}
	x.job = job{ref: x.req.name(), spec: spec, inline: x.req.Script.Inline, dir: dir, preferPath: true}
	x.finishScript()
	return nil
}

// finishScript fills what a bare script cannot say of itself.
func (x *execution) finishScript() {
	if x.req.RuntimeVersion != "" {
		x.job.constraint, x.job.interpreter = x.req.RuntimeVersion, ""
	}
	x.job.delivery, x.job.parameterFormat = "stdin", "json"
	x.job.outputFormat = first(x.local.OutputFormat, "text")
	x.job.isolation, x.job.isolationNetwork, x.job.limits = x.req.Isolation, x.req.IsolationNetwork, x.req.Limits
	x.job.settings = x.profile(Host, 0, "")
}

// scriptPath is the script's absolute path, links kept: a script finds its neighbours beside
// the name it was called by.
func (x *execution) scriptPath(name string) (string, error) {
	path := name
	if !filepath.IsAbs(path) {
		dir, err := x.callerDir()
		if err != nil {
			return "", err
		}
		path = filepath.Join(dir, path)
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", &failure{kind: kindRequest, exit: ExitNotFound, err: fmt.Errorf("there is no script %s%s", name, neighbour(path)),
			hint: "an action is named pack.action; `attune-run pack list` shows them"}
	case err != nil:
		return "", &failure{kind: kindRequest, exit: ExitNotFound, err: fmt.Errorf("script %s: %w", name, err)}
	case info.IsDir():
		return "", &failure{kind: kindRequest, exit: ExitNoRuntime, err: fmt.Errorf("%s is a directory, not a script", name)}
	}
	return path, nil
}

func neighbour(path string) string {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return ""
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() {
			names = append(names, e.Name())
		}
	}
	if near := nearest.Name(filepath.Base(path), names); near != "" {
		return fmt.Sprintf("; did you mean %s?", filepath.Join(filepath.Dir(path), near))
	}
	return ""
}

// scriptRuntime chooses the runtime of the script at path.
func (x *execution) scriptRuntime(path string) error {
	lines, err := firstLines(path)
	if err != nil {
		return &failure{kind: kindRequest, exit: ExitNoRuntime, err: fmt.Errorf("read script %s: %w", x.req.Script.Path, err)}
	}
	if name := x.req.Script.Runtime; name != "" {
		spec, err := x.svc.lookup(x.finder(), nil, name)
		if err != nil {
			return noRuntime(err)
		}
		x.job.spec = spec
		return nil
	}
	bang, ok := parseShebang(lines[0])
	if ok && !bang.isAttune() {
		return x.useShebang(bang)
	}
	catalog, err := x.svc.catalog()
	if err != nil {
		return noRuntime(err)
	}
	if spec, found := catalog.ByExtension(filepath.Ext(path)); found {
		if x.job.spec, err = x.svc.lookup(x.finder(), nil, spec.Name); err != nil {
			return noRuntime(err)
		}
		return nil
	}
	if second, isBang := parseShebang(lines[1]); ok && isBang && !second.isAttune() {
		return x.useShebang(second)
	}
	if strings.HasPrefix(lines[0], "\x7fELF") {
		return x.useNative()
	}
	return &failure{kind: kindRuntime, exit: ExitNoRuntime,
		err:  fmt.Errorf("cannot tell what runs %s: it has no #! line and its extension %q belongs to no runtime", x.req.Script.Path, filepath.Ext(path)),
		hint: "name the runtime: --runtime shell"}
}

// useShebang takes the runtime a first line names. An interpreter that is no runtime of
// attune's (awk, make) is left to the kernel.
func (x *execution) useShebang(b shebang) error {
	catalog, err := x.svc.catalog()
	if err != nil {
		return noRuntime(err)
	}
	name, version := b.runtime(catalog)
	if name == "" {
		return x.useNative()
	}
	spec, err := x.svc.lookup(x.finder(), nil, name)
	if err != nil {
		return noRuntime(err)
	}
	x.job.spec, x.job.constraint, x.job.interpreterArgs = spec, version, b.args
	if filepath.IsAbs(b.interpreter) {
		if _, err := os.Stat(b.interpreter); err == nil {
			x.job.interpreter = b.interpreter
		} else {
			x.warn("%s names %s, which is not there; looking for another %s", x.req.Script.Path, b.interpreter, spec.Name)
		}
	}
	return nil
}

func (x *execution) useNative() error {
	spec, err := x.svc.lookup(x.finder(), nil, "native")
	if err != nil {
		return noRuntime(err)
	}
	x.job.spec = spec
	return nil
}

// scriptConstraint takes requires-python of a PEP 723 block.
func (x *execution) scriptConstraint(path string) error {
	constraint, _, ok, err := recipe.ScriptMetadata(path)
	if err != nil {
		return &failure{kind: kindRequest, err: fmt.Errorf("script %s: %w", x.req.Script.Path, err)}
	}
	if ok && constraint != "" {
		x.job.constraint, x.job.interpreter = constraint, ""
	}
	return nil
}

// shebang is a script's "#!" line, seen through env(1).
type shebang struct {
	interpreter string // a path, or a bare name behind env
	args        []string
}

// parseShebang reads one line. Behind env the words are split at blanks, with and
// without -S; without env all words behind the interpreter are one argument, as
// the kernel has it (execve(2)).
func parseShebang(line string) (shebang, bool) {
	rest, ok := strings.CutPrefix(line, "#!")
	if !ok {
		return shebang{}, false
	}
	interpreter, arg, _ := strings.Cut(strings.TrimSpace(rest), " ")
	if interpreter == "" {
		return shebang{}, false
	}
	arg = strings.TrimSpace(arg)
	if filepath.Base(interpreter) != "env" {
		b := shebang{interpreter: interpreter}
		if arg != "" {
			b.args = []string{arg}
		}
		return b, true
	}
	words := strings.Fields(arg)
	for len(words) > 0 && (strings.HasPrefix(words[0], "-") || strings.Contains(words[0], "=")) {
		if after, found := strings.CutPrefix(words[0], "-S"); found && after != "" {
			words[0] = after
			continue
		}
		words = words[1:]
	}
	if len(words) == 0 {
		return shebang{}, false
	}
	return shebang{interpreter: words[0], args: words[1:]}, true
}

func (b shebang) isAttune() bool {
	name := filepath.Base(b.interpreter)
	return name == "attune" || name == "attune-run"
}

// runtime is the runtime's name and, when the interpreter's name carries one
// ("python3.12"), the version.
func (b shebang) runtime(catalog runtime.Catalog) (name, version string) {
	base := filepath.Base(b.interpreter)
	if spec, ok := catalog.Lookup(base); ok {
		return spec.Name, ""
	}
	stem := strings.TrimRight(base, "0123456789.")
	if spec, ok := catalog.Lookup(stem); ok && stem != base {
		return spec.Name, strings.TrimPrefix(base, stem)
	}
	return "", ""
}

// firstLines are the file's first two lines, each cut at 256 bytes as the kernel does.
func firstLines(path string) ([2]string, error) {
	var lines [2]string
	f, err := os.Open(path)
	if err != nil {
		return lines, err
	}
	defer func() { _ = f.Close() }()
	head := make([]byte, 512)
	n, err := io.ReadFull(bufio.NewReaderSize(f, 512), head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return lines, err
	}
	for i, line := range slices.Collect(bytes.Lines(head[:n])) {
		if i == len(lines) {
			break
		}
		lines[i] = strings.TrimRight(string(line[:min(len(line), 256)]), "\r\n")
	}
	return lines, nil
}
