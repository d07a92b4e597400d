package runtime

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func builtinCatalog(t testing.TB) Catalog {
	t.Helper()
	c, err := Builtin()
	require.NoError(t, err)
	return c
}

func TestIndexHoldsWhatTheFilesSay(t *testing.T) {
	c := builtinCatalog(t)
	entries, err := specFiles.ReadDir("specs")
	require.NoError(t, err)
	require.Len(t, entries, len(index))
	for _, spec := range c.All() {
		var keys []string
		for _, alias := range spec.Aliases {
			keys = append(keys, strings.ToLower(alias))
		}
		assert.ElementsMatch(t, append(keys, spec.Interpreter.FileExtensions...), index[spec.Name], spec.Name)
	}
}

func TestLookup(t *testing.T) {
	c := builtinCatalog(t)
	for name, want := range map[string]string{
		"python": "python", "Python3": "python", "NODEJS": "node", "node.js": "node", "bash": "shell", "sh": "shell",
		"rb": "ruby", "golang": "go", "jdk": "java", "openjdk": "java", "perl5": "perl", "Rscript": "r", "builtin": "native", "standalone": "native",
	} {
		spec, ok := c.Lookup(name)
		if assert.True(t, ok, name) {
			assert.Equal(t, want, spec.Name)
		}
	}
	_, ok := c.Lookup("cobol")
	assert.False(t, ok)
	_, ok = c.Lookup(".py")
	assert.False(t, ok)
	assert.Equal(t, "python", c.Nearest("pyton"))
	spec, ok := c.ByExtension(".MJS")
	require.True(t, ok)
	assert.Equal(t, "node", spec.Name)
}

func parse(t *testing.T, file, text string) *Spec {
	t.Helper()
	spec, err := Parse(file, []byte(text))
	require.NoError(t, err)
	return spec
}

func TestAHintInheritsWhatItLeavesOut(t *testing.T) {
	base, _ := builtinCatalog(t).Lookup("python")
	c := builtinCatalog(t).Overlay(parse(t, "host.yaml", `
name: Python
aliases: [snake]
execution_config:
  interpreter: {binary: /opt/py/bin/python3}
  env_vars: {PYTHONUTF8: "1"}
`))
	for _, name := range []string{"python", "snake", "PY3", "python3", "py"} {
		spec, ok := c.Lookup(strings.ReplaceAll(name, "PY3", "Python3"))
		require.True(t, ok, name)
		assert.Equal(t, "python", spec.Name)
		assert.Equal(t, "host.yaml", spec.Origin)
		assert.Equal(t, []string{"built-in"}, spec.Overrides)
		assert.Equal(t, "/opt/py/bin/python3", spec.Interpreter.Binary)
		assert.Equal(t, []string{".py"}, spec.Interpreter.FileExtensions)
		assert.Equal(t, base.Verification, spec.Verification)
		assert.Equal(t, base.Environment, spec.Environment)
		assert.Len(t, spec.EnvVars, len(base.EnvVars)+1)
	}
	spec, ok := c.ByExtension(".py")
	require.True(t, ok)
	assert.Equal(t, "host.yaml", spec.Origin)
	untouched, _ := builtinCatalog(t).Lookup("python")
	assert.Equal(t, "built-in", untouched.Origin)
	node, _ := c.Lookup("node")
	assert.Equal(t, "built-in", node.Origin)
}

