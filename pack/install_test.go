package pack

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/attune-run/attune/runtime"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// entry is one of an archive; the pack's own files are added to every archive.
type entry struct {
	name, content, link string
	kind                byte // a tar type flag; 0: a regular file
	mode                int64
}

var whole = []entry{
	{name: "pack.yaml", content: "ref: p\nversion: 1.2.0\n"},
	{name: "actions/", kind: tar.TypeDir, mode: 0o777},
	{name: "actions/a.yaml", content: "ref: p.a\nentry_point: a.sh\n", mode: 0o666},
	{name: "actions/a.sh", content: "echo hi\n", mode: 0o4755},
}

func tarOf(t *testing.T, entries ...entry) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.link, Mode: e.mode, Size: int64(len(e.content)), Format: tar.FormatPAX}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Typeflag != tar.TypeReg {
			h.Size = 0
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		require.NoError(t, w.WriteHeader(h))
		if h.Size > 0 {
			_, err := io.WriteString(w, e.content)
			require.NoError(t, err)
		}
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

func gzipOf(t *testing.T, data []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(data)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

func zipOf(t *testing.T, entries ...entry) []byte {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, e := range entries {
		h := &zip.FileHeader{Name: e.name, Method: zip.Deflate}
		mode, content := fs.FileMode(0o644), e.content
		switch e.kind {
		case tar.TypeSymlink:
			mode, content = fs.ModeSymlink|0o777, e.link
		case tar.TypeFifo:
			mode = fs.ModeNamedPipe
		case tar.TypeChar:
			mode = fs.ModeDevice | fs.ModeCharDevice
		case tar.TypeDir:
			mode = fs.ModeDir | 0o755
		}
		if e.mode != 0 && mode.IsRegular() {
			mode = fs.FileMode(e.mode).Perm()
		}
		h.SetMode(mode)
		f, err := w.CreateHeader(h)
		require.NoError(t, err)
		if mode.IsDir() {
			continue
		}
		_, err = io.WriteString(f, content)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

func archive(t *testing.T, name string, data []byte) string {
	file := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(file, data, 0o600))
	return file
}

// nothingElse makes sure that an installation left what is named and nothing else.
func nothingElse(t *testing.T, into string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(into)
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	assert.Equal(t, want, names)
}

func valid(p *Pack) []Problem {
	c, err := runtime.Builtin()
	if err != nil {
		panic(err)
	}
	return Validate(p, Finder{}, c)
}

func TestInstall(t *testing.T) {
	inside := append(append([]entry{}, whole...), entry{name: "lib/real.txt", content: "x"}, entry{name: "lib/link", kind: tar.TypeSymlink, link: "../lib/./real.txt"},
		entry{name: "__pycache__/x.pyc", content: "no"}, entry{name: ".git/config", content: "no"})
	under := make([]entry, len(whole))
	for i, e := range whole {
		e.name = "repository-main/" + e.name
		under[i] = e
	}
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(dir+"/actions", 0o700))
	for _, e := range whole {
		if e.kind == 0 {
			require.NoError(t, os.WriteFile(filepath.Join(dir, e.name), []byte(e.content), 0o755))
		}
	}
	for name, install := range map[string]func(Installer) (*Pack, error){
		"directory": func(in Installer) (*Pack, error) { return in.Dir(dir) },
		"tar.gz": func(in Installer) (*Pack, error) {
			return in.Archive(archive(t, "p.tar.gz", gzipOf(t, tarOf(t, inside...))))
		},
		"tgz": func(in Installer) (*Pack, error) {
			return in.Archive(archive(t, "p.TGZ", gzipOf(t, tarOf(t, under...))))
		},
		"zip": func(in Installer) (*Pack, error) { return in.Archive(archive(t, "p.zip", zipOf(t, inside...))) },
		"tar": func(in Installer) (*Pack, error) { return in.Tar(bytes.NewReader(tarOf(t, under...))) },
	} {
		into := filepath.Join(t.TempDir(), "new", "packs")
		p, err := install(Installer{Validate: valid, Into: into})
		require.NoError(t, err, name)
		assert.Equal(t, into+"/p", p.Dir)
		nothingElse(t, into, "p")
		info, err := os.Stat(into + "/p/actions/a.sh")
		require.NoError(t, err)
		assert.NotZero(t, info.Mode()&0o100, name)
		assert.Zero(t, info.Mode()&(fs.ModeSetuid|0o022), name)
		assert.NoDirExists(t, into+"/p/__pycache__")
		assert.NoDirExists(t, into+"/p/.git")

		_, err = install(Installer{Validate: valid, Into: into})
		var exists *ExistsError
		require.ErrorAs(t, err, &exists, name)
		assert.Equal(t, "1.2.0", exists.Version)
		require.NoError(t, os.WriteFile(into+"/p/old", nil, 0o600))
		_, err = install(Installer{Validate: valid, Into: into, Replace: true})
		require.NoError(t, err, name)
		assert.NoFileExists(t, into+"/p/old")
		_, err = install(Installer{Validate: valid, Into: into, Versioned: true})
		require.NoError(t, err, name)
		nothingElse(t, into, "p", "p@1.2.0")
		if name != "directory" && name != "zip" && name != "tar.gz" {
			continue
		}
		link, err := os.Readlink(into + "/p/lib/link")
		assert.Equal(t, name != "directory", err == nil && link == "../lib/./real.txt", name)
	}
}

// Each archive would reach out of the pack, hide a file, or fill the disk.
func TestArchivesBuiltToEscape(t *testing.T) {
	deep := strings.Repeat("d/", 40) + "f"
	for want, bad := range map[string][]entry{
		"absolute name":                        {{name: "/etc/passwd", content: "x"}},
		`entry "../out" has a name that leads`: {{name: "../out", content: "x"}},
		"actions/../../out":                    {{name: "actions/../../out", content: "x"}},
		"actions/../b":                         {{name: "actions/../b", content: "x"}},
		"backslash":                            {{name: `..\out`, content: "x"}},
		"control character":                    {{name: "a\nb", content: "x"}},
		`entry "dev" is no file`:               {{name: "dev", kind: tar.TypeChar}},
		`entry "fifo" is no file`:              {{name: "fifo", kind: tar.TypeFifo}},
		`entry "out" is a link that leads out, to "../../etc"`:       {{name: "out", kind: tar.TypeSymlink, link: "../../etc"}},
		`is a link that leads out, to "/etc/passwd"`:                 {{name: "out", kind: tar.TypeSymlink, link: "/etc/passwd"}},
		`entry "l" is a link that leads out of the pack, or nowhere`: {{name: "l", kind: tar.TypeSymlink, link: "missing"}},
		`entry "twist" is a link that leads out of the pack`: {
			{name: "a/b/c/f", content: "x"}, {name: "a/deep", kind: tar.TypeSymlink, link: "b/c"}, {name: "near", kind: tar.TypeSymlink, link: "a"},
			{name: "x/up", kind: tar.TypeSymlink, link: ".."}, {name: "twist", kind: tar.TypeSymlink, link: "x/up/x/up/../y"},
		},
		`entry "l/f" lies below l, which is no directory`:                        {{name: "l", kind: tar.TypeSymlink, link: "actions"}, {name: "l/f", content: "x"}},
		`entry "actions/a.sh" comes twice`:                                       {{name: "actions/a.sh", content: "other"}},
		`entry "./actions//a.sh" comes twice`:                                    {{name: "./actions//a.sh", content: "other"}},
		`entry "actions/A.sh" differs from actions/a.sh in upper and lower case`: {{name: "actions/A.sh", content: "other"}},
		`entry "Actions/b.sh" differs from actions`:                              {{name: "Actions/b.sh", content: "other"}},
		`entry "pack.yaml/x" lies below pack.yaml`:                               {{name: "pack.yaml/x", content: "other"}},
		"lies deeper than 32 directories":                                        {{name: deep, content: "x"}},
		"more than 255 bytes":                                                    {{name: strings.Repeat("n", 256), content: "x"}},
	} {
		all := append(append([]entry{}, whole...), bad...)
		for name, data := range map[string][]byte{"p.tar.gz": gzipOf(t, tarOf(t, all...)), "p.zip": zipOf(t, all...)} {
			into := t.TempDir()
			_, err := Installer{Validate: valid, Into: into}.Archive(archive(t, name, data))
			require.ErrorContains(t, err, want, name)
			nothingElse(t, into)
		}
	}
	for want, bad := range map[string]entry{
		`entry "h" is a hard link`:  {name: "h", kind: tar.TypeLink, link: "pack.yaml"},
		`entry "b" is no file`:      {name: "b", kind: tar.TypeBlock},
		"has a name that leads out": {name: "a/..", content: "x"},
	} {
		into := t.TempDir()
		_, err := Installer{Validate: valid, Into: into}.Tar(bytes.NewReader(tarOf(t, append(append([]entry{}, whole...), bad)...)))
		require.ErrorContains(t, err, want)
		nothingElse(t, into)
	}
}

func TestBombsAndCaps(t *testing.T) {
	blanks := gzipOf(t, tarOf(t, append(append([]entry{}, whole...), entry{name: "big", content: strings.Repeat(" ", 9<<20)})...))
	cut := gzipOf(t, tarOf(t, whole...))
	many := append([]entry{}, whole...)
	for i := range 200 {
		many = append(many, entry{name: fmt.Sprintf("f/%d", i)})
	}
	for want, attempt := range map[string]struct {
		limits Limits
		name   string
		data   []byte
	}{
		"more than 100 times its size":         {Limits{}, "p.tar.gz", blanks},
		"more than 1000 bytes together":        {Limits{Bytes: 1000}, "p.tar.gz", blanks},
		"more than 100 files and directories":  {Limits{Files: 100}, "p.zip", zipOf(t, many...)},
		"lies deeper than 1 directories":       {Limits{Depth: 1}, "p.zip", zipOf(t, many...)},
		"is no gzip file":                      {Limits{}, "p.tar.gz", []byte("nothing like it")},
		"is no tar archive, or a broken one":   {Limits{}, "p.tgz", gzipOf(t, bytes.Repeat([]byte("x"), 1024))},
		"is no zip archive, or a broken one":   {Limits{}, "p.zip", []byte("nothing like it")},
		"unexpected EOF":                       {Limits{}, "p.tar.gz", cut[:len(cut)-60]},
		"is no archive that is known":          {Limits{}, "p.rar", blanks},
		"there is no pack.yaml in it":          {Limits{}, "p.tar", tarOf(t, entry{name: "a/b", content: "x"})},
		"--path names one of other, packs/one": {Limits{}, "p.tar", tarOf(t, entry{name: "packs/one/pack.yaml", content: "x"}, entry{name: "other/pack.yaml", content: "x"})},
	} {
		into := t.TempDir()
		_, err := Installer{Validate: valid, Into: into, Limits: attempt.limits}.Archive(archive(t, attempt.name, attempt.data))
		require.ErrorContains(t, err, want)
		nothingElse(t, into)
	}
}

func TestOnlyPacksThatWorkAreInstalled(t *testing.T) {
	for want, entries := range map[string][]entry{
		"actions/a.yaml:1:1":             {whole[0], {name: "actions/a.yaml", content: "ref: p.a\n"}},
		"do not name a pack":             {{name: "pack.yaml", content: "ref: ../p\nversion: 1.0.0\n"}},
		"version \"one\" is no semantic": {{name: "pack.yaml", content: "ref: p\nversion: one\n"}},
		"cobol":                          {whole[0], {name: "actions/a.yaml", content: "ref: p.a\nrunner_type: cobol\nentry_point: a.sh\n"}, {name: "actions/a.sh"}},
	} {
		into := t.TempDir()
		_, err := Installer{Validate: valid, Into: into}.Tar(bytes.NewReader(tarOf(t, entries...)))
		require.ErrorContains(t, err, want)
		assert.NotContains(t, err.Error(), stagePrefix, "nobody finds the staging directory")
		nothingElse(t, into)
	}
}

func TestAPackInADirectoryOfTheSource(t *testing.T) {
	var entries []entry
	for _, e := range whole {
		e.name = "packs/p/" + e.name
		entries = append(entries, e)
	}
	data := tarOf(t, append(entries, entry{name: "other", content: "x"})...)
	p, err := Installer{Validate: valid, Into: t.TempDir(), Path: "packs/p"}.Tar(bytes.NewReader(data))
	require.NoError(t, err)
	assert.NoFileExists(t, p.Dir+"/other")
	_, err = Installer{Validate: valid, Into: t.TempDir(), Path: "../p"}.Tar(bytes.NewReader(data))
	require.ErrorContains(t, err, "there is no pack.yaml in ../p")
	out := tarOf(t, append(entries, entry{name: "other", content: "x"}, entry{name: "packs/p/l", kind: tar.TypeSymlink, link: "../../other"})...)
	_, err = Installer{Validate: valid, Into: t.TempDir(), Path: "packs/p"}.Tar(bytes.NewReader(out))
	require.ErrorContains(t, err, "leads out of the pack")
}

func TestDirectoriesThatHoldWhatNoPackMay(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(dir+"/pack.yaml", []byte(whole[0].content), 0o600))
	require.NoError(t, syscall.Mkfifo(dir+"/fifo", 0o600))
	_, err := Installer{Validate: valid, Into: t.TempDir()}.Dir(dir)
	require.ErrorContains(t, err, `entry "fifo" is no file`)
	require.NoError(t, os.Remove(dir+"/fifo"))
	require.NoError(t, os.Symlink("/etc/passwd", dir+"/link"))
	_, err = Installer{Validate: valid, Into: t.TempDir()}.Dir(dir)
	require.ErrorContains(t, err, "leads out")
}

// Many install at once: one wins, the others are told, and the pack is whole.
func TestInstallationsAtTheSameTime(t *testing.T) {
	into, data := t.TempDir(), tarOf(t, whole...)
	var won, told int
	var mu sync.Mutex
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			_, err := Installer{Validate: valid, Into: into}.Tar(bytes.NewReader(data))
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
			} else if errors.As(err, new(*ExistsError)) {
				told++
			}
		})
	}
	wait.Wait()
	assert.Equal(t, 1, won)
	assert.Equal(t, 7, told)
	nothingElse(t, into, "p")
}

