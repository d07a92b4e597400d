// Package version says which build of attune this is.
package version

import (
	"runtime/debug"
	"strings"
)

// stamped is set by the linker for releases: -X github.com/attune-run/attune/internal/version.stamped=v1.2.3.
var stamped string

// String is the release, else the module's version, else the commit, "+dirty" with changes on top.
func String() string {
	if stamped != "" {
		return stamped
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	revision, dirty := "", ""
	for _, setting := range info.Settings {
		switch setting.Key {
		case "vcs.revision":
			revision = setting.Value[:min(len(setting.Value), 12)]
		case "vcs.modified":
			if setting.Value == "true" {
				dirty = "+dirty"
			}
		}
	}
	return strings.TrimSuffix("devel-"+revision, "-") + dirty
}
