package main

import (
	"bytes"
	"io"
	"log/slog"
	"strings"
	"unicode/utf8"

	"github.com/attune-run/attune/internal/redact"
)

// newLog writes JSON lines with the keys of Lambda's own structured logs (timestamp, level, message, requestId). The function's credentials
// are masked in them.
func newLog(w io.Writer, env map[string]string) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(env["AWS_LAMBDA_LOG_LEVEL"])); err != nil {
		level = slog.LevelInfo
	}
	masked := maskedWriter{w, redact.New(credentialsIn(env)...)}
	log := slog.New(slog.NewJSONHandler(masked, &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) > 0 {
			return a
		}
		switch a.Key {
		case slog.TimeKey:
			a.Key = "timestamp"
		case slog.MessageKey:
			a.Key = "message"
		}
		return a
	}}))
	slog.SetDefault(log) // what the Lambda library logs
	return log
}

// maskedWriter masks each line, which comes in one Write.
type maskedWriter struct {
	w    io.Writer
	mask *redact.Set
}

func (m maskedWriter) Write(line []byte) (int, error) {
	if _, err := io.WriteString(m.w, m.mask.String(string(line))); err != nil {
		return 0, err
	}
	return len(line), nil
}

// lineMax bytes are logged of one line of an action; CloudWatch takes 256 KiB for an event.
const lineMax = 64 << 10

// lines logs what an action prints, line by line. It is not safe for concurrent use.
type lines struct {
	log    *slog.Logger
	stream string
	begun  bytes.Buffer
}

// Write never fails.
func (l *lines) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		line, rest, ended := bytes.Cut(p, []byte("\n"))
		p = rest
		l.begun.Write(line[:min(len(line), lineMax-min(l.begun.Len(), lineMax))])
		if ended {
			l.flush()
		}
	}
	return n, nil
}

// flush logs what no line end followed yet.
func (l *lines) flush() {
	if l.begun.Len() > 0 {
		l.log.Info(text(l.begun.Bytes()), "stream", l.stream)
		l.begun.Reset()
	}
}

func text(line []byte) string {
	line = bytes.TrimSuffix(line, []byte("\r"))
	if utf8.Valid(line) {
		return string(line)
	}
	return strings.ToValidUTF8(string(line), "\uFFFD")
}
