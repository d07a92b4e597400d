package recipe

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/attune-run/attune/envcache"
)

// mavenList prints every dependency with its scope and file, in the order of the class path. The version is fixed, because
// what it prints is read (https://maven.apache.org/plugins/maven-dependency-plugin/list-mojo.html).
const mavenList = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:list"

const mavenPattern = `Apache Maven (?P<version>\d+(?:\.\d+)*)`

// artifact is one dependency, resolved.
type artifact struct {
	name    string // "group:artifact", with ":classifier" where there is one
	version string
	scope   string
	path    string
}

// runtime is true for what the program runs with; the rest it is only compiled with.
func (a artifact) runtime() bool { return a.scope == "compile" || a.scope == "runtime" }

// mavenInputs are what decides which jars a pack gets; nothing without dependencies.
func mavenInputs(ctx context.Context, in Input) ([]envcache.KeyInput, error) {
	pom, found, err := readPOM(in.PackDir, "pom.xml")
	if err != nil {
		return nil, err
	}
	if !found {
		if exists(in.PackDir, "build.gradle") || exists(in.PackDir, "build.gradle.kts") {
			return nil, &ManifestError{File: in.PackDir,
				Problem: "has a Gradle build, which is not supported; name the dependencies in a pom.xml, or put the jars into lib"}
		}
		return nil, nil
	}
	if !pom.dependent {
		return nil, nil
	}
	if in.Locked {
		return nil, &NotLockedError{Manifest: filepath.Join(in.PackDir, "pom.xml"),
			Remedy: "Maven has no lock file; put the jars into the pack's lib directory"}
	}
	version := ""
	mvn, err := findMaven(in)
	var missing *ToolError
	switch {
	case err == nil:
		version, err = in.toolVersion(ctx, "mvn", mvn, mavenPattern)
	case errors.As(err, &missing): // it matters once something is built: a layer may have it
		err = nil
	}
	if err != nil {
		return nil, err
	}
	inputs := []envcache.KeyInput{content("pom.xml", pom.data), {Name: "installer", Value: strings.TrimSpace("mvn " + version)}}
	if inputs, err = addParents(inputs, in.PackDir, pom); err != nil {
		return nil, err
	}
	if dir := projectSettings(in.PackDir); dir != "" {
		project, err := tree(".mvn", dir, nil)
		if err != nil {
			return nil, err
		}
		inputs = append(inputs, project)
	}
	decisive := [][]byte{pom.data}
	for name, path := range mavenSettings(in, mvn) {
		settings, err := decisiveSettings(path)
		if err != nil {
			return nil, err
		}
		inputs = append(inputs, asSettings(content(name, settings))...)
		decisive = append(decisive, settings)
	}
	inputs = append(inputs, variables(in, hostReferences(bytes.Join(decisive, nil))...)...)
	for _, name := range []string{"MAVEN_ARGS", "MAVEN_OPTS"} {
		words, _ := withoutSecrets(in.hostVar(name))
		if len(words) > 0 {
			inputs = append(inputs, envcache.KeyInput{Name: settingPrefix + name, Value: withoutCredentials(strings.Join(words, " "))})
		}
	}
	return inputs, nil
}

func findMaven(in Input) (string, error) {
	mvn, found := lookPath(in.hostVar("PATH"), "mvn")
	if !found {
		return "", &ToolError{Tool: "mvn", Manifest: filepath.Join(in.PackDir, "pom.xml"),
			Remedy: "install Maven, or put the jars into the pack's lib directory"}
	}
	return mvn, nil
}

// pom is the part of a pom.xml that attune understands.
type pom struct {
	data      []byte
	dependent bool    // it may name dependencies
	parent    *string // where its parent lies, by relative path; nil without a parent
}

