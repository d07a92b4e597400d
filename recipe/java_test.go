package recipe

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/proc"
	"github.com/attune-run/attune/runtime"
)

// javaPack is a pack whose actions the real JDK compiles.
func javaPack(t *testing.T, script string, files map[string]string, env ...string) Input {
	t.Helper()
	path, found := lookPath(os.Getenv("PATH"), "java")
	require.True(t, found, "java is missing")
	path, err := filepath.EvalSymlinks(path)
	require.NoError(t, err)
	out, err := exec.Command(path, "-version").CombinedOutput()
	require.NoError(t, err)
	in := input(t, "java", nil)
	in.PackDir = filepath.Join(t.TempDir(), "a [pack] with blanks")
	for name, text := range files {
		file := filepath.Join(in.PackDir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
	}
	in.Script = filepath.Join(in.PackDir, script)
	in.Interpreter.Path = path
	in.Interpreter.Version = regexp.MustCompile(`version "([\d.]+)`).FindStringSubmatch(string(out))[1]
	in.Downloads = filepath.Join(t.TempDir(), "downloads")
	in.HostEnv = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "JAVA_TOOL_OPTIONS=-Dleaked=yes", "MAVEN_OPTS=" + os.Getenv("MAVEN_OPTS")}, env...)
	in.Probe = func(context.Context, *runtime.Spec, string) (runtime.Interpreter, error) {
		return runtime.Interpreter{Version: "3.8.7"}, nil
	}
	return in
}

func TestAJavaScriptIsCompiledOnce(t *testing.T) {
	in := javaPack(t, "Hello.java", map[string]string{
		"Hello.java": "record Name(String text) {}\n\npublic class Hello {\n    public static void main(String[] args) throws Exception {\n" +
			"        System.out.print(new Name(\"hello\").text() + System.getProperty(\"leaked\") + new String(Hello.class.getResourceAsStream(\"x.txt\").readAllBytes()));\n    }\n}\n",
		"x.txt": "-resource", "Broken.java": "not java",
	})
	in.AdHoc = true
	env, err := attempt(t, in)
	require.NoError(t, err)
	assert.Equal(t, "hellonull-resource", ran(t, in, env))
	assert.True(t, env.Built.Locked)
}

func TestAJavaPackOfSeveralSourcesAndJarsStartsFromAnArchive(t *testing.T) {
	library := javaPack(t, "x", map[string]string{"lib/Shout.java": "package library;\n\npublic class Shout {\n    public static String of(String s) { return s.toUpperCase(); }\n}\n"})
	out, err := exec.Command(filepath.Join(filepath.Dir(library.Interpreter.Path), "javac"), "-d", filepath.Join(library.PackDir, "classes"),
		filepath.Join(library.PackDir, "lib/Shout.java")).CombinedOutput()
	require.NoError(t, err, "%s", out)

	in := javaPack(t, "actions/com/acme/Main.java", map[string]string{
		"actions/com/acme/Main.java": "package com.acme;\n\nimport library.Shout;\n\nclass Near { static String text() { return \"near\"; } }\n\npublic class Main {\n    public static void main(String[] args) throws Exception {\n" +
			"        System.out.print(Shout.of(Near.text()) + Helper.text() + new String(Main.class.getResourceAsStream(\"data.txt\").readAllBytes()) + Common.text());\n    }\n}\n",
		"actions/com/acme/Helper.java": "package com.acme;\n\nclass Helper { static String text() { return \"-helper-\"; } }\n",
		"actions/com/acme/data.txt":    "data-",
		"actions/Other.java":           "does not compile",
		"lib/Common.java":              "class NotThis {}\n",
		"lib/com/acme/Common.java":     "package com.acme;\n\nclass Common { static String text() { return \"common\"; } }\n",
	})
	require.NoError(t, writeJar(filepath.Join(library.PackDir, "classes"), filepath.Join(in.PackDir, "lib", "shout it.jar")))
	in.Locked = true
	env, err := attempt(t, in)
	require.NoError(t, err)
	assert.Equal(t, "NEAR-helper-data-common", ran(t, in, env))
	assert.True(t, env.Built.Locked)

	write(t, &in, "actions/com/acme/data.txt", "changed-")
	again, err := attempt(t, in)
	require.NoError(t, err)
	assert.Equal(t, envcache.Hit, again.State, "resources are read where they lie")
	assert.Equal(t, "NEAR-helper-changed-common", ran(t, in, again))
	write(t, &in, "actions/com/acme/Helper.java", "package com.acme;\n\nclass Helper { static String text() { return \"-new-\"; } }\n")
	env, err = attempt(t, in)
	require.NoError(t, err)
	assert.Equal(t, "NEAR-new-changed-common", ran(t, in, env))

	command, err := java{}.Command(in, env)
	require.NoError(t, err)
	archive := "-XX:SharedArchiveFile=" + filepath.Join(env.Dir, archiveFile)
	require.Contains(t, command.Argv, archive)

	// The action's class comes out of the archive.
	sources := exec.Command(command.Argv[0], append([]string{"-Xlog:class+load"}, command.Argv[1:]...)...)
	out, err = sources.CombinedOutput()
	require.NoError(t, err)
	assert.Regexp(t, `com.acme.Main source: shared objects file \(top\)`, string(out))

	// An archive that no longer fits is not used, and not spoken of.
	require.NoError(t, os.Rename(filepath.Join(env.Dir, actionJar), filepath.Join(env.Dir, "x")))
	data := mustRead(t, filepath.Join(env.Dir, "x"))
	require.NoError(t, os.WriteFile(filepath.Join(env.Dir, actionJar), append(data, 0), 0o600))
	assert.Equal(t, "NEAR-new-changed-common", ran(t, in, env))
	require.NoError(t, os.Truncate(filepath.Join(env.Dir, archiveFile), 4096))
	assert.Equal(t, "NEAR-new-changed-common", ran(t, in, env))
	command, err = java{}.Command(in, env)
	require.NoError(t, err)
	assert.NotContains(t, command.Argv, archive, "a JVM dies of half an archive")
}

