package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// setting is one key of attune.yaml.
type setting struct {
	key      string // "worker.name"
	meaning  string
	variable string // empty: none
}

var variableName = regexp.MustCompile(`^ATTUNE_[A-Z_]*[A-Z]$`)

// configuration is the page of keys and variables.
func configuration(root string) (string, error) {
	source, err := parseDir(filepath.Join(root, "internal", "config"))
	if err != nil {
		return "", err
	}
	settings := source.settings("document", "")
	if len(settings) == 0 {
		return "", fmt.Errorf("internal/config has no type document")
	}
	source.findVariables(settings)
	known := map[string]bool{}
	var b strings.Builder
	b.WriteString(configurationHead)
	for _, s := range settings {
		variable := ""
		if s.variable != "" {
			variable, known[s.variable] = "`"+s.variable+"`", true
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", s.key, variable, cell(s.meaning))
	}
	others, err := otherVariables(root, known)
	if err != nil {
		return "", err
	}
	b.WriteString(others)
	return b.String(), nil
}

const configurationHead = `# Configuration and variables

Flags win over variables, variables over ` + "`attune.yaml`" + ` (in the working directory, in ` + "`$XDG_CONFIG_HOME/attune`, else `~/.config/attune`" + `, or in
` + "`/etc/attune`" + `; the first that is there, or the one that ` + "`ATTUNE_CONFIG`" + ` names). ` + "`attune-run config`" + ` shows every value and where it comes from. Unknown
keys are refused. Sizes are bytes, or carry K, M, G; durations are written like 30s, 5m or 2h. Lists in variables are separated by commas unless said.

Guides: [isolation and limits](../isolation.md), [secrets](../secrets.md), [signed packs](../installing.md#signatures), [environments](../environments.md),
[the worker pool](../worker.md#configuration).

## Keys of attune.yaml

| key | variable | meaning |
|---|---|---|
`

// source is a parsed package.
type source struct {
	files   []*ast.File
	structs map[string]*ast.StructType
}

func parseDir(dir string) (*source, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	s := &source{structs: map[string]*ast.StructType{}}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		s.files = append(s.files, file)
		ast.Inspect(file, func(node ast.Node) bool {
			if spec, ok := node.(*ast.TypeSpec); ok {
				if fields, ok := spec.Type.(*ast.StructType); ok {
					s.structs[spec.Name.Name] = fields
				}
			}
			return true
		})
	}
	return s, nil
}

// settings are the keys of a struct and of those in it, in their order.
func (s *source) settings(name, prefix string) (all []*setting) {
	for _, field := range s.structs[name].Fields.List {
		if field.Tag == nil {
			continue
		}
		tag, _ := strconv.Unquote(field.Tag.Value)
		key, options, _ := strings.Cut(reflect.StructTag(tag).Get("yaml"), ",")
		inner, isName := field.Type.(*ast.Ident)
		switch {
		case options == "inline":
			all = append(all, s.settings(inner.Name, prefix)...)
		case isName && s.structs[inner.Name] != nil:
			all = append(all, s.settings(inner.Name, prefix+key+".")...)
		default:
			all = append(all, &setting{key: prefix + key, meaning: strings.TrimSpace(field.Comment.Text())})
		}
	}
	return all
}

// findVariables sees which variable is read for which key: they stand in one call, or in one element of a table. A function that reads
// one key and one variable may have them apart.
func (s *source) findVariables(settings []*setting) {
	byKey := map[string]*setting{}
	for _, one := range settings {
		byKey[one.key] = one
	}
	join := func(texts []string, alone bool) {
		var keys []*setting
		var variables []string
		for _, text := range texts {
			if one := byKey[text]; one != nil && !slices.Contains(keys, one) {
				keys = append(keys, one)
			}
			if variableName.MatchString(text) && !slices.Contains(variables, text) {
				variables = append(variables, text)
			}
		}
		if len(keys) == 1 && len(variables) == 1 && (alone || keys[0].variable == "") {
			keys[0].variable = variables[0]
		}
	}
	for _, file := range s.files {
		ast.Inspect(file, func(node ast.Node) bool {
			switch n := node.(type) {
			case *ast.CallExpr:
				join(literals(n.Args), true)
			case *ast.CompositeLit:
				join(literals(n.Elts), true)
			case *ast.FuncDecl:
				join(literalsWithin(n), false)
			}
			return true
		})
	}
}

