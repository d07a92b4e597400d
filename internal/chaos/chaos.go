// Package chaos shows that a pool keeps its promises while its workers and brokers are killed, frozen and cut off. It holds tests
// only: real processes of attune-worker and of the NATS server, real signals, and a checker that reads the whole history afterwards.
package chaos
