package envcache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// hitLayer finds the environment in a lower store: in place, with no write to it and no lock.
func (s *Store) hitLayer(ctx context.Context, key Key, b Builder, progress func(Progress)) *Env {
	for _, layer := range s.layers {
		for _, id := range layer.answering(key) {
			env, reason := layer.hitUnlocked(ctx, layer.entry(id), b)
			if reason == nil {
				return env
			}
			if progress != nil && !errors.Is(reason, errNothing) {
				progress(Progress{Phase: "passing over the layer " + layer.root, Line: reason.Error()})
			}
		}
	}
	return nil
}

// answering are the IDs under which a layer may have what a key asks for: its own, which is another in each layer where the
// environment is bound to its path, and that of one that was made in another way.
func (s *Store) answering(key Key) []string {
	ids := []string{s.ID(key)}
	if other, err := os.ReadFile(s.askedFile(key.Inputs(s.root))); err == nil && isID(string(other)) && string(other) != ids[0] {
		if r, _, err := s.entry(string(other)).read(); err == nil && askedOf(r.details().Inputs) == askedOf(key.Inputs(s.root)) {
			ids = append(ids, string(other))
		}
	}
	return ids
}

// askedFile names the environment that was made last for what the inputs ask for.
func (s *Store) askedFile(inputs []KeyInput) string {
	return filepath.Join(s.version(), "asked", askedOf(inputs))
}

// noteAsked is best effort: without it a layer answers only those who would have made the same in the same way.
func (s *Store) noteAsked(r ready) {
	file := s.askedFile(r.details().Inputs)
	if s.mkdirAll(filepath.Dir(file)) == nil {
		_ = s.write(file, []byte(r.ID))
	}
}

func (s *Store) hitUnlocked(ctx context.Context, e entry, b Builder) (*Env, error) {
	r, _, err := e.read()
	if err != nil {
		return nil, err
	}
	if r.Root != "" && r.Root != s.root {
		return nil, fmt.Errorf("it was built for the root %s", r.Root)
	}
	if _, err := os.Stat(s.damageNote(e, r.Generation)); err == nil {
		return nil, errors.New("it was found damaged")
	}
	if err := e.intact(r); err != nil {
		return nil, err
	}
	if err := s.sameInterpreter(ctx, e, r, b); err != nil {
		return nil, err
	}
	return newEnv(s, e, r, nil), nil
}
