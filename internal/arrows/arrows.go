// Package arrows holds the test that keeps the packages' imports as few as they are.
package arrows
