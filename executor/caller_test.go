package executor

import (
	"context"
	"encoding/base64"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

var callerPack = map[string]string{
	"p/pack.yaml":             "ref: p\nversion: 1.0.0\n",
	"p/actions/stubborn.yaml": "ref: p.stubborn\nentry_point: stubborn.sh\n",
	"p/actions/stubborn.sh":   "trap '' TERM\necho started\nwhile :; do sleep 0.05; done\n",
	"p/actions/tell.yaml":     "ref: p.tell\nentry_point: tell.sh\noutput_format: json\nparameters: {own: {type: string, secret: true}}\n",
	"p/actions/tell.sh":       `read -r doc; echo "$(printf credential-of-host | base64)" >&2; echo "{\"said\":\"credential-of-host\",\"doc\":$doc}"` + "\n",
}

func TestACallersDeadlineIsATimeout(t *testing.T) {
	s := service(t, Config{Packs: []string{packs(t, callerPack)}, Grace: 50 * time.Millisecond})
	ctx, cancel := context.WithTimeout(context.Background(), 700*time.Millisecond)
	defer cancel()
	begun := time.Now()
	result := s.Execute(ctx, Request{Action: "p.stubborn"}, Observer{})
	assert.Less(t, time.Since(begun), 5*time.Second, "the service's grace applies")
	assert.Equal(t, TimedOut, result.Status, "%+v", result.Error)
	assert.Equal(t, ExitTimedOut, result.ExitCode)
	assert.Equal(t, "SIGKILL", result.Signal)
	assert.Equal(t, "started\n", result.Stdout)
}

func TestTheHostsOwnSecretsAreMaskedAlways(t *testing.T) {
	s := service(t, Config{Packs: []string{packs(t, callerPack)}, Masked: []string{"credential-of-host"}})
	for _, parameters := range []map[string]any{{}, {"own": "another-secret"}} {
		result := s.Execute(context.Background(), Request{Action: "p.tell", Parameters: parameters}, Observer{})
		assert.Equal(t, Succeeded, result.Status, "%+v", result.Error)
		text, err := result.JSON()
		assert.NoError(t, err)
		assert.NotContains(t, string(text), "credential-of-host")
		assert.NotContains(t, string(text), "another-secret")
		assert.NotContains(t, string(text), base64.StdEncoding.EncodeToString([]byte("credential-of-host")))
	}
}
