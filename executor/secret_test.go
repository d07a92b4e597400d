package executor

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// resolve resolves one reference as a local user does, in dir and with these variables beside PATH.
func resolve(t *testing.T, dir, reference string, environ ...string) (string, error) {
	t.Helper()
	s := service(t, Config{Environ: append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}, environ...)})
	values, err := s.Secrets(context.Background(), map[string]string{"it": reference}, &Local{Dir: dir})
	return values["it"], err
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o700))
	return path
}

func hint(err error) string {
	var hinted interface{ Hint() string }
	if asHinted, ok := err.(interface{ Hint() string }); ok {
		hinted = asHinted
		return hinted.Hint()
	}
	return ""
}

func TestLocalReferences(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "token.txt", "from-file\r\n")
	write(t, dir, "big", strings.Repeat("x", secretMax+1))
	require.NoError(t, syscall.Mkfifo(dir+"/fifo", 0o600))
	for reference, want := range map[string]string{
		"env:TOKEN": "from-env", "file:token.txt": "from-file", "file:~/token.txt": "from-file", "exec:printf from-exec; pwd >&2": "from-exec",
		"exec:cat token.txt": "from-file",
	} {
		got, err := resolve(t, dir, reference, "TOKEN=from-env")
		require.NoError(t, err, reference)
		assert.Equal(t, want, got, reference)
	}
	for reference, want := range map[string]string{
		"env:NONE":      "env:NONE: the variable NONE is not set",
		"file:none.txt": "no such file",
		"file:big":      "has more than 1048576 bytes",
		"file:fifo":     "is empty",
		"exec:exit 3":   "exited with 3",
		"exec:printf s3cretvalue; echo no s3cretvalue >&2; exit 1": "exited with 1: no ***",
		"exec:head -c 2000000 /dev/zero":                           "printed more than",
		"plainsecret":                                              "that is not a reference",
		"my:plain:password":                                        "that is not a reference",
		"vaul:secret/x#key":                                        "did you mean vault:?",
		"vault:x#":                                                 "nothing behind #",
		"env:":                                                     "names nothing",
	} {
		_, err := resolve(t, dir, reference)
		require.ErrorContains(t, err, want, reference)
		for _, never := range []string{"plain", "s3cret", "secret/x"} {
			assert.NotContains(t, err.Error(), never+"value", reference)
		}
		assert.NotContains(t, err.Error(), "plain:password")
	}
}

func TestEveryReferenceThatLeadsNowhereIsNamed(t *testing.T) {
	s := service(t, Config{Environ: []string{"A=value-of-a"}})
	values, err := s.Secrets(context.Background(), map[string]string{"one": "env:NONE", "two": "file:/no/where", "three": "env:A"}, &Local{})
	require.EqualError(t, err, "secret one: env:NONE: the variable NONE is not set; secret two: file:/no/where: open /no/where: no such file or directory")
	assert.Equal(t, "set it where attune is started", hint(err))
	assert.Equal(t, map[string]string{"three": "value-of-a"}, values)
}

// All references are resolved at the same time: each command waits for the other's.
func TestReferencesAreResolvedInParallel(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, syscall.Mkfifo(dir+"/a", 0o600))
	s := service(t, Config{Environ: os.Environ()})
	values, err := s.Secrets(context.Background(), map[string]string{"a": "exec:echo hello > a; echo wrote", "b": "exec:cat a"}, &Local{Dir: dir})
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"a": "wrote", "b": "hello"}, values)
}

// asked is a server that notes what it was asked.
type asked struct {
	*httptest.Server
	mu    sync.Mutex
	paths []string
}

func serve(t *testing.T, secure bool, handle func(w http.ResponseWriter, r *http.Request)) *asked {
	a := &asked{}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		a.paths = append(a.paths, r.URL.RequestURI())
		a.mu.Unlock()
		handle(w, r)
	})
	if secure {
		a.Server = httptest.NewUnstartedServer(handler)
		a.Config.ErrorLog = log.New(io.Discard, "", 0) // a certificate that is refused is what is tested
		a.StartTLS()
	} else {
		a.Server = httptest.NewServer(handler)
	}
	t.Cleanup(a.Close)
	return a
}

