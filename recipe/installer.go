package recipe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/internal/redact"
	"github.com/attune-run/attune/proc"
)

// buildTimeout ends a build that hangs.
const buildTimeout = 15 * time.Minute

// hostVars reach every installer: how to find programs, the user's own configuration, the network.
var hostVars = []string{
	"PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", "NETRC",
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
	"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS",
	"SSH_AUTH_SOCK", "GIT_SSL_CAINFO", "GIT_SSH_COMMAND", "GIT_CONFIG_GLOBAL",
}

// installer is the environment and the words of one tool's runs.
type installer struct {
	name    string // as in errors
	env     map[string]string
	dir     string   // working directory
	secrets []string // credentials beside those of env, for the log to mask
	local   bool     // reaches no network: words like "timeout" in its output are the source's own
	offline bool     // may not reach the network, and does not say whether that was its trouble: any failure may be
}

// newInstaller passes on what every installer needs and the variables of the given families, which are names, or
// beginnings of names that end in "_". What would move the installation is left out.
func newInstaller(in Input, name string, families ...string) *installer {
	i := &installer{name: name, env: map[string]string{}, dir: in.PackDir}
	for _, entry := range in.HostEnv {
		name, value, _ := strings.Cut(entry, "=")
		if slices.Contains(hostVars, name) || inFamily(families, name) && !slices.Contains(moving, strings.ToUpper(name)) {
			i.env[name] = value
		}
	}
	return i
}

// moving are the variables that would put an installation elsewhere, or take it from elsewhere.
var moving = []string{
	"PIP_TARGET", "PIP_USER", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON", "PIP_REQUIREMENT", "PIP_EDITABLE", "PIP_SRC", "PIP_DRY_RUN",
	"PIP_REQUIRE_VIRTUALENV", "PIP_REPORT", "PIP_LOG", "PIP_IGNORE_INSTALLED", "PIP_NO_DEPS",
	"UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_PROJECT_ENVIRONMENT", "UV_PROJECT", "UV_WORKING_DIRECTORY", "UV_TARGET", "UV_PREFIX",
	"NPM_CONFIG_PREFIX", "NPM_CONFIG_GLOBAL", "NPM_CONFIG_LOCATION", "NPM_CONFIG_LOCAL_PREFIX", "NPM_CONFIG_GLOBAL_PREFIX", "NPM_CONFIG_DRY_RUN", "NPM_CONFIG_PACKAGE_LOCK_ONLY",
	"BUNDLE_PATH", "BUNDLE_GEMFILE", "BUNDLE_APP_CONFIG", "BUNDLE_BIN_PATH",
}

func inFamily(families []string, name string) bool {
	return slices.ContainsFunc(families, func(family string) bool {
		return name == family || strings.HasSuffix(family, "_") && strings.HasPrefix(name, family)
	})
}

// mayMiss is for installers that fail alike for want of the network and for other reasons.
func (i *installer) mayMiss(network Network) *installer {
	i.offline = network == Offline
	return i
}

func (i *installer) set(name, value string) { i.env[name] = value }

// cutOff takes the network from a tool that has no word for that: every proxy is a port where nobody listens (discard, RFC 863).
func (i *installer) cutOff() {
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "FTP_PROXY"} {
		i.set(name, "http://127.0.0.1:9")
		i.set(strings.ToLower(name), "http://127.0.0.1:9")
	}
	delete(i.env, "NO_PROXY")
	delete(i.env, "no_proxy")
}

// lookPath finds a program in the installer's PATH.
func (i *installer) lookPath(name string) (string, bool) { return lookPath(i.env["PATH"], name) }

func lookPath(path, name string) (string, bool) {
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			continue // a relative entry would mean something else in every directory
		}
		candidate := filepath.Join(dir, name)
		if info, err := os.Stat(candidate); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return candidate, true
		}
	}
	return "", false
}

// findScript finds a tool that is a script of the interpreter's language: beside the interpreter, else in PATH. A version manager's
// shim is none: the interpreter cannot run it, and it would lead to another one's tool.
func findScript(in Input, name, language string) (string, bool) {
	for _, dir := range append([]string{filepath.Dir(in.Interpreter.Path)}, filepath.SplitList(in.hostVar("PATH"))...) {
		path, found := lookPath(dir, name)
		if !found {
			continue
		}
		if first, err := firstLine(path); err == nil && strings.HasPrefix(first, "#!") && strings.Contains(first, language) {
			return path, true
		}
	}
	return "", false
}

func firstLine(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	return bufio.NewReader(io.LimitReader(f, 512)).ReadString('\n')
}

// run runs one command of the installer to its end, its output into the build's log. An exit code other than 0 is a
// *ToolFailure.
func (i *installer) run(ctx context.Context, site envcache.Site, argv ...string) error {
	var last tail
	log := io.MultiWriter(site.Log, &last)
	spec := proc.Spec{
		Argv: argv, Env: i.environ(), Dir: i.dir, Stdout: log, Stderr: log,
		Grace: 5 * time.Second, Secrets: i.credentials(),
	}
	if site.Hold != nil {
		spec.Hold = []*os.File{site.Hold}
	}
	exit, err := proc.Run(ctx, spec)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", i.name, err)
	case exit.Cause != nil:
		return fmt.Errorf("%s: %w", i.name, exit.Cause)
	case exit.Signal != 0 || exit.Code != 0:
		return i.failure(exit, last.buffer.Bytes())
	}
	return nil
}

// failure is a *ToolFailure whose class knows what this run was allowed to do.
func (i *installer) failure(exit proc.Exit, tail []byte) error {
	err := toolFailure(i.name, exit, tail)
	var failure *ToolFailure
	if errors.As(err, &failure) {
		switch {
		case i.local && failure.class == envcache.Transient:
			failure.class = envcache.Permanent
		case i.offline && !i.local:
			failure.class = envcache.Passing
		}
	}
	return err
}

