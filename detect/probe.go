package detect

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/attune-run/attune/proc"
	"github.com/attune-run/attune/runtime"
)

// errProbeTimeout is the cause of a probe's context that ran out of time.
var errProbeTimeout = errors.New("no answer in time")

// verify asks the memory, then the binary itself.
func (d *Detector) verify(ctx context.Context, spec *runtime.Spec, c candidate) result {
	if known, ok := d.recall(spec, c); ok {
		return known
	}
	q, err := ask(c)
	if err != nil {
		return result{candidate: c, reason: err.Error()}
	}
	if known, ok := d.memory.sameContent(q); ok {
		d.memory.put(q, known)
		return known.result(spec, c)
	}
	found, err := d.probe(ctx, q)
	if err != nil {
		return result{candidate: c, reason: err.Error()} // not remembered: it may have been the machine's fault
	}
	d.memory.put(q, found)
	return found.result(spec, c)
}

// recall asks the memory alone, and reads no more of the binary than its stat.
func (d *Detector) recall(spec *runtime.Spec, c candidate) (result, bool) {
	if c.unprobed() {
		return unprobed(spec, c), true
	}
	q, err := ask(c)
	if err != nil {
		return result{}, false
	}
	answer, known := d.memory.get(q)
	return answer.result(spec, c), known
}

// unprobed is an interpreter of a runtime without probes: it is of the version it was named for, if that is one.
func unprobed(spec *runtime.Spec, c candidate) result {
	a := answer{}
	if c.entry >= 0 && spec.Entry(spec.Versions[c.entry].Version) == c.entry {
		a.Version = spec.Versions[c.entry].Version
	}
	return a.result(spec, c)
}

func (a answer) result(spec *runtime.Spec, c candidate) result {
	return result{candidate: c, reason: a.Reason, interpreter: runtime.Interpreter{
		Runtime: spec.Name, Path: c.target, Version: a.Version, ABI: a.ABI, OnPath: c.onPath,
	}}
}

// probe runs the command, and fingerprints what it asks about meanwhile. An error is a failure that says nothing about the
// binary, a time-out for one.
func (d *Detector) probe(ctx context.Context, q *question) (answer, error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = q.digest()
	}()
	a, err := d.run(ctx, q.candidate)
	<-done
	return a, err
}

func (d *Detector) run(ctx context.Context, c candidate) (answer, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d.opt.Timeout, errProbeTimeout)
	defer cancel()
	var stdout, stderr bytes.Buffer
	exit, err := proc.Run(ctx, proc.Spec{
		Argv: append([]string{c.command}, c.probe.Args...), Dir: "/",
		Env:    []string{"PATH=" + d.opt.Path, "HOME=" + d.opt.Home, "LANG=C", "LC_ALL=C", "GOTOOLCHAIN=local"},
		Stdout: &bounded{&stdout}, Stderr: &bounded{&stderr}, Grace: 100 * time.Millisecond,
	})
	switch {
	case errors.Is(err, os.ErrNotExist) && !isExecutable(c.command):
		return answer{}, fmt.Errorf("%s vanished", c.command)
	case errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist):
		return answer{Reason: err.Error()}, nil
	case err != nil:
		return answer{}, err
	case errors.Is(exit.Cause, errProbeTimeout):
		return answer{}, fmt.Errorf("no answer within %s", d.opt.Timeout)
	case exit.Cause != nil:
		return answer{}, exit.Cause
	case exit.Signal != 0: // by the system, which had no memory left for one
		return answer{}, fmt.Errorf("the probe was ended by %s", unix.SignalName(exit.Signal))
	case exit.Code != c.probe.ExitCode:
		return answer{Reason: fmt.Sprintf("the probe exited with %d", exit.Code)}, nil
	}
	return match(c.probe, append(stdout.Bytes(), stderr.Bytes()...)), nil
}

func match(probe runtime.Probe, output []byte) answer {
	groups := probe.Pattern.FindSubmatch(output)
	if groups == nil {
		return answer{Reason: fmt.Sprintf("the probe's answer does not match %s", probe.Pattern)}
	}
	var a answer
	version, abi := probe.Pattern.SubexpIndex("version"), probe.Pattern.SubexpIndex("abi")
	if version < 0 && len(groups) > 1 && abi != 1 {
		version = 1
	}
	if version >= 0 {
		a.Version = string(groups[version])
	}
	if abi >= 0 {
		a.ABI = string(groups[abi])
	}
	return a
}

// bounded keeps the first 16 KiB of an answer.
type bounded struct{ b *bytes.Buffer }

func (w *bounded) Write(p []byte) (int, error) {
	w.b.Write(p[:min(len(p), max(0, 16<<10-w.b.Len()))])
	return len(p), nil
}