func TestJavaSourcesThatCannotRun(t *testing.T) {
	for name, c := range map[string]struct{ source, want string }{
		"compile error": {"class Main { String timeout = connection_refused; }\n", "Main.java:1"},
		"no main":       {"class Main { void run() {} }\n", "ain method"},
		"no class":      {"// nothing\n", "declares no class"},
	} {
		t.Run(name, func(t *testing.T) {
			in := javaPack(t, "actions/Main.java", map[string]string{"actions/Main.java": c.source})
			assert.Contains(t, refused(t, in), c.want)
		})
	}
	in := javaPack(t, "Main.java", map[string]string{"Main.java": "class Main {}\n", "build.gradle": "plugins { id 'java' }\n"})
	assert.Contains(t, refused(t, in), "Gradle")
}

const pomHead = `<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
`

func pomOf(dependencies string) string {
	return pomHead + "  <groupId>pack</groupId><artifactId>pack</artifactId><version>1</version>\n  <dependencies>\n" + dependencies + "  </dependencies>\n</project>\n"
}

func dependency(group, name, version, more string) string {
	return "    <dependency><groupId>" + group + "</groupId><artifactId>" + name + "</artifactId><version>" + version + "</version>" + more + "</dependency>\n"
}

const gsonMain = `import com.google.gson.Gson;

public class Main {
    public static void main(String[] args) {
        System.out.print(new Gson().toJson(new int[] {1, 2}));
    }
}
`

// What Maven 3.8 and go say when a server is away, or refuses.
func TestWhatTheirServersSayIsTransient(t *testing.T) {
	for _, words := range []string{
		"Could not transfer artifact g:a:pom:1 from/to company (https://x): transfer failed for https://x/a.pom, status: 503 Service Unavailable",
		"Could not transfer artifact g:a:pom:1 from/to company (https://x): authentication failed for https://x/a.pom, status: 401 Unauthorized",
		"Could not transfer artifact g:a:pom:1 from/to company (https://x): x: Name or service not known",
		"Could not transfer artifact g:a:pom:1 from/to company (https://x): Connect to x:443 [x/192.0.2.1] failed: connect timed out",
		"example.com/greet@v1.2.3: reading https://x/example.com/greet/@v/v1.2.3.zip: 502 Bad Gateway",
		"example.com/greet@v1.2.3: Get \"https://x\": dial tcp: lookup x on 192.0.2.1:53: no such host",
	} {
		assert.Equal(t, envcache.Transient, classOf(t, toolFailure("tool", proc.Exit{Code: 1}, []byte(words))), words)
	}
	for _, words := range []string{
		"Could not resolve dependencies for project pack:pack:jar:1: Could not find artifact com.google.code.gson:no-such-thing:jar:1 in central (https://x)",
		"reading https://x/example.com/greet/@v/v1.9.9.mod: 404 Not Found",
		"verifying example.com/greet@v1.2.3: checksum mismatch",
	} {
		assert.Equal(t, envcache.Permanent, classOf(t, toolFailure("tool", proc.Exit{Code: 1}, []byte(words))), words)
	}
}

