package envcache

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func libcKey(name string, bound bool) Key {
	return NewKey([]KeyInput{{Name: "manifest", Value: name}, {Name: "libc", Value: "glibc"}}, bound)
}

// export builds an environment in a new store, with a link and a file that nobody may write, and exports it.
func export(t *testing.T, key Key, forRoot string) (from *Store, archive []byte) {
	t.Helper()
	s := tempStore(t)
	require.NoError(t, acquire(t, s, key, &testBuilder{during: func(site Site) error {
		if err := os.Symlink("whole", filepath.Join(site.Dir, "link")); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(site.Dir, "tool"), []byte("#!/bin/sh\n"), 0o500)
	}}).Close())
	var b bytes.Buffer
	require.NoError(t, s.Export(context.Background(), &b, []string{s.ID(key)[:6]}, forRoot))
	return s, b.Bytes()
}

func TestExportAndImport(t *testing.T) {
	key := libcKey("x", false)
	from, archive := export(t, key, "")
	to, err := Open(filepath.Join(t.TempDir(), "layer"), Options{Readable: true})
	require.NoError(t, err)
	for range 2 { // the second finds it there
		ids, err := to.Import(context.Background(), bytes.NewReader(archive), onlyLibC("glibc"))
		require.NoError(t, err)
		assert.Equal(t, []string{from.ID(key)}, ids)
	}
	env := acquire(t, to, key, &testBuilder{})
	assert.Equal(t, Hit, env.State)
	assertWhole(t, env)
	target, err := os.Readlink(filepath.Join(env.Dir, "link"))
	require.NoError(t, err)
	assert.Equal(t, "whole", target)
	info, err := os.Stat(filepath.Join(env.Dir, "tool"))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o555), info.Mode(), "what the owner may do, others may where the store is readable")
	info, err = os.Stat(filepath.Join(env.Dir, "whole"))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o644), info.Mode())
}

// What is bound to its path is imported at the same root, and refused elsewhere by both ends.
func TestExportOfWhatIsBoundToItsRoot(t *testing.T) {
	key := libcKey("x", true)
	from, archive := export(t, key, "")
	require.ErrorContains(t, from.Export(context.Background(), io.Discard, []string{from.ID(key)}, "/opt/layer"),
		"is of use at "+from.Root()+" only, not at /opt/layer")
	to := tempStore(t)
	_, err := to.Import(context.Background(), bytes.NewReader(archive), onlyLibC("glibc"))
	require.ErrorContains(t, err, "of use at the root "+from.Root()+" only")
	assert.NoDirExists(t, to.Root(), "nothing was written")
	require.NoError(t, os.RemoveAll(from.Root()))
	_, err = openStore(t, from.Root()).Import(context.Background(), bytes.NewReader(archive), onlyLibC("glibc"))
	require.NoError(t, err)
	assert.Equal(t, Hit, acquire(t, openStore(t, from.Root()), key, &testBuilder{}).State)
}

// At another root, what carries its path and was unpacked with tar is a miss that says why.
func TestAnExportUnpackedByTar(t *testing.T) {
	free, bound := libcKey("free", false), libcKey("bound", true)
	s := tempStore(t)
	acquire(t, s, free, &testBuilder{})
	acquire(t, s, bound, &testBuilder{})
	archive := filepath.Join(t.TempDir(), "export.tar.gz")
	f, err := os.Create(archive)
	require.NoError(t, err)
	require.NoError(t, s.Export(context.Background(), f, []string{s.ID(free), s.ID(bound)}, ""))
	require.NoError(t, f.Close())
	dir := t.TempDir()
	runTar(t, "-C", dir, "-xzf", archive)
	moved := openStore(t, dir)
	require.NoError(t, os.Chmod(filepath.Join(dir, "v1"), 0o700))
	assert.Equal(t, Hit, acquire(t, moved, free, &testBuilder{}).State)
	info, err := moved.Get(s.ID(bound))
	require.NoError(t, err)
	assert.Equal(t, Broken, info.State)
	assert.Equal(t, "it was built for the root "+s.Root(), info.Problem)
	assert.Equal(t, Fresh, acquire(t, moved, bound, &testBuilder{}).State)
}