func TestAWSExtension(t *testing.T) {
	starting := 2
	server := serve(t, false, func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		switch {
		case starting > 0:
			starting--
			http.Error(w, "not ready to serve traffic, please wait", http.StatusBadRequest)
		case r.Header.Get("X-Aws-Parameters-Secrets-Token") != "session":
			http.Error(w, "token", http.StatusForbidden)
		case q.Get("secretId") == "prod/db" && q.Get("versionStage") == "AWSPREVIOUS":
			fmt.Fprint(w, `{"SecretString":"{\"password\":\"before\"}"}`)
		case q.Get("secretId") == "prod/db":
			fmt.Fprint(w, `{"ARN":"x","SecretString":"{\"user\":\"admin\",\"password\":\"p\\\"w\",\"port\":5432,\"n\":{\"x\":[1]}}"}`)
		case q.Get("secretId") == "arn:aws:secretsmanager:x:1:secret:bin-AbC":
			fmt.Fprintf(w, `{"SecretBinary":%q}`, base64.StdEncoding.EncodeToString([]byte("bytes")))
		case q.Get("name") == "/prod/token" && q.Get("withDecryption") == "true":
			fmt.Fprintf(w, `{"Parameter":{"Value":"token-%s%s"}}`, q.Get("version"), q.Get("label"))
		case q.Get("secretId") == "odd":
			fmt.Fprint(w, `{"nothing":"s3cretvalue"}`)
		case q.Get("secretId") == "down":
			http.Error(w, "try later", http.StatusInternalServerError)
		default:
			http.Error(w, "ResourceNotFoundException: can't find it", http.StatusBadRequest)
		}
	})
	address, err := url.Parse(server.URL)
	require.NoError(t, err)
	environ := []string{"AWS_SESSION_TOKEN=session", "PARAMETERS_SECRETS_EXTENSION_HTTP_PORT=" + address.Port(), "http_proxy=http://127.0.0.1:1", "HTTP_PROXY=http://127.0.0.1:1"}
	for reference, want := range map[string]string{
		"aws-sm:prod/db#password":                          `p"w`,
		"aws-sm:prod/db#port":                              "5432",
		"aws-sm:prod/db#n.x":                               "[1]",
		"aws-sm:prod/db?versionStage=AWSPREVIOUS#password": "before",
		"aws-sm:arn:aws:secretsmanager:x:1:secret:bin-AbC": "bytes",
		"aws-ssm:/prod/token":                              "token-",
		"aws-ssm:/prod/token?version=3":                    "token-3",
		"aws-ssm:/prod/token?label=live":                   "token-live",
	} {
		got, err := resolve(t, t.TempDir(), reference, environ...)
		require.NoError(t, err, reference)
		assert.Equal(t, want, got, reference)
	}
	for reference, want := range map[string]string{
		"aws-sm:prod/db#pasword":  "there is no key pasword",
		"aws-sm:prod/other":       "aws-sm:prod/other: the AWS extension answered HTTP 400: ResourceNotFoundException",
		"aws-sm:odd":              "not the JSON it should be",
		"aws-sm:down":             "HTTP 500: try later",
		"aws-ssm:/prod/x?stage=1": "there is no ?stage=",
	} {
		_, err := resolve(t, t.TempDir(), reference, environ...)
		require.ErrorContains(t, err, want, reference)
		assert.NotContains(t, err.Error()+hint(err), "s3cretvalue")
	}
	_, err = resolve(t, t.TempDir(), "aws-sm:prod/db#pasword", environ...)
	assert.Equal(t, "did you mean #password?", hint(err))
	_, err = resolve(t, t.TempDir(), "aws-sm:x")
	require.ErrorContains(t, err, "AWS_SESSION_TOKEN is not set")
	server.Close()
	_, err = resolve(t, t.TempDir(), "aws-sm:x", environ...)
	require.ErrorContains(t, err, "does not listen on localhost:"+address.Port())
	assert.Contains(t, hint(err), "AWS-Parameters-and-Secrets-Lambda-Extension")
}

