package worker

import "errors"

// Why a worker takes no work.
var (
	ErrStarting = errors.New("the worker has not said yet what it can run")
	ErrDraining = errors.New("the worker is draining")
)

// Ready is nil while the worker takes work, from when the pool knows of it and its actions.
func (w *Worker) Ready() error {
	switch {
	case !w.advertised.Load():
		return ErrStarting
	case w.draining.Load():
		return ErrDraining
	}
	return nil
}
