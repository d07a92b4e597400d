package main

import (
	"context"
	"io"
	"os/exec"
	"time"

	"github.com/attune-run/attune/proc"
)

// processes measures one supervised child with pipes against os/exec with pipes, at each level in turns.
func (b *bench) processes() error {
	const rounds = 300
	mask := 0o077
	supervised := func(level proc.Level) func() error {
		return func() error {
			spec := proc.Spec{Argv: []string{"/bin/true"}, Stdout: io.MultiWriter(), Stderr: io.MultiWriter(), Isolation: proc.Isolation{Level: level}}
			if level != proc.None {
				spec.Umask = &mask
			}
			_, err := proc.Run(context.Background(), spec)
			return err
		}
	}
	ways := []func() error{func() error {
		cmd := exec.Command("/bin/true")
		cmd.Stdout, cmd.Stderr = io.MultiWriter(), io.MultiWriter()
		return cmd.Run()
	}, supervised(proc.None), supervised(proc.Basic), supervised(proc.Strict)}
	times := make([][]time.Duration, len(ways))
	for round := range rounds + 1 {
		for i, run := range ways {
			begun := time.Now()
			if err := run(); err != nil {
				return err
			}
			if round > 0 { // the first also finds out what this machine offers
				times[i] = append(times[i], time.Since(begun))
			}
		}
	}
	for i, level := range []string{"none", "basic", "strict"} {
		wanted := []string{"<= +0.5 ms", "<= +1 ms", "<= +4 ms"}[i]
		bare, took := median(times[0]), median(times[i+1])
		row("/bin/true, isolation "+level+", against os/exec", bare, took, plus(bare, took), wanted)
	}
	return nil
}
