package config

import (
	"fmt"

	"github.com/docker/go-units"
)

// Size is a number of bytes, "500M" or "10G".
type Size int64

// UnmarshalText reads bytes with K, M, G or T behind them, powers of 1024.
func (s *Size) UnmarshalText(text []byte) error {
	value, err := units.RAMInBytes(string(text))
	if err != nil || value <= 0 {
		return fmt.Errorf("size %q: write bytes, or a number with K, M, G or T behind it", text)
	}
	*s = Size(value)
	return nil
}
