package recipe

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/runtime"
)

// java compiles the action once and resolves a pom.xml to a class path.
type java struct{}

const mainClassFile = "main-class"

func (java) Inputs(_ context.Context, in Input) ([]envcache.KeyInput, error) {
	if in.Script == "" {
		return nil, nil
	}
	if strings.HasSuffix(in.Script, ".jar") {
		return nil, nil
	}
	source, err := os.ReadFile(in.Script)
	if err != nil {
		return nil, err
	}
	inputs := []envcache.KeyInput{content("script", source), {Name: "main", Value: filepath.Base(in.Script)}}
	if in.AdHoc {
		return inputs, nil
	}
	for _, dir := range javaSources(in) {
		sources, err := tree(filepath.Base(dir), dir, func(path string, item fs.DirEntry) bool {
			return item.IsDir() && !isVersionControl(item) || strings.HasSuffix(path, ".java") || strings.HasSuffix(path, ".jar")
		})
		if err != nil {
			return nil, err
		}
		inputs = append(inputs, sources)
	}
	pom, found, err := readManifest(in.PackDir, "pom.xml")
	if err != nil {
		return nil, err
	}
	if found && in.Locked {
		return nil, &NotLockedError{Manifest: "pom.xml", Remedy: "Maven has no lock file; put the jars into the pack's lib directory"}
	}
	if found {
		inputs = append(inputs, content("pom.xml", pom))
	} else if exists(in.PackDir, "build.gradle") {
		return nil, fmt.Errorf("%s: gradle is not supported by this version; use a pom.xml", filepath.Join(in.PackDir, "build.gradle"))
	}
	return append(inputs, variables(in, "MAVEN_ARGS")...), nil
}

// javaSources are the directories a pack's classes may come from.
func javaSources(in Input) []string {
	dirs := []string{filepath.Dir(in.Script)}
	if exists(in.PackDir, "lib") {
		dirs = append(dirs, filepath.Join(in.PackDir, "lib"))
	}
	return dirs
}

func (j java) Build(ctx context.Context, in Input, site envcache.Site) (envcache.Built, error) {
	javac := filepath.Join(filepath.Dir(in.Interpreter.Path), "javac")
	if _, err := os.Stat(javac); err != nil {
		return envcache.Built{}, fmt.Errorf("%s has no javac beside it; install a JDK, not only a JRE", in.Interpreter.Path)
	}
	resolved, err := j.dependencies(ctx, in, site)
	if err != nil {
		return envcache.Built{}, err
	}
	source, err := javaSource(in, site.Dir)
	if err != nil {
		return envcache.Built{}, err
	}
	compiler := newInstaller(in, "javac", "JAVA_HOME")
	site.Phase("compiling " + filepath.Base(in.Script))
	argv := []string{javac, "-encoding", "UTF-8", "-d", filepath.Join(site.Dir, "classes"), "-cp", j.classPath(in, site.Dir), "-sourcepath"}
	if in.AdHoc {
		argv = append(argv, filepath.Join(site.Dir, "none")) // a bare script is its own whole program
	} else {
		argv = append(argv, strings.Join(javaSources(in), string(os.PathListSeparator)))
	}
	if err := compiler.run(ctx, site, append(argv, source)...); err != nil {
		return envcache.Built{}, err
	}
	if err := writeMainClass(source, site.Dir); err != nil {
		return envcache.Built{}, err
	}
	return envcache.Built{Resolved: resolved, Locked: !exists(in.PackDir, "pom.xml") || in.AdHoc, Sentinels: []string{"classes", mainClassFile}}, nil
}

