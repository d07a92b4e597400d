// Package redact masks secret values in byte streams.
package redact
