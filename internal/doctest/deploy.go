package doctest

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v4"
	"mvdan.cc/sh/v3/syntax"
)

// command is a command of a page or of a file that deploys attune, as shell.
type command struct{ place, text string }

// deployed are the commands of the files below deploy: of containers, pods, units. A YAML file that cannot be read fails the test.
func deployed(t *testing.T) (all []command) {
	t.Helper()
	root := Root(t)
	require.NoError(t, filepath.WalkDir(filepath.Join(root, "deploy"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		file, err := filepath.Rel(root, path)
		require.NoError(t, err)
		var lines []string
		switch {
		case strings.HasSuffix(path, ".yaml"):
			var document yaml.Node
			require.NoError(t, yaml.Unmarshal(text, &document), file)
			lines = manifestCommands(&document)
		case strings.HasPrefix(entry.Name(), "Dockerfile"):
			for _, found := range regexp.MustCompile(`(?m)^(?:RUN|ENTRYPOINT|CMD) (.*)$`).FindAllStringSubmatch(string(text), -1) {
				lines = append(lines, dockerCommand(found[1]))
			}
		case strings.HasSuffix(path, ".service"):
			for _, found := range regexp.MustCompile(`(?m)^Exec[A-Za-z]*=(.*)$`).FindAllStringSubmatch(string(text), -1) {
				lines = append(lines, found[1])
			}
		}
		for _, line := range lines {
			all = append(all, command{file, line})
		}
		return nil
	}))
	return all
}

// dockerCommand is an instruction's command, which is a line of shell, or a list of words in JSON.
func dockerCommand(text string) string {
	var words []string
	if yaml.Unmarshal([]byte(text), &words) == nil {
		return quoted(words)
	}
	return text
}

// manifestCommands are the lists below the keys that name a container's command.
func manifestCommands(node *yaml.Node) (lines []string) {
	for i, child := range node.Content {
		if node.Kind == yaml.MappingNode && i%2 == 1 && slices.Contains([]string{"command", "entrypoint"}, node.Content[i-1].Value) {
			var words []string
			if child.Decode(&words) == nil {
				lines = append(lines, quoted(words))
			}
			continue
		}
		lines = append(lines, manifestCommands(child)...)
	}
	return lines
}

func quoted(words []string) string {
	var all []string
	for _, word := range words {
		text, err := syntax.Quote(word, syntax.LangBash)
		if err == nil {
			word = text
		}
		all = append(all, word)
	}
	return strings.Join(all, " ")
}
