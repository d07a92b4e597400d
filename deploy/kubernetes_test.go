package deploy

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v4"
)

// pod is what the tests read of a pod's specification.
type pod struct {
	InitContainers []container `yaml:"initContainers"`
	Containers     []container
	Volumes        []struct{ Name string }
}

type container struct {
	Name    string
	Command []string
	Env     []struct {
		Name, Value string
		ValueFrom   any `yaml:"valueFrom"`
	}
	VolumeMounts []struct {
		Name      string
		MountPath string `yaml:"mountPath"`
	} `yaml:"volumeMounts"`
	SecurityContext struct {
		AllowPrivilegeEscalation *bool `yaml:"allowPrivilegeEscalation"`
		ReadOnlyRootFilesystem   bool  `yaml:"readOnlyRootFilesystem"`
	} `yaml:"securityContext"`
}

func readPod(t *testing.T, file string) pod {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	var manifest struct {
		Spec struct{ Template struct{ Spec pod } }
	}
	require.NoError(t, yaml.Unmarshal(text, &manifest))
	return manifest.Spec.Template.Spec
}

func TestManifestsAreWhole(t *testing.T) {
	files, err := filepath.Glob("kubernetes/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		p := readPod(t, file)
		require.NotEmpty(t, p.InitContainers, file)
		for _, c := range slices.Concat(p.InitContainers, p.Containers) {
			where := file + ": " + c.Name
			assert.NotEmpty(t, c.Command, where)
			assert.True(t, c.SecurityContext.ReadOnlyRootFilesystem, where)
			require.NotNil(t, c.SecurityContext.AllowPrivilegeEscalation, where)
			assert.False(t, *c.SecurityContext.AllowPrivilegeEscalation, where)
			for _, mount := range c.VolumeMounts {
				assert.True(t, slices.ContainsFunc(p.Volumes, func(v struct{ Name string }) bool { return v.Name == mount.Name }), "%s mounts %s, which is no volume", where, mount.Name)
			}
		}
	}
}

// in runs the container's command in a root that stands for its image, as the manifests' user, with the volumes' directories mounted.
func (c container) in(t *testing.T, r root, volumes string, override map[string]string) string {
	t.Helper()
	mounts := "set -e\n"
	for _, m := range c.VolumeMounts {
		from := filepath.Join(volumes, m.Name)
		require.NoError(t, os.MkdirAll(from, 0o755))
		require.NoError(t, os.Chown(from, 65534, 65534))
		require.NoError(t, os.MkdirAll(filepath.Join(string(r), m.MountPath), 0o755))
		mounts += "mount --bind '" + from + "' '" + filepath.Join(string(r), m.MountPath) + "'\n"
	}
	env := []string{"env"}
	for _, e := range c.Env {
		value, overridden := override[e.Name]
		if !overridden {
			value = e.Value
		}
		env = append(env, e.Name+"="+value)
	}
	out, err := r.mounted(t, mounts, "65534:65534", append(env, c.Command...)...)
	require.NoError(t, err, out)
	return out
}

func busyboxRoot(t *testing.T) root {
	t.Helper()
	r := root(t.TempDir())
	require.NoError(t, os.Chmod(string(r), 0o755))
	for _, dir := range []string{"bin", "proc", "dev", "tmp", "usr"} {
		require.NoError(t, os.Mkdir(filepath.Join(string(r), dir), 0o755))
	}
	r.copy(t, look(t, "busybox"), "/bin/busybox")
	r.must(t, "/bin/busybox", "--install", "-s", "/bin")
	return r
}

func TestAJobRunsAnActionInAnyImage(t *testing.T) {
	needRoot(t)
	p := readPod(t, "kubernetes/job.yaml")
	image, volumes := busyboxRoot(t), t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(volumes), 0o755))
	image.copy(t, attuneRun(t), "/release/attune-run")
	image.copy(t, "../packs/core", "/release/opt/attune/packs/core")

	p.InitContainers[0].in(t, image, volumes, nil)
	assert.Equal(t, "hello from a pod\n", p.Containers[0].in(t, debian(t), volumes, nil))
}

func TestAWorkersInitContainerFetchesARelease(t *testing.T) {
	needRoot(t)
	p := readPod(t, "kubernetes/worker.yaml")
	image, volumes := busyboxRoot(t), t.TempDir()
	script, err := os.ReadFile("../scripts/attune-bootstrap.sh")
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Join(volumes, "bootstrap"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(volumes, "bootstrap", "attune-bootstrap.sh"), script, 0o644))
	served := newRelease(t)
	program, err := os.ReadFile(attuneRun(t))
	require.NoError(t, err)
	served.hold(string(program))

	p.InitContainers[0].in(t, image, volumes, map[string]string{
		"ATTUNE_URL": served.URL + "/v1", "ATTUNE_PROGRAMS": "attune-run", "ATTUNE_SUMS_SHA256": digest(served.sums()),
	})
	worker := p.Containers[0]
	assert.True(t, strings.HasPrefix(worker.Command[0], "/attune/attune-"), "started from where the init container put it")
	worker.Command = []string{"/attune/attune-run", "detect"}
	assert.Contains(t, worker.in(t, debian(t), volumes, nil), "/usr/bin/python3.")
}
