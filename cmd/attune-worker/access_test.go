package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// authority signs certificates of a test.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // its certificate
}

func newAuthority(t *testing.T, name string) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	template := &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.file, _ = a.issue(name, template)
	text, err := os.ReadFile(a.file)
	require.NoError(t, err)
	block, _ := pem.Decode(text)
	a.cert, err = x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)
	return a
}

// issue signs a certificate, the authority's own with itself, and writes it and its key to files.
func (a *authority) issue(name string, template *x509.Certificate) (cert, key string) {
	a.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(a.t, err)
	template.SerialNumber, _ = rand.Int(rand.Reader, big.NewInt(1<<60))
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	template.NotBefore = time.Now().Add(-24 * time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer, a.key = template, private, private
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &private.PublicKey, signer)
	require.NoError(a.t, err)
	secret, err := x509.MarshalECPrivateKey(private)
	require.NoError(a.t, err)
	cert, key = filepath.Join(a.dir, name+".pem"), filepath.Join(a.dir, name+".key")
	require.NoError(a.t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(a.t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret}), 0o600))
	return cert, key
}

// server is a certificate for 127.0.0.1.
func (a *authority) server(name string, change ...func(*x509.Certificate)) (cert, key string) {
	template := &x509.Certificate{Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, c := range change {
		c(template)
	}
	return a.issue(name, template)
}

func (a *authority) client(name string, change ...func(*x509.Certificate)) (cert, key string) {
	template := &x509.Certificate{Subject: pkix.Name{CommonName: name}, EmailAddresses: []string{name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, c := range change {
		c(template)
	}
	return a.issue(name, template)
}

// startNATS starts a server with JetStream and whatever else its configuration says; it gives its address.
func startNATS(t *testing.T, config string) string {
	t.Helper()
	address := "127.0.0.1:" + freePort(t)
	file := filepath.Join(t.TempDir(), "nats.conf")
	config = fmt.Sprintf("listen: %q\njetstream { store_dir: %q }\nlogtime: false\n%s\n", address, t.TempDir(), config)
	require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
	program, err := exec.LookPath("nats-server")
	require.NoError(t, err)
	cmd := exec.Command(program, file)
	said := filepath.Join(t.TempDir(), "nats.log")
	out, err := os.Create(said)
	require.NoError(t, err)
	cmd.Stdout, cmd.Stderr = out, out
	require.NoError(t, cmd.Start())
	_ = out.Close()
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	require.Eventually(t, func() bool {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}, 30*time.Second, 20*time.Millisecond, said)
	return address
}

// attuneWorker runs a command to its end.
func attuneWorker(t *testing.T, env []string, args ...string) (code int, out string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "attune-worker", args...)
	cmd.Env = env
	text, err := cmd.CombinedOutput()
	require.NoError(t, ctx.Err(), "%s", text)
	if err != nil {
		require.IsType(t, &exec.ExitError{}, err)
	}
	return cmd.ProcessState.ExitCode(), string(text)
}

// isRefused wants one error with its remedy, from a client at once, and from a worker that is about to serve.
func isRefused(t *testing.T, env []string, want, hint string, flags ...string) {
	t.Helper()
	for _, command := range [][]string{{"ls"}, {"serve", "--mode", "agent", "--log-format", "json"}} {
		begun := time.Now()
		code, out := attuneWorker(t, env, append(command, flags...)...)
		assert.Equal(t, 125, code, "%s: %s", command[0], out)
		assert.Less(t, time.Since(begun), 8*time.Second, "nothing is tried again")
		assert.Equal(t, 1, strings.Count(out, "attune-worker: error: "), out)
		assert.Equal(t, 0, strings.Count(out, `"level":"WARN"`)+strings.Count(out, `"level":"ERROR"`), out)
		assert.Contains(t, out, "error: connect to ")
		assert.Contains(t, out, want)
		assert.Contains(t, out, "hint: "+hint)
		assert.NotContains(t, out, "hidden")
	}
}

// submitter submits something to a pool and says whom the record has as the one who did.
func submitter(t *testing.T, env []string, flags ...string) string {
	t.Helper()
	code, out := attuneWorker(t, env, append([]string{"submit", "core.noop", "--packs", "../../packs", "--idempotency-key", t.Name()}, flags...)...)
	require.Zero(t, code, out)
	code, out = attuneWorker(t, env, append([]string{"audit"}, flags...)...)
	require.Zero(t, code, out)
	_, who, _ := strings.Cut(out, `"who":"`)
	who, _, _ = strings.Cut(who, `"`)
	return who
}

func TestPasswordsAndTokens(t *testing.T) {
	t.Parallel()
	env := docsEnv(t)
	address := startNATS(t, `authorization { users: [{user: ops, password: hidden}] }`)
	flag := []string{"--nats", "nats://" + address}
	isRefused(t, env, "does not let anybody without credentials in", "--nats-creds", flag...)
	isRefused(t, append(env, "ATTUNE_NATS_USER=ops", "ATTUNE_NATS_PASSWORD=hidden?"), "does not let user ops in: nats: Authorization Violation", "--nats-creds", flag...)
	isRefused(t, env, "the user that the URL names", "--nats-creds", "--nats", "nats://ops:hiddenn@"+address)
	isRefused(t, env, "connect to "+address+": it is no URL", "write it like", "--nats", "nats://ops:hidden?@"+address)
	isRefused(t, env, "http:// is no protocol", "write it like", "--nats", "http://ops:hidden@"+address)
	assert.Equal(t, "ops", submitter(t, append(env, "ATTUNE_NATS_USER=ops", "ATTUNE_NATS_PASSWORD=hidden"), flag...))

	address = startNATS(t, `authorization { token: hidden }`)
	flag = []string{"--nats", "nats://" + address}
	isRefused(t, append(env, "ATTUNE_NATS_TOKEN=hidden?"), "does not let this token in", "--nats-creds", flag...)
	assert.NotEmpty(t, submitter(t, append(env, "ATTUNE_NATS_TOKEN=hidden"), flag...))
}

func TestUsersWithoutRights(t *testing.T) {
	t.Parallel()
	env := append(docsEnv(t), "ATTUNE_NATS_USER=ops", "ATTUNE_NATS_PASSWORD=hidden")
	address := startNATS(t, `accounts { A { jetstream: enabled, users: [{user: ops, password: hidden, permissions: {publish: ["a.>"]}}] } }`)
	isRefused(t, env, "Permissions Violation for Publish to", "give the pool an account", "--nats", "nats://"+address)
	address = startNATS(t, `accounts { A { users: [{user: ops, password: hidden}] } }`)
	isRefused(t, env, "JetStream not enabled for account", "the server's operator enables JetStream", "--nats", "nats://"+address)
}

func TestTLS(t *testing.T) {
	t.Parallel()
	env := docsEnv(t)
	own, other := newAuthority(t, "own"), newAuthority(t, "other")
	expired := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) }
	start := func(more string, cert, key string) []string {
		address := startNATS(t, fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q, %s }", cert, key, own.file, more))
		return []string{"--nats", "tls://" + address, "--nats-ca", own.file}
	}
	cert, key := own.server("good")
	good := start("", cert, key)
	assert.NotEmpty(t, submitter(t, env, good...))
	assert.NotEmpty(t, submitter(t, env, "--nats", strings.Replace(good[1], "tls:", "nats:", 1), "--nats-ca", own.file), "the server asks for TLS")
	isRefused(t, env, "certificate is not trusted", "--nats-ca", good[:2]...)
	isRefused(t, env, "certificate is not trusted", "--nats-ca", good[0], good[1], "--nats-ca", other.file)
	isRefused(t, env, "certificate authority: open "+own.dir+"/nothing.pem", "name a file", good[0], good[1], "--nats-ca", own.dir+"/nothing.pem")
	cert, key = own.server("expired", expired)
	isRefused(t, env, "certificate is not valid", "the server's operator must renew it", start("", cert, key)...)
	cert, key = own.server("elsewhere", func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"nats.example.org"} })
	isRefused(t, env, "certificate is another's", "write the server's address", start("", cert, key)...)
	isRefused(t, env, "do not agree on TLS", "write tls://", "--nats", "tls://"+startNATS(t, ""))

	cert, key = own.server("mutual")
	mutual := start("verify_and_map: true }\nauthorization { users: [{user: \"ada@example.org\"}]", cert, key)
	with := func(cert, key string) []string { return append(mutual[:4:4], "--nats-cert", cert, "--nats-key", key) }
	isRefused(t, env, "refuses this client's certificate", "--nats-cert and --nats-key", mutual...)
	assert.Equal(t, "ada@example.org", submitter(t, env, with(own.client("ada@example.org"))...))
	isRefused(t, env, "refuses this client's certificate", "--nats-cert and --nats-key", with(other.client("ada@example.org"))...)
	isRefused(t, env, "refuses this client's certificate", "--nats-cert and --nats-key", with(own.client("late@example.org", expired))...)
	isRefused(t, env, "does not let the user of "+own.dir+"/bob@example.org.pem in", "--nats-creds", with(own.client("bob@example.org"))...)
	first, _ := own.client("first")
	_, second := own.client("second")
	isRefused(t, env, "client certificate "+first+": tls: private key does not match", "it is PEM", with(first, second)...)
}

