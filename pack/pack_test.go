package pack

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/internal/doctest"
	"github.com/attune-run/attune/runtime"
)

// write makes a packs directory of the given files.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	return dir
}

// one is a pack with one action whose metadata ends with more.
func one(t *testing.T, more string) (*Action, error) {
	t.Helper()
	dir := write(t, map[string]string{
		"p/pack.yaml":      "ref: p\nversion: 1.0.0\n",
		"p/actions/a.yaml": "ref: p.a\nentry_point: a.sh\n" + more,
		"p/actions/a.sh":   "true\n",
	})
	return Finder{Dirs: []string{dir}}.Action("p.a")
}

func TestDefaults(t *testing.T) {
	a, err := one(t, "")
	require.NoError(t, err)
	assert.Equal(t, "a", a.Label)
	assert.True(t, a.Enabled)
	assert.Equal(t, "shell", a.Runtime)
	assert.Equal(t, "stdin", a.Delivery)
	assert.Equal(t, "json", a.ParameterFormat)
	assert.Equal(t, "text", a.OutputFormat)
	assert.Zero(t, a.Timeout)
	values, err := a.Parameters.Bind(nil)
	require.NoError(t, err)
	assert.Empty(t, values)
}

func TestWhatIsWrongIsSaidWithItsPlace(t *testing.T) {
	for more, want := range map[string]string{
		"parameter_delivery: env\n":       "a.yaml:3:",
		"runtime_version: latest\n":       "version constraint",
		"timeout: soon\n":                 "timeout",
		"output_format: xml\n":            "text, json, yaml",
		"parameters: {n: {type: intger}}": "integer",
		"ref: p.b\n":                      "ref",
		"cwd: home\n":                     "pack",
	} {
		_, err := one(t, more)
		assert.ErrorContains(t, err, want, more)
	}
}

func TestAnUnknownKeyIsAWarningWithTheNearest(t *testing.T) {
	a, err := one(t, "output_fromat: json\n")
	require.NoError(t, err)
	require.Len(t, a.Warnings, 1)
	assert.Contains(t, a.Warnings[0].String(), "output_format")
	assert.NotEmpty(t, Validate(a.Pack, Finder{}, catalog(t)))
}

func TestEntryPointsStayInside(t *testing.T) {
	dir := write(t, map[string]string{
		"p/pack.yaml":          "ref: p\nversion: 1.0.0\n",
		"p/actions/up.yaml":    "ref: p.up\nentry_point: ../../outside.sh\n",
		"p/actions/link.yaml":  "ref: p.link\nentry_point: link.sh\n",
		"p/actions/gone.yaml":  "ref: p.gone\nentry_point: gone.sh\n",
		"p/actions/whole.yaml": "ref: p.whole\nentry_point: root.sh\n",
		"p/root.sh":            "true\n",
		"outside.sh":           "true\n",
	})
	require.NoError(t, os.Symlink("../../outside.sh", filepath.Join(dir, "p/actions/link.sh")))
	find := Finder{Dirs: []string{dir}}
	for _, name := range []string{"p.up", "p.link", "p.gone"} {
		_, err := find.Action(name)
		assert.ErrorContains(t, err, "entry_point", name)
	}
	a, err := find.Action("p.whole")
	require.NoError(t, err)
	assert.Equal(t, filepath.Join(dir, "p/root.sh"), a.EntryPoint)
}

func TestTheFirstDirectoryWinsAndVersionsLieSideBySide(t *testing.T) {
	first := write(t, map[string]string{"p/pack.yaml": "ref: p\nversion: 1.0.0\n"})
	second := write(t, map[string]string{
		"p/pack.yaml":       "ref: p\nversion: 9.0.0\n",
		"q@1.2.0/pack.yaml": "ref: q\nversion: 1.2.0\n",
		"q@2.0.0/pack.yaml": "ref: q\nversion: 2.0.0\n",
	})
	find := Finder{Dirs: []string{first, second}}
	for _, c := range []struct{ ref, constraint, want string }{{"p", "", "1.0.0"}, {"q", "", "2.0.0"}, {"q", "^1", "1.2.0"}} {
		p, err := find.Pack(c.ref, c.constraint)
		require.NoError(t, err)
		assert.Equal(t, c.want, p.Version)
	}
	_, err := find.Pack("q", ">=3")
	assert.ErrorContains(t, err, "2.0.0")
	var missing *NotFoundError
	_, err = find.Pack("r", "")
	require.ErrorAs(t, err, &missing)
}

