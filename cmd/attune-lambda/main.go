// Command attune-lambda runs actions of packs as a function: it is the bootstrap of an AWS Lambda function, and with --http the entry
// point of a container function on any platform that calls over HTTP.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/internal/manpage"
	"github.com/attune-run/attune/internal/version"
)

func main() {
	os.Exit(run(os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// run is the whole program. In Lambda it returns only when the function cannot go on.
func run(args, environ []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("attune-lambda", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { usage(stdout) }
	address := flags.String("http", "", "serve over HTTP")
	man := flags.String("man", "", "print the manual")
	printVersion := flags.Bool("version", false, "print the version")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return executor.ExitAttune
	case *man != "":
		if err := manpage.Print(stdout, manual(), *man, variables(environ)["SOURCE_DATE_EPOCH"]); err != nil {
			_, _ = fmt.Fprintln(stderr, "attune-lambda: error:", err)
			return executor.ExitAttune
		}
		return 0
	case *printVersion:
		_, _ = fmt.Fprintln(stdout, version.String())
		return 0
	}
	return begin(*address, environ, stderr)
}

// begin loads the configuration and serves. What is wrong is said where the platform shows it.
func begin(address string, environ []string, stderr io.Writer) int {
	env := variables(environ)
	if address == "" {
		address = env["ATTUNE_LAMBDA_HTTP"]
	}
	api := env["AWS_LAMBDA_RUNTIME_API"]
	log := newLog(stderr, env)
	if api == "" && address == "" {
		log.Error("attune-lambda is started by AWS Lambda, or with --http ADDRESS; `attune lambda invoke --local` runs a bundle on this machine")
		return executor.ExitAttune
	}
	function, err := newFunction(environ, address != "", log)
	switch {
	case err != nil && address == "":
		log.Error("the function cannot start", "error", err.Error())
		if err := reportInit(api, err); err != nil {
			log.Error("report it to Lambda", "error", err.Error())
		}
		return 1
	case err != nil:
		log.Error("attune-lambda cannot start", "error", err.Error())
		return executor.ExitAttune
	case address != "":
		err = serveHTTP(function, address, env["PORT"])
		if err != nil {
			log.Error("attune-lambda ends", "error", err.Error())
			return executor.ExitAttune
		}
		return 0
	}
	serveLambda(function)
	return 0
}