// operator issues accounts and users of a server that knows JWTs only.
type operator struct {
	t       *testing.T
	account nkeys.KeyPair
	config  string
}

func newKey(t *testing.T, make func() (nkeys.KeyPair, error)) (pair nkeys.KeyPair, public string) {
	pair, err := make()
	require.NoError(t, err)
	public, err = pair.PublicKey()
	require.NoError(t, err)
	return pair, public
}

func newOperator(t *testing.T) *operator {
	signer, operatorKey := newKey(t, nkeys.CreateOperator)
	system, systemKey := newKey(t, nkeys.CreateAccount)
	_ = system
	o := &operator{t: t}
	var accountKey string
	o.account, accountKey = newKey(t, nkeys.CreateAccount)
	claims := jwt.NewOperatorClaims(operatorKey)
	claims.SystemAccount = systemKey
	operatorJWT, err := claims.Encode(signer)
	require.NoError(t, err)
	account := jwt.NewAccountClaims(accountKey)
	account.Name = "pool"
	account.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
	accountJWT, err := account.Encode(signer)
	require.NoError(t, err)
	systemJWT, err := jwt.NewAccountClaims(systemKey).Encode(signer)
	require.NoError(t, err)
	o.config = fmt.Sprintf("operator: %s\nsystem_account: %s\nresolver: MEMORY\nresolver_preload: {\n%s: %s\n%s: %s\n}", operatorJWT, systemKey, accountKey, accountJWT, systemKey, systemJWT)
	return o
}

