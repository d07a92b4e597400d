// Command dist builds what a release consists of: bare programs for containers, archives, Debian and RPM packages, a bill of
// materials and the checksums of all. The same source gives the same bytes, wherever and whenever it is built.
package main

import (
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/semver"
)

func main() {
	version := flag.String("version", "", "version, v1.2.3; else one of the commit")
	out := flag.String("out", "dist", "directory of the release's files; made anew")
	systems := flag.String("os", "linux,darwin", "operating systems")
	architectures := flag.String("arch", "amd64,arm64", "architectures")
	flag.Parse()
	if err := run(*version, *out, platforms(*systems, *architectures)); err != nil {
		fmt.Fprintln(os.Stderr, "dist:", err)
		os.Exit(1)
	}
}

// release is what is true of all of its files.
type release struct {
	version  string // semantic, without a leading v
	date     time.Time
	out      string
	work     string // temporary
	programs []string
}

// platform is what a program is built for, as Go names it.
type platform struct{ os, arch string }

func (p platform) String() string { return p.os + "-" + p.arch }

// platforms are all architectures of each system; both are separated by commas.
func platforms(systems, architectures string) (all []platform) {
	for _, os := range strings.Split(systems, ",") {
		for _, arch := range strings.Split(architectures, ",") {
			all = append(all, platform{os, arch})
		}
	}
	return all
}

// programsFor are those that work there: functions and workers are Linux's.
func (r *release) programsFor(p platform) []string {
	if p.os == "linux" {
		return r.programs
	}
	return []string{"attune-run"}
}

func run(version, out string, platforms []platform) error {
	r, err := newRelease(version, out)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(r.work) }()
	if err := r.manuals(); err != nil {
		return err
	}
	for _, p := range platforms {
		if err := r.build(p); err != nil {
			return err
		}
		if err := r.pack(p); err != nil {
			return err
		}
	}
	if err := r.billOfMaterials(platforms); err != nil {
		return err
	}
	return r.checksums()
}

func newRelease(version, out string) (*release, error) {
	r := &release{out: out}
	var err error
	if r.date, err = sourceDate(); err != nil {
		return nil, err
	}
	if r.version = strings.TrimPrefix(version, "v"); r.version == "" {
		if r.version, err = commitVersion(); err != nil {
			return nil, err
		}
	}
	if !semver.IsValid("v" + r.version) {
		return nil, fmt.Errorf("version %s is not semantic: write it like v1.2.3 or v1.2.3-rc.1", version)
	}
	if r.programs, err = programs(); err != nil {
		return nil, err
	}
	if err := empty(out); err != nil {
		return nil, err
	}
	r.work, err = os.MkdirTemp("", "attune-dist-")
	return r, err
}

// empty makes the directory anew, when it is an earlier release's or holds nothing.
func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "SHA256SUMS")); err != nil && len(entries) > 0 {
		return fmt.Errorf("%s holds files, and they are no release: name another directory", dir)
	}
	return errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755))
}