// literals are the texts among some expressions.
func literals(expressions []ast.Expr) (texts []string) {
	for _, expression := range expressions {
		if literal, ok := expression.(*ast.BasicLit); ok && literal.Kind == token.STRING {
			text, _ := strconv.Unquote(literal.Value) // the parser has seen it
			texts = append(texts, text)
		}
	}
	return texts
}

// literalsWithin are the texts anywhere in a node.
func literalsWithin(node ast.Node) (texts []string) {
	ast.Inspect(node, func(n ast.Node) bool {
		if literal, ok := n.(*ast.BasicLit); ok {
			texts = append(texts, literals([]ast.Expr{literal})...)
		}
		return true
	})
	return texts
}

// given are the variables that an action finds, and client those that programs read beside the configuration.
var (
	given = map[string]string{
		"ATTUNE_EXEC_ID":            "id of the execution; the same in each of its attempts",
		"ATTUNE_ACTION":             "name of the action",
		"ATTUNE_PACK_REF":           "name of its pack",
		"ATTUNE_PARAMETER_DELIVERY": "`stdin` or `file`",
		"ATTUNE_PARAMETER_FORMAT":   "`json`, `dotenv` or `yaml`",
		"ATTUNE_PARAMETER_FILE":     "the file with the parameters, where they come in one",
		"ATTUNE_PACK_CONFIG":        "JSON file with the pack's configuration",
		"ATTUNE_ARTIFACTS_DIR":      "directory whose files are kept as artifacts",
		"ATTUNE_RESULT_FILE":        "a result that is written here wins over stdout",
		"ATTUNE_RULE":               "`context.rule` of the request",
		"ATTUNE_TRIGGER":            "`context.trigger` of the request",
	}
	client = map[string]string{
		"ATTUNE_CONFIG":       "configuration file, in place of those that are looked for",
		"ATTUNE_AGE_KEY_FILE": "file of age identities, for `age:` and `sops:` references",
		"ATTUNE_SIGN_KEY":     "private key that `attune-worker submit` and `schedule add` sign with",
	}
)

// otherVariables explains the variables that no key has, and fails where the code names one that nobody explains.
func otherVariables(root string, known map[string]bool) (string, error) {
	used, err := variablesIn(root)
	if err != nil {
		return "", err
	}
	for name := range used {
		if _, action := given[name]; !known[name] && !action && client[name] == "" {
			return "", fmt.Errorf("the code reads %s, which is explained nowhere: scripts/reference/configuration.go has the list", name)
		}
	}
	for _, explained := range []map[string]string{given, client} {
		for name := range explained {
			if !used[name] {
				return "", fmt.Errorf("%s is explained, and no code names it", name)
			}
		}
	}
	return "\n## Other variables of the programs\n\n" + variableTable(client) +
		"\nThose of functions are in [attune-lambda](attune-lambda.md#variables). `OTEL_…` of a worker are those of the OpenTelemetry specification.\n" +
		"\n## Variables that an action finds\n\n" + variableTable(given) +
		"\n`TRACEPARENT` is there as well. The prefix is reserved: no request sets a variable that begins with it. None of these steers an attune that is started\nwithin an action.\n", nil
}

func variableTable(all map[string]string) string {
	var b strings.Builder
	b.WriteString("| variable | meaning |\n|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&b, "| `%s` | %s |\n", name, cell(all[name]))
	}
	return b.String()
}

// variablesIn are the names of variables in the code, but for those of functions and of what only measures.
func variablesIn(root string) (map[string]bool, error) {
	used := map[string]bool{}
	inText := regexp.MustCompile(`(?:"|env:")(ATTUNE_[A-Z_]*[A-Z])(?:"|=)`)
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		relative, _ := filepath.Rel(root, path)
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (relative == "scripts" || relative == "cmd/attune-lambda" || relative == ".git" || strings.HasPrefix(entry.Name(), "testdata")):
			return filepath.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := readText(path)
		for _, found := range inText.FindAllStringSubmatch(text, -1) {
			used[found[1]] = true
		}
		return err
	})
	return used, err
}