// user writes a credentials file.
func (o *operator) user(name string, expires time.Time) (file, public string) {
	pair, public := newKey(o.t, nkeys.CreateUser)
	claims := jwt.NewUserClaims(public)
	claims.Name = name
	if !expires.IsZero() {
		claims.Expires = expires.Unix()
	}
	token, err := claims.Encode(o.account)
	require.NoError(o.t, err)
	seed, err := pair.Seed()
	require.NoError(o.t, err)
	text, err := jwt.FormatUserConfig(token, seed)
	require.NoError(o.t, err)
	file = filepath.Join(o.t.TempDir(), name+".creds")
	require.NoError(o.t, os.WriteFile(file, text, 0o600))
	return file, public
}

func TestCredentialsFiles(t *testing.T) {
	t.Parallel()
	env := docsEnv(t)
	o := newOperator(t)
	flag := []string{"--nats", "nats://" + startNATS(t, o.config)}
	with := func(file string) []string { return append(flag[:2:2], "--nats-creds", file) }
	ada, key := o.user("ada", time.Time{})
	assert.Equal(t, "ada ("+key+")", submitter(t, env, with(ada)...))
	isRefused(t, env, "does not let anybody without credentials in", "--nats-creds", flag...)
	late, _ := o.user("late", time.Now().Add(-time.Hour))
	isRefused(t, env, "does not let the user of "+late+" in", "its credentials may have expired", with(late)...)
	stranger, _ := newOperator(t).user("eve", time.Time{})
	isRefused(t, env, "does not let the user of "+stranger+" in", "its credentials may have expired", with(stranger)...)
	isRefused(t, env, "credentials: open ", "name a file", with("/nowhere/ada.creds")...)
	empty := filepath.Join(t.TempDir(), "empty.creds")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	isRefused(t, env, "credentials "+empty, "it is what", with(empty)...)

	pair, public := newKey(t, nkeys.CreateUser)
	seed, err := pair.Seed()
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "user.nk")
	require.NoError(t, os.WriteFile(file, seed, 0o600))
	flag = []string{"--nats", "nats://" + startNATS(t, fmt.Sprintf("authorization { users: [{nkey: %s}] }", public))}
	assert.Equal(t, public, submitter(t, env, with(file)...))
	pair, _ = newKey(t, nkeys.CreateUser)
	seed, err = pair.Seed()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, seed, 0o600))
	isRefused(t, env, "does not let the user of "+file+" in", "its credentials may have expired", with(file)...)
}