// A document with many keys is asked for once.
func TestADocumentIsFetchedOnce(t *testing.T) {
	server := serve(t, false, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"SecretString":"{\"a\":\"1\",\"b\":\"2\"}"}`)
	})
	address, _ := url.Parse(server.URL)
	s := service(t, Config{Environ: []string{"AWS_SESSION_TOKEN=x", "PARAMETERS_SECRETS_EXTENSION_HTTP_PORT=" + address.Port()}})
	values, err := s.Secrets(context.Background(), map[string]string{"a": "aws-sm:x#a", "b": "aws-sm:x#b"}, &Local{})
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"a": "1", "b": "2"}, values)
	assert.Len(t, server.paths, 1)
}

// vault is a server that speaks as Vault does: an engine of version 1 at kv/, one of version 2 at team/secret/.
func vault(w http.ResponseWriter, r *http.Request) {
	refuse := func(status int, text string) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"errors":[%q]}`, text)
	}
	if r.Header.Get("X-Vault-Token") != "tok" || r.Header.Get("X-Vault-Request") != "true" {
		refuse(403, "permission denied")
		return
	}
	if r.Header.Get("X-Vault-Namespace") == "other" {
		fmt.Fprint(w, `{"data":{"in":"namespace"}}`)
		return
	}
	switch r.URL.Path {
	case "/v1/sys/internal/ui/mounts/kv/app":
		fmt.Fprint(w, `{"data":{"path":"kv/","type":"kv","options":{"version":"1"}}}`)
	case "/v1/sys/internal/ui/mounts/team/secret/app", "/v1/sys/internal/ui/mounts/team/secret/gone":
		fmt.Fprint(w, `{"data":{"path":"team/secret/","type":"kv","options":{"version":"2"}}}`)
	case "/v1/kv/app":
		fmt.Fprint(w, `{"data":{"password":"one","ttl":60}}`)
	case "/v1/team/secret/data/app":
		fmt.Fprintf(w, `{"data":{"data":{"password":"two%s","nested":{"a":true}},"metadata":{"version":4}}}`, r.URL.Query().Get("version"))
	case "/v1/team/secret/data/gone":
		w.WriteHeader(404)
		fmt.Fprint(w, `{"data":{"data":null,"metadata":{"deletion_time":"2026-01-01T00:00:00Z"}}}`)
	case "/v1/single/x":
		fmt.Fprint(w, `{"data":{"value":"only"}}`)
	case "/v1/down":
		refuse(503, "Vault is sealed")
	case "/v1/standby":
		http.Redirect(w, r, "http://127.0.0.1:1/v1/kv/app", http.StatusTemporaryRedirect)
	default:
		refuse(403, "permission denied")
	}
}

