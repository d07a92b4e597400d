package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// How much garbage there may be in a process that has the server in it, as runtime/debug.SetGCPercent counts. Little is in use while little
// waits: then garbageMost makes collections rare, of which each execution would otherwise pay for a tenth. It gives way as more is in use, for
// both together are what the process needs. Of a hundred thousand executions that wait a hundred MiB are in use, and the usual 100 per cent
// would keep as much again.
const (
	garbageMost    = 48 << 20 // bytes
	garbageLeast   = 24 << 20
	heapMost       = 96 << 20 // up to which garbage may be more than garbageLeast
	garbagePercent = 30
)

// tuneGarbage sets the percentage anew after each collection. It leaves a GOGC that is set alone.
func tuneGarbage() {
	if os.Getenv("GOGC") == "" {
		afterCollection(tunePercent)
	}
}

// afterCollection calls do once each collection is over: what nobody holds is found by it.
func afterCollection(do func()) {
	type marker struct{ _ *byte } // with a pointer in it: it shares its memory with nothing
	runtime.AddCleanup(&marker{}, func(struct{}) {
		do()
		afterCollection(do)
	}, struct{}{})
}

func tunePercent() {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() == metrics.KindUint64 {
		debug.SetGCPercent(percentOf(sample[0].Value.Uint64()))
	}
}

// percentOf is for so many bytes in use.
func percentOf(live uint64) int {
	garbage := max(garbageLeast, min(garbageMost, heapMost-min(live, heapMost)))
	return int(max(garbage*100/max(live, garbageMost/10), garbagePercent))
}
