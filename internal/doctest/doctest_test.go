package doctest

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v4"
)

// readable are the languages of fences that hold no commands.
var readable = []string{"yaml", "json", "text", "python", "groovy", "tcl", "dockerfile"}

func TestEveryBlockIsRunOrSaysWhyNot(t *testing.T) {
	var withCommands []string
	for _, page := range All(t) {
		for _, block := range page.Blocks {
			switch block.Language {
			case "console":
				assert.NotEmpty(t, block.Steps(), page.Place(block))
				if !slices.Contains(withCommands, page.Name) {
					withCommands = append(withCommands, page.Name)
				}
			case "sh":
				reason, ok := strings.CutPrefix(block.Note, "not run: ")
				assert.True(t, ok && len(reason) > 3 || strings.HasPrefix(block.Note, "file="), "%s: commands are a console block, or say why they are not run", page.Place(block))
			default:
				assert.Contains(t, readable, block.Language, page.Place(block))
			}
		}
	}
	slices.Sort(withCommands)
	run := slices.Sorted(slices.Values(slices.Concat(AttuneRun, AttuneWorker)))
	assert.Equal(t, run, withCommands, "the pages with commands are those that tests run")
}

// An indented block looks like code, and nobody runs it.
func TestCommandsStandInFences(t *testing.T) {
	command := regexp.MustCompile(`^    +(\$ |attune|make |docker |kubectl |sh |curl |aws )`)
	for _, page := range All(t) {
		if strings.HasPrefix(page.Name, "reference/") {
			continue
		}
		fenced := false
		for i, line := range strings.Split(page.Text, "\n") {
			if strings.HasPrefix(line, "```") {
				fenced = !fenced
			}
			assert.False(t, !fenced && command.MatchString(line), "docs/%s:%d: %s", page.Name, i+1, line)
		}
	}
}

func TestYAMLOfPagesCanBeRead(t *testing.T) {
	for _, page := range All(t) {
		for _, block := range page.Blocks {
			if block.Language == "yaml" {
				var any yaml.Node
				assert.NoError(t, yaml.Unmarshal([]byte(block.Text), &any), page.Place(block))
			}
		}
	}
}

// The targets of make that pages name are there, and so are the files they link to, with the headings.
func TestWhatPagesNameIsThere(t *testing.T) {
	root := Root(t)
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	require.NoError(t, err)
	target := regexp.MustCompile("(?m)(?:^|`)make ([a-z-]+)")
	link := regexp.MustCompile(`\]\(([^)#:]*)(?:#([^)]*))?\)`)
	for _, page := range All(t) {
		for _, found := range target.FindAllStringSubmatch(page.Text, -1) {
			assert.Regexp(t, `(?m)^`+found[1]+`:`, string(makefile), "docs/%s: make %s", page.Name, found[1])
		}
		for _, found := range link.FindAllStringSubmatch(page.Text, -1) {
			text := page.Text
			if found[1] != "" {
				data, err := os.ReadFile(filepath.Join(root, "docs", filepath.Dir(page.Name), found[1]))
				if info, statErr := os.Stat(filepath.Join(root, "docs", filepath.Dir(page.Name), found[1])); statErr == nil && info.IsDir() {
					continue
				}
				assert.NoError(t, err, "docs/%s", page.Name)
				text = string(data)
			}
			if found[2] != "" {
				assert.Contains(t, anchors(text), found[2], "docs/%s: %s", page.Name, found[0])
			}
		}
	}
}

// anchors are what GitHub makes of headings.
func anchors(text string) []string {
	var all []string
	drop := regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		all = append(all, strings.ReplaceAll(drop.ReplaceAllString(strings.ToLower(heading[1]), ""), " ", "-"))
	}
	return all
}

// No page and no file below deploy names a variable that nothing reads.
func TestVariablesAreThere(t *testing.T) {
	root := Root(t)
	name := regexp.MustCompile(`\bATTUNE_[A-Z_]*[A-Z]\b`)
	known := map[string]bool{
		"ATTUNE_STATUS": true, "ATTUNE_EXIT_CODE": true, "ATTUNE_RESULT": true, // --dotenv writes them
	}
	named := map[string]string{} // variable → file
	require.NoError(t, filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		file, _ := filepath.Rel(root, path)
		if err != nil || entry.IsDir() {
			return err
		}
		text := func() string { data, _ := os.ReadFile(path); return string(data) }
		switch {
		case strings.HasSuffix(file, ".go") && !strings.HasSuffix(file, "_test.go"), file == "scripts/attune-bootstrap.sh":
			for _, found := range name.FindAllString(text(), -1) {
				known[found] = true
			}
		case strings.HasPrefix(file, "docs/"), strings.HasPrefix(file, "deploy/"), file == "action.yml", file == "README.md":
			for _, found := range name.FindAllString(text(), -1) {
				named[found] = file
			}
		}
		return nil
	}))
	for variable, file := range named {
		assert.True(t, known[variable], "%s: nothing reads %s", file, variable)
	}
}

func TestSteps(t *testing.T) {
	page := parse("p.md", "text\n```console\n$ one\nout\n$ cat > f <<'END'\na\nEND\n$ two \\\n  more\nsaid\n```\n```yaml file=x\nk: v\n```\n")
	require.Len(t, page.Blocks, 2)
	assert.Equal(t, []Step{
		{Line: 3, Command: "one", Output: "out"},
		{Line: 5, Command: "cat > f <<'END'\na\nEND"},
		{Line: 8, Command: "two \\\n  more", Output: "said"},
	}, page.Blocks[0].Steps())
	assert.Equal(t, Block{Line: 12, Language: "yaml", Note: "file=x", Text: "k: v\n"}, page.Blocks[1])
}

func TestRun(t *testing.T) {
	page := parse("p.md", "```text file=a/b\nhello\n```\n```console\n$ cat a/b\nhello\n$ echo \"$WHO\" >&2; false\nno...y\n```\n")
	Run(t, page, Setting{Dir: t.TempDir(), Env: []string{"PATH=" + os.Getenv("PATH"), "WHO=somebody"}, Replace: []string{"no...y", "some...y"}})
}

func TestInvocations(t *testing.T) {
	all, err := Invocations("X=1 attune-run a --b=c | jq . # attune-run\nfor i in 1; do\n  attune-run pack list \\\n    -o json; done > x\necho \"$(attune d)\"", "attune-run", "attune")
	require.NoError(t, err)
	assert.Equal(t, [][]string{{"attune-run", "a", "--b=c"}, {"attune-run", "pack", "list", "-o", "json"}, {"attune", "d"}}, all)
}
