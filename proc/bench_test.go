package proc

import (
	"io"
	"os/exec"
	"testing"
)

// BenchmarkRunTrue is one supervised child with two pipes; BenchmarkOSExecTrue, the baseline, is the same without
// supervision.
func BenchmarkRunTrue(b *testing.B) {
	for b.Loop() {
		if _, err := Run(b.Context(), Spec{Argv: []string{"/bin/true"}, Stdout: io.MultiWriter(), Stderr: io.MultiWriter()}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOSExecTrue(b *testing.B) {
	for b.Loop() {
		cmd := exec.Command("/bin/true")
		cmd.Stdout, cmd.Stderr = io.MultiWriter(), io.MultiWriter()
		if err := cmd.Run(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRunTrueUmask(b *testing.B) {
	mask := 0o077
	for b.Loop() {
		if _, err := Run(b.Context(), Spec{Argv: []string{"/bin/true"}, Umask: &mask, Stdout: io.MultiWriter(), Stderr: io.MultiWriter()}); err != nil {
			b.Fatal(err)
		}
	}
}

func benchmarkLevel(b *testing.B, i Isolation) {
	mask := 0o077
	spec := Spec{Argv: []string{"/bin/true"}, Umask: &mask, Stdout: io.MultiWriter(), Stderr: io.MultiWriter(), Isolation: i}
	if _, err := Run(b.Context(), spec); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := Run(b.Context(), spec); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRunTrueBasic(b *testing.B)  { benchmarkLevel(b, Isolation{Level: Basic}) }
func BenchmarkRunTrueStrict(b *testing.B) { benchmarkLevel(b, Isolation{Level: Strict}) }