func TestParameters(t *testing.T) {
	a, err := one(t, `
parameters:
  count: {type: integer, default: 3, maximum: 12345678901234567890}
  ratio: {type: number}
  name: {type: string, required: true, minLength: 2}
  token: {type: string, secret: true, pattern: '^ok'}
  list: {type: array, items: {type: integer}}
  nested: {type: object, properties: {x: {type: boolean}}, additionalProperties: false}
`)
	require.NoError(t, err)
	s := a.Parameters
	values, err := s.Bind(map[string]any{"name": "me", "count": nil})
	require.NoError(t, err)
	assert.Equal(t, json.Number("3"), values["count"], "a null takes the default")

	values, err = s.Bind(map[string]any{"name": "me", "count": json.Number("12345678901234567890"), "ratio": json.Number("0.10")})
	require.NoError(t, err)
	assert.Equal(t, json.Number("12345678901234567890"), values["count"])
	assert.Equal(t, json.Number("0.10"), values["ratio"])

	_, err = s.Bind(map[string]any{
		"count": json.Number("12345678901234567891"), "name": "x", "token": "hunter2-hunter2", "nmae": "x",
		"list": []any{json.Number("1"), "two"}, "nested": map[string]any{"x": "no", "y": true},
	})
	var all *ViolationsError
	require.ErrorAs(t, err, &all)
	paths := map[string]bool{}
	for _, v := range all.Violations {
		paths[v.Path] = true
	}
	for _, want := range []string{"count", "name", "token", "nmae", "list[1]", "nested.x", "nested.y"} {
		assert.True(t, paths[want], "%s in %v", want, all.Violations)
	}
	assert.NotContains(t, err.Error(), "hunter2")
	assert.ErrorContains(t, err, "did you mean name")
}

func TestCommandLineValuesAreReadByType(t *testing.T) {
	a, err := one(t, `
parameters:
  s: {type: string}
  i: {type: integer}
  b: {type: boolean}
  l: {type: array, items: {type: integer}}
  o: {type: object}
  any: {}
`)
	require.NoError(t, err)
	for _, c := range []struct {
		name, text string
		want       any
	}{
		{"s", "007", "007"}, {"s", "true", "true"}, {"i", "007", nil}, {"i", "7", json.Number("7")}, {"b", "true", true}, {"b", "yes", nil},
		{"l", "[1,2]", []any{json.Number("1"), json.Number("2")}}, {"l", "3", []any{json.Number("3")}}, {"o", `{"k":1}`, map[string]any{"k": json.Number("1")}},
		{"o", "x", nil},
	} {
		got, err := a.Parameters.Parse(c.name, c.text)
		if c.want == nil {
			assert.Error(t, err, "%s=%s", c.name, c.text)
			continue
		}
		require.NoError(t, err, "%s=%s", c.name, c.text)
		assert.Equal(t, c.want, got)
	}
}

func TestPackConfig(t *testing.T) {
	dir := write(t, map[string]string{"p/pack.yaml": "ref: p\nversion: 1.0.0\nconf_schema:\n  team: {type: string}\n  size: {type: integer}\nconfig: {team: platform}\n"})
	p, err := Load(filepath.Join(dir, "p"))
	require.NoError(t, err)
	config, err := p.Config(map[string]any{"size": json.Number("3")})
	require.NoError(t, err)
	assert.Equal(t, map[string]any{"team": "platform", "size": json.Number("3")}, config)
	_, err = p.Config(map[string]any{"size": "big"})
	assert.ErrorContains(t, err, "size")
}

func TestDigestSeesEveryChange(t *testing.T) {
	files := map[string]string{"p/pack.yaml": "ref: p\nversion: 1.0.0\n", "p/lib/a.py": "x = 1\n"}
	digest := func(change func(dir string)) string {
		dir := filepath.Join(write(t, files), "p")
		if change != nil {
			change(dir)
		}
		p, err := Load(dir)
		require.NoError(t, err)
		text, err := p.Digest()
		require.NoError(t, err)
		return text
	}
	base := digest(nil)
	assert.Equal(t, base, digest(nil), "another place and time change nothing")
	assert.Equal(t, base, digest(func(dir string) {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "lib/__pycache__"), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "lib/__pycache__/a.pyc"), nil, 0o644))
	}))
	for name, change := range map[string]func(dir string){
		"content": func(dir string) { _ = os.WriteFile(filepath.Join(dir, "lib/a.py"), []byte("x = 2\n"), 0o644) },
		"mode":    func(dir string) { _ = os.Chmod(filepath.Join(dir, "lib/a.py"), 0o755) },
		"name":    func(dir string) { _ = os.Rename(filepath.Join(dir, "lib/a.py"), filepath.Join(dir, "lib/b.py")) },
		"link":    func(dir string) { _ = os.Symlink("a.py", filepath.Join(dir, "lib/c.py")) },
	} {
		assert.NotEqual(t, base, digest(change), name)
	}
}

func TestScaffoldsAreValid(t *testing.T) {
	for runtime := range starters {
		dir := filepath.Join(t.TempDir(), "new")
		require.NoError(t, Scaffold(dir, "new", runtime))
		p, err := Load(dir)
		require.NoError(t, err)
		assert.Empty(t, Validate(p, Finder{}, catalog(t)), runtime)
	}
}

func catalog(t *testing.T) runtime.Catalog {
	t.Helper()
	c, err := runtime.Builtin()
	require.NoError(t, err)
	return c
}