// A worker whose password is taken away while it serves says so once, asks rarely, and goes on when it has it again.
func TestAWorkerThatIsNotLetInAnyMore(t *testing.T) {
	t.Parallel()
	env := append(docsEnv(t), "ATTUNE_NATS_USER=ops", "ATTUNE_NATS_PASSWORD=hidden")
	store := t.TempDir()
	config := func(user string) string {
		return fmt.Sprintf("authorization { users: [{user: %s, password: hidden}] }\n", user)
	}
	file, address := filepath.Join(t.TempDir(), "nats.conf"), "127.0.0.1:"+freePort(t)
	write := func(user string) {
		require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, "listen: %q\njetstream { store_dir: %q }\n%s", address, store, config(user)), 0o600))
	}
	write("ops")
	program, err := exec.LookPath("nats-server")
	require.NoError(t, err)
	server := exec.Command(program, file)
	require.NoError(t, server.Start())
	defer func() { _ = server.Process.Kill(); _ = server.Wait() }()

	said, err := os.Create(filepath.Join(t.TempDir(), "log"))
	require.NoError(t, err)
	defer func() { _ = said.Close() }()
	serve := exec.Command("attune-worker", "serve", "--mode", "agent", "--log-format", "json", "--nats", "nats://"+address)
	serve.Env, serve.Stderr = env, said
	require.NoError(t, serve.Start())
	defer func() { _ = serve.Process.Kill() }()
	log := func() string { text, _ := os.ReadFile(said.Name()); return string(text) }
	require.Eventually(t, func() bool { return strings.Contains(log(), `"msg":"ready"`) }, 60*time.Second, 20*time.Millisecond, log)

	write("others")
	require.NoError(t, server.Process.Signal(syscall.SIGHUP))
	require.Eventually(t, func() bool { return strings.Contains(log(), "does not let us in any more") }, 30*time.Second, 20*time.Millisecond)
	time.Sleep(3 * time.Second) // in which a storm would show
	assert.Equal(t, 1, strings.Count(log(), "does not let us in any more"), log())
	assert.Less(t, strings.Count(log(), "uthorization"), 5, log())
	require.NoError(t, serve.Process.Signal(syscall.SIGTERM))
	assert.NoError(t, serve.Wait(), log())
}
