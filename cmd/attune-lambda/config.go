package main

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/attune-run/attune/internal/config"
	"github.com/attune-run/attune/internal/nearest"
)

// settings are what an operator decides for a function beside what attune-run is configured with as well (internal/config).
type settings struct {
	action      string   // runs for every event that is no direct request
	allow       []string // globs of the actions that direct requests may name
	source      source   // the only kind of event; empty: the first that fits
	failAsError bool     // a failed action of a direct request or raw event is an error of the function
	concurrency int      // records of batches, or HTTP requests, at the same time
	requestEnv  []string // globs of the variables that direct requests may set
	drain       time.Duration
	cacheMax    int64 // bytes of environments that were built here
	minFree     int64 // bytes that must be free before an action is run
	table       string
	ttl         time.Duration
	bucket      string // with a prefix behind a slash
}

// option is one variable: what it means for --help, and how it is read.
type option struct {
	name, value, help string
	read              func(s *settings, text string) error
}

// options are all variables of attune-lambda's own.
var options = []option{
	{"ATTUNE_LAMBDA_ACTION", "ACTION", "what runs for events that are no direct request: they fill its parameters",
		func(s *settings, text string) error { s.action = text; return nil }},
	{"ATTUNE_LAMBDA_ALLOW", "GLOB,…", "actions that direct requests may name, beside ATTUNE_LAMBDA_ACTION; one of the two must be set",
		func(s *settings, text string) (err error) { s.allow, err = globs(text); return err }},
	{"ATTUNE_LAMBDA_EVENT", "KIND", "the only kind of event: request, http, sqs, sns, s3, eventbridge or raw; unless set, the first that fits",
		func(s *settings, text string) (err error) { s.source, err = oneOf(text, sources...); return err }},
	{"ATTUNE_LAMBDA_FAIL", "result|error", "how a failed action of a direct request or raw event is told: as its result, unless set, or as an error of the function",
		func(s *settings, text string) error {
			word, err := oneOf(text, "result", "error")
			s.failAsError = word == "error"
			return err
		}},
	{"ATTUNE_LAMBDA_REQUEST_ENV", "GLOB,…", "variables that direct requests may set (env, secret_env); none unless set",
		func(s *settings, text string) (err error) { s.requestEnv, err = globs(text); return err }},
	{"ATTUNE_LAMBDA_CONCURRENCY", "N", "records of a batch, or HTTP requests, that run at the same time; 10 unless set",
		func(s *settings, text string) (err error) { s.concurrency, err = count(text); return err }},
	{"ATTUNE_LAMBDA_CACHE_MAX", "SIZE", "environments that were built here are pruned beyond this; 256M unless set",
		func(s *settings, text string) error { return size(&s.cacheMax, text) }},
	{"ATTUNE_LAMBDA_MIN_FREE", "SIZE", "what must be free in the temporary directory before an action is run; 16M unless set",
		func(s *settings, text string) error { return size(&s.minFree, text) }},
	{"ATTUNE_LAMBDA_HTTP", "ADDRESS", "the same as --http", func(*settings, string) error { return nil }},
	{"ATTUNE_LAMBDA_DRAIN", "DURATION", "with --http: how long requests may go on after SIGTERM; 8s unless set",
		func(s *settings, text string) error { return duration(&s.drain, text) }},
	{"ATTUNE_IDEMPOTENCY_TABLE", "TABLE", "DynamoDB table with the key id (text) and the TTL attribute expires_at: an id runs once",
		func(s *settings, text string) error { s.table = text; return nil }},
	{"ATTUNE_IDEMPOTENCY_TTL", "DURATION", "how long the table remembers; 24h unless set",
		func(s *settings, text string) error { return duration(&s.ttl, text) }},
	{"ATTUNE_RESULT_BUCKET", "BUCKET[/PREFIX]", "S3 bucket for results that are too large for a response",
		func(s *settings, text string) error { s.bucket = text; return nil }},
}

// prefix begins the variables that are attune-lambda's alone: an unknown one is a mistake.
const prefix = "ATTUNE_LAMBDA_"

var errNoAction = errors.New("neither ATTUNE_LAMBDA_ACTION nor ATTUNE_LAMBDA_ALLOW is set: name the action that events run with the first " +
	"(ATTUNE_LAMBDA_ACTION=ops.resize), or the actions that direct requests may name with the second (ATTUNE_LAMBDA_ALLOW=ops.*)")

func readSettings(env map[string]string) (settings, error) {
	s := settings{concurrency: 10, cacheMax: 256 << 20, minFree: 16 << 20, drain: 8 * time.Second, ttl: 24 * time.Hour}
	names := make([]string, len(options))
	for i, o := range options {
		names[i] = o.name
		if text := env[o.name]; text != "" {
			if err := o.read(&s, text); err != nil {
				return s, fmt.Errorf("%s=%s: %w", o.name, text, err)
			}
		}
	}
	for name := range env {
		if strings.HasPrefix(name, prefix) && !slices.Contains(names, name) {
			if near := nearest.Name(name, names); near != "" {
				return s, fmt.Errorf("%s is not known; did you mean %s?", name, near)
			}
			return s, fmt.Errorf("%s is not known; attune-lambda --help lists what is", name)
		}
	}
	if s.action == "" && len(s.allow) == 0 {
		return s, errNoAction
	}
	return s, nil
}

// defaults are where bundles put packs and environments, and the one directory that can be written in Lambda.
func defaults(env map[string]string) config.Defaults {
	task := env["LAMBDA_TASK_ROOT"]
	if task == "" {
		task = "/var/task"
	}
	d := config.Defaults{Packs: []string{filepath.Join(task, "packs")}, Cache: "/tmp/attune"}
	for _, layer := range []string{"/opt/attune/cache", filepath.Join(task, "cache")} {
		if _, err := os.Stat(layer); err == nil {
			d.Layers = append(d.Layers, layer)
		}
	}
	return d
}

func variables(environ []string) map[string]string {
	env := make(map[string]string, len(environ))
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		env[name] = value
	}
	return env
}

func globs(text string) ([]string, error) {
	var all []string
	for glob := range strings.SplitSeq(text, ",") {
		if glob = strings.TrimSpace(glob); glob == "" {
			continue
		}
		if _, err := path.Match(glob, ""); err != nil {
			return nil, fmt.Errorf("%q is no glob", glob)
		}
		all = append(all, glob)
	}
	return all, nil
}

func matches(globs []string, name string) bool {
	return slices.ContainsFunc(globs, func(glob string) bool {
		ok, _ := path.Match(glob, name)
		return ok
	})
}

func oneOf[T ~string](text string, words ...T) (T, error) {
	for _, word := range words {
		if text == string(word) {
			return word, nil
		}
	}
	return "", fmt.Errorf("write one of %v", words)
}

func count(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return 0, errors.New("write a whole number, 1 or more")
	}
	return n, nil
}

func size(into *int64, text string) error {
	var s config.Size
	err := s.UnmarshalText([]byte(text))
	*into = int64(s)
	return err
}

func duration(into *time.Duration, text string) error {
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return errors.New(`write it like "30s" or "24h"`)
	}
	*into = d
	return nil
}