func TestImportRefusesAnotherPlatform(t *testing.T) {
	key := libcKey("x", false)
	_, archive := export(t, key, "")
	to := tempStore(t)
	_, err := to.Import(context.Background(), bytes.NewReader(archive), onlyLibC("musl"))
	require.ErrorContains(t, err, "was built for glibc, and this machine has musl")
	assert.Equal(t, Fresh, acquire(t, to, key, &testBuilder{}).State, "nothing of it is in the way")

	other := rewrite(t, archive, func(h *tar.Header, data []byte) []byte {
		if h.Name == exportHeader {
			return bytes.Replace(data, []byte(`"os":"`+runtime.GOOS), []byte(`"os":"plan9`), 1)
		}
		return data
	})
	_, err = to.Import(context.Background(), bytes.NewReader(other), onlyLibC("glibc"))
	require.ErrorContains(t, err, "it was made for plan9/"+runtime.GOARCH)
}

// Wherever an archive is cut, it brings either the environment or nothing.
func TestImportOfACutArchive(t *testing.T) {
	key := libcKey("x", false)
	_, archive := export(t, key, "")
	for at := 0; at < len(archive)-1; at += 1 + len(archive)/20 {
		to := tempStore(t)
		_, err := to.Import(context.Background(), bytes.NewReader(archive[:at]), onlyLibC("glibc"))
		require.Error(t, err, at)
		if _, there := to.Find(key); there {
			assertWhole(t, acquire(t, to, key, &testBuilder{}))
			continue
		}
		if _, err := os.Stat(to.entry(to.ID(key)).dir); err == nil {
			assertOnlyLock(t, to, key)
		}
	}
	to := tempStore(t)
	shorter := rewrite(t, archive, func(h *tar.Header, data []byte) []byte {
		if strings.HasSuffix(h.Name, "/whole") {
			return data[:1]
		}
		return data
	})
	_, err := to.Import(context.Background(), bytes.NewReader(shorter), onlyLibC("glibc"))
	require.ErrorContains(t, err, "whole has 1 bytes and had 4")
	assertOnlyLock(t, to, key)
}

