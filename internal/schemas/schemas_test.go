package schemas

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v4"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/doctest"
	"github.com/attune-run/attune/proc"
)

func read(t *testing.T, title string) (*jsonschema.Schema, *jsonschema.Resolved) {
	t.Helper()
	at := slices.IndexFunc(Documents, func(d Document) bool { return d.Title == title })
	require.GreaterOrEqual(t, at, 0, title)
	schema, err := Documents[at].Read(doctest.Root(t))
	require.NoError(t, err)
	resolved, err := schema.Resolve(&jsonschema.ResolveOptions{ValidateDefaults: true})
	require.NoError(t, err, title)
	return schema, resolved
}

func TestEverySchemaIsListed(t *testing.T) {
	root := doctest.Root(t)
	var found []string
	for _, pattern := range []string{"*/schemas/*.json", "internal/*/schemas/*.json"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		require.NoError(t, err)
		found = append(found, files...)
	}
	assert.Len(t, found, len(Documents))
	for _, d := range Documents {
		assert.Contains(t, found, filepath.Join(root, d.File))
		schema, _ := read(t, d.Title)
		assert.Equal(t, d.Title, schema.Title)
		assert.NotEmpty(t, schema.Description)
		for path, property := range properties(schema, "") {
			if property.Const == nil && property.Ref == "" {
				assert.NotEmpty(t, property.Description, "%s: %s", d.Title, path)
			}
		}
	}
}

// properties are those of a schema at every level, by their paths.
func properties(s *jsonschema.Schema, prefix string) map[string]*jsonschema.Schema {
	all := map[string]*jsonschema.Schema{}
	if s == nil {
		return all
	}
	for name, property := range s.Properties {
		all[prefix+name] = property
		maps.Copy(all, properties(property, prefix+name+"."))
	}
	maps.Copy(all, properties(s.Items, prefix))
	maps.Copy(all, properties(s.AdditionalProperties, prefix))
	return all
}

func names(s *jsonschema.Schema) []string {
	var all []string
	for path := range properties(s, "") {
		all = append(all, path[strings.LastIndex(path, ".")+1:])
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// readers are the functions that ask a YAML document for a key: the first text among their arguments.
var readers = []string{
	"Text", "List", "Bool", "Map", "Maps", "Lists", "Int", "Get", "Has", "Value", "choice", "duration", "readSchema", "object", "texts", "pattern",
	"template", "templates",
}

// asked are the keys that some Go files ask YAML documents for.
func asked(t *testing.T, files ...string) []string {
	t.Helper()
	var all []string
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(doctest.Root(t), name), nil, 0)
		require.NoError(t, err)
		ast.Inspect(file, func(node ast.Node) bool {
			call, ok := node.(*ast.CallExpr)
			if !ok || !slices.Contains(readers, called(call)) {
				return true
			}
			for _, arg := range call.Args {
				if literal, ok := arg.(*ast.BasicLit); ok && literal.Kind == token.STRING {
					key, err := strconv.Unquote(literal.Value)
					require.NoError(t, err)
					all = append(all, key)
					break
				}
			}
			return true
		})
	}
	return all
}

func called(call *ast.CallExpr) string {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	}
	return ""
}

// The keys of a schema are those that the reader of its files knows, no more and no less.
func TestSchemasOfFilesAreWhatIsRead(t *testing.T) {
	placement := []string{"key", "operator", "value", "effect", "weight", "labels"} // are decoded as JSON
	for title, want := range map[string][]string{
		"Pack":    append(asked(t, "pack/pack.go"), "author", "email", "keywords", "license", "homepage", "repository", "meta"),
		"Action":  slices.Concat(asked(t, "pack/action.go", "pack/placement.go"), placement, proc.LimitNames, []string{"output_schema"}),
		"Runtime": asked(t, "runtime/parse.go"),
		"Plan":    slices.Concat(asked(t, "internal/batch/plan.go", "internal/batch/matrix.go"), proc.LimitNames),
		"Tests": slices.Concat(asked(t, "internal/packtest/packtest.go"), slices.DeleteFunc(asked(t, "internal/batch/plan.go"), func(key string) bool {
			return slices.Contains([]string{"concurrency", "keep_going", "entries", "script", "runtime", "needs", "matrix"}, key)
		}), proc.LimitNames),
	} {
		schema, _ := read(t, title)
		slices.Sort(want)
		assert.Equal(t, slices.Compact(want), names(schema), title)
	}
}

