package recipe

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/attune-run/attune/envcache"
	"github.com/attune-run/attune/runtime"
)

// plain needs no environment: the interpreter runs the script, or the script runs itself.
type plain struct{}

var errNoEnvironment = errors.New("this runtime has no environments")

func (plain) Inputs(context.Context, Input) ([]envcache.KeyInput, error) { return nil, nil }

func (plain) Build(context.Context, Input, envcache.Site) (envcache.Built, error) {
	return envcache.Built{}, errNoEnvironment
}

func (plain) Check(context.Context, Input, string) error { return errNoEnvironment }

func (plain) Command(in Input, _ *envcache.Env) (Command, error) {
	return interpreted(in, in.Interpreter.Path, runtime.Vars{})
}

// NotExecutableError is a file that is to run by itself and may not.
type NotExecutableError struct{ Path string }

// Error names the remedy.
func (e *NotExecutableError) Error() string {
	return fmt.Sprintf("%s is not executable; chmod +x it, or name its runtime", e.Path)
}

// interpreted is "interpreter args… script". Without an interpreter the script runs itself.
func interpreted(in Input, interpreter string, vars runtime.Vars) (Command, error) {
	if interpreter == "" {
		if info, err := os.Stat(in.Script); err == nil && info.Mode()&0o111 == 0 {
			return Command{}, &NotExecutableError{Path: in.Script}
		}
		return Command{Argv: []string{in.Script}}, nil
	}
	vars.PackDir, vars.Interpreter, vars.ActionFile = in.PackDir, in.Interpreter.Path, in.Script
	argv := []string{interpreter}
	for _, arg := range in.Spec.Interpreter.Args {
		expanded, err := runtime.Expand(arg, vars)
		if err != nil {
			return Command{}, err
		}
		argv = append(argv, expanded)
	}
	if in.Script != "" {
		argv = append(argv, in.Script)
	}
	return Command{Argv: argv}, nil
}
