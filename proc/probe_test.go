package proc

import (
	"fmt"
	"testing"
	"time"
)

func TestOffer(t *testing.T) {
	for range 2 {
		b := time.Now()
		fmt.Println(probe(Basic, byThread), time.Since(b))
		b = time.Now()
		fmt.Println(probe(Strict, byNamespaces), time.Since(b))
		b = time.Now()
		fmt.Println(probe(Strict, byLandlock), time.Since(b))
	}
}