func TestVault(t *testing.T) {
	server := serve(t, true, vault)
	dir := t.TempDir()
	ca := write(t, dir, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	environ := []string{"VAULT_ADDR=" + server.URL, "VAULT_TOKEN=tok", "VAULT_CACERT=" + ca}
	for reference, want := range map[string]string{
		"vault:kv/app#password":                    "one",
		"vault:kv/app#ttl":                         "60",
		"vault:team/secret/app#password":           "two",
		"vault:team/secret/app?version=3#password": "two3",
		"vault:team/secret/app#nested.a":           "true",
		"vault:team/secret/data/app#password":      "two",
		"vault:/single/x":                          "only",
	} {
		got, err := resolve(t, dir, reference, environ...)
		require.NoError(t, err, reference)
		assert.Equal(t, want, got, reference)
	}
	for reference, want := range map[string]string{
		"vault:kv/app":             "holds 2 keys",
		"vault:kv/app#nothing":     "there is no key nothing",
		"vault:team/secret/gone#x": "has nothing there",
		"vault:secret/denied#x":    "refuses: permission denied",
		"vault:down#x":             "sealed or down: Vault is sealed",
		"vault:standby#x":          "is refused",
		"vault:kv/../sys/seal#x":   ".. part",
	} {
		_, err := resolve(t, dir, reference, environ...)
		require.ErrorContains(t, err, want, reference)
		assert.NotContains(t, err.Error(), "tok:")
	}
	got, err := resolve(t, dir, "vault:any#in", append(environ, "VAULT_NAMESPACE=other")...)
	require.NoError(t, err)
	assert.Equal(t, "namespace", got)

	write(t, dir, ".vault-token", "tok\n")
	got, err = resolve(t, dir, "vault:kv/app#password", environ[0], environ[2])
	require.NoError(t, err)
	assert.Equal(t, "one", got)

	_, err = resolve(t, dir, "vault:kv/app#password", environ[:2]...)
	require.ErrorContains(t, err, "certificate")
	_, err = resolve(t, dir, "vault:kv/app#password", environ[1:]...)
	require.ErrorContains(t, err, "VAULT_ADDR is not set")
	_, err = resolve(t, t.TempDir(), "vault:kv/app#password", environ[0], environ[2])
	require.ErrorContains(t, err, "there is no Vault token")
}

func ageFile(t *testing.T, to age.Recipient, armored bool, text string) string {
	var b bytes.Buffer
	out := io.Writer(&b)
	var wrapped io.WriteCloser
	if armored {
		wrapped = armor.NewWriter(&b)
		out = wrapped
	}
	w, err := age.Encrypt(out, to)
	require.NoError(t, err)
	_, err = io.WriteString(w, text)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	if wrapped != nil {
		require.NoError(t, wrapped.Close())
	}
	return b.String()
}

func TestAge(t *testing.T) {
	dir := t.TempDir()
	identity, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	other, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	keys := write(t, dir, "keys.txt", "# a comment\n"+identity.String()+"\n")
	environ := "ATTUNE_AGE_KEY_FILE=" + keys
	for name, text := range map[string]string{
		"raw.age": "all of it\n", "a.json.age": `{"k":"json","deep":{"er":"x"},"n":12345678901234567890}`, "a.yaml.age": "k: yaml\nn: 1.50\n",
		"a.env.age": "# no\nexport k='dot env'\nq=\"a\\nb\"\nbare=x # y\n", "any.age": "k=guessed\n",
	} {
		write(t, dir, name, ageFile(t, identity.Recipient(), name != "raw.age", text))
	}
	for reference, want := range map[string]string{
		"age:raw.age": "all of it", "age:a.json.age#k": "json", "age:a.json.age#deep.er": "x", "age:a.json.age#n": "12345678901234567890",
		"age:a.yaml.age#k": "yaml", "age:a.yaml.age#n": "1.50", "age:a.env.age#k": "dot env", "age:a.env.age#q": "a\nb", "age:a.env.age#bare": "x",
		"age:any.age#k": "guessed",
	} {
		got, err := resolve(t, dir, reference, environ)
		require.NoError(t, err, reference)
		assert.Equal(t, want, got, reference)
	}
	for _, elsewhere := range []string{"SOPS_AGE_KEY_FILE=" + keys, "SOPS_AGE_KEY=" + identity.String()} {
		got, err := resolve(t, dir, "age:raw.age", elsewhere)
		require.NoError(t, err)
		assert.Equal(t, "all of it", got)
	}
	s := service(t, Config{Environ: []string{"HOME=" + dir}})
	values, err := s.Secrets(context.Background(), map[string]string{"it": "age:raw.age"}, &Local{Dir: dir, AgeIdentity: "keys.txt"})
	require.NoError(t, err)
	assert.Equal(t, "all of it", values["it"])

	write(t, dir, "cut.age", ageFile(t, identity.Recipient(), false, strings.Repeat("s3cretvalue", 10))[:300])
	write(t, dir, "other.age", ageFile(t, other.Recipient(), false, "x"))
	write(t, dir, "plain.age", "s3cretvalue in plain\n")
	write(t, dir, "bad.txt", identity.String()[:40]+"\n")
	for reference, want := range map[string]string{
		"age:other.age":     "none of the age identities of " + keys + " opens it",
		"age:plain.age":     "is no file that age encrypted",
		"age:cut.age":       "was cut short or altered",
		"age:raw.age#k":     "is no YAML with keys",
		"age:a.json.age#kk": "there is no key kk",
		"age:none.age":      "no such file",
	} {
		_, err := resolve(t, dir, reference, environ)
		require.ErrorContains(t, err, want, reference)
		assert.NotContains(t, err.Error()+hint(err), "s3cretvalue")
	}
	_, err = resolve(t, dir, "age:raw.age")
	require.ErrorContains(t, err, "no age identity")
	assert.Contains(t, hint(err), "--age-identity")
	_, err = resolve(t, dir, "age:raw.age", "ATTUNE_AGE_KEY_FILE="+dir+"/bad.txt")
	require.ErrorContains(t, err, "bad.txt holds no age identity")
	assert.NotContains(t, err.Error(), identity.String()[:40])
}

// The program sops is stood in for by one that takes the same arguments.
func TestSops(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "bin/sops", `#!/bin/sh
[ "$1" = --decrypt ] && shift || exit 9
case "$*" in
*bad.yaml) echo "Failed to get the data key required to decrypt the SOPS file." >&2; exit 128;;
"--output-type json $PWD/s.yaml") echo '{"db": {"password": "pw"}, "keys": "'"$SOPS_AGE_KEY_FILE"'"}';;
"$PWD/s.yaml") printf 'db:\n    password: pw\n';;
*) exit 8;;
esac
`)
	write(t, dir, "s.yaml", "db: ENC[]")
	write(t, dir, "bad.yaml", "db: ENC[]")
	path := "PATH=" + dir + "/bin:" + os.Getenv("PATH")
	for reference, want := range map[string]string{
		"sops:s.yaml#db.password": "pw", "sops:s.yaml": "db:\n    password: pw", "sops:s.yaml#keys": "/keys",
	} {
		got, err := resolve(t, dir, reference, path, "ATTUNE_AGE_KEY_FILE=/keys")
		require.NoError(t, err, reference)
		assert.Equal(t, want, got, reference)
	}
	_, err := resolve(t, dir, "sops:bad.yaml#x", path)
	require.ErrorContains(t, err, "sops exited with 128: Failed to get the data key")
	_, err = resolve(t, dir, "sops:none.yaml#x", path)
	require.ErrorContains(t, err, "no such file")
	_, err = resolve(t, dir, "sops:s.yaml#x", "PATH=/nowhere")
	require.ErrorContains(t, err, "the program sops is not in PATH")
}