// Host over pack over built-in, and what the host says of one pack's runtime over what it says of all of that name.
func TestPrecedence(t *testing.T) {
	mine := parse(t, "pack.yaml", "name: python\nexecution_config: {env_vars: {A: pack, B: pack, C: pack}}\n")
	mine.Name = "mine.python"
	host := builtinCatalog(t).Overlay(
		parse(t, "special.yaml", "name: mine.python\nexecution_config: {env_vars: {C: special}}\n"),
		parse(t, "first.yaml", "name: python\nexecution_config: {env_vars: {B: first, C: first}}\n"),
		parse(t, "last.yaml", "name: python\nexecution_config: {env_vars: {B: last}}\n"),
	)
	value := func(spec *Spec, name string) string {
		for _, v := range spec.EnvVars {
			if v.Name == name {
				return v.Value
			}
		}
		return ""
	}
	within := host.Within("mine", mine)
	for _, name := range []string{"python", "python3", "mine.python", "Mine.Python"} {
		spec, ok := within.Lookup(name)
		require.True(t, ok, name)
		assert.Equal(t, "mine.python", spec.Name)
		assert.Equal(t, []string{"special.yaml", "last.yaml", "first.yaml", "pack.yaml", "built-in"}, append([]string{spec.Origin}, spec.Overrides...))
		assert.Equal(t, "pack last special", value(spec, "A")+" "+value(spec, "B")+" "+value(spec, "C"))
		assert.True(t, spec.Is("py"))
	}
	outside, ok := host.Lookup("python")
	require.True(t, ok)
	assert.Equal(t, " last first", value(outside, "A")+" "+value(outside, "B")+" "+value(outside, "C"))
	_, ok = host.Lookup("mine.python")
	assert.False(t, ok, "a hint alone is no runtime of a pack")
	assert.NotContains(t, host.Names(), "mine.python")
	other := parse(t, "pack.yaml", "name: other\n")
	other.Name = "mine.other"
	builtin, ok := host.Within("mine", other).Lookup("python")
	require.True(t, ok)
	assert.Equal(t, "python", builtin.Name)
	_, ok = host.Within("mine", other).Lookup("mine.python")
	assert.False(t, ok)
	assert.Equal(t, within.Brought()[0].Overrides, []string{"last.yaml", "first.yaml", "pack.yaml", "built-in"})
}

func TestAnAliasNamesWhatItOverrides(t *testing.T) {
	c := builtinCatalog(t).Overlay(parse(t, "host.yaml", "name: python3\nexecution_config: {interpreter: {binary: /opt/py}}\n"))
	for _, name := range []string{"python", "python3", "py"} {
		spec, ok := c.Lookup(name)
		require.True(t, ok)
		assert.Equal(t, "python /opt/py", spec.Name+" "+spec.Interpreter.Binary)
		assert.NotEmpty(t, spec.Verification.Probes)
	}
	assert.NotContains(t, c.Names(), "python3")
	mine := parse(t, "pack.yaml", "name: bash\n")
	mine.Name = "mine.bash"
	within := c.Within("mine", mine)
	for _, name := range []string{"mine.bash", "mine.shell", "bash", "sh"} {
		spec, ok := within.Lookup(name)
		require.True(t, ok, name)
		assert.Equal(t, "mine.shell", spec.Name)
	}
}

func TestVersionsInheritByField(t *testing.T) {
	spec := parse(t, "lang.yaml", `
name: lang
distributions: {verification: {commands: [{binary: lang, args: [-v], pattern: '(\d+)'}]}, locations: [/a]}
execution_config:
  interpreter: {binary: lang, args: [-q], file_extension: .l}
  env_vars: {A: base, B: base}
versions:
  - {version: "1", execution_config: {interpreter: {binary: /opt/1/lang}, env_vars: {B: one}}}
  - {version: "2", execution_config: {interpreter: {args: []}, environment: {env_type: none}}}
`)
	one, two := spec.For("1.5"), spec.For("2.0")
	assert.Equal(t, Launch{Binary: "/opt/1/lang", Args: []string{"-q"}, FileExtensions: []string{".l"}}, one.Interpreter)
	assert.Equal(t, "one", one.EnvVars[1].Value)
	assert.Equal(t, "base", one.EnvVars[0].Value)
	assert.Equal(t, []string{}, two.Interpreter.Args, "an empty list is not left out")
	assert.Equal(t, "lang", two.Interpreter.Binary)
	assert.Empty(t, two.Environment.Type)
	assert.Same(t, spec, spec.For("3"))

	host := parse(t, "host.yaml", "name: lang\nexecution_config: {interpreter: {binary: /host/lang}}\n")
	hinted := host.Over(spec)
	assert.Equal(t, "/host/lang", hinted.For("1.5").Interpreter.Binary, "the host's interpreter is the only one")
	assert.Equal(t, "one", hinted.For("1.5").EnvVars[1].Value)
	assert.Equal(t, "/opt/1/lang", spec.For("1.5").Interpreter.Binary)
}

