package envcache

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func BenchmarkHit(b *testing.B) {
	s := tempStore(b)
	for i := range 1000 {
		env, err := s.Acquire(context.Background(), testKey(fmt.Sprint(i)), &testBuilder{}, AcquireOptions{})
		require.NoError(b, err)
		require.NoError(b, env.Close())
	}
	for i := 0; b.Loop(); i++ {
		env, err := s.Acquire(context.Background(), testKey(fmt.Sprint(i%1000)), &testBuilder{}, AcquireOptions{})
		if err != nil || env.State != Hit {
			b.Fatal(env, err)
		}
		_ = env.Close()
	}
}
