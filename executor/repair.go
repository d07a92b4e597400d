package executor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/attune-run/attune/proc"
)

// damagedBy tells whether the child could not be started because of its environment: what is to be run lies in it, and it, or the
// interpreter it leads to, is not there or is no program.
func (x *execution) damagedBy(err error) bool {
	var start *proc.StartError
	if x.env == nil || !errors.As(err, &start) || !strings.HasPrefix(start.Path, x.env.Dir+"/") {
		return false
	}
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOEXEC) || errors.Is(err, syscall.ELOOP)
}

// rebuild gives the damaged environment up and makes a new one. Nothing has run in it, so the execution can go on, once.
func (x *execution) rebuild(ctx context.Context, why error) error {
	x.warn("environment %s is damaged and is built again: %v", x.env.ID, why)
	if err := x.giveUp(ctx, why.Error()); err != nil {
		return err
	}
	x.releaseEnvironment()
	return x.environment(ctx)
}

func (x *execution) giveUp(ctx context.Context, reason string) error {
	store, err := x.svc.Store()
	if err != nil {
		return err
	}
	return store.Quarantine(ctx, x.env, reason)
}

// damageLimit bounds the look for damage after a failure: actions fail for reasons of their own all the time.
const damageLimit = 100 * time.Millisecond

// damage looks, after an action has failed, whether its environment is still as it was built, once for each. A damaged one is
// given up, and the text says so. The action is not run again: it may have done half of its work.
func (x *execution) damage() string {
	if x.env == nil {
		return ""
	}
	if _, done := x.svc.checked.LoadOrStore(filepath.Base(x.env.Dir), struct{}{}); done {
		return ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), damageLimit)
	defer cancel()
	problems, _ := x.env.Damage(ctx) // what was found in time counts
	if len(problems) == 0 {
		return ""
	}
	if err := x.giveUp(context.Background(), problems[0]); err != nil {
		return fmt.Sprintf("its environment %s is damaged: %s; `attune-run env remove %[1]s` makes the next run build it again", x.env.ID, problems[0])
	}
	return fmt.Sprintf("its environment was damaged (%s); it was given up, and the next run builds a new one", problems[0])
}
