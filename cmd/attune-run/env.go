package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/executor"
)

type envCmd struct {
	List    envListCmd    `cmd:"" help:"List the environments of the cache."`
	Path    envPathCmd    `cmd:"" help:"Print the directory of an action's or a script's environment."`
	Key     envKeyCmd     `cmd:"" help:"Print the key of an action's or a script's environment."`
	Explain envExplainCmd `cmd:"" help:"Show everything that decides the key."`
	Remove  envRemoveCmd  `cmd:"" help:"Remove environments by key."`
}

// store opens the environment store.
func (a *app) store() (*envcache.Store, error) {
	service, _, err := a.service()
	if err != nil {
		return nil, err
	}
	return service.Store()
}

type envListCmd struct{ format }

// Run lists what the store holds.
func (c *envListCmd) Run(a *app) error {
	store, err := a.store()
	if err != nil {
		return err
	}
	infos, err := store.List(a.ctx)
	if err != nil {
		return err
	}
	rows := make([][]string, 0, len(infos))
	for _, i := range infos {
		use := ""
		if i.InUse {
			use = "in use"
		}
		rows = append(rows, []string{i.ID, string(i.State), i.Interpreter.Version, byteSize(i.Size), age(i.LastUsed), use})
	}
	if infos == nil {
		return c.show(a.std.out, []any{}, []string{"KEY", "STATE", "INTERPRETER", "SIZE", "LAST USED", ""}, rows)
	}
	return c.show(a.std.out, infos, []string{"KEY", "STATE", "INTERPRETER", "SIZE", "LAST USED", ""}, rows)
}

// environmentOf is what the three commands about one environment share.
type environmentOf struct {
	target `embed:""`
}

func (c *environmentOf) explain(a *app) (executor.Explanation, error) {
	req, err := c.request(a)
	if err != nil {
		return executor.Explanation{}, err
	}
	service, _, err := a.service()
	if err != nil {
		return executor.Explanation{}, err
	}
	e, err := service.Explain(a.ctx, req)
	switch {
	case err != nil:
		return e, err
	case len(e.Problems) > 0:
		return e, errors.New(strings.Join(e.Problems, "; "))
	case e.Environment.State == "none":
		return e, fmt.Errorf("%s needs no environment", e.Action)
	}
	return e, nil
}

type envPathCmd struct{ environmentOf }

// Run prints the directory; one that is not built yet is an error.
func (c *envPathCmd) Run(a *app) error {
	e, err := c.explain(a)
	if err != nil {
		return err
	}
	if e.Environment.Path == "" {
		return fmt.Errorf("the environment %s of %s is not built yet; the first run builds it", e.Environment.Key, e.Action)
	}
	_, err = fmt.Fprintln(a.std.out, e.Environment.Path)
	return err
}

type envKeyCmd struct{ environmentOf }

// Run prints the key.
func (c *envKeyCmd) Run(a *app) error {
	e, err := c.explain(a)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.std.out, e.Environment.Key)
	return err
}

type envExplainCmd struct {
	environmentOf
	format
}

// Run shows the inputs of the key.
func (c *envExplainCmd) Run(a *app) error {
	e, err := c.explain(a)
	if err != nil {
		return err
	}
	rows := [][]string{{"key", e.Environment.Key}, {"state", e.Environment.State}}
	for _, input := range e.Environment.Inputs {
		rows = append(rows, []string{input.Name, input.Value})
	}
	return c.show(a.std.out, e.Environment, []string{"INPUT", "VALUE"}, rows)
}

type envRemoveCmd struct {
	Keys []string `arg:"" name:"key" help:"Keys, or prefixes that name one environment."`
}

// Run removes all that can be removed and says what could not.
func (c *envRemoveCmd) Run(a *app) error {
	store, err := a.store()
	if err != nil {
		return err
	}
	var failures []error
	for _, key := range c.Keys {
		info, err := store.Get(key)
		if err == nil {
			err = store.Remove(a.ctx, info.ID)
		}
		if err != nil {
			failures = append(failures, err)
			continue
		}
		_, _ = fmt.Fprintf(a.std.out, "removed %s (%s)\n", info.ID, byteSize(info.Size))
	}
	return errors.Join(failures...)
}

// byteSize is a size for people: 12.3M.
func byteSize(n int64) string {
	const units = "BKMGT"
	size, unit := float64(n), 0
	for size >= 1024 && unit < len(units)-1 {
		size, unit = size/1024, unit+1
	}
	if unit == 0 {
		return fmt.Sprintf("%dB", n)
	}
	return fmt.Sprintf("%.1f%c", size, units[unit])
}

// age is how long ago something was, to the largest unit that says enough.
func age(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	d := max(time.Since(t), 0)
	switch {
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd ago", int(d.Hours()/24))
	}
}
