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

func TestOverlayWins(t *testing.T) {
	mine, err := Parse("mine.yaml", []byte("name: python\naliases: [snake]\n"))
	require.NoError(t, err)
	c := builtinCatalog(t).Overlay(mine)
	spec, _ := c.Lookup("Snake")
	assert.Same(t, mine, spec)
	spec, _ = c.Lookup("python")
	assert.Same(t, mine, spec)
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