// One test, because its parts share what Maven downloads: its own plugins take longer than everything else.
func TestMaven(t *testing.T) {
	in := javaPack(t, "actions/Main.java", map[string]string{
		"actions/Main.java": gsonMain,
		"pom.xml":           pomOf(dependency("com.google.code.gson", "gson", "2.11.0", "") + dependency("junit", "junit", "4.13.2", "<scope>test</scope>")),
	})
	env, err := attempt(t, in)
	require.NoError(t, err)
	assert.Equal(t, "[1,2]", ran(t, in, env))
	assert.Equal(t, []string{"com.google.code.gson:gson==2.11.0", "com.google.errorprone:error_prone_annotations==2.27.0"}, env.Built.Resolved)
	assert.False(t, env.Built.Locked)
	assert.Contains(t, env.Inputs, envcache.KeyInput{Name: "installer", Value: "mvn 3.8.7", How: true})

	elsewhere := func(t *testing.T, files map[string]string, env ...string) Input {
		t.Helper()
		other := javaPack(t, "actions/Main.java", map[string]string{"actions/Main.java": gsonMain, "pom.xml": string(mustRead(t, filepath.Join(in.PackDir, "pom.xml")))}, env...)
		for name, text := range files {
			write(t, &other, name, text)
		}
		other.Downloads = filepath.Join(t.TempDir(), "downloads")
		require.NoError(t, os.Symlink(in.Downloads, other.Downloads))
		return other
	}
	t.Run("offline", func(t *testing.T) {
		other := elsewhere(t, nil, "MAVEN_OPTS=-Dmaven.wagon.http.retryHandler.count=0")
		other.Network = Offline
		assert.Equal(t, "[1,2]", printed(t, other))
		write(t, &other, "pom.xml", pomOf(dependency("com.google.code.gson", "gson", "2.8.9", "")))
		_, err := attempt(t, other)
		assert.ErrorContains(t, err, "com.google.code.gson:gson:jar:2.8.9")
		assert.ErrorContains(t, err, "offline mode")
		assert.Equal(t, envcache.Passing, classOf(t, err))
	})
	t.Run("prefer offline", func(t *testing.T) {
		other := elsewhere(t, map[string]string{"settings.xml": mirrorSettings("http://127.0.0.1:1", "x")}, "MAVEN_ARGS=-s settings.xml")
		other.Network = PreferOffline
		_, err := attempt(t, other)
		require.Error(t, err, "what came from another repository was not downloaded from this one")
		assert.Equal(t, envcache.Transient, classOf(t, err), "%v", err)
		other = elsewhere(t, map[string]string{"pom.xml": pomOf(dependency("com.google.code.gson", "gson", "2.10.1", ""))})
		other.Network = PreferOffline
		assert.Equal(t, "[1,2]", printed(t, other), "the rest is fetched")
	})
	t.Run("a mirror that wants a password", func(t *testing.T) { throughAMirror(t, elsewhere(t, nil), in.Downloads) })
	t.Run("parent, properties, provided", func(t *testing.T) {
		other := elsewhere(t, map[string]string{
			"../pom.xml": pomHead + "  <groupId>pack</groupId><artifactId>parent</artifactId><version>1</version><packaging>pom</packaging>\n" +
				"  <modules><module>a [pack] with blanks</module></modules>\n  <properties><gson>2.11.0</gson></properties>\n</project>\n",
			"pom.xml": pomHead + "  <parent><groupId>pack</groupId><artifactId>parent</artifactId><version>1</version></parent>\n  <artifactId>pack</artifactId>\n" +
				"  <dependencies>\n" + dependency("com.google.code.gson", "gson", "${gson}", "<scope>provided</scope>") + "  </dependencies>\n</project>\n",
			"actions/Main.java": strings.Replace(gsonMain, "new Gson().toJson(new int[] {1, 2})", "args.length == 0 ? \"compiled\" : new Gson().toJson(1)", 1),
		})
		before, _ := key(t, other)
		env, err := attempt(t, other)
		require.NoError(t, err)
		assert.Equal(t, "compiled", ran(t, other, env))
		assert.Empty(t, env.Built.Resolved, "provided is for compiling")
		parent := filepath.Join(filepath.Dir(other.PackDir), "pom.xml")
		require.NoError(t, os.WriteFile(parent, []byte(strings.Replace(string(mustRead(t, parent)), "2.11.0", "2.10.1", 1)), 0o644))
		after, _ := key(t, other)
		assert.NotEqual(t, before.ID("/"), after.ID("/"), "the parent is an input")
	})
	t.Run("settings that the project names", func(t *testing.T) {
		other := elsewhere(t, nil)
		require.NoError(t, os.Mkdir(filepath.Join(other.PackDir, ".mvn"), 0o755))
		write(t, &other, ".mvn/maven.config", "-s\nci.xml\n")
		write(t, &other, "ci.xml", mirrorSettings("http://127.0.0.1:1", "x"))
		require.NoError(t, os.Mkdir(filepath.Join(other.hostVar("HOME"), ".m2"), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(other.hostVar("HOME"), ".m2/settings.xml"), []byte("<settings/>"), 0o600))
		before, _ := key(t, other)
		_, err := attempt(t, other)
		assert.ErrorContains(t, err, "127.0.0.1:1")
		write(t, &other, "ci.xml", mirrorSettings("http://127.0.0.1:2", "x"))
		after, _ := key(t, other)
		assert.NotEqual(t, before.ID("/"), after.ID("/"))
	})
	t.Run("a missing artifact", func(t *testing.T) {
		other := elsewhere(t, map[string]string{"pom.xml": pomOf(dependency("com.google.code.gson", "no-such-thing", "1", ""))})
		message := refused(t, other)
		assert.Contains(t, message, "com.google.code.gson:no-such-thing:jar:1")
	})
	t.Run("a malformed pom.xml", func(t *testing.T) {
		other := elsewhere(t, map[string]string{"pom.xml": pomHead + "  <dependencies>\n"})
		assert.Contains(t, refused(t, other), "pom.xml:4: malformed XML")
		write(t, &other, "pom.xml", strings.Replace(pomOf(dependency("a", "b", "1", "<scopes>x</scopes>")), "<modelVersion>4.0.0</modelVersion>", "", 1))
		message := refused(t, other)
		assert.Contains(t, message, "scopes")
		assert.Contains(t, message, "@")
	})
	t.Run("no Maven", func(t *testing.T) {
		other := elsewhere(t, nil, "PATH=/nowhere")
		_, err := attempt(t, other)
		var missing *ToolError
		require.ErrorAs(t, err, &missing)
	})
}

