package envcache

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Verification is what was found by comparing an environment with how it was published.
type Verification struct {
	ID       string   `json:"id"`
	Dir      string   `json:"dir"`
	Files    int      `json:"files"`    // looked at, of any kind
	Problems []string `json:"problems"` // empty: it is whole
}

// problemsMax are listed; the rest is counted.
const problemsMax = 20

// Verify walks an environment, named as in Get, and compares every file with what was published: kind, size, target of a link
// and modification time to the second. Files that came later are no damage; a file that was changed and given its old size
// and time is not noticed.
func (s *Store) Verify(ctx context.Context, id string) (Verification, error) {
	info, err := s.Get(id)
	if err != nil {
		return Verification{}, err
	}
	holder := s.holding(info)
	v := Verification{ID: info.ID, Dir: info.Dir, Problems: []string{}}
	if info.State != Ready {
		v.Problems = append(v.Problems, info.Problem)
		return v, nil
	}
	e := holder.entry(info.ID)
	v.Files, v.Problems, err = compare(ctx, e, info.Generation)
	if err == nil && info.Interpreter.Path != "" {
		if _, err := os.Stat(info.Interpreter.Path); err != nil {
			v.Problems = append(v.Problems, "its interpreter is gone: "+err.Error())
		}
	}
	return v, err
}

// Damage compares the environment with how it was published, as Verify does. An error of the context comes with what had been
// found by then.
func (e *Env) Damage(ctx context.Context) ([]string, error) {
	_, problems, err := compare(ctx, e.entry, filepath.Base(e.Dir))
	return problems, err
}

func compare(ctx context.Context, e entry, generation string) (files int, problems []string, err error) {
	problems = []string{}
	want, err := readList(e.listFile(generation))
	if err != nil {
		return 0, append(problems, err.Error()), nil
	}
	missing := make(map[string]item, len(want))
	for _, i := range want {
		missing[i.path] = i
	}
	err = walk(e.generation(generation), func(got item, _ fs.FileInfo) error {
		published, known := missing[got.path]
		delete(missing, got.path)
		if files++; known {
			if problem := published.differs(got); problem != "" {
				problems = append(problems, got.path+" "+problem)
			}
		}
		return context.Cause(ctx)
	})
	if cause := context.Cause(ctx); cause != nil {
		return files, problems, cause
	}
	if err != nil {
		return files, append(problems, err.Error()), nil
	}
	for _, i := range want {
		if _, ok := missing[i.path]; ok {
			problems = append(problems, i.path+" is missing")
		}
	}
	if more := len(problems) - problemsMax; more > 0 {
		problems = append(problems[:problemsMax], fmt.Sprintf("and %d more", more))
	}
	return files, problems, nil
}

// differs says how a file is no longer what was published; empty when it is. Directories change their times when
// something is added.
func (i item) differs(got item) string {
	switch {
	case i.kind != got.kind:
		return "is of another kind"
	case i.kind == 'f' && i.size != got.size:
		return fmt.Sprintf("has %d bytes and had %d", got.size, i.size)
	case i.kind == 'f' && i.seconds != unknownTime && i.seconds != got.seconds:
		return "was changed"
	case i.kind == 'l' && i.target != got.target:
		return fmt.Sprintf("leads to %s and led to %s", got.target, i.target)
	}
	return ""
}
