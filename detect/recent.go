package detect

import (
	"sync"
	"time"

	"github.com/attune-run/attune/internal/filestate"
	"github.com/attune-run/attune/runtime"
)

// recent are the choices of the last second: a look around asks for some hundred files, and a service makes the same choice many
// times a second.
type recent struct {
	mu      sync.Mutex
	choices map[wish]choice
}

type wish struct {
	spec       *runtime.Spec
	constraint string
}

type choice struct {
	interpreter runtime.Interpreter
	state       filestate.State // of its binary
	made        time.Time
}

const (
	recentFor  = time.Second
	maxChoices = 64 // then all are forgotten
)

func (r *recent) get(spec *runtime.Spec, constraint string) (runtime.Interpreter, bool) {
	r.mu.Lock()
	c, ok := r.choices[wish{spec, constraint}]
	r.mu.Unlock()
	if !ok || time.Since(c.made) > recentFor {
		return runtime.Interpreter{}, false
	}
	now, err := filestate.Of(c.interpreter.Path)
	return c.interpreter, err == nil && now == c.state
}

func (r *recent) put(spec *runtime.Spec, constraint string, best runtime.Interpreter, made time.Time) {
	state, err := filestate.Of(best.Path)
	if err != nil || !state.Settled(made) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.choices == nil || len(r.choices) >= maxChoices {
		r.choices = map[wish]choice{}
	}
	r.choices[wish{spec, constraint}] = choice{best, state, made}
}
