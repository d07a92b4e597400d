package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const streamed = 256 << 20 // bytes of a log that goes through

// redaction measures what comes out of attune-run while an action prints a log, beside the same log through a bare pipe.
func (b *bench) redaction() error {
	log := filepath.Join(b.work, "log")
	line := []byte("2026-01-01T12:00:00Z INFO request served path=/api/v1/items/4711 status=200 bytes=5120 id=9f86d081884c7d65 token=none\n")
	if err := repeat(log, line, streamed/len(line)); err != nil {
		return err
	}
	script := filepath.Join(b.work, "cat.sh")
	if err := os.WriteFile(script, []byte("cat "+log+"\n"), 0o600); err != nil {
		return err
	}
	for _, c := range []struct {
		secrets, length int
		wanted          float64
	}{{0, 0, 500}, {1, 40, 150}, {100, 40, 150}, {100, 4096, 150}} {
		args := []string{"run", "--result-file", filepath.Join(b.work, "result.json")}
		flags, err := b.secrets(c.secrets, c.length)
		if err != nil {
			return err
		}
		pipe := func() *exec.Cmd { return b.command("sh", "-c", "cat "+log+" | cat") }
		through := func() *exec.Cmd { return b.command(b.attune, append(append(args, flags...), script)...) }
		bare, masked, err := b.turns(5, pipe, through)
		if err != nil {
			return err
		}
		what := fmt.Sprintf("log through run, %d secrets of %d bytes", c.secrets, c.length)
		row(what, bare, masked, rate(streamed, masked), fmt.Sprintf(">= %.0f MB/s", c.wanted))
	}
	return b.worstNeedle()
}

// worstNeedle is what a naive search takes a minute for.
func (b *bench) worstNeedle() error {
	input := filepath.Join(b.work, "a")
	if err := os.WriteFile(input, bytes.Repeat([]byte("a"), 1<<20), 0o600); err != nil {
		return err
	}
	filter := func(name, secret string) (func() *exec.Cmd, error) {
		file := filepath.Join(b.work, name)
		return func() *exec.Cmd {
			return b.command("sh", "-c", `"$0" redact --secret "s=file:$1" < "$2"`, b.attune, file, input)
		}, os.WriteFile(file, []byte(secret), 0o600)
	}
	plain, err := filter("plain", "an ordinary secret")
	if err != nil {
		return err
	}
	worst, err := filter("worst", strings.Repeat("a", 4096)+"b")
	if err != nil {
		return err
	}
	baseline, took, err := b.turns(20, plain, worst)
	row("1 MiB of a, needle a x 4096 + b, against any", baseline, took, plus(baseline, took), "linear")
	return err
}

// secrets are flags that name files of random text.
func (b *bench) secrets(n, length int) ([]string, error) {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	random := rand.New(rand.NewSource(1))
	var flags []string
	for i := range n {
		secret := make([]byte, length)
		for j := range secret {
			secret[j] = letters[random.Intn(len(letters))]
		}
		file := filepath.Join(b.work, fmt.Sprintf("secret-%d-%d", length, i))
		if err := os.WriteFile(file, secret, 0o600); err != nil {
			return nil, err
		}
		flags = append(flags, "--secret", fmt.Sprintf("s%d=file:%s", i, file))
	}
	return flags, nil
}

// repeat writes a file without holding it: a child's peak memory begins with its parent's.
func repeat(file string, line []byte, times int) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	block := bytes.Repeat(line, 1000)
	for ; times > 0 && err == nil; times -= 1000 {
		_, err = f.Write(block)
	}
	return errors.Join(err, f.Close())
}

func rate(bytes int, took time.Duration) string {
	return fmt.Sprintf("%.0f MB/s", float64(bytes)/1e6/took.Seconds())
}