func TestWhatAKilledInstallationLeftIsRemoved(t *testing.T) {
	into := t.TempDir()
	for name, age := range map[string]time.Duration{"old": time.Hour, "young": 0, "held": time.Hour} {
		dir := filepath.Join(into, stagePrefix+name)
		require.NoError(t, os.Mkdir(dir, 0o700))
		require.NoError(t, os.Chtimes(dir, time.Now(), time.Now().Add(-age)))
	}
	held, err := lockStage(filepath.Join(into, stagePrefix+"held"))
	require.NoError(t, err)
	defer func() { _ = held.Close() }()
	_, err = Installer{Validate: valid, Into: into}.Tar(bytes.NewReader(tarOf(t, whole...)))
	require.NoError(t, err)
	nothingElse(t, into, stagePrefix+"held", stagePrefix+"young", "p")
}

func TestSignatures(t *testing.T) {
	p, err := Installer{Validate: valid, Into: t.TempDir()}.Tar(bytes.NewReader(tarOf(t, whole...)))
	require.NoError(t, err)
	keys := t.TempDir()
	public, err := GenerateKey(keys + "/one")
	require.NoError(t, err)
	_, err = GenerateKey(keys + "/one")
	require.ErrorIs(t, err, fs.ErrExist)
	info, err := os.Stat(keys + "/one")
	require.NoError(t, err)
	assert.Equal(t, fs.FileMode(0o600), info.Mode().Perm())
	fromFile, err := ParsePublicKey(keys + "/one.pub")
	require.NoError(t, err)
	assert.Equal(t, public, fromFile)
	fromText, err := ParsePublicKey(public.String())
	require.NoError(t, err)
	assert.Equal(t, public, fromText)
	one, err := ReadPrivateKey(keys + "/one")
	require.NoError(t, err)
	otherPublic, err := GenerateKey(keys + "/two")
	require.NoError(t, err)
	two, err := ReadPrivateKey(keys + "/two")
	require.NoError(t, err)

	refused := func(want string, trusted ...PublicKey) {
		t.Helper()
		_, err := p.Verify(trusted)
		var bad *SignatureError
		require.ErrorAs(t, err, &bad)
		assert.Contains(t, err.Error(), want)
	}
	refused("there is none", public)
	before, err := p.Digest()
	require.NoError(t, err)
	digest, err := p.Sign(one)
	require.NoError(t, err)
	after, err := p.Digest()
	require.NoError(t, err)
	assert.Equal(t, before, after, "the signature is no part of the digest")
	assert.Equal(t, before, digest)
	verified, err := p.Verify([]PublicKey{otherPublic, public})
	require.NoError(t, err)
	assert.Equal(t, Verified{digest, public}, verified)
	refused("not by a trusted key", otherPublic)
	refused("no key is trusted")

	_, err = p.Sign(two) // a second signature keeps the first
	require.NoError(t, err)
	for _, key := range []PublicKey{public, otherPublic} {
		_, err = p.Verify([]PublicKey{key})
		require.NoError(t, err)
	}
	require.NoError(t, os.Mkdir(p.Dir+"/__pycache__", 0o755))
	refused("__pycache__ is not covered by a signature", public)
	require.NoError(t, os.Remove(p.Dir+"/__pycache__"))
	require.NoError(t, os.WriteFile(p.Dir+"/actions/pack.sig", nil, 0o600))
	refused("altered after it was signed", public)
	require.NoError(t, os.Remove(p.Dir+"/actions/pack.sig"))
	require.NoError(t, os.Chmod(p.Dir+"/actions/a.yaml", 0o755))
	refused("altered after it was signed", public)
	require.NoError(t, os.Chmod(p.Dir+"/actions/a.yaml", 0o644))
	sig, err := os.ReadFile(p.Dir + "/" + SignatureFile)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(p.Dir+"/"+SignatureFile, bytes.ReplaceAll(sig, []byte(`"signature": "`), []byte(`"signature": "AAAA`)), 0o600))
	refused("it is false", public)
	require.NoError(t, os.WriteFile(p.Dir+"/"+SignatureFile, []byte("{}"), 0o600))
	refused("pack.sig is no attune.pack-signature/v1", public)

	// A signature travels with the pack, and what is altered on the way is not installed.
	_, err = p.Sign(one)
	require.NoError(t, err)
	signed := Installer{Validate: valid, Into: t.TempDir(), RequireSignature: true, TrustedKeys: []PublicKey{public}}
	_, err = signed.Dir(p.Dir)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(p.Dir+"/actions/a.sh", []byte("echo other\n"), 0o755))
	signed.Into = t.TempDir()
	_, err = signed.Dir(p.Dir)
	require.ErrorContains(t, err, "altered after it was signed")
	nothingElse(t, signed.Into)

	for _, text := range []string{"ed25519:x", keys + "/one", "/none"} {
		_, err = ParsePublicKey(text)
		require.Error(t, err)
	}
}

func TestUnknownKeysKeepNoPackOut(t *testing.T) {
	p, err := Installer{Validate: valid, Into: t.TempDir()}.Tar(bytes.NewReader(tarOf(t,
		entry{name: "pack.yaml", content: "ref: p\nversion: 1.0.0\nof_a_newer_attune: 1\n"})))
	require.NoError(t, err)
	assert.Len(t, p.Warnings, 1)
}
