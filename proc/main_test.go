package proc

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if part := parts[os.Getenv("PROC_TEST_PART")]; part != nil {
		os.Exit(part())
	}
	goleak.VerifyTestMain(m)
}
