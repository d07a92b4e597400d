package main

import "strings"

// traceVariable is X-Ray's own name for the trace header in an environment.
const traceVariable = "_X_AMZN_TRACE_ID"

// traceparent is the W3C form of X-Ray's header "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"; empty where
// that has no root or no parent.
func traceparent(header string) string {
	fields := map[string]string{}
	for field := range strings.SplitSeq(header, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(field), "=")
		fields[name] = value
	}
	root, parent := strings.Split(fields["Root"], "-"), fields["Parent"]
	if len(root) != 3 || root[0] != "1" || !isHex(root[1], 8) || !isHex(root[2], 24) || !isHex(parent, 16) {
		return ""
	}
	flags := "00"
	if fields["Sampled"] == "1" {
		flags = "01"
	}
	return "00-" + root[1] + root[2] + "-" + parent + "-" + flags
}

// printable tells whether a header can be a variable.
func printable(header string) bool {
	return header != "" && len(header) < 1024 && !strings.ContainsFunc(header, func(r rune) bool { return r < ' ' || r > '~' })
}

// isTraceparent tells whether a text is version 00 of W3C Trace Context (https://www.w3.org/TR/trace-context/#traceparent-header).
func isTraceparent(text string) bool {
	parts := strings.Split(text, "-")
	return len(parts) == 4 && parts[0] == "00" && isHex(parts[1], 32) && isHex(parts[2], 16) && isHex(parts[3], 2)
}

func isHex(text string, length int) bool {
	return len(text) == length && strings.Trim(text, "0123456789abcdef") == ""
}
