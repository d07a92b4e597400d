package config

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/executor"
)

func load(t *testing.T, file string, environ ...string) Config {
	t.Helper()
	path := filepath.Join(t.TempDir(), "attune.yaml")
	require.NoError(t, os.WriteFile(path, []byte(file), 0o600))
	c, err := Load(Flags{}, Defaults{}, append([]string{"ATTUNE_CONFIG=" + path, "HOME=/home/me"}, environ...))
	require.NoError(t, err)
	return c
}

const workerYAML = `
broker: {nats: "nats://file:4222", store: pool, sync: relaxed}
worker:
  name: from-file
  concurrency: 3
  mode: agent
  labels: {zone: a, disk: ssd}
  taints: [gpu=yes]
  allow_actions: [core.*]
  allow_scripts: true
  trusted_keys: [deploy.pem, "ops=keys/ops.pem", "ed25519:AAAA="]
  grace: 5s
  http: 9464
`

func TestAWorkersFileVariablesAndFlags(t *testing.T) {
	c := load(t, workerYAML)
	w, err := c.Worker(WorkerFlags{})
	require.NoError(t, err)
	assert.Equal(t, "from-file", w.Name)
	assert.Equal(t, 3, w.Concurrency)
	assert.Equal(t, "agent", w.Mode.String())
	assert.Equal(t, map[string]string{"zone": "a", "disk": "ssd"}, w.Labels)
	assert.Equal(t, []executor.Taint{{Key: "gpu", Value: "yes"}}, w.Taints)
	assert.Equal(t, []string{"core.*"}, w.AllowActions)
	assert.True(t, w.AllowScripts)
	dir := filepath.Dir(c.File)
	assert.Equal(t, []string{dir + "/deploy.pem", "ops=" + dir + "/keys/ops.pem", "ed25519:AAAA="}, w.TrustedKeys)
	assert.Equal(t, 5*time.Second, w.Grace)
	assert.Equal(t, "127.0.0.1:9464", w.HTTP, "loopback unless told otherwise")

	c = load(t, workerYAML, "ATTUNE_WORKER_NAME=from-env", "ATTUNE_WORKER_CONCURRENCY=5", "ATTUNE_WORKER_ALLOW_SCRIPTS=false", "ATTUNE_WORKER_LABELS=zone=b")
	no := false
	w, err = c.Worker(WorkerFlags{Name: "from-flag", HTTP: "0.0.0.0:1", AllowScripts: &no})
	require.NoError(t, err)
	assert.Equal(t, "from-flag", w.Name)
	assert.Equal(t, 5, w.Concurrency)
	assert.Equal(t, map[string]string{"zone": "b"}, w.Labels)
	assert.False(t, w.AllowScripts)
	assert.Equal(t, "0.0.0.0:1", w.HTTP)
	assert.Contains(t, c.Settings, Setting{"worker.name", "from-flag", "--name"})
	assert.Contains(t, c.Settings, Setting{"worker.concurrency", "5", "ATTUNE_WORKER_CONCURRENCY"})
}

func TestWhereThePoolIs(t *testing.T) {
	c := load(t, workerYAML)
	b, err := c.Broker(BrokerFlags{})
	require.NoError(t, err)
	assert.Equal(t, "nats://file:4222", b.URL)
	assert.Equal(t, filepath.Join(filepath.Dir(c.File), "pool"), b.Store)
	assert.True(t, b.Relaxed)

	c = load(t, "", "ATTUNE_NATS_URL=nats://env:4222")
	b, err = c.Broker(BrokerFlags{})
	require.NoError(t, err)
	assert.Equal(t, Broker{URL: "nats://env:4222", Store: "/home/me/.local/share/attune/pool"}, b)
	b, err = c.Broker(BrokerFlags{Store: "/srv/pool"})
	require.NoError(t, err)
	assert.Equal(t, Broker{Store: "/srv/pool"}, b, "a store that is named wins over an inherited URL")
}

func TestSecretsOfTheBrokerAreNotShown(t *testing.T) {
	c := load(t, "broker: {nats: 'tls://ops:hidden@a:4222,tls://hidden@b:4222', user: ops, password: hidden}")
	b, err := c.Broker(BrokerFlags{})
	require.NoError(t, err)
	assert.Equal(t, []string{"tls://ops:hidden@a:4222,tls://hidden@b:4222", "ops", "hidden"}, []string{b.URL, b.User, b.Password})
	for _, s := range c.Settings {
		assert.NotContains(t, s.Value, "hidden", s.Key)
	}
	c = load(t, "", "ATTUNE_NATS_URL=nats://a:4222", "ATTUNE_NATS_TOKEN=hidden")
	b, err = c.Broker(BrokerFlags{})
	require.NoError(t, err)
	assert.Equal(t, "hidden", b.Token)
	b, err = c.Broker(BrokerFlags{Store: "/srv/pool"})
	require.NoError(t, err)
	assert.Empty(t, b.Token, "the embedded server knows none")
}

func TestWorkerSettingsThatAreNone(t *testing.T) {
	for file, want := range map[string]string{
		"worker: {mode: both}":                                "write worker or agent",
		"worker: {concurrency: -1}":                           "at least 1",
		"worker: {grace: soon}":                               "30s",
		"worker: {http: 'a:b:c'}":                             "host:port",
		"worker: {taints: ['a:b']}":                           "key=value",
		"broker: {sync: sometimes}":                           "always or relaxed",
		"broker: {cert: c.pem}":                               "both or neither",
		"broker: {nats: 'nats://a', user: u, token: t}":       "broker.user and broker.token: give one",
		"broker: {nats: 'nats://a', password: p}":             "needs broker.user",
		"broker: {nats: 'nats://a', credentials: f, user: u}": "give one",
		"worker: {allow_scripts: true}":                       "",
	} {
		c := load(t, file)
		_, err := c.Worker(WorkerFlags{})
		if err == nil {
			_, err = c.Broker(BrokerFlags{})
		}
		if want == "" {
			assert.NoError(t, err, file)
			continue
		}
		assert.ErrorContains(t, err, want, file)
	}
	_, err := Load(Flags{}, Defaults{}, []string{"ATTUNE_CONFIG=" + writeFile(t, "worker: {concurency: 1}")})
	assert.ErrorContains(t, err, "concurency")
}

func writeFile(t *testing.T, text string) string {
	path := filepath.Join(t.TempDir(), "attune.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}
