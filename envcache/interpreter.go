package envcache

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// sameInterpreter compares the interpreter with the one the environment was built with. A stat that differs is no
// difference yet, for a restored cache and an image layer bring new inodes and times: one with the recorded content is the same,
// and any other is asked who it is. The stat is remembered, so that it is compared once.
func (s *Store) sameInterpreter(ctx context.Context, e entry, r ready, b Builder) error {
	now, err := statOf(r.Interpreter.Path)
	if err != nil {
		return fmt.Errorf("its interpreter is gone: %w", err)
	}
	if now == r.Stat || s.remembered(e, r.Generation) == now {
		return nil
	}
	if now.Size == r.Stat.Size {
		if digest, err := digestOf(r.Interpreter.Path); err == nil && digest == r.Digest {
			s.remember(e, r.Generation, now)
			return nil
		}
	}
	identity, err := b.Probe(ctx, r.Interpreter.Path)
	if err != nil {
		return fmt.Errorf("its interpreter does not answer: %w", err)
	}
	if identity != r.Interpreter {
		return &otherInterpreter{was: r.Interpreter, is: identity}
	}
	s.remember(e, r.Generation, now)
	return nil
}

// otherInterpreter is a miss because another interpreter answers at the recorded path.
type otherInterpreter struct{ was, is Interpreter }

func (e *otherInterpreter) Error() string {
	return fmt.Sprintf("its interpreter %s was %s %s and is %s %s now", e.was.Path, e.was.Version, e.was.ABI, e.is.Version, e.is.ABI)
}

func (s *Store) remembered(e entry, generation string) fileStat {
	s.mu.Lock()
	stat, ok := s.seen[generation]
	s.mu.Unlock()
	if ok {
		return stat
	}
	data, err := os.ReadFile(s.noteFile(e, generation))
	if err != nil || json.Unmarshal(data, &stat) != nil {
		return fileStat{}
	}
	return stat
}

// remember is best effort: without it the interpreter is looked at again, by the next process.
func (s *Store) remember(e entry, generation string, stat fileStat) {
	s.mu.Lock()
	s.seen[generation] = stat
	s.mu.Unlock()
	data, err := json.Marshal(stat)
	if err != nil {
		return
	}
	file := s.noteFile(e, generation)
	if s.layer && s.mkdirAll(filepath.Dir(file)) != nil {
		return
	}
	_ = s.write(file, data)
}

// noteFile is beside the generation; for a generation of a layer, where nothing is written, it is in the store above.
func (s *Store) noteFile(e entry, generation string) string {
	if s.layer {
		return filepath.Join(s.notes, e.id+"-"+generation+".stat")
	}
	return e.statFile(generation)
}