// javaSource is the file javac gets: a copy without the #! line where there is one.
func javaSource(in Input, dir string) (string, error) {
	data, err := os.ReadFile(in.Script)
	if err != nil || !bytes.HasPrefix(data, []byte("#!")) && strings.HasSuffix(in.Script, ".java") {
		return in.Script, err
	}
	if bytes.HasPrefix(data, []byte("#!")) {
		data = append([]byte("//"), data...) // keeps the line numbers
	}
	name := strings.TrimSuffix(filepath.Base(in.Script), filepath.Ext(in.Script)) + ".java"
	path := filepath.Join(dir, "source", name)
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	return path, os.WriteFile(path, data, 0o600)
}

// writeMainClass notes the class to run: the one named as the file, else the first of the file, as java's own
// source launcher takes it (JEP 330).
func writeMainClass(source, dir string) error {
	data, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	prefix := ""
	if m := regexp.MustCompile(`(?m)^\s*package\s+([\w.]+)\s*;`).FindSubmatch(data); m != nil {
		prefix = string(m[1]) + "."
	}
	name := strings.TrimSuffix(filepath.Base(source), ".java")
	if !exists(filepath.Join(dir, "classes"), strings.ReplaceAll(prefix+name, ".", "/")+".class") {
		m := regexp.MustCompile(`(?m)^\s*(?:(?:public|final|abstract|sealed|strictfp)\s+)*(?:class|record|enum|interface)\s+(\w+)`).FindSubmatch(data)
		if m == nil {
			return fmt.Errorf("%s declares no class", source)
		}
		name = string(m[1])
	}
	return os.WriteFile(filepath.Join(dir, mainClassFile), []byte(prefix+name), 0o600)
}

// dependencies copies what a pom.xml names into the environment.
func (java) dependencies(ctx context.Context, in Input, site envcache.Site) ([]string, error) {
	if in.AdHoc || !exists(in.PackDir, "pom.xml") {
		return nil, nil
	}
	maven := newInstaller(in, "mvn", "MAVEN_", "JAVA_HOME")
	mvn, found := maven.lookPath("mvn")
	if !found {
		return nil, &ToolError{Tool: "mvn", Manifest: "pom.xml", Remedy: "install Maven, or put the jars into the pack's lib directory"}
	}
	maven.dir = site.Dir
	maven.set("JAVA_HOME", filepath.Dir(filepath.Dir(in.Interpreter.Path)))
	argv := []string{mvn, "-B", "-q", "-f", filepath.Join(in.PackDir, "pom.xml"), "-Dmaven.repo.local=" + filepath.Join(in.Downloads, "maven"),
		"dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=" + filepath.Join(site.Dir, "jars")}
	if in.Network == Offline {
		argv = append(argv, "--offline")
	}
	site.Phase("resolving pom.xml with mvn")
	if err := maven.run(ctx, site, argv...); err != nil {
		return nil, err
	}
	jars, err := filepath.Glob(filepath.Join(site.Dir, "jars", "*.jar"))
	for i, jar := range jars {
		jars[i] = filepath.Base(jar)
	}
	return jars, err
}

func (java) classPath(in Input, dir string) string {
	entries := []string{filepath.Join(dir, "classes"), filepath.Join(dir, "jars", "*")}
	if !in.AdHoc {
		entries = append(entries, filepath.Join(in.PackDir, "lib", "*"))
	}
	return strings.Join(entries, string(os.PathListSeparator))
}

func (java) Check(_ context.Context, _ Input, dir string) error {
	_, err := os.Stat(filepath.Join(dir, mainClassFile))
	return err
}

func (j java) Command(in Input, env *envcache.Env) (Command, error) {
	if env == nil {
		if strings.HasSuffix(in.Script, ".jar") {
			return Command{Argv: []string{in.Interpreter.Path, "-jar", in.Script}}, nil
		}
		return interpreted(in, in.Interpreter.Path, runtime.Vars{})
	}
	class, err := os.ReadFile(filepath.Join(env.Dir, mainClassFile))
	if err != nil {
		return Command{}, err
	}
	return Command{Argv: []string{in.Interpreter.Path, "-cp", j.classPath(in, env.Dir), string(class)}}, nil
}