func readPOM(dir, name string) (pom, bool, error) {
	data, found, err := readManifest(dir, name)
	if err != nil || !found {
		return pom{}, found, err
	}
	var project struct {
		XMLName xml.Name `xml:"project"`
		Parent  *struct {
			RelativePath *string `xml:"relativePath"`
		} `xml:"parent"`
		Dependencies *struct{} `xml:"dependencies"`
		Profiles     *struct{} `xml:"profiles"`
	}
	path := filepath.Join(dir, name)
	if err := decodeXML(path, data, &project); err != nil {
		return pom{}, true, err
	}
	p := pom{data: data, dependent: project.Dependencies != nil || project.Profiles != nil || project.Parent != nil}
	if project.Parent != nil {
		parent := "../pom.xml" // the default: https://maven.apache.org/ref/current/maven-model/maven.html#class_parent
		if project.Parent.RelativePath != nil {
			parent = strings.TrimSpace(*project.Parent.RelativePath)
		}
		p.parent = &parent
	}
	return p, true, nil
}

// decodeXML names file and line of what is malformed.
func decodeXML(path string, data []byte, into any) error {
	decoder := xml.NewDecoder(strings.NewReader(string(data)))
	decoder.CharsetReader = func(charset string, r io.Reader) (io.Reader, error) {
		switch strings.ToLower(charset) {
		case "us-ascii", "ascii":
			return r, nil
		case "iso-8859-1", "latin1", "windows-1252":
			raw, err := io.ReadAll(r)
			text := make([]rune, len(raw)) // ISO 8859-1 are the first 256 code points
			for i, c := range raw {
				text[i] = rune(c)
			}
			return strings.NewReader(string(text)), err
		}
		return nil, fmt.Errorf("encoding %q is unknown; save it as UTF-8", charset)
	}
	err := decoder.Decode(into)
	if err == nil {
		return nil
	}
	line, _ := decoder.InputPos()
	problem := strings.TrimPrefix(err.Error(), "xml: ")
	var syntax *xml.SyntaxError
	if errors.As(err, &syntax) {
		line, problem = syntax.Line, syntax.Msg
	} else if errors.Is(err, io.EOF) {
		problem = "there is no element in it"
	}
	return &ManifestError{File: fmt.Sprintf("%s:%d", path, line), Problem: "malformed XML: " + problem}
}

// addParents adds the parents that lie beside the pack's pom.xml; others come from a repository, by version.
func addParents(inputs []envcache.KeyInput, dir string, p pom) ([]envcache.KeyInput, error) {
	for depth, name := 1, "pom.xml"; p.parent != nil && *p.parent != "" && depth < 100; depth++ {
		dir, name = filepath.Split(filepath.Join(dir, *p.parent))
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil && info.IsDir() {
			dir, name = filepath.Join(dir, name), "pom.xml"
		}
		parent, found, err := readPOM(dir, name)
		if err != nil || !found {
			return inputs, err
		}
		inputs = append(inputs, content(fmt.Sprintf("parent %d", depth), parent.data))
		p = parent
	}
	return inputs, nil
}

// projectSettings is the nearest .mvn directory, where a project has options, extensions and settings of its own.
func projectSettings(dir string) string {
	for ; ; dir = filepath.Dir(dir) {
		if exists(dir, ".mvn") {
			return filepath.Join(dir, ".mvn")
		}
		if dir == filepath.Dir(dir) {
			return ""
		}
	}
}

// mavenSettings are the settings files that apply, by the name of the key input. The project and MAVEN_ARGS may name others.
func mavenSettings(in Input, mvn string) map[string]string {
	files := map[string]string{"settings": userSettings(in)}
	if real, err := filepath.EvalSymlinks(mvn); err == nil && mvn != "" {
		files["global settings"] = filepath.Join(filepath.Dir(filepath.Dir(real)), "conf/settings.xml")
	}
	var words []string // the last one wins
	if dir := projectSettings(in.PackDir); dir != "" {
		config, _ := os.ReadFile(filepath.Join(dir, "maven.config")) // https://maven.apache.org/configure.html
		words = strings.Fields(string(config))
	}
	words = append(words, strings.Fields(in.hostVar("MAVEN_ARGS"))...)
	for i, word := range words {
		option, value, joined := strings.Cut(word, "=")
		if !joined && i+1 < len(words) {
			value = words[i+1]
		}
		if value != "" && !filepath.IsAbs(value) {
			value = filepath.Join(in.PackDir, value)
		}
		switch option {
		case "-s", "--settings":
			files["settings"] = value
		case "-gs", "--global-settings":
			files["global settings"] = value
		}
	}
	for name, path := range files {
		if path == "" || !exists(path, "") {
			delete(files, name)
		}
	}
	return files
}

