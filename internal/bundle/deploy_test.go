package bundle

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v4"

	"github.com/attune-run/attune/internal/doctest"
)

// template is a CloudFormation template, as far as it is checked.
type template struct {
	Transform  string               `yaml:"Transform"`
	Parameters map[string]yaml.Node `yaml:"Parameters"`
	Conditions map[string]yaml.Node `yaml:"Conditions"`
	Resources  map[string]struct {
		Type       string               `yaml:"Type"`
		Properties map[string]yaml.Node `yaml:"Properties"`
	} `yaml:"Resources"`
}

func readTemplate(t *testing.T, name string) (parsed template, root yaml.Node) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("../../deploy/lambda", name))
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(data, &parsed))
	require.NoError(t, yaml.Unmarshal(data, &root))
	return parsed, root
}

// eachNode visits a document.
func eachNode(n *yaml.Node, visit func(*yaml.Node)) {
	visit(n)
	for _, child := range n.Content {
		eachNode(child, visit)
	}
}

func TestTemplatesRefer(t *testing.T) {
	docs := doctest.Read(t, "lambda.md").Text
	for _, name := range []string{"template.yaml", "sqs.yaml"} {
		parsed, root := readTemplate(t, name)
		assert.Equal(t, "AWS::Serverless-2016-10-31", parsed.Transform)
		known := map[string]bool{"FunctionUrl": true} // SAM makes it of FunctionUrlConfig
		for id, r := range parsed.Resources {
			known[id] = true
			assert.Regexp(t, `^AWS::[A-Za-z0-9]+::[A-Za-z]+$`, r.Type, id)
		}
		for id := range parsed.Parameters {
			known[id] = true
		}
		eachNode(&root, func(n *yaml.Node) {
			switch n.Tag {
			case "!Ref", "!GetAtt":
				id, _, _ := strings.Cut(n.Value, ".")
				assert.True(t, known[id] || strings.HasPrefix(id, "AWS::"), "%s: %s %s", name, n.Tag, n.Value)
			case "!Sub":
				for _, match := range regexp.MustCompile(`\$\{([A-Za-z]+)`).FindAllStringSubmatch(n.Value, -1) {
					assert.True(t, known[match[1]], "%s: %s", name, n.Value)
				}
			case "!If":
				assert.Contains(t, parsed.Conditions, n.Content[0].Value, name)
			default:
				assert.True(t, strings.HasPrefix(n.Tag, "!!") || n.Tag == "" || strings.HasPrefix(n.Tag, "!Not") || n.Tag == "!Equals", "%s: %s", name, n.Tag)
			}
			if strings.HasPrefix(n.Value, "ATTUNE_") {
				assert.Contains(t, docs, n.Value, "a variable nobody explains")
			}
		})
	}
}

func number(t *testing.T, properties map[string]yaml.Node, name string) int {
	t.Helper()
	node := properties[name]
	n, err := strconv.Atoi(node.Value)
	require.NoError(t, err, name)
	return n
}

func TestTheQueueReportsSingleRecords(t *testing.T) {
	parsed, _ := readTemplate(t, "sqs.yaml")
	var events map[string]struct {
		Type       string `yaml:"Type"`
		Properties struct {
			FunctionResponseTypes []string `yaml:"FunctionResponseTypes"`
		} `yaml:"Properties"`
	}
	function := parsed.Resources["Function"].Properties
	node := function["Events"]
	require.NoError(t, node.Decode(&events))
	assert.Equal(t, "SQS", events["Messages"].Type)
	assert.Equal(t, []string{"ReportBatchItemFailures"}, events["Messages"].Properties.FunctionResponseTypes)
	assert.GreaterOrEqual(t, number(t, parsed.Resources["Queue"].Properties, "VisibilityTimeout"), 6*number(t, function, "Timeout"))
}

// What a Dockerfile copies from the build context is what the commands in its head make, and no registry is named.
func TestDockerfiles(t *testing.T) {
	instruction := regexp.MustCompile(`^(ARG|FROM|COPY|RUN|WORKDIR|ENTRYPOINT|CMD) `)
	for _, name := range []string{"Dockerfile", "Dockerfile.scratch"} {
		data, err := os.ReadFile("../../deploy/lambda/" + name)
		require.NoError(t, err)
		assert.NotRegexp(t, `[a-z0-9-]+\.(com|io|aws|org|dev)\b`, string(data))
		for line := range strings.SplitSeq(strings.TrimSpace(string(data)), "\n") {
			if line != "" && !strings.HasPrefix(line, "#") {
				assert.Regexp(t, instruction, line)
			}
		}
		assert.Contains(t, string(data), `ENTRYPOINT ["/var/task/bootstrap"]`)
	}
}
