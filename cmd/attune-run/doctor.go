package main

import (
	"fmt"
	"strings"

	"github.com/attune-run/attune/internal/show"
	"github.com/attune-run/attune/proc"
)

type doctorCmd struct {
	show.Format
	Require string `enum:",basic,strict" default:"" placeholder:"LEVEL" help:"Exit with 1 unless this level can be had in full: basic or strict."`
}

// Run shows the guarantees and limits of this machine, each found by trying.
func (c *doctorCmd) Run(a *app) error {
	diagnosis := proc.Diagnose()
	rows := make([][]string, 0, len(diagnosis.Guarantees)+len(diagnosis.Limits))
	for _, g := range diagnosis.Guarantees {
		rows = append(rows, []string{g.Name, g.Promise, verdict(g.At[proc.Basic]), verdict(g.At[proc.Strict])})
	}
	if err := c.Show(a.std.out, diagnosis, []string{"GUARANTEE", "PROMISE", "BASIC", "STRICT"}, rows); err != nil {
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
	if err := show.Table(a.std.out, []string{"LIMIT", "ENFORCED BY"}, rows); err != nil {
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
