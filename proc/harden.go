package proc

// Harden does what Run does before its first child: no core dumps, memory closed to other processes of the user,
// inherited descriptors closed on exec. Call it before secrets are in memory.
func Harden() { harden() }
