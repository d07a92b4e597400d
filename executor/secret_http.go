package executor

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	answerMax  = 4 << 20 // bytes of an answer: a secret, escaped
	retries    = 3       // of a server that is overloaded or about to be ready
	retryPause = 100 * time.Millisecond
)

// answer is what a server said.
type answer struct {
	status int
	body   []byte
}

// get asks until there is an answer that asking again would not change.
func get(ctx context.Context, client *http.Client, address string, header map[string]string, again func(answer, int) bool) (answer, error) {
	for attempt := 1; ; attempt++ {
		a, err := getOnce(ctx, client, address, header)
		if err != nil || !again(a, attempt) {
			return a, err
		}
		select {
		case <-time.After(retryPause * time.Duration(min(attempt, 10))):
		case <-ctx.Done():
			return a, context.Cause(ctx)
		}
	}
}

func overloaded(a answer, attempt int) bool {
	return attempt < retries && (a.status == http.StatusTooManyRequests || a.status >= 500 && a.status != http.StatusNotImplemented)
}

func getOnce(ctx context.Context, client *http.Client, address string, header map[string]string) (answer, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return answer{}, err
	}
	for name, value := range header {
		if value != "" {
			request.Header.Set(name, value)
		}
	}
	response, err := client.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, answerMax+1))
	if err == nil && len(body) > answerMax {
		err = fmt.Errorf("the answer has more than %d bytes", answerMax)
	}
	return answer{response.StatusCode, body}, err
}

// decode reads the answer's JSON; its errors do not show it.
func (a answer) decode(into any) error {
	decoder := json.NewDecoder(bytes.NewReader(a.body))
	decoder.UseNumber()
	if decoder.Decode(into) != nil {
		return errors.New("the answer is not the JSON it should be")
	}
	return nil
}

// words is the beginning of an answer that is an error's text.
func (a answer) words() string {
	text := strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, strings.TrimSpace(string(a.body[:min(len(a.body), 300)])))
	return fmt.Sprintf("HTTP %d: %s", a.status, strings.ToValidUTF8(text, ""))
}

// secretsManager asks AWS's Parameters and Secrets Lambda extension
// (docs.aws.amazon.com/secretsmanager/latest/userguide/retrieving-secrets_lambda.html).
func (r *resolver) secretsManager(ctx context.Context, ref reference) (document, error) {
	if err := ref.onlyQuery("versionId", "versionStage"); err != nil {
		return document{}, err
	}
	query := url.Values{"secretId": {ref.name}}
	for name, values := range ref.query {
		query[name] = values
	}
	a, err := r.extension(ctx, "/secretsmanager/get?"+query.Encode())
	if err != nil {
		return document{}, err
	}
	var secret struct {
		SecretString *string
		SecretBinary string // base64
	}
	if err := a.decode(&secret); err != nil {
		return document{}, err
	}
	if secret.SecretString != nil {
		return document{text: *secret.SecretString}, nil
	}
	data, err := base64.StdEncoding.DecodeString(secret.SecretBinary)
	if err != nil || len(data) == 0 {
		return document{}, errors.New("the answer is not the JSON it should be")
	}
	return document{text: string(data)}, nil
}

// parameterStore asks the same extension (docs.aws.amazon.com/systems-manager/latest/userguide/ps-integration-lambda-extensions.html).
func (r *resolver) parameterStore(ctx context.Context, ref reference) (document, error) {
	if err := ref.onlyQuery("version", "label"); err != nil {
		return document{}, err
	}
	query := url.Values{"name": {ref.name}, "withDecryption": {"true"}}
	for name, values := range ref.query {
		query[name] = values
	}
	a, err := r.extension(ctx, "/systemsmanager/parameters/get?"+query.Encode())
	if err != nil {
		return document{}, err
	}
	var parameter struct{ Parameter struct{ Value *string } }
	if err := a.decode(&parameter); err != nil {
		return document{}, err
	}
	if parameter.Parameter.Value == nil {
		return document{}, errors.New("the answer is not the JSON it should be")
	}
	return document{text: *parameter.Parameter.Value}, nil
}

