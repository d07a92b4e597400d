package deploy

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// work outlives single tests: the release and the Debian root are made once, by the first test that needs them.
var work string

func TestMain(m *testing.M) {
	code := func() int {
		var err error
		if work, err = os.MkdirTemp("", "attune-deploy-"); err != nil {
			panic(err)
		}
		defer func() { _ = os.RemoveAll(work) }()
		return m.Run()
	}()
	os.Exit(code)
}

const testVersion = "1.2.3"

var releaseOnce = sync.OnceValues(func() (string, error) { return buildRelease("..", filepath.Join(work, "release")) })

// releaseDir is a release of this source, for this architecture.
func releaseDir(t *testing.T) string {
	t.Helper()
	dir, err := releaseOnce()
	require.NoError(t, err)
	return dir
}

func buildRelease(source, out string) (string, error) {
	cmd := exec.Command("go", "run", "-trimpath", "./scripts/dist", "-version", "v"+testVersion, "-arch", runtime.GOARCH, "-out", out)
	cmd.Dir = source
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1700000000")
	if said, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, said)
	}
	return out, nil
}

func attuneRun(t *testing.T) string {
	return filepath.Join(releaseDir(t), "attune-run-linux-"+runtime.GOARCH)
}

// root is a directory that processes take for the whole file system.
type root string

// run runs a command in the root, without /proc and /dev unless they were mounted, and with an environment that holds only a PATH.
func (r root) run(t *testing.T, argv ...string) (string, error) {
	return r.mounted(t, "", "0:0", argv...)
}

// mounted runs it as a user, and after further mounts.
func (r root) mounted(t *testing.T, mounts, user string, argv ...string) (string, error) {
	t.Helper()
	// The mounts are the new namespace's alone and end with it.
	script := `root=$1 user=$2; shift 2
` + mounts + `
for d in proc dev; do [ ! -d "$root/$d" ] || mount --rbind /$d "$root/$d"; done
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$chroot" --userspec="$user" "$root" "$@"`
	cmd := exec.Command("unshare", append([]string{"--mount", "sh", "-c", "chroot=$(command -v chroot || echo /usr/sbin/chroot); " + script, "sh", string(r), user}, argv...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (r root) must(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := r.run(t, argv...)
	require.NoError(t, err, "%v: %s", argv, out)
	return out
}

// files are, sorted, the paths in the root, but for what package managers and processes write about themselves.
func (r root) files(t *testing.T) []string {
	t.Helper()
	var all []string
	require.NoError(t, filepath.WalkDir(string(r), func(path string, entry fs.DirEntry, err error) error {
		inside := strings.TrimPrefix(path, string(r))
		switch inside {
		case "/proc", "/dev", "/tmp", "/var/lib/dpkg", "/var/log", "/root", "/var/lib/rpm", "/usr/lib/sysimage":
			return filepath.SkipDir
		}
		all = append(all, inside)
		return err
	}))
	slices.Sort(all)
	return all
}

func (r root) copy(t *testing.T, from, to string) {
	t.Helper()
	target := filepath.Join(string(r), to)
	require.NoError(t, os.MkdirAll(filepath.Dir(target), 0o755))
	said, err := exec.Command("cp", "-r", from, target).CombinedOutput()
	require.NoError(t, err, "%s", said)
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("chroot(2) is root's")
	}
}

// The root takes a minute to make, so it is kept as an archive in the user's cache, one for each mirror and release.
var debianOnce = sync.OnceValues(func() (root, error) {
	dir := filepath.Join(work, "debian")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	caches, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	said, err := exec.Command("sh", "-ec", `
mirror=$(apt-get indextargets --format '$(RELEASE) $(SITE)' 'Created-By: Packages' | head -n 1)
kept=$1/attune-tests/debian-$(echo "$mirror" | sha256sum | cut -c 1-16).tar
if [ ! -e "$kept" ]; then
    mkdir -p "${kept%/*}"
    debootstrap --variant=minbase --include=python3-minimal "${mirror% *}" "$2" "${mirror#* }"
    tar -cf "$kept.$$" -C "$2" .
    mv "$kept.$$" "$kept"
else
    tar -xpf "$kept" -C "$2"
fi`, "sh", caches, dir).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("make a Debian root: %w: %s", err, said)
	}
	return root(dir), nil
})

// debian is a Debian of this machine's release and mirror, without Go; the tests leave it as they found it.
func debian(t *testing.T) root {
	t.Helper()
	needRoot(t)
	r, err := debianOnce()
	require.NoError(t, err)
	return r
}