// What ships with attune fits, and so does what the pages show.
func TestFilesFitTheirSchemas(t *testing.T) {
	root := doctest.Root(t)
	checked := 0
	for pattern, title := range map[string]string{
		"packs/*/pack.yaml": "Pack", "packs/*/actions/*.yaml": "Action", "packs/*/tests/*.yaml": "Tests", "runtime/specs/*.yaml": "Runtime",
	} {
		_, schema := read(t, title)
		files, err := filepath.Glob(filepath.Join(root, pattern))
		require.NoError(t, err)
		for _, file := range files {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			assert.NoError(t, fits(schema, text), file)
			checked++
		}
	}
	for _, page := range doctest.All(t) {
		for _, block := range page.Blocks {
			file, ok := strings.CutPrefix(block.Note, "file=")
			for part, title := range map[string]string{"/actions/": "Action", "/runtimes/": "Runtime", "/tests/": "Tests", "/pack.yaml": "Pack"} {
				if ok && block.Language == "yaml" && strings.Contains(file, part) {
					_, schema := read(t, title)
					assert.NoError(t, fits(schema, []byte(block.Text)), page.Place(block))
					checked++
				}
			}
		}
	}
	assert.Greater(t, checked, 30)
}

func TestSchemasRefuseWhatIsWrong(t *testing.T) {
	for text, title := range map[string]string{
		"ref: p.a\nentry_point: a.sh\ntimeuot: 3": "Action", "ref: p.a": "Action", "ref: p.a\nentry_point: a.sh\ncwd: home": "Action",
		"name: x\nversions: [{is_default: true}]": "Runtime", "entries: [{action: a.b, need: [c]}]": "Plan", "cases: [{expect: {status: lost}}]": "Tests",
	} {
		_, schema := read(t, title)
		assert.Error(t, fits(schema, []byte(text)), text)
	}
	_, schema := read(t, "Plan")
	assert.NoError(t, fits(schema, []byte("entries:\n- {action: a.b, needs: c, matrix: {parameters: {x: [1, 2]}}}\n")))
}

func fits(schema *jsonschema.Resolved, text []byte) error {
	var value any
	if err := yaml.Unmarshal(text, &value); err != nil {
		return err
	}
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, &value); err != nil {
		return err
	}
	return schema.Validate(value)
}

// The fields of what travels are those of the Go types, at every level.
func TestSchemasOfRequestAndResultAreTheTypes(t *testing.T) {
	request, _ := read(t, "Request")
	want := fields(reflect.TypeFor[executor.Request](), "")
	for _, name := range proc.LimitNames {
		want = append(want, "limits."+name)
	}
	for _, name := range []string{"key", "operator", "value", "effect"} {
		want = append(want, "tolerations."+name)
	}
	want = append(want, "affinity.weight", "affinity.labels")
	assert.ElementsMatch(t, want, slices.Collect(maps.Keys(properties(request, ""))))

	result, _ := read(t, "Result")
	assert.ElementsMatch(t, fields(reflect.TypeFor[executor.Result](), ""), slices.Collect(maps.Keys(properties(result, ""))))
}

// fields are the paths of a type's JSON fields.
func fields(of reflect.Type, prefix string) (all []string) {
	for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice {
		of = of.Elem()
	}
	if of.Kind() != reflect.Struct || of == reflect.TypeFor[time.Time]() {
		return nil
	}
	for _, f := range reflect.VisibleFields(of) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || name == "" {
			continue
		}
		all = append(append(all, prefix+name), fields(f.Type, prefix+name+".")...)
	}
	return all
}

func TestRequestsAndResultsFit(t *testing.T) {
	_, request := read(t, "Request")
	for text, ok := range map[string]bool{
		`{"schema": "attune.request/v1", "action": "core.echo", "parameters": {"message": "hi"}, "timeout": "30s", "retries": {"max": 3, "backoff": 2}}`: true,
		`{"schema": "attune.request/v1", "script": {"inline": "echo", "runtime": "shell"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]}`:       true,
		`{"schema": "attune.request/v2", "action": "core.echo"}`: false,
		`{"schema": "attune.request/v1", "acton": "core.echo"}`:  false,
	} {
		assert.Equal(t, ok, fits(request, []byte(text)) == nil, text)
	}
	_, result := read(t, "Result")
	service, err := executor.New(executor.Config{Mode: executor.Agent(nil), CacheDir: t.TempDir(), Packs: []string{filepath.Join(doctest.Root(t), "packs")}})
	require.NoError(t, err)
	require.NoError(t, service.Start(t.Context()))
	for _, req := range []executor.Request{
		{Action: "core.echo", Parameters: map[string]any{"message": "hi"}, Limits: map[string]any{"open_files": json.Number("50")}},
		{Action: "core.echo"}, {Action: "core.nothing"},
	} {
		req.Local = &executor.Local{}
		var out bytes.Buffer
		done := service.Execute(t.Context(), req, executor.Observer{Stdout: &out, Stderr: &out})
		document, err := done.JSON()
		require.NoError(t, err)
		assert.NoError(t, fits(result, document), "%s", document)
	}
}