func (i *installer) environ() []string {
	env := make([]string, 0, len(i.env))
	for name, value := range i.env {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	return env
}

// credentials are what must not appear in the log: passwords in addresses, and tokens.
func (i *installer) credentials() *redact.Set {
	set := redact.New(i.secrets...)
	for name, value := range i.env {
		if isCredential(name) {
			set.Add(value)
		}
		for _, password := range urlPasswords(value) {
			set.Add(password)
		}
	}
	return set
}

// urlPasswords are the passwords, or tokens alone, of the addresses in a text, as they are written and as they are meant.
func urlPasswords(text string) []string {
	var all []string
	for _, part := range strings.Split(text, "://")[1:] {
		at := strings.LastIndexByte(authority(part), '@')
		if at < 0 {
			continue
		}
		user := part[:at]
		_, secret, both := strings.Cut(user, ":")
		if !both {
			secret = user
		}
		all = append(all, secret)
		if meant, err := url.PathUnescape(secret); err == nil && meant != secret {
			all = append(all, meant)
		}
	}
	return all
}

// authority is the part of an address between "://" and its path.
func authority(rest string) string {
	if end := strings.IndexAny(rest, "/ \t\r\n\"'?#,"); end >= 0 {
		return rest[:end]
	}
	return rest
}

// netrcPasswords are the passwords of the user's netrc file, which installers read by themselves.
func netrcPasswords(in Input) []string {
	path := in.hostVar("NETRC")
	if path == "" {
		path = filepath.Join(in.hostVar("HOME"), ".netrc")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var passwords []string
	words := strings.Fields(string(data))
	for i := 1; i < len(words); i++ {
		if words[i-1] == "password" {
			passwords = append(passwords, words[i])
		}
	}
	return passwords
}

// isCredential tells by its name that a setting holds a credential.
func isCredential(name string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc([]string{"token", "password", "passwd", "secret", "_auth", "apikey", "api_key"}, func(part string) bool {
		return strings.Contains(name, part)
	})
}

// withoutCredentials drops "user:password@" from every address in a text.
func withoutCredentials(text string) string {
	words := strings.Split(text, "://")
	for i, word := range words[1:] {
		if at := strings.LastIndexByte(authority(word), '@'); at >= 0 {
			words[i+1] = word[at+1:]
		}
	}
	return strings.Join(words, "://")
}

func withoutCredentialsIn(data []byte) []byte { return []byte(withoutCredentials(string(data))) }

// variables are key inputs of the host's variables that change what is installed, credentials left out.
func variables(in Input, names ...string) []envcache.KeyInput {
	var inputs []envcache.KeyInput
	for _, entry := range in.HostEnv {
		name, value, _ := strings.Cut(entry, "=")
		if value == "" || isCredential(name) || !slices.Contains(names, name) {
			continue
		}
		input := envcache.KeyInput{Name: "variable:" + name, Value: withoutCredentials(value)}
		if !slices.ContainsFunc(inputs, func(i envcache.KeyInput) bool { return i.Name == input.Name }) {
			inputs = append(inputs, input)
		}
	}
	return inputs
}

// hostVar is one variable of the host's environment.
func (in Input) hostVar(name string) string {
	for _, entry := range slices.Backward(in.HostEnv) {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value
		}
	}
	return ""
}

// ToolError is an installer that a manifest needs and that is not there.
type ToolError struct {
	Tool     string
	Manifest string
	Remedy   string
}

// Error names the tool, the manifest and the remedy.
func (e *ToolError) Error() string {
	return fmt.Sprintf("%s needs %s, which is not in PATH; %s", e.Manifest, e.Tool, e.Remedy)
}

// Class is Passing: once the tool is there, the next build succeeds.
func (e *ToolError) Class() envcache.Class { return envcache.Passing }

// OfflineError is a build that would have needed the network where it must not be used.
type OfflineError struct {
	Manifest string
	Err      error
}

// Error names the manifest, what the tool said, and the remedy.
func (e *OfflineError) Error() string {
	return fmt.Sprintf("%s needs what was not downloaded before, and the network is off: %v; run once without --offline", e.Manifest, e.Err)
}

// Unwrap is the tool's failure.
func (e *OfflineError) Unwrap() error { return e.Err }

// Class is Passing: the same build succeeds with the network.
func (e *OfflineError) Class() envcache.Class { return envcache.Passing }

// offlineMiss makes an *OfflineError of a failure for want of the network; every other error stays as it is.
func offlineMiss(manifest string, err error) error {
	var failed *ToolFailure
	if errors.As(err, &failed) && failed.Signal == 0 && (missingOffline().Match(failed.output) || networkTrouble().Match(failed.output)) {
		return &OfflineError{Manifest: manifest, Err: err}
	}
	return err
}

// NotLockedError is a manifest that does not pin what it installs, where that was asked for.
type NotLockedError struct {
	Manifest string
	Remedy   string
}

// Error names the manifest and the remedy.
func (e *NotLockedError) Error() string {
	return fmt.Sprintf("%s is not locked; %s", e.Manifest, e.Remedy)
}

// errNoProbe is an Input without a way to ask for versions.
var errNoProbe = errors.New("no probe")

// toolVersion asks a tool for its version; empty when it does not tell.
func (in Input) toolVersion(ctx context.Context, name, path, pattern string) (string, error) {
	if in.Probe == nil {
		return "", errNoProbe
	}
	spec, err := toolSpec(name, pattern)
	if err != nil {
		return "", err
	}
	found, err := in.Probe(ctx, spec, path)
	return found.Version, err
}
