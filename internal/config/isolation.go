package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/attune-run/attune/proc"
)

// resolveIsolation reads the least isolation and the highest limits; ATTUNE_MAX_LIMITS is a list like "memory=1G,pids=200".
func (c *Config) resolveIsolation(file document) error {
	c.isolation = proc.Level(c.text("min_isolation", "ATTUNE_MIN_ISOLATION", file.MinIsolation, string(proc.None)))
	if !slices.Contains(proc.Levels, c.isolation) {
		return fmt.Errorf("min_isolation %q is not a level; there are none, basic and strict", c.isolation)
	}
	var own []string
	for _, name := range proc.LimitNames {
		if value, ok := file.MaxLimits[name]; ok {
			own = append(own, fmt.Sprintf("%s=%v", name, value))
			delete(file.MaxLimits, name)
		}
	}
	for name, value := range file.MaxLimits { // what is left is wrong, and ParseLimits says how
		own = append(own, fmt.Sprintf("%s=%v", name, value))
	}
	limits, err := ParseLimits(fields(c.text("max_limits", "ATTUNE_MAX_LIMITS", strings.Join(own, ","), "")))
	if err == nil {
		c.limits, err = proc.ParseLimits(limits)
	}
	if err != nil {
		return fmt.Errorf("max_limits: %w", err)
	}
	return nil
}

// ParseLimits reads name=value, like memory=512M; nil when there are none.
func ParseLimits(texts []string) (map[string]any, error) {
	if len(texts) == 0 {
		return nil, nil
	}
	limits := map[string]any{}
	for _, text := range texts {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("limit %s: write it as name=value, like memory=512M", text)
		}
		limits[name] = value
	}
	return limits, nil
}