// sourceDate is the date of every file: SOURCE_DATE_EPOCH (reproducible-builds.org), else the commit's.
func sourceDate() (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		var err error
		if text, err = output("git", "log", "-1", "--format=%ct"); err != nil {
			return time.Time{}, err
		}
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH=%s is no number of seconds", text)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// commitVersion sorts below every release.
func commitVersion() (string, error) {
	revision, err := output("git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
	return "0.0.0-dev+" + strings.ReplaceAll(revision, "-", "."), err
}

// programs are the commands there are.
func programs() ([]string, error) {
	dirs, err := filepath.Glob("cmd/attune-*")
	for i, dir := range dirs {
		dirs[i] = filepath.Base(dir)
	}
	return dirs, err
}

// build makes the programs of one platform, which are release files themselves: attune-run-linux-amd64.
func (r *release) build(p platform) error {
	for _, program := range r.programsFor(p) {
		if err := r.compile(program, r.program(program, p), "GOOS="+p.os, "GOARCH="+p.arch, "GOAMD64=v1", "GOARM64=v8.0"); err != nil {
			return fmt.Errorf("for %s: %w", p, err)
		}
	}
	return nil
}

// compile builds one program; nothing of this directory or the time gets into it.
func (r *release) compile(program, to string, env ...string) error {
	args := []string{"build", "-trimpath", "-buildvcs=false", "-mod=readonly",
		"-ldflags", "-s -w -X github.com/attune-run/attune/internal/version.stamped=v" + r.version, "-o", to}
	if program == "attune-lambda" {
		args = append(args, "-tags", "lambda.norpc")
	}
	cmd := exec.Command("go", append(args, "./cmd/"+program)...)
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS="), env...)
	_, err := capture(cmd)
	return err
}

func (r *release) program(name string, p platform) string {
	return filepath.Join(r.out, name+"-"+p.String())
}

// manuals asks the programs themselves, built for this machine, for their manual pages and completions.
func (r *release) manuals() error {
	for _, program := range r.programs {
		self := filepath.Join(r.work, program)
		if err := r.compile(program, self); err != nil {
			return err
		}
		page, err := dated(r.date, append([]string{self}, manual(program)...)...)
		if err != nil {
			return err
		}
		if err := r.compress(program+".1.gz", page); err != nil {
			return err
		}
		for system, dir := range installed {
			if err := r.completions(self, program, system, dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// manual is how a program is asked for its manual page.
func manual(program string) []string {
	if program == "attune-lambda" {
		return []string{"--man", "roff"}
	}
	return []string{"man"}
}

// completed are the names whose command lines a program completes.
func completed(program string) []string {
	switch program {
	case "attune-run":
		return []string{"attune-run", "attune"}
	case "attune-worker":
		return []string{"attune-worker"}
	}
	return nil // a function is started by its platform
}

// shells are those that completions are made for.
var shells = []string{"bash", "zsh", "fish"}

// installed is where programs are installed, by system: completions call them there. Packages use it, and on macOS /usr/bin is the system's own.
var installed = map[string]string{"linux": "/usr/bin/", "darwin": "/usr/local/bin/"}

// completions keeps a program's scripts in the working directory, one for each shell: attune-run-linux.bash.
func (r *release) completions(self, program, system, dir string) error {
	names := completed(program)
	if len(names) == 0 {
		return nil
	}
	for _, shell := range shells {
		script, err := output(self, "completion", shell, "--program", dir+program)
		if err != nil {
			return err
		}
		if shell == "zsh" { // the first completion loads this file, and wants an answer
			script = "#compdef " + strings.Join(names, " ") + "\n" + script + "\n_bash_complete -o default -C " + dir + program
		}
		if err := os.WriteFile(filepath.Join(r.work, program+"-"+system+"."+shell), []byte(script+"\n"), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// checksums writes SHA256SUMS as sha256sum does.
func (r *release) checksums() error {
	entries, err := os.ReadDir(r.out)
	if err != nil {
		return err
	}
	var sums strings.Builder
	for _, entry := range entries {
		sum, err := digest(filepath.Join(r.out, entry.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%s  %s\n", sum, entry.Name())
	}
	return os.WriteFile(filepath.Join(r.out, "SHA256SUMS"), []byte(sums.String()), 0o644)
}

func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	hash := sha256.New()
	_, err = io.Copy(hash, f)
	return fmt.Sprintf("%x", hash.Sum(nil)), err
}

func dated(date time.Time, argv ...string) (string, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH="+strconv.FormatInt(date.Unix(), 10))
	return capture(cmd)
}

func output(argv ...string) (string, error) { return capture(exec.Command(argv[0], argv[1:]...)) }

// capture gives what a command prints, without the last newline.
func capture(cmd *exec.Cmd) (string, error) {
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return strings.TrimSuffix(string(out), "\n"), err
}