// userSettings is the user's own file. Maven asks the password database for the home directory, and everybody else HOME.
func userSettings(in Input) string {
	if home := in.hostVar("HOME"); home != "" && exists(home, ".m2/settings.xml") {
		return filepath.Join(home, ".m2/settings.xml")
	}
	if owner, err := user.Current(); err == nil {
		return filepath.Join(owner.HomeDir, ".m2/settings.xml")
	}
	return ""
}

// hostReference is a variable of the host's that a pom.xml or settings.xml names.
var hostReference = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\$\{env\.(\w+)\}`) })

func hostReferences(text []byte) []string {
	var names []string
	for _, m := range hostReference().FindAllSubmatch(text, -1) {
		if name := string(m[1]); !slices.Contains([]string{"MAVEN_ARGS", "MAVEN_OPTS"}, name) { // inputs anyway
			names = append(names, name)
		}
	}
	return names
}

// settingsElement is any element of a settings.xml.
type settingsElement struct {
	XMLName  xml.Name
	Text     string            `xml:",chardata"`
	Children []settingsElement `xml:",any"`
}

// undecisive are settings that say how repositories are reached, not what is in them. Here are the credentials.
var undecisive = map[string]bool{"servers": true, "proxies": true, "localRepository": true, "interactiveMode": true, "usePluginRegistry": true}

// decisiveSettings is a settings.xml without credentials, formatting and what does not decide which jars are found.
func decisiveSettings(path string) ([]byte, error) {
	root, err := readSettings(path)
	if err != nil {
		return nil, err
	}
	var text strings.Builder
	var write func(e settingsElement, depth int)
	write = func(e settingsElement, depth int) {
		if depth == 1 && undecisive[e.XMLName.Local] || isCredential(e.XMLName.Local) {
			return
		}
		fmt.Fprintf(&text, "%d %s %q\n", depth, e.XMLName.Local, withoutCredentials(strings.TrimSpace(e.Text)))
		for _, child := range e.Children {
			write(child, depth+1)
		}
	}
	write(root, 0)
	return []byte(text.String()), nil
}

func readSettings(path string) (settingsElement, error) {
	var root settingsElement
	data, err := os.ReadFile(path)
	if err != nil {
		return root, err
	}
	return root, decodeXML(path, data, &root)
}

// settingsPasswords are the secrets of a settings.xml, for the log to mask.
func settingsPasswords(in Input, path string) []string {
	root, err := readSettings(path)
	if err != nil {
		return nil
	}
	var secrets []string
	var collect func(e settingsElement)
	collect = func(e settingsElement) {
		if name := e.XMLName.Local; name == "passphrase" || isCredential(name) {
			secrets = append(secrets, hostReference().ReplaceAllStringFunc(strings.TrimSpace(e.Text), func(name string) string {
				return in.hostVar(hostReference().FindStringSubmatch(name)[1])
			}))
		}
		for _, child := range e.Children {
			collect(child)
		}
	}
	collect(root)
	return secrets
}

// withoutSecrets splits an option list at blanks and takes out options like -Drepo.password=x.
func withoutSecrets(options string) (words, secrets []string) {
	for word := range strings.FieldsSeq(options) {
		if name, value, found := strings.Cut(word, "="); found && isCredential(name) {
			secrets = append(secrets, value)
		} else {
			words = append(words, word)
		}
	}
	return words, secrets
}

// mavenArtifacts resolves the pack's pom.xml.
func mavenArtifacts(ctx context.Context, in Input, site envcache.Site) ([]artifact, error) {
	if in.AdHoc {
		return nil, nil
	}
	pom, found, err := readPOM(in.PackDir, "pom.xml")
	if err != nil || !found || !pom.dependent {
		return nil, err
	}
	mvn, err := findMaven(in)
	if err != nil {
		return nil, err
	}
	list := filepath.Join(site.Dir, "dependencies")
	tool, argv := mavenTool(in, mvn), []string{mvn, "-B", "-q", "-N", "-f", filepath.Join(in.PackDir, "pom.xml"), mavenList,
		"-DoutputFile=" + list, "-DoutputAbsoluteArtifactFilename=true", "-Dsort=false", "-Dstyle.color=never",
		"-Dmaven.repo.local=" + filepath.Join(in.Downloads, "maven")}
	settings, texts := mavenSettings(in, mvn), [][]byte{pom.data}
	for name, option := range map[string]string{"settings": "-s", "global settings": "-gs"} {
		if path, found := settings[name]; found {
			tool.secrets = append(tool.secrets, settingsPasswords(in, path)...)
			argv = append(argv, option, path)
			text, err := os.ReadFile(path)
			if err != nil {
				return nil, err
			}
			texts = append(texts, text)
		}
	}
	for _, name := range hostReferences(bytes.Join(texts, nil)) {
		tool.set(name, in.hostVar(name))
	}
	argv = append(argv, otherArguments(in.hostVar("MAVEN_ARGS"))...)
	site.Phase("resolving pom.xml with mvn")
	if err := resolve(ctx, in, site, tool, argv); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(list)
	if err != nil {
		return nil, fmt.Errorf("mvn has written no list of dependencies: %w", err)
	}
	return parseArtifacts(string(data)), os.Remove(list)
}

// resolve runs Maven as far from the network as asked. Online it asks again for what it did not find the last time, which it
// would remember for a day (-U).
func resolve(ctx context.Context, in Input, site envcache.Site, tool *installer, argv []string) error {
	if in.Network != Online && in.Network != "" {
		err := tool.run(ctx, site, append(argv, "-o")...)
		var failure *ToolFailure
		if in.Network == Offline || !errors.As(err, &failure) {
			return err
		}
	}
	return tool.run(ctx, site, append(argv, "-U")...)
}

func mavenTool(in Input, mvn string) *installer {
	tool := newInstaller(in, "mvn", "MAVEN_", "M2_").mayMiss(in.Network)
	for _, name := range []string{"MAVEN_ARGS", "MAVEN_OPTS"} {
		_, secrets := withoutSecrets(in.hostVar(name))
		tool.secrets = append(tool.secrets, secrets...)
	}
	delete(tool.env, "MAVEN_ARGS") // given as arguments: mvn reads it only since 3.9
	tool.set("JAVA_HOME", filepath.Dir(filepath.Dir(in.Interpreter.Path)))
	// Maven ends before optimized code pays: measured 2.0 s instead of 2.9 s.
	tool.set("MAVEN_OPTS", strings.TrimSpace("-XX:TieredStopAtLevel=1 -XX:+UseSerialGC "+in.hostVar("MAVEN_OPTS")))
	return tool
}

// otherArguments are MAVEN_ARGS without the settings files, which are given by themselves.
func otherArguments(options string) []string {
	var others []string
	words := strings.Fields(options)
	for i := 0; i < len(words); i++ {
		option, _, joined := strings.Cut(words[i], "=")
		switch option {
		case "-s", "--settings", "-gs", "--global-settings":
			if !joined {
				i++
			}
		default:
			others = append(others, words[i])
		}
	}
	return others
}

// artifactLine is "   group:artifact:type[:classifier]:version:scope:/path", with remarks behind it.
var artifactLine = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^\s+([^:\s]+:[^:\s]+):([^:\s]+)(?::([^:\s]+))?:([^:\s]+):(compile|runtime|provided|system|test):` +
		`(/.*\.jar)(?:$| -- module | \(optional)`)
})

func parseArtifacts(list string) []artifact {
	var all []artifact
	for line := range strings.Lines(list) {
		m := artifactLine().FindStringSubmatch(strings.TrimRight(line, "\r\n"))
		if m == nil || m[5] == "test" {
			continue
		}
		a := artifact{name: m[1], version: m[4], scope: m[5], path: m[6]}
		if m[3] != "" {
			a.name += ":" + m[3]
		}
		all = append(all, a)
	}
	return all
}