// A command that answers for one interpreter says nothing of another.
func TestACommandOfItsOwnStaysWithItsInterpreter(t *testing.T) {
	lower := parse(t, "a.yaml", `
name: lang
distributions: {verification: {commands: [{binary: /opt/a/version}, {binary: /opt/a/lang, args: [-v]}, {binary: lang, args: [-V]}]}}
execution_config: {interpreter: {binary: /opt/a/lang}}
`)
	probes := parse(t, "b.yaml", "name: lang\nexecution_config: {interpreter: {binary: /opt/b/lang}}\n").Over(lower).Verification.Probes
	require.Len(t, probes, 2)
	assert.Equal(t, "/opt/b/lang", probes[0].Binary)
	assert.Equal(t, "lang", probes[1].Binary)

	for binary, want := range map[string]string{"/opt/a/other-version": "/opt/a/lang", "lang": "/opt/a/lang", "lang2": "lang2"} {
		over := parse(t, "c.yaml", "name: lang\ndistributions: {verification: {commands: [{binary: "+binary+"}]}}\n").Over(lower)
		assert.Equal(t, want, over.Interpreter.Binary, binary)
	}
}

func TestSeveralSpecsInOneFile(t *testing.T) {
	specs, err := ParseAll("host.yaml", []byte("# first\nname: a\n---\nname: b\n---\n"))
	require.NoError(t, err)
	require.Len(t, specs, 2)
	assert.Equal(t, "b", specs[1].Name)
	_, err = ParseAll("host.yaml", []byte("name: a\nbogus: 1\n---\nname: b\nversions: [{version: x}]\n"))
	assert.ErrorContains(t, err, "host.yaml:2:1")
	assert.ErrorContains(t, err, "host.yaml:5:")
	specs, err = ParseAll("host.yaml", nil)
	require.NoError(t, err)
	assert.Empty(t, specs)
}

func TestASpecThatCanRunNothing(t *testing.T) {
	hint := parse(t, "host.yaml", "name: cobol\n")
	var unusable *UnusableError
	require.ErrorAs(t, hint.Check(), &unusable)
	assert.ErrorContains(t, unusable, "host.yaml")
	for _, spec := range builtinCatalog(t).All() {
		assert.NoError(t, spec.Check())
		if !spec.Verification.AlwaysAvailable {
			known := false
			for _, p := range spec.Verification.Probes {
				known = known || p.Binary == spec.Interpreter.Binary
			}
			assert.True(t, known, "%s: an interpreter that no probe names would be the only one", spec.Name)
		}
	}
}

func TestPathsBesideTheSpec(t *testing.T) {
	spec := parse(t, "x.yaml", "name: x\ndistributions: {verification: {commands: [{binary: ./v}]}}\nexecution_config: {interpreter: {binary: ./bin/x}}\nversions: [{version: '1', execution_config: {interpreter: {binary: ./bin/x1}}}]\n")
	spec.Beside("/d")
	assert.Equal(t, "/d/bin/x", spec.Interpreter.Binary)
	assert.Equal(t, "/d/v", spec.Verification.Probes[0].Binary)
	assert.Equal(t, "/d/bin/x1", spec.Versions[0].Interpreter.Binary)
}

func TestParseNamesThePlace(t *testing.T) {
	for name, test := range map[string]struct{ yaml, want string }{
		"unknown key":       {"name: x\nexecution_config:\n  enviroment: {}\n", `x.yaml:3:3: unknown key "enviroment"; did you mean "environment"?`},
		"unknown template":  {"name: x\nexecution_config:\n  interpreter: {binary: x, args: ['{pack}']}\n", "x.yaml:3:"},
		"bad pattern":       {"name: x\ndistributions:\n  verification:\n    commands:\n      - {binary: x, pattern: '('}\n", "x.yaml:5:"},
		"bad version":       {"name: x\nversions:\n  - {version: 'three'}\n", "x.yaml:3:"},
		"no name":           {"aliases: [x]\n", "x.yaml:1:1: name is missing"},
		"not yaml":          {"name: [x\nb: 1", "x.yaml:2"},
		"relative location": {"name: x\ndistributions:\n  locations: [bin/x]\n", "x.yaml:3:"},
		"operation":         {"name: x\nexecution_config:\n  env_vars:\n    A: {value: x, operation: add}\n", "x.yaml:4:"},
		"relative binary":   {"name: x\nexecution_config:\n  interpreter: {binary: bin/x}\n", "x.yaml:3:25: "},
		"leaves the pack":   {"name: x\nexecution_config:\n  interpreter: {binary: ./../x}\n", "x.yaml:3:25: "},
		"name with blanks":  {"name: my x\n", "x.yaml:1:7: "},
		"no type":           {"name: x\nexecution_config:\n  environment: {}\n", "x.yaml:3:"},
		"key twice":         {"name: x\nname: y\n", `x.yaml:2:1: the key "name" is there twice`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("x.yaml", []byte(test.yaml))
			require.Error(t, err)
			assert.Contains(t, err.Error(), test.want)
		})
	}
}

