package recipe

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/runtime"
)

// java compiles the action once, with what a pom.xml names and the pack's lib directory on the class path.
//
//	action.jar    its classes
//	jars/         what Maven resolved, then the jars of lib
//	archive.jsa   all these classes as the JVM has them in memory, where that pays
//	launch.json   how to start
type java struct{}

const (
	actionJar   = "action.jar"
	jarsDir     = "jars"
	archiveFile = "archive.jsa"
	launchFile  = "launch.json"
)

// launch is how an environment's program starts. Paths are relative to the environment.
type launch struct {
	Class       string   `json:"class"`
	Jars        []string `json:"jars"`         // the class path, in order
	ArchiveSize int64    `json:"archive_size"` // 0: there is no archive
}

func (java) Inputs(ctx context.Context, in Input) ([]envcache.KeyInput, error) {
	if in.Script == "" || strings.HasSuffix(in.Script, ".jar") {
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
	for _, dir := range javaSources(in, source) {
		sources, err := tree(relativeTo(in.PackDir, dir), dir, func(path string, item fs.DirEntry) bool {
			return item.IsDir() && !isVersionControl(item) || slices.Contains([]string{".java", ".jar", ".class"}, filepath.Ext(path))
		})
		if err != nil {
			return nil, err
		}
		inputs = append(inputs, sources)
	}
	dependencies, err := mavenInputs(ctx, in)
	return append(inputs, dependencies...), err
}

// javaPackage is the package a source file declares.
var javaPackage = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?m)^\s*package\s+([\w.]+)\s*;`) })

// javaSources are the directories that a pack's classes and resources come from: the root of the script's package, lib, and
// Maven's own layout.
func javaSources(in Input, source []byte) []string {
	root := filepath.Dir(in.Script)
	if m := javaPackage().FindSubmatch(source); m != nil {
		path := string(filepath.Separator) + strings.ReplaceAll(string(m[1]), ".", string(filepath.Separator))
		if above, found := strings.CutSuffix(root, path); found && strings.HasPrefix(above, in.PackDir) {
			root = above
		}
	}
	dirs := []string{root}
	if in.AdHoc {
		return dirs
	}
	for _, name := range []string{"lib", "src/main/java", "src/main/resources"} {
		if dir := filepath.Join(in.PackDir, name); dir != root && exists(dir, "") {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// relativeTo names a directory of a pack without the pack's own path.
func relativeTo(base, dir string) string {
	if relative, err := filepath.Rel(base, dir); err == nil {
		return relative
	}
	return filepath.Base(dir)
}

func (j java) Build(ctx context.Context, in Input, site envcache.Site) (envcache.Built, error) {
	javac := filepath.Join(filepath.Dir(in.Interpreter.Path), "javac")
	if _, err := os.Stat(javac); err != nil {
		return envcache.Built{}, &ToolError{Tool: "javac", Manifest: in.Script,
			Remedy: "install a JDK, not only a JRE: there is none beside " + in.Interpreter.Path}
	}
	if strings.Contains(in.PackDir+site.Dir, string(os.PathListSeparator)) {
		return envcache.Built{}, &ManifestError{File: in.PackDir,
			Problem: "Java's class path cannot hold a path with a colon; move the pack or the cache"}
	}
	artifacts, err := mavenArtifacts(ctx, in, site)
	if err != nil {
		return envcache.Built{}, err
	}
	program, resolved, err := j.collectJars(in, site, artifacts)
	if err != nil {
		return envcache.Built{}, err
	}
	if program.Class, err = j.compile(ctx, in, site, javac, program.Jars, artifacts); err != nil {
		return envcache.Built{}, err
	}
	worthwhile := archived(in, program.Jars)
	program.Jars = append([]string{actionJar}, program.Jars...)
	if err := j.dryRun(ctx, in, site, program); err != nil {
		return envcache.Built{}, err
	}
	if worthwhile {
		if err := j.archive(ctx, in, site, &program); err != nil {
			return envcache.Built{}, err
		}
	}
	data, err := json.MarshalIndent(program, "", "  ")
	if err != nil {
		return envcache.Built{}, err
	}
	return envcache.Built{
		Resolved: resolved, Locked: len(artifacts) == 0, Sentinels: append([]string{launchFile}, program.Jars...), Complete: []string{jarsDir},
	}, os.WriteFile(filepath.Join(site.Dir, launchFile), data, 0o600)
}

// collectJars puts the jars that the program runs with into the environment, in the order of the class path.
func (java) collectJars(in Input, site envcache.Site, artifacts []artifact) (program launch, resolved []string, err error) {
	if err := os.Mkdir(filepath.Join(site.Dir, jarsDir), 0o700); err != nil {
		return launch{}, nil, err
	}
	add := func(path string, linked bool) error {
		name := filepath.Join(jarsDir, filepath.Base(path))
		if exists(site.Dir, name) { // two groups may have an artifact of one name
			name = filepath.Join(jarsDir, strconv.Itoa(len(program.Jars))+"-"+filepath.Base(path))
		}
		program.Jars = append(program.Jars, name)
		if linked && os.Link(path, filepath.Join(site.Dir, name)) == nil {
			return nil
		}
		return copyFile(path, filepath.Join(site.Dir, name))
	}
	for _, a := range artifacts {
		if a.runtime() {
			resolved = append(resolved, a.name+"=="+a.version)
			// A snapshot's file is written again; a release's never.
			if err := add(a.path, !strings.HasSuffix(a.version, "-SNAPSHOT")); err != nil {
				return launch{}, nil, err
			}
		}
	}
	if in.AdHoc {
		return program, resolved, nil
	}
	lib, err := os.ReadDir(filepath.Join(in.PackDir, "lib"))
	if err != nil && exists(in.PackDir, "lib") {
		return launch{}, nil, err
	}
	for _, item := range lib {
		if strings.HasSuffix(item.Name(), ".jar") {
			if err := add(filepath.Join(in.PackDir, "lib", item.Name()), false); err != nil {
				return launch{}, nil, err
			}
		}
	}
	return program, resolved, nil
}

// compile makes action.jar and returns the class to run.
func (j java) compile(ctx context.Context, in Input, site envcache.Site, javac string, jars []string, artifacts []artifact) (string, error) {
	work := filepath.Join(site.Dir, "work")
	classes := filepath.Join(work, "classes")
	for _, dir := range []string{work, classes, filepath.Join(work, "none")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return "", err
		}
	}
	defer func() { _ = os.RemoveAll(work) }()
	source, text, err := javaSource(in, work)
	if err != nil {
		return "", err
	}
	sources := []string{source}
	if archived(in, jars) {
		preload := filepath.Join(work, preloadClass+".java")
		sources = append(sources, preload)
		if err := os.WriteFile(preload, []byte(preloadSource), 0o600); err != nil {
			return "", err
		}
	}
	var classPath, sourcePath []string
	for _, jar := range jars {
		classPath = append(classPath, filepath.Join(site.Dir, jar))
	}
	for _, a := range artifacts {
		if !a.runtime() { // provided: annotations and what processes them
			classPath = append(classPath, a.path)
		}
	}
	argv := []string{javac, "-J-XX:TieredStopAtLevel=1", "-encoding", "UTF-8", "-Xprefer:source", "-d", classes}
	if in.AdHoc {
		argv = append(argv, "-proc:none")
		sourcePath = []string{filepath.Join(work, "none")} // a bare script is its own whole program
	} else {
		if javaMajor(in.Interpreter.Version) >= 21 {
			argv = append(argv, "-proc:full") // the default until then
		}
		sourcePath = javaSources(in, text)
		classPath = append(classPath, sourcePath...)
	}
	compiler := newInstaller(in, "javac")
	compiler.local = true
	site.Phase("compiling " + filepath.Base(in.Script))
	argv = append(argv, "-sourcepath", pathList(sourcePath), "-cp", pathList(append(classPath, filepath.Join(work, "none"))))
	if err := compiler.run(ctx, site, append(argv, sources...)...); err != nil {
		return "", err
	}
	class, err := mainClass(in.Script, filepath.Base(source), text, classes)
	if err != nil {
		return "", err
	}
	return class, writeJar(classes, filepath.Join(site.Dir, actionJar))
}

func pathList(paths []string) string { return strings.Join(paths, string(os.PathListSeparator)) }

// javaSource is the file javac gets, and its text: a copy without the #! line where there is one.
func javaSource(in Input, work string) (path string, text []byte, err error) {
	text, err = os.ReadFile(in.Script)
	if err != nil || !bytes.HasPrefix(text, []byte("#!")) && strings.HasSuffix(in.Script, ".java") {
		return in.Script, text, err
	}
	if bytes.HasPrefix(text, []byte("#!")) {
		text = append([]byte("//"), text...) // keeps the line numbers
	}
	path = filepath.Join(work, strings.TrimSuffix(filepath.Base(in.Script), filepath.Ext(in.Script))+".java")
	return path, text, os.WriteFile(path, text, 0o600)
}

var javaType = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?m)^\s*(?:(?:public|final|abstract|sealed|non-sealed|strictfp)\s+)*(?:class|record|enum|interface)\s+(\w+)`)
})

