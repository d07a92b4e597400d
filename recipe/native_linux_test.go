package recipe

import (
	"context"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/attune-run/attune/proc"
)

// Another process holds the program open for writing, and lets go once the kernel was seen to refuse it.
func TestABusyProgramIsStartedWhenItsWriterIsDone(t *testing.T) {
	in := native(t, mustRead(t, compileC(t, "gcc")))
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	require.NoError(t, err)
	events := os.NewFile(uintptr(watch), "inotify")
	defer func() { _ = events.Close() }()

	writer := exec.Command("/bin/sh", "-c", `exec 3>>"$1"; echo open; read -r line || :`, "sh", in.Script)
	release, err := writer.StdinPipe()
	require.NoError(t, err)
	opened, err := writer.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, writer.Start())
	_, err = opened.Read(make([]byte, 5))
	require.NoError(t, err)

	_, err = unix.InotifyAddWatch(watch, in.Script, unix.IN_CLOSE_NOWRITE) // an execve that failed has opened and closed it
	require.NoError(t, err)
	out := proc.NewCapture(proc.DefaultCapture)
	started := make(chan error, 1)
	go func() {
		_, err := proc.Run(context.Background(), proc.Spec{Argv: []string{in.Script}, Stdout: out, Stderr: io.Discard})
		started <- err
	}()
	_, err = events.Read(make([]byte, 4096))
	require.NoError(t, err)
	select {
	case err := <-started:
		t.Fatalf("it was not busy: %v", err)
	default:
	}
	require.NoError(t, release.Close())
	require.NoError(t, writer.Wait())
	require.NoError(t, <-started)
	assert.Equal(t, "hello\n", out.Text())
}