// Requests from elsewhere get what the operator named, and no more.
func TestProvidersBoundRequestsFromElsewhere(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "secrets/token", "from-dir\n")
	write(t, dir, "outside", "never")
	require.NoError(t, os.Symlink("../outside", dir+"/secrets/link"))
	require.NoError(t, os.Symlink("token", dir+"/secrets/inner"))
	require.NoError(t, syscall.Mkfifo(dir+"/secrets/fifo", 0o600))
	command := write(t, dir, "get", "#!/bin/sh\n[ \"$2\" = fail ] && { echo from-fail >&2; exit 1; }\necho \"$1 $2\"\n")
	server := serve(t, false, vault)
	environ := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "DEPLOY_TOKEN=deploy", "OTHER=never", "VAULT_ADDR=" + server.URL, "VAULT_TOKEN=tok"}
	s := service(t, Config{Environ: environ, Providers: Providers{
		"env": {Prefixes: []string{"DEPLOY_"}}, "file": {Dir: dir + "/secrets"}, "exec": {Command: []string{command, "fixed"}}, "vault": {Prefixes: []string{"kv/"}},
	}})
	get := func(reference string) (string, error) {
		values, err := s.Secrets(context.Background(), map[string]string{"it": reference}, nil)
		return values["it"], err
	}
	for reference, want := range map[string]string{
		"env:DEPLOY_TOKEN": "deploy", "file:token": "from-dir", "file:" + dir + "/secrets/token": "from-dir", "file:inner": "from-dir",
		"exec:name/x": "fixed name/x", "vault:kv/app#password": "one", "vault:/kv/app#password": "one",
	} {
		got, err := get(reference)
		require.NoError(t, err, reference)
		assert.Equal(t, want, got, reference)
	}
	for reference, want := range map[string]string{
		"env:OTHER":                     "outside what may be asked for",
		"file:../outside":               "outside what may be asked for",
		"file:" + dir + "/outside":      "outside what may be asked for",
		"file:link":                     "escapes",
		"file:fifo":                     "is no regular file",
		"exec:$(id)":                    "a name holds letters",
		"exec:-x":                       "a name holds letters",
		"exec:fail":                     "the command exited with 1",
		"vault:team/secret/app#x":       "outside what may be asked for",
		"vault:kv/../team/secret/app#x": ".. part",
		"aws-sm:x":                      "no provider for aws-sm: references",
		"age:x":                         "no provider for age: references",
		"sops:x":                        "no provider for sops: references",
	} {
		_, err := get(reference)
		require.ErrorContains(t, err, want, reference)
		assert.NotContains(t, err.Error(), "from-fail")
	}
}