const repositoryPassword = "hunter2-of-the-repository"

func mirrorSettings(url, password string) string {
	return "<settings>\n  <servers><server><id>company</id><username>ci</username><password>" + password + "</password></server></servers>\n" +
		"  <mirrors><mirror><id>company</id><mirrorOf>*</mirrorOf><url>" + url + "</url></mirror></mirrors>\n</settings>\n"
}

// throughAMirror resolves through a company's repository: what was downloaded before, served to who knows the password.
func throughAMirror(t *testing.T, in Input, downloads string) {
	var served atomic.Int32
	files := http.FileServer(http.Dir(filepath.Join(downloads, "maven")))
	repository := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != repositoryPassword {
			w.Header().Set("WWW-Authenticate", `Basic realm="company"`)
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		served.Add(1)
		files.ServeHTTP(w, r)
	}))
	defer repository.Close()
	home := in.hostVar("HOME")
	require.NoError(t, os.Mkdir(filepath.Join(home, ".m2"), 0o755))
	settings := filepath.Join(home, ".m2/settings.xml")
	put := func(text string) { require.NoError(t, os.WriteFile(settings, []byte(text), 0o600)) }
	plain, _ := key(t, in)
	in.Downloads = filepath.Join(t.TempDir(), "downloads") // nothing was downloaded from here yet

	put(mirrorSettings(repository.URL, "wrong"))
	first, _ := key(t, in)
	assert.NotEqual(t, plain.ID("/"), first.ID("/"), "a mirror is an input")
	_, err := attempt(t, in)
	require.Error(t, err)
	assert.Equal(t, envcache.Transient, classOf(t, err), "%v", err)
	assert.ErrorContains(t, err, "authentication failed for "+repository.URL)

	put(mirrorSettings(repository.URL, "${env.REPOSITORY_PASSWORD}"))
	in.HostEnv = append(in.HostEnv, "REPOSITORY_PASSWORD="+repositoryPassword)
	second, _ := key(t, in)
	assert.Equal(t, first.ID("/"), second.ID("/"), "a password is none")
	env, err := attempt(t, in)
	require.NoError(t, err)
	assert.Equal(t, "[1,2]", ran(t, in, env))
	assert.Positive(t, served.Load())
	for file, data := range everyFile(t, env.Root) {
		assert.NotContains(t, data, repositoryPassword, file)
	}
	for _, i := range second.Inputs("/") {
		assert.NotContains(t, i.Value, repositoryPassword)
	}
}