// extension asks on the loopback, past every proxy. While a function starts the extension answers that it is not ready yet.
func (r *resolver) extension(ctx context.Context, path string) (answer, error) {
	const layer = "add the layer AWS-Parameters-and-Secrets-Lambda-Extension to the function; elsewhere use another kind of reference"
	token := r.env["AWS_SESSION_TOKEN"]
	if token == "" {
		return answer{}, secretFailure(layer, "AWS_SESSION_TOKEN is not set: this is no Lambda function")
	}
	port := first(r.env["PARAMETERS_SECRETS_EXTENSION_HTTP_PORT"], "2773")
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return answer{}, secretFailure("", "PARAMETERS_SECRETS_EXTENSION_HTTP_PORT is no port")
	}
	transport := &http.Transport{DisableKeepAlives: true}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	a, err := get(ctx, client, "http://localhost:"+port+path, map[string]string{"X-Aws-Parameters-Secrets-Token": token}, func(a answer, attempt int) bool {
		return overloaded(a, attempt) || a.status == http.StatusBadRequest && bytes.Contains(a.body, []byte("not ready"))
	})
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return a, secretFailure(layer, "the AWS Parameters and Secrets extension does not listen on localhost:%s", port)
	case err != nil:
		return a, withoutURL(err)
	case a.status != http.StatusOK:
		return a, secretFailure("the name, and what the function's role may read, decide", "the AWS extension answered %s", a.words())
	}
	return a, nil
}

// withoutURL drops what net/http puts before an error: the reference is named already.
func withoutURL(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

// vaultServer is HashiCorp Vault, or OpenBao, as its own variables describe it (developer.hashicorp.com/vault/docs/commands).
type vaultServer struct {
	address string
	header  map[string]string
	client  *http.Client
}

// vault reads a secret of the key-value engine, version 1 or 2 (developer.hashicorp.com/vault/api-docs/secret/kv). The path is the
// one `vault kv get` takes, or the API's own with data/ in it.
func (r *resolver) vault(ctx context.Context, ref reference) (document, error) {
	if err := ref.onlyQuery("version"); err != nil {
		return document{}, err
	}
	path := strings.Trim(ref.name, "/")
	if parts := strings.Split(path, "/"); slices.ContainsFunc(parts, func(p string) bool { return p == "" || p == "." || p == ".." }) {
		return document{}, secretFailure("write it as `vault kv get` takes it: secret/app", "the path has an empty, . or .. part")
	}
	server, err := r.vaultServer()
	if err != nil {
		return document{}, err
	}
	defer server.client.CloseIdleConnections()
	a, err := server.get(ctx, server.apiPath(ctx, path), ref.query)
	if err != nil {
		return document{}, err
	}
	if err := server.refusal(a); err != nil {
		return document{}, err
	}
	var secret struct{ Data map[string]any }
	if err := a.decode(&secret); err != nil || secret.Data == nil {
		return document{}, errors.New("the answer is not the JSON it should be")
	}
	inner, isVersion2 := secret.Data["data"].(map[string]any)
	if _, ok := secret.Data["metadata"].(map[string]any); ok && isVersion2 {
		return document{object: inner}, nil
	}
	return document{object: secret.Data}, nil
}

// apiPath asks where the engine is mounted and of which version it is, as Vault's own command does. Where that may not be
// asked, the path is taken as it is.
func (v *vaultServer) apiPath(ctx context.Context, path string) string {
	a, err := v.get(ctx, "sys/internal/ui/mounts/"+path, nil)
	if err != nil || a.status != http.StatusOK {
		return path
	}
	var mount struct {
		Data struct {
			Path    string
			Options map[string]any
		}
	}
	if a.decode(&mount) != nil || mount.Data.Options["version"] != "2" {
		return path
	}
	rest, ok := strings.CutPrefix(path+"/", mount.Data.Path)
	if rest = strings.TrimSuffix(rest, "/"); !ok || rest == "data" || strings.HasPrefix(rest, "data/") {
		return path
	}
	return mount.Data.Path + "data/" + rest
}

func (v *vaultServer) get(ctx context.Context, path string, query url.Values) (answer, error) {
	parts := strings.Split(path, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	address := v.address + "/v1/" + strings.Join(parts, "/")
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	a, err := get(ctx, v.client, address, v.header, overloaded)
	return a, withoutURL(err)
}

// refusal says what an answer that is no secret means.
func (v *vaultServer) refusal(a answer) error {
	var body struct{ Errors []string }
	_ = a.decode(&body)
	reason := strings.Join(body.Errors, ", ")
	switch {
	case a.status == http.StatusOK:
		return nil
	case a.status == http.StatusNotFound:
		return secretFailure("`vault kv get` takes the same path; a version may have been deleted", "%s has nothing there", v.address)
	case a.status == http.StatusForbidden:
		return secretFailure("`vault token lookup` shows whether the token is valid and which policies it has", "%s refuses: %s", v.address, first(reason, "HTTP 403"))
	case a.status == http.StatusServiceUnavailable:
		return secretFailure("`vault status` shows its state", "%s is sealed or down: %s", v.address, first(reason, "HTTP 503"))
	}
	return secretFailure("", "%s answered HTTP %d: %s", v.address, a.status, reason)
}

func (r *resolver) vaultServer() (*vaultServer, error) {
	address, err := url.Parse(strings.TrimRight(r.env["VAULT_ADDR"], "/"))
	if err != nil || address.Host == "" || address.Scheme != "https" && address.Scheme != "http" {
		return nil, secretFailure("set it to the server's address, https://vault.example.org:8200", "VAULT_ADDR is not set, or is no address")
	}
	token := r.env["VAULT_TOKEN"]
	if data, err := os.ReadFile(filepath.Join(r.env["HOME"], ".vault-token")); err == nil && token == "" {
		token = string(data)
	}
	if token = strings.TrimSpace(token); token == "" || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return nil, secretFailure("set VAULT_TOKEN, or log in with `vault login`", "there is no Vault token, or none that can be one")
	}
	config, err := r.vaultTLS()
	if err != nil {
		return nil, err
	}
	return &vaultServer{
		address: address.String(),
		header:  map[string]string{"X-Vault-Token": token, "X-Vault-Request": "true", "X-Vault-Namespace": r.env["VAULT_NAMESPACE"]},
		client: &http.Client{
			Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: config, ForceAttemptHTTP2: true},
			CheckRedirect: followVault,
		},
	}, nil
}