func TestRuntimesOfPacks(t *testing.T) {
	dir := write(t, map[string]string{
		"p/pack.yaml":             "ref: p\nversion: 1.0.0\n",
		"p/runtimes/lang.yaml":    "name: Lang\naliases: [l]\nexecution_config: {interpreter: {binary: ./bin/lang}}\n",
		"p/runtimes/py.yml":       "name: python\nexecution_config: {interpreter: {args: [-O]}}\n",
		"p/runtimes/README":       "no spec",
		"v@1.0.0/pack.yaml":       "ref: v\nversion: 1.0.0\n",
		"v@1.0.0/runtimes/x.yaml": "name: x\nexecution_config: {interpreter: {binary: one}}\n",
		"v@2.0.0/pack.yaml":       "ref: v\nversion: 2.0.0\n",
		"v@2.0.0/runtimes/x.yaml": "name: x\nexecution_config: {interpreter: {binary: two}}\n",
		"none/pack.yaml":          "ref: none\nversion: 1.0.0\n",
		"bad/pack.yaml":           "ref: bad\nversion: 1.0.0\n",
		"bad/runtimes/a.yaml":     "name: a\nx: 1\n",
		"bad/runtimes/b.yaml":     "name: b\nexecution_config: {interpreter: {binary: b}}\n",
		"bad/runtimes/b2.yaml":    "name: b\nexecution_config: {interpreter: {binary: b}}\n",
	})
	finder := Finder{Dirs: []string{dir, dir}}
	specs, problems := finder.Runtimes(catalog(t))
	found := map[string]*runtime.Spec{}
	for _, spec := range specs {
		found[spec.Name] = spec
	}
	require.Len(t, found, 3)
	assert.Equal(t, filepath.Join(dir, "p/bin/lang"), found["p.lang"].Interpreter.Binary)
	assert.Equal(t, []string{"-O"}, found["p.python"].Interpreter.Args)
	assert.Equal(t, "python3", found["p.python"].Interpreter.Binary)
	assert.Equal(t, "two", found["v.x"].Interpreter.Binary, "the highest version's")
	require.Len(t, problems, 1)
	assert.ErrorContains(t, problems[0], filepath.Join(dir, "bad/runtimes/a.yaml")+":2:1")
	assert.ErrorContains(t, problems[0], "b2.yaml: runtime b is in "+filepath.Join(dir, "bad/runtimes/b.yaml")+" as well")

	p, err := finder.Pack("p", "")
	require.NoError(t, err)
	for name, want := range map[string]string{"lang": "p.lang", "L": "p.lang", "p.lang": "p.lang", "P.L": "p.lang", "python3": "p.python", "v.x": "v.x", "node.js": "node"} {
		spec, err := finder.Runtime(catalog(t), p, name)
		require.NoError(t, err, name)
		assert.Equal(t, want, spec.Name, name)
	}
	var unknown *UnknownRuntimeError
	for _, name := range []string{"x", "v.lang", "p.rust", "nobody.x", "v.python"} {
		_, err := finder.Runtime(catalog(t), p, name)
		require.ErrorAs(t, err, &unknown, name)
	}
	_, err = finder.Runtime(catalog(t), nil, "lang")
	require.ErrorAs(t, err, &unknown)
	_, err = finder.Runtime(catalog(t), nil, "bad.b")
	assert.ErrorContains(t, err, "a.yaml:2:1")
	packs, _ := finder.List()
	assert.Len(t, packs, 5, "a directory that is named twice is read once")
}

// What the documentation shows can be used as it stands.
func TestDocumentedRuntimes(t *testing.T) {
	var blocks []string
	for _, block := range doctest.Read(t, "packs.md").Blocks {
		if block.Language == "yaml" && block.Note == "" {
			blocks = append(blocks, block.Text)
		}
	}
	require.Len(t, blocks, 2)
	p, err := Load(filepath.Join(write(t, map[string]string{"mine/pack.yaml": "ref: mine\nversion: 1.0.0\n", "mine/runtimes/lua.yaml": blocks[0]}), "mine"))
	require.NoError(t, err)
	assert.Empty(t, Validate(p, Finder{}, catalog(t)))
	hint, err := runtime.Parse("host.yaml", []byte(blocks[1]))
	require.NoError(t, err)
	spec, ok := catalog(t).Overlay(hint).Lookup("python3")
	require.True(t, ok)
	assert.Equal(t, "/opt/py/bin/python3", spec.Interpreter.Binary)
}

func TestFilesAreThoseOfTheDigest(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "p")
	for _, name := range []string{"pack.yaml", "actions/a.sh", "pack.sig", ".git/config", "lib/__pycache__/m.cpython-313.pyc", "lib/m.pyc", "lib/m.py"} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("ref: p\nversion: 1.0.0\n"), 0o644))
	}
	require.NoError(t, os.Symlink("m.py", filepath.Join(dir, "lib", "n.py")))
	p, err := Load(dir)
	require.NoError(t, err)
	names, err := p.Files()
	require.NoError(t, err)
	assert.Equal(t, []string{"actions/a.sh", "lib/m.py", "lib/n.py", "pack.sig", "pack.yaml"}, names)
}
