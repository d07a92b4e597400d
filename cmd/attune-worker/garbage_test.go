package main

import (
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestGarbageIsBounded(t *testing.T) {
	for live, percent := range map[uint64]int{0: 1000, 6 << 20: 800, 24 << 20: 200, 48 << 20: 100, 64 << 20: 50, 72 << 20: 33, 1 << 30: 30} {
		assert.Equal(t, percent, percentOf(live), live)
	}
}

func TestEachCollectionIsNoticed(t *testing.T) {
	noticed := make(chan struct{}, 1)
	afterCollection(func() {
		select {
		case noticed <- struct{}{}:
		default:
		}
	})
	for range 3 {
		require.Eventually(t, func() bool {
			runtime.GC() // the one before may have come before it was waited for
			select {
			case <-noticed:
				return true
			default:
				return false
			}
		}, 20*time.Second, time.Millisecond)
	}
}