// followVault goes where a standby sends it, with the token, but never from https to http.
func followVault(request *http.Request, via []*http.Request) error {
	if len(via) > 2 || request.URL.Scheme != "https" && (via[0].URL.Scheme == "https" || request.URL.Host != via[0].URL.Host) {
		return fmt.Errorf("it sends the token to %s://%s, which is refused", request.URL.Scheme, request.URL.Host)
	}
	return nil
}

func (r *resolver) vaultTLS() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: r.env["VAULT_TLS_SERVER_NAME"]}
	config.InsecureSkipVerify, _ = strconv.ParseBool(r.env["VAULT_SKIP_VERIFY"])
	files := []string{}
	if file := r.env["VAULT_CACERT"]; file != "" {
		files = append(files, file)
	} else if dir := r.env["VAULT_CAPATH"]; dir != "" {
		files, _ = filepath.Glob(filepath.Join(dir, "*"))
	}
	for _, file := range files {
		if config.RootCAs == nil {
			config.RootCAs = x509.NewCertPool()
		}
		data, err := os.ReadFile(file)
		if err != nil || !config.RootCAs.AppendCertsFromPEM(data) {
			return nil, secretFailure("it holds the authority's certificate as PEM", "VAULT_CACERT, VAULT_CAPATH: %s holds no certificate that can be read", file)
		}
	}
	if file := r.env["VAULT_CLIENT_CERT"]; file != "" {
		pair, err := tls.LoadX509KeyPair(file, r.env["VAULT_CLIENT_KEY"])
		if err != nil {
			return nil, secretFailure("", "VAULT_CLIENT_CERT, VAULT_CLIENT_KEY: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