// mainClass is the class to run: the one named as the file, else the first of the file, as java's own source launcher takes
// it (JEP 330).
func mainClass(script, file string, source []byte, classes string) (string, error) {
	prefix := ""
	if m := javaPackage().FindSubmatch(source); m != nil {
		prefix = string(m[1]) + "."
	}
	name := strings.TrimSuffix(file, ".java")
	if !exists(classes, strings.ReplaceAll(prefix+name, ".", "/")+".class") {
		m := javaType().FindSubmatch(source)
		if m == nil {
			return "", &ManifestError{File: script, Problem: "declares no class"}
		}
		name = string(m[1])
	}
	return prefix + name, nil
}

// writeJar packs classes: a JVM archives no classes of a directory. Nothing is compressed, which loads faster.
func writeJar(classes, path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	jar := zip.NewWriter(f)
	err = filepath.WalkDir(classes, func(path string, item fs.DirEntry, err error) error {
		if err != nil || item.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		entry, err := jar.CreateHeader(&zip.FileHeader{Name: filepath.ToSlash(relativeTo(classes, path)), Method: zip.Store})
		if err == nil {
			_, err = entry.Write(data)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := jar.Close(); err != nil {
		return err
	}
	return f.Close()
}

// preloadClass loads all classes of the class path without running any of their code, for the JVM to archive them as it ends
// (JEP 350). A limit keeps the archive of a large framework small.
const (
	preloadClass  = "AttunePreload"
	preloadSource = `import java.io.File;
import java.util.Enumeration;
import java.util.jar.JarEntry;
import java.util.jar.JarFile;

final class AttunePreload {
    public static void main(String[] args) throws Exception {
        int left = 6000;
        for (String path : System.getProperty("java.class.path").split(File.pathSeparator)) {
            try (JarFile jar = new JarFile(path)) {
                for (Enumeration<JarEntry> all = jar.entries(); all.hasMoreElements() && left > 0; ) {
                    String name = all.nextElement().getName();
                    if (!name.endsWith(".class") || name.startsWith("META-INF/") || name.endsWith("-info.class")) {
                        continue;
                    }
                    try {
                        Class.forName(name.substring(0, name.length() - 6).replace('/', '.'), false, AttunePreload.class.getClassLoader());
                        left--;
                    } catch (Throwable missing) {
                        // an optional dependency's
                    }
                }
            }
        }
    }
}
`
)

// archived is true where an archive pays: with libraries (Gson: 167 ms become 83 ms), not for a class or two of one's own, and not
// with a JVM before 13 (JEP 350).
func archived(in Input, libraries []string) bool {
	return len(libraries) > 0 && javaMajor(in.Interpreter.Version) >= 13
}

// dryRun proves that the program's class and its main method are there (java 9 and newer); nothing of it is run.
func (java) dryRun(ctx context.Context, in Input, site envcache.Site, program launch) error {
	if javaMajor(in.Interpreter.Version) < 9 {
		return nil
	}
	site.Phase("checking that " + program.Class + " can start")
	argv := append([]string{in.Interpreter.Path}, program.options(site.Dir)...)
	return jvm(in).run(ctx, site, append(argv, "-cp", pathList(program.classPath(site.Dir)), "--dry-run", program.Class)...)
}

// archive stores the classes as the JVM has them in memory; it then maps them instead of loading and verifying each. A JVM that cannot, or
// that refuses the archive later, starts as ever.
func (j java) archive(ctx context.Context, in Input, site envcache.Site, program *launch) error {
	site.Phase("archiving classes")
	archive := filepath.Join(site.Dir, archiveFile)
	argv := []string{in.Interpreter.Path, "-XX:ArchiveClassesAtExit=" + archive, "-cp", pathList(program.classPath(site.Dir)), preloadClass}
	if err := jvm(in).run(ctx, site, argv...); err == nil {
		if info, err := os.Stat(archive); err == nil {
			with := *program
			with.ArchiveSize = info.Size()
			if j.dryRun(ctx, in, site, with) == nil {
				*program = with
				return os.Chmod(archive, 0o600)
			}
		}
	}
	_ = os.Remove(archive)
	return context.Cause(ctx)
}

func jvm(in Input) *installer {
	tool := newInstaller(in, "java")
	tool.local = true
	return tool
}

// options let the JVM use the archive, and be silent when it cannot: its warnings go to stdout, among the action's output. An archive
// that was cut short is not named, for a JVM dies of it.
func (l launch) options(dir string) []string {
	archive := filepath.Join(dir, archiveFile)
	if info, err := os.Stat(archive); err != nil || info.Size() != l.ArchiveSize {
		return nil
	}
	return []string{"-XX:SharedArchiveFile=" + archive, "-Xshare:auto", "-Xlog:cds*=off"}
}

// javaMajor is 17 for "17.0.15" and 8 for "1.8.0"; 0 when there is no number.
func javaMajor(version string) int {
	first, _, _ := strings.Cut(strings.TrimPrefix(version, "1."), ".")
	major, _ := strconv.Atoi(first)
	return major
}

func (l launch) classPath(dir string) []string {
	var entries []string
	for _, jar := range l.Jars {
		entries = append(entries, filepath.Join(dir, jar))
	}
	return entries
}

func (java) Check(_ context.Context, _ Input, dir string) error {
	_, err := readLaunch(dir)
	return err
}

func readLaunch(dir string) (launch, error) {
	var program launch
	data, err := os.ReadFile(filepath.Join(dir, launchFile))
	if err == nil {
		err = json.Unmarshal(data, &program)
	}
	if err != nil {
		return launch{}, fmt.Errorf("%s: %w", filepath.Join(dir, launchFile), err)
	}
	return program, nil
}

func (j java) Command(in Input, env *envcache.Env) (Command, error) {
	if env == nil {
		if strings.HasSuffix(in.Script, ".jar") {
			return Command{Argv: []string{in.Interpreter.Path, "-jar", in.Script}}, nil
		}
		return interpreted(in, in.Interpreter.Path, runtime.Vars{})
	}
	program, err := readLaunch(env.Dir)
	if err != nil {
		return Command{}, err
	}
	argv := append([]string{in.Interpreter.Path}, program.options(env.Dir)...)
	source, err := os.ReadFile(in.Script)
	if err != nil {
		return Command{}, err
	}
	// Resources are read where they lie. The archive allows further entries at the end of the class path.
	classPath := append(program.classPath(env.Dir), javaSources(in, source)...)
	return Command{Argv: append(argv, "-cp", pathList(classPath), program.Class)}, nil
}
