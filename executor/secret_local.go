package executor

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/attune-run/attune/internal/redact"
	"github.com/attune-run/attune/proc"
)

func (r *resolver) variable(name string) (document, error) {
	value, ok := r.env[name]
	if !ok {
		return document{}, secretFailure("set it where attune is started", "the variable %s is not set", name)
	}
	return document{text: value}, nil
}

// file reads what a local user names, pipes included, or a regular file below the operator's directory.
func (r *resolver) file(name string) (document, error) {
	f, err := r.open(name)
	if err != nil {
		return document{}, err
	}
	defer func() { _ = f.Close() }()
	data, err := readSecret(f)
	return document{text: trimNewline(data)}, err
}

func (r *resolver) open(name string) (*os.File, error) {
	// O_NONBLOCK: a pipe that nobody writes to must not hang.
	const flags = os.O_RDONLY | syscall.O_NONBLOCK
	if !r.remote {
		path, err := r.path(name)
		if err != nil {
			return nil, err
		}
		return os.OpenFile(path, flags, 0)
	}
	dir := r.cfg.Providers[refFile].Dir
	if filepath.IsAbs(name) {
		relative, err := filepath.Rel(dir, name)
		if err != nil {
			return nil, err
		}
		name = relative
	}
	outside := secretFailure("", "lies outside what may be asked for here")
	if !filepath.IsLocal(name) {
		return nil, outside
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	f, err := root.OpenFile(name, flags, 0)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		_ = f.Close()
		return nil, secretFailure("", "is no regular file")
	}
	return f, nil
}

// readSecret reads one byte more than a secret may have at most.
func readSecret(f *os.File) ([]byte, error) {
	_ = f.SetReadDeadline(time.Now().Add(secretTimeout)) // of pipes; files know none
	data, err := io.ReadAll(io.LimitReader(f, secretMax+1))
	if err == nil && len(data) > secretMax {
		err = secretFailure("hand it over as a file", "%s has more than %d bytes", f.Name(), secretMax)
	}
	return data, err
}

// command runs a local user's command line, or the operator's command for one name, and takes what it prints.
func (r *resolver) command(ctx context.Context, text string) (document, error) {
	argv := []string{"/bin/sh", "-c", text}
	if r.remote {
		if strings.Trim(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:@+=-") != "" || text[0] == '-' {
			return document{}, secretFailure("", "a name holds letters, digits and _./:@+=- only, and does not begin with -")
		}
		argv = append(append([]string{}, r.cfg.Providers[refExec].Command...), text)
	}
	data, err := r.output(ctx, argv, r.cfg.Environ)
	return document{text: trimNewline(data)}, err
}

// sops decrypts with the program of that name, which finds the keys itself: age, PGP, or a cloud's key service.
func (r *resolver) sops(ctx context.Context, ref reference) (document, error) {
	path, err := r.path(ref.name)
	if err != nil {
		return document{}, err
	}
	if _, err := os.Stat(path); err != nil {
		return document{}, err
	}
	program, err := lookPath("sops", r.env["PATH"])
	if err != nil {
		return document{}, secretFailure("install it from getsops.io", "the program sops is not in PATH")
	}
	env := r.env
	if file := first(r.local.AgeIdentity, r.env["ATTUNE_AGE_KEY_FILE"]); file != "" {
		env = merged(r.env, map[string]string{"SOPS_AGE_KEY_FILE": file})
	}
	argv := []string{program, "--decrypt"}
	if ref.key != "" {
		argv = append(argv, "--output-type", "json")
	}
	data, err := r.output(ctx, append(argv, path), flatten(env))
	if err != nil {
		return document{}, err
	}
	return document{text: trimNewline(data), format: formatJSON}, nil
}

func lookPath(name, path string) (string, error) {
	for _, dir := range filepath.SplitList(path) {
		if file, err := exec.LookPath(filepath.Join(dir, name)); err == nil && filepath.IsAbs(file) {
			return file, nil
		}
	}
	return "", exec.ErrNotFound
}

// output is what a program prints. When it fails, its last words are shown, without what it printed as the secret.
func (r *resolver) output(ctx context.Context, argv, env []string) ([]byte, error) {
	var stdout limitedBuffer
	stderr := proc.NewCapture(4 << 10)
	exit, err := proc.Run(ctx, proc.Spec{
		Argv: argv, Env: env, Dir: r.local.Dir, Stdout: &stdout, Stderr: stderr, Grace: time.Second, Force: r.local.Force,
	})
	switch {
	case err != nil:
		return nil, err
	case exit.Cause != nil:
		return nil, exit.Cause
	case exit.Code != 0 && r.remote:
		return nil, fmt.Errorf("the command exited with %d", exit.Code)
	case exit.Code != 0:
		return nil, fmt.Errorf("%s exited with %d: %s", filepath.Base(argv[0]), exit.Code,
			redact.New(stdout.String()).String(strings.TrimSpace(stderr.Text())))
	case stdout.Len() > secretMax:
		return nil, secretFailure("hand it over as a file", "the command printed more than %d bytes", secretMax)
	}
	return stdout.Bytes(), nil
}

// limitedBuffer keeps at most one byte more than a secret may have.
type limitedBuffer struct{ bytes.Buffer }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if room := secretMax + 1 - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(len(p), room)])
	}
	return len(p), nil
}

func trimNewline(data []byte) string {
	return strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
}
