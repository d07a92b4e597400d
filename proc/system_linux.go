package proc

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	stdruntime "runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// argumentBounds are those of execve(2).
const argumentBounds = "one argument or variable may hold 128 KiB, all of them a quarter of the stack limit"

// rssUnit is that of ru_maxrss in bytes (getrusage(2)).
const rssUnit = 1024

// cldStopped is si_code of a child that was stopped (sigaction(2)).
const cldStopped = 5

// awaitEnd blocks until a child has ended, without reaping it, or, where that is asked for, was stopped.
func awaitEnd(pid int, stops bool) (stopped bool) {
	if !stops && awaitPidfd(pid) {
		return false
	}
	options := unix.WEXITED | unix.WNOWAIT
	if stops {
		options |= unix.WSTOPPED
	}
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, pid, &info, options, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err == nil && info.Code == cldStopped:
			// Take the notice, else the next wait returns at once.
			_ = unix.Waitid(unix.P_PID, pid, &unix.Siginfo{}, unix.WSTOPPED|unix.WNOHANG, nil)
			return true
		default:
			return false
		}
	}
}

// awaitPidfd leaves the wait to Go's poller. In waitid(2) each child would hold one of the few threads that run Go, for up to the ten
// milliseconds after which Go's monitor looks, and the work of others would stand still beside an idle processor. False: there is no pidfd that
// can be polled (Linux before 5.10, or a filter of system calls).
func awaitPidfd(pid int) bool {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return false
	}
	file := os.NewFile(uintptr(fd), "pidfd")
	defer func() { _ = file.Close() }()
	conn, err := file.SyscallConn()
	if err != nil {
		return false
	}
	ended := false
	err = conn.Read(func(uintptr) bool {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT|unix.WNOHANG, nil)
		ended = errors.Is(err, unix.ECHILD) || err == nil && info.Signo != 0
		return ended
	})
	return err == nil && ended
}

// newPipe is one that no other child inherits.
func newPipe() (r, w int, err error) {
	var fds [2]int
	err = unix.Pipe2(fds[:], unix.O_CLOEXEC)
	return fds[0], fds[1], os.NewSyscallError("pipe2", err)
}

// stopSelf returns when attune goes on: aimed at this thread the signal is taken before the call returns.
func stopSelf() {
	stdruntime.LockOSThread()
	defer stdruntime.UnlockOSThread()
	_ = unix.Tgkill(unix.Getpid(), unix.Gettid(), unix.SIGSTOP)
}

// mostOf is what a limit can be raised to, whatever its hard limit is.
func mostOf(int) uint64 { return math.MaxUint64 }

// tasksOf counts the processes and threads of a user, which RLIMIT_NPROC counts together.
func tasksOf(uid int) int64 {
	entries, _ := os.ReadDir("/proc")
	var sum int64
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || e.Name()[0] < '0' || e.Name()[0] > '9' {
			continue
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Uid) == uid {
			tasks, _ := os.ReadDir("/proc/" + e.Name() + "/task")
			sum += int64(len(tasks))
		}
	}
	return sum
}

// processes are all that can be seen; none without /proc.
func processes() []process {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var all []process
	for _, e := range entries {
		if id, err := strconv.Atoi(e.Name()); err == nil {
			if p, err := readProcess(id); err == nil {
				all = append(all, p)
			}
		}
	}
	return all
}

// readProcess reads /proc/PID/stat (proc_pid_stat(5)). The command's name may hold anything, so fields are
// counted from the last parenthesis.
func readProcess(pid int) (process, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return process{}, err
	}
	end := bytes.LastIndexByte(data, ')')
	fields := strings.Fields(string(data[end+1:]))
	if end < 0 || len(fields) < 4 {
		return process{}, fmt.Errorf("/proc/%d/stat: %q", pid, data)
	}
	p := process{pid: pid, zombie: fields[0] == "Z" || fields[0] == "X"}
	for i, field := range []*int{&p.parent, &p.group, &p.session} {
		if *field, err = strconv.Atoi(fields[i+1]); err != nil {
			return process{}, err
		}
	}
	return p, nil
}
