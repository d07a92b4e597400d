package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/attune-run/attune/internal/manpage"
)

// manual is what --help and --man say.
func manual() manpage.Page {
	return manpage.Page{
		Name: "attune-lambda", Summary: "Runs actions of packs as a function", Synopsis: "[--http ADDRESS]",
		Sections: []manpage.Section{
			{Title: "Description", Text: "The bootstrap of an AWS Lambda function, which Lambda starts without arguments, or with --http a server for Knative, " +
				"Cloud Run, OpenFaaS and the like."},
			{Title: "Options", Entries: []manpage.Entry{
				{Name: "--http ADDRESS", Help: `serve over HTTP, like :8080; ":" alone takes the port from PORT, else 8080`},
				{Name: "--man FORMAT", Help: "print the manual, as roff or markdown"},
				{Name: "--version", Help: "print the version"},
			}},
			{Title: "Events", Text: "The first that fits:", Entries: kinds},
			{Title: "Variables", Entries: append(variablesOwn(), variablesShared...)},
		},
	}
}

// kinds are the kinds of events, in the order in which they are looked for.
var kinds = []manpage.Entry{
	{Name: "request", Help: `"schema": "attune.request/v1": names an allowed action; answered with the result document`},
	{Name: "http", Help: "Function URL, API Gateway v2 (requestContext.http), API Gateway v1 and load balancers (httpMethod): the body, JSON or a form, is the " +
		"parameters, without a body the query is; answered with 200, 400, 403, 409, 422, 504 or 500 and the result document"},
	{Name: "sqs", Help: `each record's body is the parameters of one run; a body that is no JSON object is the parameter "message". Answered with ` +
		"batchItemFailures; a FIFO group stops at its first failure; all failed is an error"},
	{Name: "sns", Help: "the same with each message; an error when one failed"},
	{Name: "s3", Help: "each record is the parameters of one run; an error when one failed"},
	{Name: "eventbridge", Help: `"detail-type": the event is the parameters; an error when it failed`},
	{Name: "raw", Help: "anything else: the event is the parameters; answered as a direct request"},
}

func variablesOwn() (all []manpage.Entry) {
	for _, o := range options {
		all = append(all, manpage.Entry{Name: o.name + "=" + o.value, Help: o.help})
	}
	return all
}

var variablesShared = []manpage.Entry{
	{Name: "AWS_LAMBDA_LOG_LEVEL=DEBUG|INFO|WARN|ERROR", Help: "the least level that is logged; INFO unless set"},
	{Name: "ATTUNE_PACKS, ATTUNE_CACHE, ATTUNE_LAYERS, ATTUNE_ALLOW_ENV, ATTUNE_MAX_TIMEOUT, ATTUNE_MIN_ISOLATION, ATTUNE_CONFIG, …",
		Help: "as for attune-run. Unless set, packs are in $LAMBDA_TASK_ROOT/packs and /opt/attune/packs, environments are built below /tmp/attune, " +
			"and used in place from /opt/attune/cache and $LAMBDA_TASK_ROOT/cache"},
}

func usage(w io.Writer) {
	page := manual()
	var b strings.Builder
	fmt.Fprintf(&b, "Usage: %s %s\n\n%s.\n", page.Name, page.Synopsis, page.Summary)
	for _, section := range page.Sections {
		fmt.Fprintf(&b, "\n%s:\n", section.Title)
		if section.Text != "" {
			fmt.Fprintf(&b, "  %s\n", section.Text)
		}
		for _, e := range section.Entries {
			fmt.Fprintf(&b, "  %s\n      %s\n", e.Name, e.Help)
		}
	}
	_, _ = io.WriteString(w, b.String())
}
