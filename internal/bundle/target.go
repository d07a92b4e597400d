// Package bundle makes what a function service runs, an archive with attune, packs and their environments, and tries it out on
// this machine.
package bundle

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/executor"
)

// Target is where a bundle will run.
type Target struct {
	Name string // "lambda:python3.13-arm64"
	Arch string // as Go names it: "amd64", "arm64"

	image    bool   // a container image of the same base as this machine
	libc     string // as keys name it
	language string // the runtime that a managed one brings, as attune names it; empty: none
	version  string // of the language: "3.13"
}

// The C libraries of the systems that Lambda's runtimes are made of (https://docs.aws.amazon.com/linux/al2023/ug/compare-with-al2.html).
const (
	amazonLinux2023 = "glibc 2.34"
	amazonLinux2    = "glibc 2.26"
)

// architectures are Lambda's names for Go's.
var architectures = map[string]string{"x86_64": "amd64", "arm64": "arm64"}

// LambdaArch is Lambda's name of an architecture of Go's: "x86_64".
func LambdaArch(goarch string) string {
	for name, arch := range architectures {
		if arch == goarch {
			return name
		}
	}
	return goarch
}

// firstOn2023 are the first versions of the managed runtimes that are made of Amazon Linux 2023
// (https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtimes.html).
const (
	firstPythonOn2023 = 12
	firstNodeOn2023   = 20
)

// managedNames is compiled where it is needed, for every start of attune would pay for it.
const managedNames = `^(?:python3\.(\d+)|nodejs(\d+)\.x)$`

// ParseTarget reads "lambda:" and provided.al2023, python3.N, nodejsN.x or image, then "-x86_64" or "-arm64"; without an architecture it is this
// machine's. image is a container image with the interpreters of the machine that this runs on.
func ParseTarget(text string) (Target, error) {
	name, ok := strings.CutPrefix(text, "lambda:")
	t := Target{Arch: runtime.GOARCH}
	if at := strings.LastIndex(name, "-"); at >= 0 {
		if t.Arch = architectures[name[at+1:]]; t.Arch == "" {
			return t, fmt.Errorf("target %q: the architecture is x86_64 or arm64, not %q", text, name[at+1:])
		}
		name = name[:at]
	}
	match := regexp.MustCompile(managedNames).FindStringSubmatch(name)
	switch {
	case !ok || match == nil && name != "provided.al2023" && name != "image":
		return t, fmt.Errorf("target %q is not known; write lambda:provided.al2023, lambda:python3.13, lambda:nodejs22.x or lambda:image, "+
			"with -x86_64 or -arm64 behind it for another machine than this", text)
	case name == "image":
		t.image = true
	case match == nil:
		t.libc = amazonLinux2023
	case match[1] != "":
		t.language, t.version, t.libc = "python", "3."+match[1], base(match[1], firstPythonOn2023)
	default:
		t.language, t.version, t.libc = "node", match[2], base(match[2], firstNodeOn2023)
	}
	t.Name = "lambda:" + name + "-" + LambdaArch(t.Arch)
	return t, nil
}

func base(version string, first int) string {
	if n, err := strconv.Atoi(version); err == nil && n < first {
		return amazonLinux2
	}
	return amazonLinux2023
}

// Managed tells whether the target starts a program of its own, which a wrapper script replaces.
func (t Target) Managed() bool { return t.language != "" }

// interpreters is where managed runtimes have theirs.
const interpreters = "/var/lang/bin"

// osOnly are the runtimes that every target has.
var osOnly = map[string]bool{"shell": true, "native": true}

// has tells whether the target can run a runtime's scripts at all.
func (t Target) has(runtime string) bool {
	return t.image || osOnly[runtime] || runtime == t.language
}

// refuse tells why an environment that was planned on this machine, or an action without one, is of no use at the target; empty when it is of
// use. unplaced tells why nothing can be built at the path it will have; empty when it can.
func (t Target) refuse(row executor.Prepared, key envcache.Key, unplaced string) string {
	if !t.has(row.Runtime) {
		return fmt.Sprintf("%s brings no %s", t.Name, row.Runtime)
	}
	if row.Key == "" {
		return ""
	}
	var why []string
	say := func(format string, args ...any) { why = append(why, fmt.Sprintf(format, args...)) }
	if runtime.GOOS != "linux" {
		say("the target is Linux, and this machine is %s", runtime.GOOS)
	}
	if t.Arch != runtime.GOARCH {
		say("the target's architecture is %s, this machine's %s", LambdaArch(t.Arch), LambdaArch(runtime.GOARCH))
	}
	if here := libcOf(key); !t.image && here != t.libc {
		say("the target's C library is %s, this machine's %s", t.libc, here)
	}
	at := row.Interpreter
	switch {
	case t.image && below(at.Path, os.Getenv("HOME")):
		say("its interpreter %s is in a home directory, which a function has none of", at.Path)
	case t.Managed() && (filepath.Dir(at.Path) != interpreters || !strings.HasPrefix(at.Version+".", t.version+".")):
		say("the target's %s is %s in %s, the one here is %s, %s", t.language, t.version, interpreters, at.Version, at.Path)
	}
	if key.PathBound() && unplaced != "" {
		say("it carries its path, and %s", unplaced)
	}
	return strings.Join(why, "; ")
}

func libcOf(key envcache.Key) string {
	for _, input := range key.Inputs("") {
		if input.Name == envcache.LibCInput {
			return input.Value
		}
	}
	return ""
}

func below(path, dir string) bool {
	return dir != "" && dir != "/" && strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// layout is where a bundle's parts lie on the target.
type layout struct {
	root string // what the archive is unpacked at
	base string // below it, with slashes: what packs and cache are in; "" is root itself
}

// layout of a function, or of a layer, as Lambda unpacks them.
func (t Target) layout(layer bool) layout {
	if layer {
		return layout{root: "/opt", base: "attune"}
	}
	return layout{root: "/var/task"}
}

// Names in a bundle.
const (
	bootstrapName = "bootstrap"
	wrapperName   = "attune-exec"
	manifestName  = "attune-bundle.json"
	packsName     = "packs"
	cacheName     = "cache"
)

// cache is where environments lie.
func (l layout) cache() string { return filepath.Join(l.root, l.base, cacheName) }