func TestProvidersThatBoundNothingAreRefused(t *testing.T) {
	for want, p := range map[string]Providers{
		"secrets.providers.env: it takes prefixes":                               {"env": {}},
		"secrets.providers.env: a prefix must not match every name":              {"env": {Prefixes: []string{"*"}}},
		"secrets.providers.vault: a prefix must not":                             {"vault": {Prefixes: []string{""}}},
		"secrets.providers.file: it takes dir, an absolute path":                 {"file": {Dir: "x"}},
		"secrets.providers.exec: it takes command":                               {"exec": {Command: []string{"get"}}},
		"secrets.providers.vaul: there is no such provider; did you mean vault?": {"vaul": {}},
	} {
		_, err := New(Config{CacheDir: t.TempDir(), Providers: p})
		require.ErrorContains(t, err, want)
	}
}

// A variable that holds a secret is not handed over as well because a glob asks for it.
func TestASecretsVariableIsNotPassedOn(t *testing.T) {
	dir := packs(t, map[string]string{
		"p/pack.yaml":      "ref: p\nversion: 1.0.0\n",
		"p/actions/e.yaml": "ref: p.e\nentry_point: e.sh\npass_env: ['DEPLOY_*']\nparameters: {token: {type: string, secret: true}}\n",
		"p/actions/e.sh":   "env\n",
	})
	s := service(t, Config{Packs: []string{dir}, AllowEnv: []string{"DEPLOY_*"},
		Environ: []string{"PATH=" + os.Getenv("PATH"), "DEPLOY_TOKEN=correct-horse", "DEPLOY_HOST=h"}})
	result := s.Execute(context.Background(), Request{Action: "p.e", Secrets: map[string]string{"token": "env:DEPLOY_TOKEN"}, Local: &Local{}}, Observer{})
	require.Nil(t, result.Error)
	assert.Contains(t, result.Stdout, "DEPLOY_HOST=h")
	assert.NotContains(t, result.Stdout, "DEPLOY_TOKEN")
	result = s.Execute(context.Background(), Request{Action: "p.e", Secrets: map[string]string{"TOKEN": "env:DEPLOY_TOKEN"}, SecretEnv: []string{"TOKEN"}, Local: &Local{}}, Observer{})
	require.Nil(t, result.Error)
	assert.Contains(t, result.Stdout, "TOKEN=***")
	result = s.Execute(context.Background(), Request{Action: "p.e", SecretEnv: []string{"TOKEN=env:DEPLOY_TOKEN"}, Local: &Local{}}, Observer{})
	assert.Contains(t, result.Error.Message, "is not the name of a secret")
	assert.Contains(t, result.Error.Hint, "--secret TOKEN=env:DEPLOY_TOKEN --secret-env TOKEN")
}

func TestWhatAParameterOrVariableCannotHold(t *testing.T) {
	dir := packs(t, map[string]string{
		"p/pack.yaml":      "ref: p\nversion: 1.0.0\n",
		"p/actions/s.yaml": "ref: p.s\nentry_point: s.sh\noutput_format: json\nparameters: {token: {type: string, secret: true}}\n",
		"p/actions/s.sh":   "cat\n",
	})
	secrets := t.TempDir()
	s := service(t, Config{Packs: []string{dir}, Providers: Providers{"file": {Dir: secrets}}})
	run := func(content string, secretEnv ...string) Result {
		write(t, secrets, "token", content)
		return s.Execute(context.Background(), Request{Action: "p.s", Secrets: map[string]string{"token": "file:token"}, SecretEnv: secretEnv}, Observer{})
	}
	result := run("\xff\xfe binary")
	assert.Contains(t, result.Error.Message, "secret token is no UTF-8 text")
	result = run("a\x00b", "token")
	assert.Contains(t, result.Error.Message, "secret token holds a NUL byte")

	// What a mask would break in JSON is masked after it has been read: a quote, and a number.
	result = run(`va"lue","x":"y`)
	require.Nil(t, result.Error)
	assert.Equal(t, map[string]any{"token": "***"}, result.Result)
	assert.Equal(t, "{\"token\":\"***\"}\n", result.Stdout)
}