// An archive writes nowhere but into its own environment.
func TestImportOfAHostileArchive(t *testing.T) {
	key := libcKey("x", false)
	from, archive := export(t, key, "")
	r, _, err := from.entry(from.ID(key)).read()
	require.NoError(t, err)
	base := "v1/envs/" + r.ID[:2] + "/" + r.ID + "/"
	outside := t.TempDir()
	victim := filepath.Join(outside, "victim")
	for name, members := range map[string][]*tar.Header{
		"dots":              {{Name: base + r.Generation + "/../../../../../../victim"}},
		"dots in an ID":     {{Name: "v1/envs/../" + r.ID + "/" + r.Generation + "/x"}},
		"absolute":          {{Name: victim}},
		"another part":      {{Name: "v1/detect.json"}},
		"another name":      {{Name: base + "lock"}},
		"a device":          {{Name: base + r.Generation + "/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}},
		"a fifo":            {{Name: base + r.Generation + "/fifo", Typeflag: tar.TypeFifo}},
		"a hard link":       {{Name: base + r.Generation + "/passwd", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}},
		"through a link":    {{Name: base + r.Generation + "/out", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: base + r.Generation + "/out/victim"}},
		"over a link":       {{Name: base + r.Generation + "/out", Typeflag: tar.TypeSymlink, Linkname: victim}, {Name: base + r.Generation + "/out"}},
		"a name that is no": {{Name: "v1/envs/ab/abc/defghijk/x"}},
	} {
		t.Run(name, func(t *testing.T) {
			to := tempStore(t)
			_, err := to.Import(context.Background(), bytes.NewReader(insert(t, archive, r.Generation, members)), onlyLibC("glibc"))
			require.Error(t, err)
			assert.NoFileExists(t, victim)
			_, there := to.Find(key)
			assert.False(t, there)
			assert.Equal(t, Fresh, acquire(t, to, key, &testBuilder{}).State)
		})
	}
}

func TestImportOfWhatIsNoExport(t *testing.T) {
	to := tempStore(t)
	for text, want := range map[string]string{"": "no export", "text": "no export", gzipped(t, "text"): "no export", gzipped(t, ""): "no export"} {
		_, err := to.Import(context.Background(), strings.NewReader(text), onlyLibC("glibc"))
		require.ErrorContains(t, err, want)
	}
	assert.NoDirExists(t, to.Root())
}

func gzipped(t *testing.T, text string) string {
	t.Helper()
	var b strings.Builder
	zip := gzip.NewWriter(&b)
	_, err := zip.Write([]byte(text))
	require.NoError(t, err)
	require.NoError(t, zip.Close())
	return b.String()
}

// rewrite changes the contents of an archive's members.
func rewrite(t *testing.T, archive []byte, change func(*tar.Header, []byte) []byte) []byte {
	t.Helper()
	unzipped, err := gzip.NewReader(bytes.NewReader(archive))
	require.NoError(t, err)
	var b bytes.Buffer
	zip := gzip.NewWriter(&b)
	in, out := tar.NewReader(unzipped), tar.NewWriter(zip)
	for {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		data, err := io.ReadAll(in)
		require.NoError(t, err)
		data = change(h, data)
		if data == nil {
			continue
		}
		h.Size = int64(len(data))
		require.NoError(t, out.WriteHeader(h))
		_, err = out.Write(data)
		require.NoError(t, err)
	}
	require.NoError(t, out.Close())
	require.NoError(t, zip.Close())
	return b.Bytes()
}

// insert adds members behind the directory of the generation.
func insert(t *testing.T, archive []byte, generation string, members []*tar.Header) []byte {
	t.Helper()
	unzipped, err := gzip.NewReader(bytes.NewReader(archive))
	require.NoError(t, err)
	var b bytes.Buffer
	zip := gzip.NewWriter(&b)
	in, out := tar.NewReader(unzipped), tar.NewWriter(zip)
	for {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		require.NoError(t, out.WriteHeader(h))
		_, err = io.Copy(out, in)
		require.NoError(t, err)
		if !strings.HasSuffix(h.Name, "/"+generation+"/") {
			continue
		}
		for _, m := range members {
			m := *m
			if m.Mode = 0o600; m.Typeflag == 0 {
				m.Typeflag, m.Size = tar.TypeReg, 4
			}
			require.NoError(t, out.WriteHeader(&m))
			_, err = out.Write([]byte("evil")[:m.Size])
			require.NoError(t, err)
		}
	}
	require.NoError(t, out.Close())
	require.NoError(t, zip.Close())
	return b.Bytes()
}

// Unknown to this version, an archive is refused by its schema.
func TestImportOfAnotherSchema(t *testing.T) {
	_, archive := export(t, libcKey("x", false), "")
	other := rewrite(t, archive, func(h *tar.Header, data []byte) []byte {
		if h.Name != exportHeader {
			return data
		}
		info := exportInfo{}
		require.NoError(t, json.Unmarshal(data, &info))
		info.Schema = "attune.export/v9"
		data, err := json.Marshal(info)
		require.NoError(t, err)
		return data
	})
	_, err := tempStore(t).Import(context.Background(), bytes.NewReader(other), onlyLibC("glibc"))
	require.ErrorContains(t, err, "attune.export/v9")
}

// onlyLibC is a machine with one C library for every interpreter.
func onlyLibC(name string) func(string) string { return func(string) string { return name } }