func TestConstraints(t *testing.T) {
	for _, test := range []struct {
		constraint, version string
		want                bool
	}{
		{"", "3.12.1", true}, {"*", "1.0.0", true},
		{"3.12", "3.12.9", true}, {"3.12", "3.13.0", false}, {"18", "18.20.1", true}, {"18", "19.0.0", false},
		{">=20", "20.19.0", true}, {">=20", "19.9.9", false}, {">3.11", "3.11.7", false}, {">3.11", "3.12.0", true},
		{"<=3.11", "3.11.7", true}, {"<3.11", "3.10.9", true}, {"<3.11", "3.11.0", false},
		{"~3.11.2", "3.11.9", true}, {"~3.11.2", "3.12.0", false}, {"^18", "18.1.0", true}, {"^1.2", "1.9.0", true}, {"^1.2", "2.0.0", false},
		{">=3.10,<3.12", "3.11.7", true}, {">= 3.10, < 3.12", "3.12.0", false},
		{"v20.1.0", "v20.1.0", true}, {"=3.12.1", "3.12.1", true}, {"=3.12", "3.12.4", true},
		{"17", "17", true}, {"1.8", "1.8.0_392", true}, {">=5", "5.2.15(1)-release", true},
		{">=3.13", "3.14.0rc1", false}, {"=3.14.0-rc1", "3.14.0rc1", true}, {">=3", "", false},
	} {
		c, err := ParseConstraint(test.constraint)
		require.NoError(t, err, test.constraint)
		assert.Equal(t, test.want, c.Match(test.version), "%q against %q", test.version, test.constraint)
	}
	for _, bad := range []string{"latest", ">=", "=>3", "1.x || 2.x", "3.12,", "!=3", "3 - 4"} {
		_, err := ParseConstraint(bad)
		var typed *ConstraintError
		assert.ErrorAs(t, err, &typed, bad)
	}
}

func TestRank(t *testing.T) {
	spec := &Spec{Name: "python"}
	available := []string{"3.9.18", "3.14.0rc1", "3.11.7", "3.13.0", "3.11.10"}
	best, err := spec.Rank(available, "")
	require.NoError(t, err)
	assert.Equal(t, "3.13.0", best, "a pre-release is not the highest")
	best, err = spec.Rank(available, "3.11")
	require.NoError(t, err)
	assert.Equal(t, "3.11.10", best)
	_, err = spec.Rank(available, ">=4")
	var none *NoMatchError
	require.ErrorAs(t, err, &none)
	assert.Contains(t, err.Error(), "3.9.18")

	withDefault := &Spec{Versions: []Version{{Version: "3.9", Default: true}}}
	best, err = withDefault.Rank(available, "")
	require.NoError(t, err)
	assert.Equal(t, "3.9.18", best)
}

func TestApplyEnv(t *testing.T) {
	env, err := ApplyEnv([]string{"PATH=/bin", "EMPTY="}, []EnvVar{
		{Name: "PATH", Value: "{env_dir}/bin", Operation: Prepend},
		{Name: "PATH", Value: "/last", Operation: Append},
		{Name: "EMPTY", Value: "x", Operation: Prepend},
		{Name: "NEW", Value: "{pack_dir}", Operation: Append, Separator: ";"},
		{Name: "NEW", Value: "b", Operation: Append, Separator: ";"},
		{Name: "SET", Value: `{"json": 1}`},
	}, Vars{EnvDir: "/e", PackDir: "/p"})
	require.NoError(t, err)
	assert.Equal(t, []string{"PATH=/e/bin:/bin:/last", "EMPTY=x", "NEW=/p;b", `SET={"json": 1}`}, env)
	_, err = ApplyEnv(nil, []EnvVar{{Name: "A", Value: "{nope}"}}, Vars{})
	assert.ErrorContains(t, err, "{nope}")
}

func BenchmarkLookupOne(b *testing.B) {
	for b.Loop() {
		c, _ := Builtin()
		if _, ok := c.Lookup("python3"); !ok {
			b.Fatal()
		}
	}
}

func BenchmarkLookupAll(b *testing.B) {
	for b.Loop() {
		c, _ := Builtin()
		_ = c.All()
	}
}
