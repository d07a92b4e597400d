package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/attune-run/attune/proc"
)

type doctorCmd struct {
	format
	Require string `enum:",basic,strict" default:"" placeholder:"LEVEL" help:"Exit with 1 unless this level can be had in full: basic or strict."`
}

// Run shows the guarantees and limits of this machine, each found by trying.
func (c *doctorCmd) Run(a *app) error {
	diagnosis := proc.Diagnose()
	rows := make([][]string, 0, len(diagnosis.Guarantees)+len(diagnosis.Limits))
	for _, g := range diagnosis.Guarantees {
		rows = append(rows, []string{g.Name, g.Promise, verdict(g.At[proc.Basic]), verdict(g.At[proc.Strict])})
	}
	if err := c.show(a.std.out, diagnosis, []string{"GUARANTEE", "PROMISE", "BASIC", "STRICT"}, rows); err != nil {
		return err
	}
	if c.Output == "table" {
		if err := c.rest(a, diagnosis); err != nil {
			return err
		}
	}
	if c.Require == "" {
		return nil
	}
	missing := diagnosis.Missing(proc.Level(c.Require))
	if len(missing) == 0 {
		return nil
	}
	_, _ = fmt.Fprintf(a.std.err, "%s: isolation %s cannot be had here; missing: %s\n", a.name, c.Require, strings.Join(missing, ", "))
	return exitCode(1)
}

// rest shows the limits, and why what is missing is missing.
func (c *doctorCmd) rest(a *app, d proc.Diagnosis) error {
	rows := make([][]string, 0, len(d.Limits))
	for _, l := range d.Limits {
		rows = append(rows, []string{l.Name, l.EnforcedBy})
	}
	_, _ = fmt.Fprintln(a.std.out)
	if err := printTable(a.std.out, []string{"LIMIT", "ENFORCED BY"}, rows); err != nil {
		return err
	}
	for _, level := range []proc.Level{proc.Basic, proc.Strict} {
		for _, g := range d.Guarantees {
			if why := g.At[level].Why; why != "" {
				_, _ = fmt.Fprintf(a.std.out, "\n%s at %s is missing: %s\n", g.Name, level, why)
			}
		}
	}
	return nil
}

func verdict(g proc.Guarantee) string {
	switch {
	case g.By != "":
		return g.By
	case g.Why != "":
		return "missing"
	}
	return "-"
}

// limitFlags reads --limit name=value.
func limitFlags(texts []string) (map[string]any, error) {
	if len(texts) == 0 {
		return nil, nil
	}
	limits := map[string]any{}
	for _, text := range texts {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("--limit %s: write it as name=value, like memory=512M", text)
		}
		limits[name] = value
	}
	return limits, nil
}

// resolveIsolation reads the least isolation and the highest limits; ATTUNE_MAX_LIMITS is a list like "memory=1G,pids=200".
func (c *config) resolveIsolation(file configFile) error {
	c.isolation = proc.Level(c.text("min_isolation", "ATTUNE_MIN_ISOLATION", file.MinIsolation, string(proc.None)))
	if !slices.Contains(proc.Levels, c.isolation) {
		return fmt.Errorf("min_isolation %q is not a level; there are none, basic and strict", c.isolation)
	}
	var own []string
	for _, name := range proc.LimitNames {
		if value, ok := file.MaxLimits[name]; ok {
			own = append(own, fmt.Sprintf("%s=%v", name, value))
			delete(file.MaxLimits, name)
		}
	}
	for name, value := range file.MaxLimits { // what is left is wrong, and ParseLimits says how
		own = append(own, fmt.Sprintf("%s=%v", name, value))
	}
	limits, err := limitFlags(fields(c.text("max_limits", "ATTUNE_MAX_LIMITS", strings.Join(own, ","), "")))
	if err == nil {
		c.limits, err = proc.ParseLimits(limits)
	}
	if err != nil {
		return fmt.Errorf("max_limits: %w", err)
	}
	return nil
}
