//go:build !linux

package envcache

import (
	"errors"
	"syscall"
	"testing"
)

func denyFlock(syscall.Errno) error { return errors.ErrUnsupported }

func mountMemory(t testing.TB, _, _ string) { t.Skip("takes a file system in memory") }

func remountReadOnly(t testing.TB, _ string) { t.Skip("takes a file system in memory") }

func bindReadOnly(t testing.TB, _ string) { t.Skip("takes a bind mount") }
