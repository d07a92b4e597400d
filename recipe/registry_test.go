package recipe

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// registry is an npm registry on the loopback interface that holds what a test publishes.
type registry struct {
	*httptest.Server
	mu       sync.Mutex
	token    string // wanted as a bearer token; empty: nobody is asked
	user     string // "name:password" that is wanted; empty: nobody is asked
	fail     int    // a status for every answer; 0: none
	packages map[string]map[string]published
	requests int
}

type published struct {
	manifest map[string]any
	tarball  []byte
}

func newRegistry(t *testing.T, token string) *registry {
	t.Helper()
	r := &registry{token: token, packages: map[string]map[string]published{}}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

// publish makes a package of files; manifest is its package.json beside name and version.
func (r *registry) publish(t *testing.T, name, version string, manifest map[string]any, files map[string]string) {
	t.Helper()
	full := map[string]any{"name": name, "version": version, "main": "index.js", "license": "MIT"}
	for k, v := range manifest {
		full[k] = v
	}
	text, err := json.Marshal(full)
	require.NoError(t, err)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.packages[name] == nil {
		r.packages[name] = map[string]published{}
	}
	all := map[string]string{"package.json": string(text)}
	for file, content := range files {
		all[file] = content
	}
	r.packages[name][version] = published{full, npmTarball(t, all)}
}

// npmTarball is a package as registries hold it.
func npmTarball(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	archive := tar.NewWriter(zip)
	for name, content := range files {
		require.NoError(t, archive.WriteHeader(&tar.Header{Name: "package/" + name, Mode: 0o644, Size: int64(len(content)), ModTime: time.Unix(1e9, 0)}))
		_, err := archive.Write([]byte(content))
		require.NoError(t, err)
	}
	require.NoError(t, archive.Close())
	require.NoError(t, zip.Close())
	return out.Bytes()
}

func integrity(data []byte) string {
	sum := sha512.Sum512(data)
	return "sha512-" + base64.StdEncoding.EncodeToString(sum[:])
}

func (r *registry) set(change func(r *registry)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(r)
}

func (r *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests++
	path, _ := url.PathUnescape(strings.TrimPrefix(req.URL.EscapedPath(), "/"))
	switch {
	case r.user != "" && req.Header.Get("Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte(r.user)):
		http.Error(w, `{"error":"who are you?"}`, http.StatusUnauthorized)
		return
	case r.token != "" && req.Header.Get("Authorization") != "Bearer "+r.token:
		http.Error(w, `{"error":"authentication required"}`, http.StatusUnauthorized)
		return
	case r.fail != 0:
		http.Error(w, `{"error":"on purpose"}`, r.fail)
		return
	}
	if name, file, isTarball := strings.Cut(path, "/-/"); isTarball {
		for version, p := range r.packages[name] {
			if strings.HasSuffix(file, "-"+version+".tgz") {
				_, _ = w.Write(p.tarball)
				return
			}
		}
	}
	versions, found := r.packages[path]
	if !found {
		http.Error(w, `{"error":"Not found"}`, http.StatusNotFound)
		return
	}
	document := map[string]any{"name": path}
	listed, times, latest := map[string]any{}, map[string]string{}, ""
	for version, p := range versions {
		full := map[string]any{"dist": map[string]any{
			"tarball": fmt.Sprintf("%s/%s/-/%s-%s.tgz", r.URL, path, path[strings.LastIndex(path, "/")+1:], version), "integrity": integrity(p.tarball),
		}}
		for k, v := range p.manifest {
			full[k] = v
		}
		listed[version], times[version], latest = full, "2020-01-01T00:00:00.000Z", max(latest, version)
	}
	document["versions"], document["time"], document["dist-tags"] = listed, times, map[string]string{"latest": latest}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(document)
}

// publishBasics are packages of every kind that matters to resolution.
func (r *registry) publishBasics(t *testing.T) {
	t.Helper()
	r.publish(t, "plain", "1.0.0", nil, map[string]string{"index.js": "exports.name = 'plain 1.0.0'\n"})
	r.publish(t, "plain", "1.1.0", nil, map[string]string{"index.js": "exports.name = 'plain 1.1.0'\n"})
	r.publish(t, "user", "1.0.0", map[string]any{"dependencies": map[string]string{"plain": "^1.0.0"}},
		map[string]string{"index.js": "exports.name = 'user of ' + require('plain').name\n"})
	r.publish(t, "@scope/esm", "2.0.0", map[string]any{"type": "module", "main": nil, "imports": map[string]string{"#own": "./own.js"},
		"exports":      map[string]any{".": "./main.js", "./sub/*": "./sub/*.js", "./data.json": "./data.json"},
		"dependencies": map[string]string{"plain": "^1.0.0"}},
		map[string]string{"main.js": "import own from '#own'\nimport plain from 'plain'\nexport const name = own + ' with ' + plain.name\n",
			"own.js": "export default 'esm 2.0.0'\n", "sub/deep.js": "export default 'sub'\n", "data.json": "{\"data\":true}\n"})
	r.publish(t, "tool", "1.0.0", map[string]any{"bin": map[string]string{"say": "say.js"}, "scripts": map[string]string{"postinstall": "node -e \"require('fs').writeFileSync('ran', '')\""}},
		map[string]string{"say.js": "#!/usr/bin/env node\nconsole.log('said')\n", "index.js": ""})
	r.publish(t, "devonly", "1.0.0", nil, map[string]string{"index.js": ""})
}
